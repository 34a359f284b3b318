//! Decoding one token at a time: characters come out whole, however the tokens cut them.

use super::Tokenizer;
use crate::Result;

/// Turns tokens into text as they arrive. What it has said after [`finish`](StreamDecoder::finish) is what
/// [`Tokenizer::decode`] says of all tokens at once.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    render_special: bool,
    /// The next byte is the first of the text, whose space SentencePiece put there.
    drop_space: bool,
    /// The beginning of a character, at most 3 bytes between calls.
    held: Vec<u8>,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder of tokens that continue a text, such as a prompt: a space before the first word stays.
    pub fn new(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, render_special: false, drop_space: false, held: Vec::new() }
    }

    /// The tokens begin a text: the space that encoding puts in front of it, if the model does so, is taken away.
    pub fn at_text_start(mut self) -> Self {
        self.drop_space = self.tokenizer.has_space_prefix();
        self
    }

    /// Whether control tokens come out as their text; without this they are left out.
    pub fn render_special(mut self, render: bool) -> Self {
        self.render_special = render;
        self
    }

    /// The text that `id` completes, perhaps none. Bytes that no continuation can make valid become U+FFFD.
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

    /// What is left: a character that never became whole is U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}
