//! The vocabulary as the file has it, and what its tokens stand for.

use super::{Kind, SPACE};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, ValueRef};
use std::collections::HashMap;
use std::path::Path;

/// What kind of token it is, by the numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn from_number(n: i64) -> Option<TokenType> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|ty| *ty as i64 == n)
    }
}

/// The `tokenizer.*` metadata.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Vocab {
    /// `gpt2` or `llama`
    pub model: String,
    /// The way of splitting text into words, for `gpt2`.
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// For `llama`: merges that make a token of higher score come first.
    pub scores: Vec<f32>,
    pub types: Vec<TokenType>,
    /// For `gpt2`: `"a b"`, in order.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unk: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<String>,
}

impl Vocab {
    /// Reads the metadata.
    ///
    /// # Errors
    /// If a key is missing or of the wrong type.
    pub fn from_gguf(gguf: &Gguf) -> Result<Vocab> {
        let model = gguf.required_str("tokenizer.ggml.model")?.to_owned();
        let array = |key: &str| gguf.metadata().get(key).map(|value| (key.to_owned(), value));
        let bad = |key: &str, problem: &str| {
            Error::invalid(gguf.path(), format!("metadata {key:?}"), problem, "convert the model again")
        };
        let strings = |key: &str| -> Result<Vec<String>> {
            let Some((key, value)) = array(key) else { return Ok(Vec::new()) };
            let strings = value.as_array().and_then(|a| a.strings()).ok_or_else(|| bad(&key, "is no list of texts"))?;
            Ok(strings.map(str::to_owned).collect())
        };
        let numbers = |key: &str| -> Result<Option<ValueRef<'_>>> { Ok(array(key).map(|(_, value)| value)) };
        let tokens = strings("tokenizer.ggml.tokens")?;
        if tokens.is_empty() {
            return Err(bad("tokenizer.ggml.tokens", "the file has no vocabulary"));
        }
        let types = match numbers("tokenizer.ggml.token_type")? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(value) => {
                let types = value.as_array().and_then(|a| a.integers());
                let types = types.and_then(|types| types.into_iter().map(TokenType::from_number).collect());
                types.ok_or_else(|| bad("tokenizer.ggml.token_type", "is no list of numbers from 1 to 6"))?
            }
        };
        let scores = match numbers("tokenizer.ggml.scores")? {
            None => Vec::new(),
            Some(value) => value
                .as_array()
                .and_then(|a| a.floats())
                .ok_or_else(|| bad("tokenizer.ggml.scores", "is no list of numbers"))?,
        };
        let id = |role: &str| gguf.u32(&format!("tokenizer.ggml.{role}_token_id"));
        Ok(Vocab {
            model,
            pre: gguf.str("tokenizer.ggml.pre")?.map(str::to_owned),
            tokens,
            scores,
            types,
            merges: strings("tokenizer.ggml.merges")?,
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?,
            add_bos: gguf.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: gguf.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?,
            chat_template: gguf.str("tokenizer.chat_template")?.map(str::to_owned),
        })
    }

    /// What token `i` stands for.
    pub(super) fn bytes(&self, i: usize, kind: &Kind) -> Vec<u8> {
        let text = &self.tokens[i];
        match (kind, self.types[i]) {
            (_, TokenType::Control | TokenType::Unused | TokenType::Unknown | TokenType::UserDefined) => {
                text.clone().into_bytes()
            }
            (Kind::ByteLevel(_), _) => {
                // A token with a letter outside the alphabet was never made of bytes: it is its own text.
                let bytes: Option<Vec<u8>> = text.chars().map(byte_of_letter).collect();
                bytes.unwrap_or_else(|| text.clone().into_bytes())
            }
            (Kind::SentencePiece, TokenType::Byte) => {
                let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
                match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => text.clone().into_bytes(),
                }
            }
            (Kind::SentencePiece, _) => text.replace(SPACE, " ").into_bytes(),
        }
    }
}

/// The merges of a SentencePiece vocabulary: every way to make a token of two others, tokens of higher score first; among those of one
/// score, in the order of the numbers of the parts.
pub(super) fn merges_of_scores(vocab: &Vocab, ids: &HashMap<&str, u32>, path: &Path) -> Result<Vec<(String, String)>> {
    if vocab.scores.len() != vocab.tokens.len() {
        let problem = format!("{} scores for {} tokens", vocab.scores.len(), vocab.tokens.len());
        return Err(Error::invalid(path, "metadata \"tokenizer.ggml.scores\"", problem, "convert the model again"));
    }
    let is_text = |id: u32| matches!(vocab.types[id as usize], TokenType::Normal | TokenType::UserDefined);
    let mut merges: Vec<(f32, u32, u32)> = Vec::new();
    for (token, id) in vocab.tokens.iter().zip(0..) {
        if !is_text(id) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (a, b) = token.split_at(at);
            if let (Some(&a), Some(&b)) = (ids.get(a), ids.get(b))
                && is_text(a)
                && is_text(b)
            {
                merges.push((vocab.scores[id as usize], a, b));
            }
        }
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    let text = |id: u32| vocab.tokens[id as usize].clone();
    Ok(merges.into_iter().map(|(_, a, b)| (text(a), text(b))).collect())
}

/// GPT-2's alphabet: printable bytes are themselves, the others are letters from U+0100 on, so that no token has a space in it.
pub(super) fn letter_of_byte(byte: u8) -> char {
    let shifted = |n: u32| char::from_u32(0x100 + n).unwrap_or(char::REPLACEMENT_CHARACTER);
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte as char,
        0x00..=0x20 => shifted(byte as u32),
        0x7f..=0xa0 => shifted(byte as u32 - 0x7f + 0x21),
        0xad => shifted(0x43),
    }
}

fn byte_of_letter(letter: char) -> Option<u8> {
    match letter as u32 {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_has_a_letter_for_each_byte() {
        for byte in 0..=255 {
            assert_eq!(byte_of_letter(letter_of_byte(byte)), Some(byte));
        }
        assert_eq!((letter_of_byte(b' '), letter_of_byte(b'\n')), ('\u{120}', '\u{10a}'));
    }
}
