//! Decoding one token at a time: characters are emitted whole, even where tokens split them.

use super::Tokenizer;
use crate::Result;
use std::ops::Deref;

/// Decodes tokens as they arrive. Its output up to [`finish`](StreamDecoder::finish) is that of [`Tokenizer::decode`] for all
/// tokens at once. `T` is a reference to the tokenizer, or shares it.
#[derive(Clone, Debug)]
pub struct StreamDecoder<T> {
    tokenizer: T,
    render_special: bool,
    /// True until the first byte of a text, whose space SentencePiece has added.
    drop_space: bool,
    /// The bytes of an incomplete character, at most 3 between calls.
    held: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> StreamDecoder<T> {
    /// A decoder of tokens that continue a text, such as a prompt: it keeps a space before the first word.
    pub fn new(tokenizer: T) -> StreamDecoder<T> {
        StreamDecoder { tokenizer, render_special: false, drop_space: false, held: Vec::new() }
    }

    /// Removes the space that encoding adds at the start of a text, if the model adds one.
    pub fn at_text_start(mut self) -> Self {
        self.drop_space = self.tokenizer.has_space_prefix();
        self
    }

    /// Emits control tokens as their text if `render`; by default they are left out.
    pub fn render_special(mut self, render: bool) -> Self {
        self.render_special = render;
        self
    }

    /// The text that `id` completes, possibly empty. Bytes that no continuation can make valid become U+FFFD.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let (bytes, control) = self.tokenizer.lookup(id)?;
        if control && !self.render_special {
            return Ok(String::new());
        }
        let mut bytes = &bytes[..];
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.held[..];
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(e) => {
                    let (valid, broken) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = broken;
                    let Some(invalid) = e.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        let said = self.held.len() - rest.len();
        self.held.drain(..said);
        Ok(text)
    }

    /// The rest of the text: U+FFFD for an incomplete character.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}
