//! Texts for a model.

use crate::output;
use crate::progress::{Shown, Unit, at_once};
use anyhow::Result;
use std::path::Path;
use strata::gguf::Gguf;
use strata::io::text;
use strata::tokenizer::{EncodeOptions, Tokenizer};

/// Reads the text of `-f FILE`, where `-` is standard input.
pub fn read(path: &Path) -> Result<String> {
    Ok(text::read(path, text::largest(), &Shown::new(Unit::Bytes))?)
}

/// The tokenizer of a model. What it had to assume is said.
pub fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    tokenizer.notes().iter().for_each(|note| output::warn(note));
    Ok(tokenizer)
}

/// The tokens of a text. A long one takes its time, during which Ctrl-C ends the program.
pub fn tokens(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
    Ok(at_once(|| tokenizer.encode(text, options))?)
}
