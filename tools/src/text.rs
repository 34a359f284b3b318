//! Texts and tokenizers of the commands.

use crate::output;
use crate::progress::{Shown, Unit, at_once};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use strata::engine::template::ChatTemplate;
use strata::eval::compare::Text;
use strata::eval::compare::chat::ChatCut;
use strata::eval::compare::text::Cut;
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

/// The chunks of texts, in which special tokens are parsed or not, and of files of conversations, formatted by the model's own template.
pub fn cut(
    gguf: &Gguf,
    tokenizer: &Tokenizer,
    (texts, parse_special): (&[PathBuf], bool),
    chats: &[PathBuf],
    cut: Cut,
) -> Result<Text> {
    let options = EncodeOptions { add_special: true, parse_special };
    let mut all = Text::default();
    for file in texts {
        let tokens = tokens(tokenizer, &read(file)?, options)?;
        let text = Text::raw(output::path(file), &tokens, cut, tokenizer.bos());
        all.append(text.with_context(|| format!("text {}", output::path(file)))?);
    }
    if chats.is_empty() {
        return Ok(all);
    }
    let template = ChatTemplate::from_gguf(gguf, None, false)?;
    let tool_template = ChatTemplate::from_gguf(gguf, None, true)?;
    let Cut { context, max_chunks, .. } = cut;
    let cut = ChatCut { template: &template, tool_template: &tool_template, tokenizer, context, max_chunks };
    for file in chats {
        all.append(Text::chat(file, &read(file)?, cut, &Shown::new(Unit::Bytes))?);
    }
    Ok(all)
}
