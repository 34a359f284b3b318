//! Special tokens, which are matched in the text first: leftmost, then longest, in memory proportional to the texts of the
//! tokens.

use std::collections::HashSet;
use std::sync::Arc;

use super::vocab::{TokenKind, Vocab};

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Segment<'t> {
    /// Plain text, not empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Special {
    /// The user-defined tokens, which are always matched.
    user: Matcher,
    /// The user-defined and the control tokens.
    all: Matcher,
}

impl Special {
    /// The special tokens of `vocab`; those in `control` are control tokens whatever their types say.
    pub(super) fn new(vocab: &Vocab, control: &HashSet<u32>) -> Special {
        let mut seen = HashSet::new();
        let (mut user, mut all) = (Vec::new(), Vec::new());
        for (id, token) in (0u32..).zip(&vocab.tokens) {
            let kind = vocab.kind(id);
            let is_control = kind == TokenKind::Control
                || control.contains(&id)
                || (kind == TokenKind::Unknown && vocab.model == "llama");
            if token.is_empty() || !(is_control || kind == TokenKind::UserDefined) {
                continue;
            }
            let text: Arc<str> = literal(vocab, id).into();
            // Of two tokens with the same text, the first counts.
            if !seen.insert(text.clone()) {
                continue;
            }
            if !is_control {
                user.push((text.clone(), id));
            }
            all.push((text, id));
        }
        Special { user: Matcher::new(user), all: Matcher::new(all) }
    }

    /// Splits `text` at its special tokens; control tokens are plain text unless `control`.
    pub(super) fn parts<'t>(&self, text: &'t str, control: bool) -> Vec<Segment<'t>> {
        let matcher = if control { &self.all } else { &self.user };
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while let Some(skipped) = text.as_bytes()[at..].iter().position(|&byte| matcher.begins[usize::from(byte)]) {
            at += skipped;
            let Some((id, len)) = matcher.longest(&text.as_bytes()[at..]) else {
                at += 1;
                continue;
            };
            if start < at {
                parts.push(Segment::Text(&text[start..at]));
            }
            parts.push(Segment::Token(id));
            at += len;
            start = at;
        }
        if start < text.len() {
            parts.push(Segment::Text(&text[start..]));
        }
        parts
    }
}

/// Sorted texts. The longest one that begins a given text is a prefix of the last one that is not greater than it: a binary
/// search and a walk along the prefixes find it, without an automaton whose states would take many times the memory.
#[derive(Debug)]
struct Matcher {
    texts: Vec<(Arc<str>, u32)>,
    /// For each text, the index of the longest other text that is a prefix of it.
    prefix: Vec<Option<u32>>,
    /// True for the first bytes of texts.
    begins: [bool; 256],
}

impl Matcher {
    fn new(mut texts: Vec<(Arc<str>, u32)>) -> Matcher {
        texts.sort_unstable();
        let mut begins = [false; 256];
        let mut prefix = Vec::with_capacity(texts.len());
        let mut open: Vec<u32> = Vec::new();
        for (i, (text, _)) in (0u32..).zip(&texts) {
            begins[usize::from(text.as_bytes()[0])] = true;
            while open.last().is_some_and(|&last| !text.starts_with(&*texts[last as usize].0)) {
                open.pop();
            }
            prefix.push(open.last().copied());
            open.push(i);
        }
        Matcher { texts, prefix, begins }
    }

    /// The id and length of the longest text that `rest` begins with.
    fn longest(&self, rest: &[u8]) -> Option<(u32, usize)> {
        let mut at = self.texts.partition_point(|(text, _)| text.as_bytes() <= rest).checked_sub(1)?;
        let common = self.texts[at].0.bytes().zip(rest).take_while(|(a, b)| a == *b).count();
        while self.texts[at].0.len() > common {
            at = self.prefix[at]? as usize;
        }
        let (text, id) = &self.texts[at];
        Some((*id, text.len()))
    }
}

/// The text of a special token. SentencePiece writes the spaces of user-defined ones as U+2581.
pub(super) fn literal(vocab: &Vocab, id: u32) -> String {
    let text = &vocab.tokens[id as usize];
    if vocab.model == "llama" && vocab.kind(id) == TokenKind::UserDefined {
        text.replace('\u{2581}', " ")
    } else {
        text.clone()
    }
}
