//! Reads the vocabulary from GGUF metadata.

use super::{Tokenizer, Vocab};
use crate::error::{Error, Result, Setting};
use crate::gguf::{ArrayRef, Gguf};

/// Whether texts are brought to normal form C, where a pre-tokenizer's default does not say it. Strata's own key: llama.cpp never does it.
pub(crate) const NFC_KEY: &str = "tokenizer.ggml.normalizer.nfc";

impl Tokenizer {
    /// Builds the tokenizer of a model file.
    ///
    /// # Errors
    /// If the metadata is incomplete, contradicts itself, or describes a tokenizer that Strata does not know.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        Tokenizer::new(Vocab::from_gguf(gguf)?, gguf.path())
    }

    /// The chat template of the model.
    pub fn chat_template(&self) -> Option<&str> {
        self.vocab().chat_template.as_deref()
    }
}

impl Vocab {
    /// Reads the `tokenizer.*` metadata.
    ///
    /// # Errors
    /// If a key is missing or of the wrong type.
    pub fn from_gguf(gguf: &Gguf) -> Result<Vocab> {
        let id = |role: &str| gguf.u32(&format!("tokenizer.ggml.{role}_token_id"));
        let tokens = list(gguf, "tokens", "texts", strings)?.unwrap_or_default();
        if tokens.is_empty() {
            let place = "metadata \"tokenizer.ggml.tokens\"";
            let error =
                Error::invalid(gguf.path(), place, "the file has no vocabulary", "give the prompt as token numbers");
            return Err(error.with_setting(Setting::Tokens));
        }
        Ok(Vocab {
            model: gguf.required_str("tokenizer.ggml.model")?.to_owned(),
            pre: gguf.str("tokenizer.ggml.pre")?.map(str::to_owned),
            tokens,
            scores: list(gguf, "scores", "floats", |a| a.to_f32s())?,
            types: list(gguf, "token_type", "32-bit integers", |a| a.to_i32s())?,
            merges: list(gguf, "merges", "texts", strings)?.unwrap_or_default(),
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            fim_ends: ["fim_pad", "fim_rep", "fim_sep"]
                .into_iter()
                .filter_map(|role| id(role).transpose())
                .collect::<Result<_>>()?,
            add_bos: gguf.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: gguf.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?,
            nfc: gguf.bool(NFC_KEY)?,
            chat_template: gguf.str("tokenizer.chat_template")?.map(str::to_owned),
        })
    }
}

fn strings(array: ArrayRef<'_>) -> Option<Vec<String>> {
    Some(array.strings()?.map(str::to_owned).collect())
}

/// Reads an array `tokenizer.ggml.KEY`; `None` if the key is absent.
fn list<T>(gguf: &Gguf, key: &str, what: &str, read: impl Fn(ArrayRef<'_>) -> Option<T>) -> Result<Option<T>> {
    let key = format!("tokenizer.ggml.{key}");
    let Some(array) = gguf.array(&key)? else { return Ok(None) };
    read(array).map(Some).ok_or_else(|| {
        Error::invalid(
            gguf.path(),
            format!("metadata {key:?}"),
            format!("is not a list of {what}"),
            "convert the model again",
        )
    })
}
