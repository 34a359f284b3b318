//! Splits a text into pieces that byte-level BPE never merges across, as `pre.rs` says for each pre-tokenizer.

use std::path::Path;

use regex::Regex;

use super::pre::{self, PRE_TOKENIZERS, PreTokenizer};
use crate::error::quoted;
use crate::{Error, Result};

/// A pre-tokenizer, ready to run.
#[derive(Clone, Debug)]
pub(super) struct Split {
    /// Its row of the table.
    pub(super) pre: &'static PreTokenizer,
    /// Each step splits the pieces of the one before it.
    steps: Vec<Step>,
}

/// A [`pre::Step`].
#[derive(Clone, Debug)]
enum Step {
    Isolate(Regex),
    Words(Words),
}

#[derive(Clone, Debug)]
struct Words {
    pattern: Regex,
    line_ends_stay: bool,
}

impl Split {
    /// The pre-tokenizer that `tokenizer.ggml.pre` names; without a name, llama.cpp's default.
    pub(super) fn new(name: Option<&str>, path: &Path) -> Result<Split> {
        let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
        let Some(pre) = pre::named(name) else {
            let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
            return Err(Error::invalid(
                path,
                "tokenizer.ggml.pre",
                format!("the pre-tokenizer {} is not supported", quoted(name)),
                format!("use a model with one of {}", known.join(", ")),
            ));
        };
        let regex = |pattern| Regex::new(pattern).expect("the patterns are constants, and the tests compile each");
        let step = |step: &pre::Step| match *step {
            pre::Step::Isolate(pattern) => Step::Isolate(regex(pattern)),
            pre::Step::Words { pattern, line_ends_stay } => {
                Step::Words(Words { pattern: regex(pattern), line_ends_stay })
            }
        };
        Ok(Split { pre, steps: pre.steps.iter().map(step).collect() })
    }

    /// Calls `piece` with every piece of `text`, in order; together they are the text.
    pub(super) fn each(&self, text: &str, mut piece: impl FnMut(&str) -> Result<()>) -> Result<()> {
        each(&self.steps, text, &mut piece)
    }
}

fn each(steps: &[Step], text: &str, piece: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let Some((step, rest)) = steps.split_first() else { return piece(text) };
    let mut start = 0;
    match step {
        Step::Words(words) => {
            while start < text.len() {
                let end = words.next(text, start);
                each(rest, &text[start..end], piece)?;
                start = end;
            }
        }
        Step::Isolate(pattern) => {
            for found in pattern.find_iter(text) {
                if start < found.start() {
                    each(rest, &text[start..found.start()], piece)?;
                }
                each(rest, found.as_str(), piece)?;
                start = found.end();
            }
            if start < text.len() {
                each(rest, &text[start..], piece)?;
            }
        }
    }
    Ok(())
}

impl Words {
    /// The end of the piece that begins at `start`.
    fn next(&self, text: &str, start: usize) -> usize {
        // Every character begins a match of its own class, so a match begins at `start`; a gap would be a piece.
        let found = match self.pattern.find_at(text, start) {
            Some(found) if found.start() == start => found,
            Some(found) => return found.start(),
            None => return text.len(),
        };
        let end = found.end();
        let Some(last) = found.as_str().chars().next_back().filter(|c| c.is_whitespace()) else { return end };
        let kept = end - last.len_utf8();
        let stays = kept == start || end == text.len() || (self.line_ends_stay && matches!(last, '\r' | '\n'));
        // Without the alternatives for line ends, a match that ends in a space is all spaces.
        if stays { end } else { kept }
    }
}
