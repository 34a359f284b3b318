//! A model in memory, as handlers see it: everything but the weights and the slots, which are the worker's.

use crate::cmd::ChatTemplateArgs;
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
    /// How it talks, without and with tools, or why it cannot.
    pub chats: [std::result::Result<Chat, String>; 2],
    /// What its templates are given beside messages.
    pub template: ChatTemplateArgs,
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

/// How a model talks.
pub struct Chat {
    /// Its template.
    pub template: ChatTemplate,
    /// How it writes reasoning and calls.
    pub format: ChatFormat,
}

impl Served {
    /// What handlers need of an open file.
    pub fn new(
        entry: &Entry,
        gguf: &Gguf,
        tokenizer: Arc<Tokenizer>,
        context: usize,
        template: &ChatTemplateArgs,
    ) -> strata::Result<Served> {
        let of = Hyperparameters::read(gguf)?;
        let chat = |tools: bool| {
            let template = template.template(gguf, tools)?;
            let format = template.format().with_tokens(&tokenizer);
            Ok(Chat { template, format })
        };
        let said = |error: anyhow::Error| match error.downcast::<strata::Error>() {
            Ok(error) => Refusal::from(error).message,
            Err(error) => error.to_string(),
        };
        let chats = [false, true].map(|tools| chat(tools).map_err(said));
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
                "chat": chats[0].is_ok(),
                "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p},
            }),
            name: entry.name.clone(),
            tokenizer,
            chats,
            template: template.clone(),
            sampling,
            vocab: of.vocab,
            context,
            hidden: of.hidden,
        })
    }

    /// How it talks.
    pub fn chat(&self, tools: bool) -> Result<&Chat> {
        self.chats[usize::from(tools)].as_ref().map_err(|problem| {
            Refusal::request(format!("the model {} cannot chat: {problem}", strata::error::quoted(&self.name)))
                .code("no_chat_template")
        })
    }
}
