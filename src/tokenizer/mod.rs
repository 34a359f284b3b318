//! Text to tokens and back, from the metadata of a GGUF file alone.
//!
//! ```text
//! text -> special tokens cut out -> words (split.rs) -> byte-level BPE           model "gpt2": Llama 3, SmolLM
//! text -> special tokens cut out -> spaces as U+2581 -> BPE with byte fallback   model "llama": Llama 2, Mistral, TinyLlama
//! ```
//! The merging itself is Hugging Face's `tokenizers`. Splitting is done here with `regex`, whose time is linear in the text: the
//! backtracking splitter of that crate silently gives up on long runs of spaces.

mod special;
pub mod split;
mod stream;
mod vocab;

pub use stream::StreamDecoder;
pub use vocab::{TokenType, Vocab};

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use special::Specials;
use split::Splitter;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

/// SentencePiece's space.
const SPACE: char = '\u{2581}';
/// Texts of tokens that end an answer in the chat formats that models use.
const END_TEXTS: [&str; 6] = ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>"];

/// A tokenizer.
pub struct Tokenizer {
    path: PathBuf,
    vocab: Vocab,
    bpe: BPE,
    kind: Kind,
    specials: Specials,
    /// What each token stands for.
    bytes: Vec<Vec<u8>>,
    /// True for tokens that end an answer.
    ends: Vec<bool>,
    /// Letters of the byte alphabet that are no token: none, in a sound vocabulary.
    missing: HashSet<char>,
}

enum Kind {
    ByteLevel(Splitter),
    SentencePiece,
}

impl Tokenizer {
    /// The tokenizer of a model file.
    ///
    /// # Errors
    /// If the metadata is incomplete, contradicts itself, or describes a tokenizer that Strata does not know.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        Tokenizer::new(Vocab::from_gguf(gguf)?, gguf.path())
    }

    /// The tokenizer of a vocabulary; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn new(vocab: Vocab, path: &Path) -> Result<Tokenizer> {
        let bad = |place: &str, problem: String, remedy: &str| {
            Error::invalid(path, format!("metadata {place:?}"), problem, remedy)
        };
        let n = vocab.tokens.len();
        if vocab.types.len() != n {
            let problem = format!("{} types for {n} tokens", vocab.types.len());
            return Err(bad("tokenizer.ggml.token_type", problem, "convert the model again"));
        }
        for (role, id) in [("bos", vocab.bos), ("eos", vocab.eos), ("eot", vocab.eot), ("eom", vocab.eom)] {
            if let Some(id) = id.filter(|id| *id as usize >= n) {
                let problem = format!("{id} is not in the vocabulary of {n} tokens");
                return Err(bad(&format!("tokenizer.ggml.{role}_token_id"), problem, "convert the model again"));
            }
        }
        let ids: HashMap<&str, u32> = vocab.tokens.iter().zip(0..).map(|(t, i)| (t.as_str(), i)).collect();
        let (kind, merges, ignore_merges) = match vocab.model.as_str() {
            "gpt2" => {
                let name = vocab.pre.as_deref().unwrap_or("default");
                let splitter = Splitter::named(name).ok_or_else(|| {
                    let problem = format!("\"{name}\" is not supported");
                    bad("tokenizer.ggml.pre", problem, &format!("strata knows {}", split::NAMES.join(", ")))
                })?;
                let ignore_merges = splitter.ignores_merges();
                let merges =
                    vocab.merges.iter().map(|m| m.split_once(' ')).collect::<Option<Vec<_>>>().ok_or_else(|| {
                        bad("tokenizer.ggml.merges", "a merge is no pair".into(), "convert the model again")
                    })?;
                (
                    Kind::ByteLevel(splitter),
                    merges.into_iter().map(|(a, b)| (a.into(), b.into())).collect(),
                    ignore_merges,
                )
            }
            "llama" => (Kind::SentencePiece, vocab::merges_of_scores(&vocab, &ids, path)?, false),
            other => {
                let problem = format!("\"{other}\" is not supported");
                return Err(bad(
                    "tokenizer.ggml.model",
                    problem,
                    "strata knows gpt2 (byte-level BPE) and llama (SentencePiece)",
                ));
            }
        };
        let merges: Vec<(String, String)> = merges;
        for (a, b) in &merges {
            if ![a.as_str(), b, &format!("{a}{b}")].iter().all(|t| ids.contains_key(t)) {
                let problem = format!("merge {a:?} + {b:?} has a part or result that is no token");
                return Err(bad("tokenizer.ggml.merges", problem, "convert the model again"));
            }
        }
        let by_text: tokenizers::models::bpe::Vocab = ids.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect();
        let unknown = vocab.unk.and_then(|id| vocab.tokens.get(id as usize));
        let mut builder = BPE::builder().vocab_and_merges(by_text, merges).ignore_merges(ignore_merges);
        if matches!(kind, Kind::SentencePiece) {
            builder = builder.byte_fallback(true).fuse_unk(true);
            if let Some(unknown) = unknown {
                builder = builder.unk_token(unknown.clone());
            }
        }
        let bpe = builder
            .build()
            .map_err(|error| bad("tokenizer.ggml.merges", error.to_string(), "convert the model again"))?;
        let missing = match kind {
            Kind::ByteLevel(_) => {
                let letters = (0..=255).map(vocab::letter_of_byte);
                letters.filter(|c| !ids.contains_key(c.encode_utf8(&mut [0; 4]) as &str)).collect()
            }
            Kind::SentencePiece => HashSet::new(),
        };
        let bytes = (0..n).map(|i| vocab.bytes(i, &kind)).collect();
        let ends = (0..).zip(&vocab.tokens).map(|(i, text)| {
            let named = [vocab.eos, vocab.eot, vocab.eom].contains(&Some(i));
            named || vocab.types[i as usize] != TokenType::Normal && END_TEXTS.contains(&text.as_str())
        });
        let ends = ends.collect();
        let specials = Specials::new(&vocab);
        Ok(Tokenizer { path: path.to_owned(), bpe, kind, specials, bytes, ends, missing, vocab })
    }

    /// Tokens in the vocabulary.
    pub fn n_tokens(&self) -> usize {
        self.vocab.tokens.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// True if texts begin with BOS.
    pub fn adds_bos(&self) -> bool {
        let usual = self.vocab.model == "llama" || matches!(&self.kind, Kind::ByteLevel(s) if s.ignores_merges());
        self.vocab.add_bos.unwrap_or(usual) && self.vocab.bos.is_some()
    }

    /// True for a token that ends an answer.
    pub fn is_eog(&self, token: u32) -> bool {
        self.ends.get(token as usize).copied().unwrap_or(false)
    }

    /// The chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.vocab.chat_template.as_deref()
    }

    /// The tokens of a text. `add_special`: with BOS and EOS, where the model wants them. `parse_special`: control tokens written out in
    /// the text (`<|eot_id|>`) are that token, and not its letters.
    ///
    /// # Errors
    /// If the text has something for which there is no token.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        if add_special && self.adds_bos() {
            tokens.extend(self.vocab.bos);
        }
        // SentencePiece puts a space before the text, and before what follows a special token.
        let mut at_start = true;
        for part in self.specials.cut(text, parse_special) {
            match part {
                special::Part::Token(token) => {
                    tokens.push(token);
                    at_start = true;
                }
                special::Part::Text(text) => {
                    self.encode_text(text, at_start, &mut tokens)?;
                    at_start = false;
                }
            }
        }
        if add_special && self.vocab.add_eos == Some(true) {
            tokens.extend(self.vocab.eos);
        }
        Ok(tokens)
    }

    fn encode_text(&self, text: &str, at_start: bool, tokens: &mut Vec<u32>) -> Result<()> {
        let mut merge = |piece: &str| -> Result<()> {
            let merged = self.bpe.tokenize(piece).map_err(|error| {
                Error::invalid(&self.path, "tokenizer", format!("cannot encode {piece:?}: {error}"), "report this text")
            })?;
            tokens.extend(merged.iter().map(|token| token.id));
            Ok(())
        };
        match &self.kind {
            Kind::ByteLevel(splitter) => {
                let mut letters = String::new();
                for word in splitter.split(text) {
                    letters.clear();
                    letters.extend(word.bytes().map(vocab::letter_of_byte));
                    // The library leaves out letters that are no token.
                    if let Some(letter) = letters.chars().find(|c| self.missing.contains(c)) {
                        let problem = format!("byte {letter:?} of {word:?} has no token");
                        return Err(Error::invalid(
                            &self.path,
                            "tokenizer",
                            problem,
                            "this model cannot read that text",
                        ));
                    }
                    merge(&letters)?;
                }
                Ok(())
            }
            Kind::SentencePiece => {
                let prefix = at_start && self.vocab.add_space_prefix.unwrap_or(true);
                let escaped: String = prefix
                    .then_some(' ')
                    .into_iter()
                    .chain(text.chars())
                    .map(|c| if c == ' ' { SPACE } else { c })
                    .collect();
                merge(&escaped)
            }
        }
    }

    /// The bytes that a token stands for; none for a control token, unless `render_special`.
    ///
    /// # Errors
    /// If the token is not in the vocabulary.
    pub fn token_bytes(&self, token: u32, render_special: bool) -> Result<&[u8]> {
        let (Some(bytes), Some(ty)) = (self.bytes.get(token as usize), self.vocab.types.get(token as usize)) else {
            let n = self.n_tokens();
            return Err(Error::Request(format!("token {token} is not in the vocabulary of {n} tokens")));
        };
        let hidden = matches!(ty, TokenType::Control | TokenType::Unknown | TokenType::Unused) && !render_special;
        Ok(if hidden { &[] } else { bytes })
    }

    /// The text of tokens; bytes that are no UTF-8 become U+FFFD. Control tokens are left out, unless `render_special`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn decode(&self, tokens: &[u32], render_special: bool) -> Result<String> {
        let mut bytes = Vec::new();
        for token in tokens {
            bytes.extend(self.token_bytes(*token, render_special)?);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(match (&self.kind, text.strip_prefix(' ')) {
            (Kind::SentencePiece, Some(rest)) if self.vocab.add_space_prefix.unwrap_or(true) => rest.to_owned(),
            _ => text,
        })
    }
}
