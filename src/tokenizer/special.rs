//! Tokens that are matched in the text before anything else: longest first, leftmost, in one linear pass.

use std::collections::HashMap;
use std::path::Path;

use regex::{Regex, RegexBuilder};

use super::vocab::{TokenKind, Vocab};
use crate::{Error, Result};

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'t> {
    /// Plain text, not empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Special {
    /// The tokens that are text to their user: always matched.
    user: Option<Regex>,
    /// Those and the control tokens.
    all: Option<Regex>,
    ids: HashMap<String, u32>,
}

impl Special {
    pub(super) fn new(vocab: &Vocab, path: &Path) -> Result<Special> {
        let mut ids = HashMap::new();
        let (mut user, mut all) = (Vec::new(), Vec::new());
        for (id, token) in (0u32..).zip(&vocab.tokens) {
            let kind = vocab.kind(id);
            let control = kind == TokenKind::Control || (kind == TokenKind::Unknown && vocab.model == "llama");
            if token.is_empty() || !(control || kind == TokenKind::UserDefined) {
                continue;
            }
            let text = literal(vocab, id);
            // Where two have one text, the first is the one that is meant.
            if ids.contains_key(&text) {
                continue;
            }
            ids.insert(text.clone(), id);
            if !control {
                user.push(text.clone());
            }
            all.push(text);
        }
        Ok(Special { user: any_of(user, path)?, all: any_of(all, path)?, ids })
    }

    /// Cuts `text` at its special tokens; control tokens are plain text unless `control`.
    pub(super) fn parts<'t>(&self, text: &'t str, control: bool) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for found in (if control { &self.all } else { &self.user }).iter().flat_map(|any| any.find_iter(text)) {
            if start < found.start() {
                parts.push(Part::Text(&text[start..found.start()]));
            }
            parts.push(Part::Token(self.ids[found.as_str()]));
            start = found.end();
        }
        if start < text.len() {
            parts.push(Part::Text(&text[start..]));
        }
        parts
    }
}

/// What a special token looks like in text. SentencePiece writes the spaces of user-defined ones as U+2581.
pub(super) fn literal(vocab: &Vocab, id: u32) -> String {
    let text = &vocab.tokens[id as usize];
    if vocab.model == "llama" && vocab.kind(id) == TokenKind::UserDefined {
        text.replace('\u{2581}', " ")
    } else {
        text.clone()
    }
}

/// A pattern that is one of `texts`; `regex` takes the first that fits and turns such a list into one automaton.
fn any_of(mut texts: Vec<String>, path: &Path) -> Result<Option<Regex>> {
    if texts.is_empty() {
        return Ok(None);
    }
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let pattern = texts.iter().map(|text| regex::escape(text)).collect::<Vec<_>>().join("|");
    // Some vocabularies have thousands of such tokens; 1 GiB only stops files that are nothing else.
    RegexBuilder::new(&pattern).size_limit(1 << 30).build().map(Some).map_err(|e| {
        Error::invalid(
            path,
            "tokenizer.ggml.token_type",
            format!("{} special tokens cannot be matched: {e}", texts.len()),
            "check that the types of the tokens are right",
        )
    })
}
