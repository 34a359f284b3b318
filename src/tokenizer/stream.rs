//! Text from tokens as they come, in whole characters.

use super::{Kind, Tokenizer};
use crate::error::Result;

/// Turns tokens into text; holds back the bytes of a character that is not complete.
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    held: Vec<u8>,
    /// SentencePiece's first space belongs to no text, where the text starts here.
    drop_space: bool,
}

impl<'t> StreamDecoder<'t> {
    /// For text that continues another: nothing is taken off its start.
    pub fn new(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, held: Vec::new(), drop_space: false }
    }

    /// For text that starts here.
    pub fn at_start(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        let drop_space =
            matches!(tokenizer.kind, Kind::SentencePiece) && tokenizer.vocab.add_space_prefix.unwrap_or(true);
        StreamDecoder { tokenizer, held: Vec::new(), drop_space }
    }

    /// The characters that are complete with this token. Bytes that can be no character become U+FFFD.
    ///
    /// # Errors
    /// If the token is not in the vocabulary.
    pub fn push(&mut self, token: u32) -> Result<String> {
        let mut bytes = self.tokenizer.token_bytes(token, false)?;
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.held.extend(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.held.clear();
                    return Ok(text);
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.held[..valid]));
                    // Without a length the character is only incomplete: the next token may bring the rest.
                    let Some(invalid) = error.error_len() else {
                        self.held.drain(..valid);
                        return Ok(text);
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.held.drain(..valid + invalid);
                }
            }
        }
    }

    /// What is left of a character that was never completed.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}
