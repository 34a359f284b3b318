//! A model in memory, as handlers see it: everything but the weights and the slots, which are the worker's.

use crate::serve::catalog::Entry;
use crate::serve::refusal::{Refusal, Result};
use serde_json::{Value, json};
use std::sync::Arc;
use strata::arch::Hyperparameters;
use strata::engine::chat::ChatFormat;
use strata::engine::sampling::Sampling;
use strata::engine::template::ChatTemplate;
use strata::gguf::Gguf;
use strata::tokenizer::Tokenizer;

/// A model that can be asked. Whoever holds it keeps it from being unloaded.
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template for conversations without and with tools, or why there is none.
    pub templates: [std::result::Result<ChatTemplate, String>; 2],
    /// How the model writes reasoning and calls, by these.
    pub formats: [ChatFormat; 2],
    /// Whether it may reason before it answers.
    pub reasons: bool,
    /// The sampling settings that the file recommends.
    pub sampling: Sampling,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Tokens of a slot.
    pub context: usize,
    /// Numbers of a state.
    pub hidden: usize,
    /// What the file says of itself, and what it is served with.
    pub about: Value,
}

impl Served {
    /// What handlers need of an open file.
    pub fn new(
        entry: &Entry,
        gguf: &Gguf,
        tokenizer: Arc<Tokenizer>,
        context: usize,
        template: Option<&str>,
    ) -> strata::Result<Served> {
        let of = Hyperparameters::read(gguf)?;
        let sources = [false, true].map(|tools| template.unwrap_or_else(|| source(gguf, tools)));
        let made = |tools: bool| match template {
            Some(source) => given(gguf, source, &tokenizer),
            None => ChatTemplate::from_gguf(gguf, None, tools),
        };
        let templates = [false, true].map(|tools| made(tools).map_err(|error| Refusal::from(error).message));
        let sampling = Sampling::of_model(gguf, |_| false)?;
        let text = |name: &str| gguf.str(name).ok().flatten().map(str::to_owned);
        Ok(Served {
            about: json!({
                "name": text("general.name"),
                "architecture": text("general.architecture"),
                "size_label": text("general.size_label"),
                "file_bytes": gguf.file_bytes(),
                "n_ctx": context,
                "n_ctx_train": of.context,
                "layers": of.layers,
                "vocab": of.vocab,
                "hidden": of.hidden,
                "chat": templates[0].is_ok(),
                "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p},
            }),
            name: entry.name.clone(),
            formats: sources.map(|source| ChatFormat::of(source).with_tokens(&tokenizer)),
            reasons: sources[0].contains("<think>"),
            tokenizer,
            templates,
            sampling,
            vocab: of.vocab,
            context,
            hidden: of.hidden,
        })
    }

    /// The template of a conversation.
    pub fn template(&self, tools: bool) -> Result<&ChatTemplate> {
        self.templates[usize::from(tools)].as_ref().map_err(|problem| {
            Refusal::request(format!("the model {} cannot chat: {problem}", strata::error::quoted(&self.name)))
                .code("no_chat_template")
        })
    }
}

/// The template that the server was started with, with the special tokens of the model.
fn given(gguf: &Gguf, source: &str, tokenizer: &Tokenizer) -> strata::Result<ChatTemplate> {
    let vocab = tokenizer.vocab();
    let special = [("bos_token", vocab.bos), ("eos_token", vocab.eos)];
    let text = |id: u32| vocab.tokens.get(id as usize).cloned();
    let named = special.into_iter().filter_map(|(name, id)| Some((name, text(id?)?)));
    let template = ChatTemplate::new(gguf.path(), "the given chat template", source)?;
    Ok(named.fold(template, |template, (name, text)| template.with_special(name, text)))
}

/// The text of the file's own template.
fn source(gguf: &Gguf, tools: bool) -> &str {
    let of = |key: &str| gguf.str(key).ok().flatten();
    let named = of("tokenizer.chat_template.tool_use").filter(|_| tools);
    named.or_else(|| of("tokenizer.chat_template")).unwrap_or_default()
}
