//! Texts and tokenizers of the commands.

use crate::output;
use crate::progress::{Shown, Unit, at_once};
use anyhow::Result;
use std::path::Path;
use strata::gguf::Gguf;
use strata::io::text;
use strata::tokenizer::{EncodeOptions, Tokenizer};

/// Reads the text of `-f FILE`, where `-` is standard input.
pub fn read(path: &Path) -> Result<String> {
    read_at_most(path, text::largest())
}

/// The same, of at most `bytes`.
pub fn read_at_most(path: &Path, bytes: u64) -> Result<String> {
    Ok(text::read(path, bytes, &Shown::new(Unit::Bytes))?)
}

/// The tokenizer of a model; prints its notes as warnings.
pub fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    tokenizer.notes().iter().for_each(|note| output::warn(note));
    Ok(tokenizer)
}

/// Encodes a text. Ctrl-C ends the program meanwhile, since a long text takes time.
pub fn tokens(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
    Ok(at_once(|| tokenizer.encode(text, options))?)
}
