//! Special tokens written out in a text, found before anything else is.

use super::vocab::{TokenType, Vocab};
use regex::Regex;
use std::collections::HashMap;

/// Finds special tokens: the longest at each place, in one pass over the text.
pub struct Specials {
    ids: HashMap<String, u32>,
    /// User-defined tokens, which are always found.
    always: Option<Regex>,
    /// Those and control tokens.
    all: Option<Regex>,
}

/// A piece of a text.
#[derive(Debug, PartialEq)]
pub enum Part<'t> {
    /// A special token.
    Token(u32),
    /// What lies between, not empty.
    Text(&'t str),
}

impl Specials {
    /// The special tokens of a vocabulary.
    pub fn new(vocab: &Vocab) -> Specials {
        let of = |wanted: &[TokenType]| -> Vec<(&str, u32)> {
            let tokens = vocab.tokens.iter().zip(&vocab.types).zip(0..);
            let special = tokens.filter(|((text, ty), _)| wanted.contains(ty) && !text.is_empty());
            special.map(|((text, _), id)| (text.as_str(), id)).collect()
        };
        let all = of(&[TokenType::Control, TokenType::UserDefined, TokenType::Unknown]);
        let ids = all.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect();
        Specials { ids, always: pattern(of(&[TokenType::UserDefined])), all: pattern(all) }
    }

    /// The text in its parts.
    pub fn cut<'t>(&self, text: &'t str, parse_control: bool) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut at = 0;
        let pattern = if parse_control { &self.all } else { &self.always };
        for found in pattern.iter().flat_map(|pattern| pattern.find_iter(text)) {
            if let Some(&id) = self.ids.get(found.as_str()) {
                if found.start() > at {
                    parts.push(Part::Text(&text[at..found.start()]));
                }
                parts.push(Part::Token(id));
                at = found.end();
            }
        }
        if at < text.len() {
            parts.push(Part::Text(&text[at..]));
        }
        parts
    }
}

/// One of these texts, a longer one before a shorter one that it starts with.
fn pattern(mut tokens: Vec<(&str, u32)>) -> Option<Regex> {
    tokens.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    let alternatives: Vec<String> = tokens.iter().map(|(text, _)| regex::escape(text)).collect();
    // Without tokens there is nothing to find; a vocabulary may have a hundred thousand of them.
    let builder = |alternatives: &str| regex::RegexBuilder::new(alternatives).size_limit(1 << 28).build().ok();
    if tokens.is_empty() { None } else { builder(&alternatives.join("|")) }
}
