//! Text to tokens and back, from the vocabulary in a GGUF file alone.
//!
//! `vocab.rs` holds the vocabulary as the file states it. `special.rs` splits a text at its special tokens. The text between
//! them goes to one of two models: `bpe.rs`, byte-level BPE over the pieces of `split.rs`, which `pre.rs` describes, or `sentencepiece.rs`.
//! `ends.rs` has lists of known token texts. `ends_of_tokens.rs` tells where tokens end in the text. `stream.rs` decodes, one token at a time.

mod bpe;
mod ends;
mod ends_of_tokens;
mod from_gguf;
pub(crate) mod pre;
mod sentencepiece;
mod special;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod vocab;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub(crate) use bpe::char_of;
pub(crate) use ends::ends_generation;
pub(crate) use from_gguf::NFC_KEY;
pub use stream::StreamDecoder;
pub(crate) use vocab::byte_of;
pub use vocab::{TokenKind, Vocab};

use crate::error::quoted;
use crate::{Error, Result};
use special::{Segment, Special};

/// A model's vocabulary, ready to encode and decode; cheap to share, safe from many threads.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    path: PathBuf,
    model: Model,
    special: Special,
    end_of_generation: HashSet<u32>,
    /// Tokens with the text of a control token that the file types as text.
    control_looking: HashSet<u32>,
    notes: Vec<String>,
    add_bos: bool,
    add_eos: bool,
}

/// Settings of [`Tokenizer::encode`]. By default the text is plain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds BOS before and EOS after the text, as the model requires.
    pub add_special: bool,
    /// Parses control tokens in the text, such as `<|eot_id|>`. Never set this for untrusted text.
    pub parse_special: bool,
}

#[derive(Debug)]
enum Model {
    ByteLevel(Box<bpe::ByteLevel>),
    SentencePiece(Box<sentencepiece::SentencePiece>),
}

impl Tokenizer {
    /// Checks `vocab`, which comes from `path`, and builds its tokenizer.
    pub fn new(mut vocab: Vocab, path: &Path) -> Result<Tokenizer> {
        vocab.check(path)?;
        let mut notes = vocab.assume();
        let (model, bos_default) = match vocab.model.as_str() {
            "gpt2" => {
                let model = bpe::ByteLevel::new(&vocab, path)?;
                let add_bos = model.add_bos();
                (Model::ByteLevel(Box::new(model)), add_bos)
            }
            "llama" => (Model::SentencePiece(Box::new(sentencepiece::SentencePiece::new(&vocab, path)?)), true),
            other => {
                return Err(Error::invalid(
                    path,
                    "tokenizer.ggml.model",
                    format!("the tokenizer {} is not supported", quoted(other)),
                    "use a model with the tokenizer gpt2 or llama",
                ));
            }
        };
        let add_bos = vocab.add_bos.unwrap_or_else(|| {
            let (what, of) =
                (if bos_default { "begin" } else { "do not begin" }, vocab.pre.as_deref().unwrap_or("default"));
            let of = if vocab.model == "gpt2" { of } else { &vocab.model };
            notes.push(format!(
                "tokenizer.ggml.add_bos_token is missing: texts {what} with BOS, as llama.cpp has it for {}",
                quoted(of)
            ));
            bos_default
        });
        let add_eos = vocab.add_eos.unwrap_or(false);
        for (add, id, name) in [(add_bos, vocab.bos, "bos"), (add_eos, vocab.eos, "eos")] {
            if add && id.is_none() {
                return Err(Error::invalid(
                    path,
                    format!("tokenizer.ggml.{name}_token_id"),
                    format!("texts need the {name} token, and the file does not name it"),
                    format!("add this key, or set tokenizer.ggml.add_{name}_token to false"),
                ));
            }
        }
        let control_looking = ends::control_looking(&vocab);
        if let Some(&one) = control_looking.iter().min().filter(|_| vocab.types.is_some()) {
            notes.push(format!(
                "tokenizer.ggml.token_type calls {} control tokens text, one is {}: they are taken for control tokens, as by llama.cpp",
                control_looking.len(),
                quoted(&vocab.tokens[one as usize])
            ));
        }
        Ok(Tokenizer {
            special: Special::new(&vocab, &control_looking),
            end_of_generation: ends::end_of_generation(&vocab),
            control_looking,
            notes,
            path: path.to_owned(),
            model,
            add_bos,
            add_eos,
            vocab,
        })
    }

    /// Encodes `text`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend(self.bos());
        }
        for part in self.special.parts(text, options.parse_special) {
            match (part, &self.model) {
                (Segment::Token(id), _) => ids.push(id),
                (Segment::Text(text), Model::ByteLevel(model)) => model.encode(text, &self.path, &mut ids)?,
                (Segment::Text(text), Model::SentencePiece(model)) => model.encode(text, &mut ids),
            }
        }
        if options.add_special && self.add_eos {
            ids.extend(self.vocab.eos);
        }
        Ok(ids)
    }

    /// Encodes what a chat template made of a conversation: with its control tokens, and with BOS in front where the model requires one and
    /// the template has left it out, as many do because llama.cpp adds it.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.encode(text, EncodeOptions { add_special: false, parse_special: true })?;
        let missing = self.bos().filter(|bos| tokens.first() != Some(bos));
        Ok(missing.into_iter().chain(tokens).collect())
    }

    /// Decodes `ids` from the start of a text, without control tokens; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, false)
    }

    /// [`decode`](Tokenizer::decode), with control tokens as their text if `render_special`.
    pub fn decode_with(&self, ids: &[u32], render_special: bool) -> Result<String> {
        let mut stream = StreamDecoder::new(self).at_text_start().render_special(render_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id)?);
        }
        text.push_str(&stream.finish());
        Ok(text)
    }

    /// The bytes that token `id` stands for: not always whole characters. A control token stands for its own text.
    pub fn token_bytes(&self, id: u32) -> Result<Vec<u8>> {
        Ok(self.lookup(id)?.0.into_owned())
    }

    /// The token whose text in the vocabulary is exactly `text`; a search through all of them.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.vocab.tokens.iter().position(|token| token == text).map(|id| id as u32)
    }

    /// The BOS token, if the model requires one: the token that `add_special` adds before a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos.filter(|_| self.add_bos)
    }

    /// True if token `id` ends generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.end_of_generation.contains(&id)
    }

    /// True if token `id` is a control token, which stands for no text; so is the unknown token.
    pub fn is_control(&self, id: u32) -> bool {
        self.lookup(id).is_ok_and(|(_, is_control)| is_control)
    }

    /// A sentence about each value that the file does not state or states wrongly, and what llama.cpp and Strata use instead.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The vocabulary of the file, with defaults for special tokens that it does not name.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Whether encoding puts a space in front of texts.
    fn has_space_prefix(&self) -> bool {
        matches!(&self.model, Model::SentencePiece(model) if model.space_prefix())
    }

    /// The bytes of token `id`, and true if it is a control token or the unknown token.
    fn lookup(&self, id: u32) -> Result<(Cow<'_, [u8]>, bool)> {
        let Some(token) = self.vocab.tokens.get(id as usize) else {
            return Err(Error::TokenOutOfVocabulary { token: id, vocab: self.vocab.tokens.len() });
        };
        if self.control_looking.contains(&id) {
            return Ok((Cow::Borrowed(token.as_bytes()), true));
        }
        let bytes = match (self.vocab.kind(id), &self.model) {
            (TokenKind::Control | TokenKind::Unknown, _) => return Ok((Cow::Borrowed(token.as_bytes()), true)),
            (TokenKind::UserDefined, _) => Cow::Owned(special::literal(&self.vocab, id).into_bytes()),
            (TokenKind::Byte, _) => Cow::Owned(vocab::byte_of(token).into_iter().collect()),
            (_, Model::ByteLevel(_)) => Cow::Owned(bpe::bytes_of(token)),
            (_, Model::SentencePiece(_)) => Cow::Owned(sentencepiece::bytes_of(token)),
        };
        Ok((bytes, false))
    }
}
