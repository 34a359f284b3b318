//! The vocabulary as a GGUF file states it, and its checks, on which the other files rely.

use std::path::Path;

use crate::error::quoted;
use crate::{Error, Result};

/// All `tokenizer.*` metadata of a file, not yet checked: [`Tokenizer::new`](super::Tokenizer::new) does that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocab {
    /// `tokenizer.ggml.model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer of byte-level BPE.
    pub pre: Option<String>,
    /// The text of every token, by id.
    pub tokens: Vec<String>,
    /// The score of every token, which the model "llama" needs.
    pub scores: Option<Vec<f32>>,
    /// The type of every token, numbered as in [`TokenKind`].
    pub types: Option<Vec<i32>>,
    /// The merges of byte-level BPE, best first, each "left right".
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The token that ends a turn of a chat.
    pub eot: Option<u32>,
    /// The token that ends a message of a turn.
    pub eom: Option<u32>,
    /// The token for text that the vocabulary cannot express.
    pub unk: Option<u32>,
    /// The padding token of batches.
    pub pad: Option<u32>,
    /// The end tokens of fill-in-the-middle completions: padding, repository and file.
    pub fim_ends: Vec<u32>,
    /// True if texts begin with `bos`; the default is true for "llama" and for the pre-tokenizer "llama-bpe".
    pub add_bos: Option<bool>,
    /// True if texts end with `eos`; the default is false.
    pub add_eos: Option<bool>,
    /// True if the model "llama" puts a space in front of texts; the default is true.
    pub add_space_prefix: Option<bool>,
    /// Whether texts are brought to Unicode's normal form C; by default as the pre-tokenizer has it.
    pub nfc: Option<bool>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

/// The purpose of a token; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text; also 0, "undefined".
    Normal = 1,
    /// The unknown token, for text that the vocabulary cannot express.
    Unknown = 2,
    /// A control token, such as the end of a text; matched in text only where the caller allows it.
    Control = 3,
    /// Text that is always one token.
    UserDefined = 4,
    /// An unused entry of the table.
    Unused = 5,
    /// One byte, written `<0x0A>`.
    Byte = 6,
}

impl Vocab {
    /// The kind of token `id`, which must be in range. In a file without types only the named special tokens are control tokens.
    pub fn kind(&self, id: u32) -> TokenKind {
        match &self.types {
            Some(types) => match types[id as usize] {
                2 => TokenKind::Unknown,
                3 => TokenKind::Control,
                4 => TokenKind::UserDefined,
                5 => TokenKind::Unused,
                6 => TokenKind::Byte,
                _ => TokenKind::Normal,
            },
            None if self.unk == Some(id) => TokenKind::Unknown,
            None if [self.bos, self.eos, self.eot, self.eom, self.pad].contains(&Some(id)) => TokenKind::Control,
            None if self.model == "llama" && byte_of(&self.tokens[id as usize]).is_some() => TokenKind::Byte,
            None => TokenKind::Normal,
        }
    }

    /// Sets llama.cpp's defaults for missing values; returns a sentence about each.
    pub(super) fn assume(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.model == "gpt2" && self.pre.as_deref().unwrap_or_default().is_empty() {
            notes.push(
                "tokenizer.ggml.pre is missing: text is split as llama.cpp's \"default\" does it, which may not be how the \
                 model was trained; convert the model again"
                    .to_owned(),
            );
        }
        if self.model == "llama" {
            let n = self.tokens.len();
            for (key, id, known) in [("bos", &mut self.bos, 1), ("eos", &mut self.eos, 2)] {
                if id.is_none() && (known as usize) < n {
                    *id = Some(known);
                    let text = quoted(&self.tokens[known as usize]);
                    notes.push(format!(
                        "tokenizer.ggml.{key}_token_id is missing: it is taken to be {known} ({text}), as by llama.cpp"
                    ));
                }
            }
        }
        notes
    }

    /// The checks that hold for both models: lengths agree, ids are in range, types are known.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let n = self.tokens.len();
        let bad = |place: &str, problem: String| {
            Err(Error::invalid(path, place, problem, "the file is damaged; download or convert it again"))
        };
        if n == 0 || u32::try_from(n).is_err() {
            return bad("tokenizer.ggml.tokens", format!("{n} tokens, but a vocabulary has 1 to 4294967295"));
        }
        if let Some(types) = &self.types {
            if types.len() != n {
                return bad("tokenizer.ggml.token_type", format!("{} types for {n} tokens", types.len()));
            }
            if let Some(i) = types.iter().position(|t| !(0..=6).contains(t)) {
                return bad("tokenizer.ggml.token_type", format!("token {i} has the unknown type {}", types[i]));
            }
        }
        if let Some(scores) = &self.scores {
            if scores.len() != n {
                return bad("tokenizer.ggml.scores", format!("{} scores for {n} tokens", scores.len()));
            }
            if let Some(i) = scores.iter().position(|s| s.is_nan()) {
                return bad("tokenizer.ggml.scores", format!("the score of token {i} is not a number"));
            }
        }
        for (key, id) in [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("unknown", self.unk),
            ("padding", self.pad),
            ("fim_pad, fim_rep or fim_sep", self.fim_ends.iter().max().copied()),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= n) {
                return bad(
                    &format!("tokenizer.ggml.{key}_token_id"),
                    format!("token {id} does not exist: there are {n}"),
                );
            }
        }
        for (i, token) in self.tokens.iter().enumerate() {
            if self.kind(i as u32) == TokenKind::Byte && byte_of(token).is_none() {
                return bad(
                    "tokenizer.ggml.tokens",
                    format!("token {i} has the type of a byte but the text {}, not one such as <0x0A>", quoted(token)),
                );
            }
        }
        Ok(())
    }
}

/// The byte of a token text such as `<0x0A>`.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if hex { u8::from_str_radix(digits, 16).ok() } else { None }
}
