//! The split of a text into pieces that byte-level BPE never merges across.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word behind it. Engines
//! that know lookahead backtrack, and the one in the crate `tokenizers` gives up, silently, on a run of a million
//! spaces. `regex` runs in linear time but has no lookahead, so the patterns here end in `\s+` and [`Split::next`]
//! gives the last space back.

use std::path::Path;

use regex::Regex;

use crate::{Error, Result};

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// A way to split, by its GGUF name.
#[derive(Clone, Debug)]
pub(super) struct Split {
    pattern: Regex,
    /// A match that ends a line keeps its end: the pattern has an alternative `\s*[\r\n]+`.
    line_ends_stay: bool,
    /// Every digit is a piece of its own, and the parts between digits are split as if each were the whole text.
    lone_digits: bool,
    /// A piece that is a token is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Texts begin with BOS where the file does not say.
    pub(super) add_bos: bool,
}

impl Split {
    /// The split that `tokenizer.ggml.pre` names.
    pub(super) fn new(pre: Option<&str>, path: &Path) -> Result<Split> {
        let (pattern, llama3, lone_digits) = match pre {
            Some("llama-bpe" | "llama3" | "llama-v3") => (LLAMA3, true, false),
            None | Some("gpt-2" | "default") => (GPT2, false, false),
            Some("smollm") => (GPT2, false, true),
            Some(other) => {
                return Err(Error::invalid(
                    path,
                    "tokenizer.ggml.pre",
                    format!("the pre-tokenizer {other:?} is not supported"),
                    "use a model with llama-bpe, llama3, llama-v3, gpt-2, default or smollm",
                ));
            }
        };
        let pattern = Regex::new(pattern).expect("the patterns are constants, and the tests compile each");
        Ok(Split { pattern, line_ends_stay: llama3, lone_digits, ignore_merges: llama3, add_bos: llama3 })
    }

    /// Calls `piece` with every piece of `text`, in order; together they are the text.
    pub(super) fn each(&self, text: &str, mut piece: impl FnMut(&str) -> Result<()>) -> Result<()> {
        if !self.lone_digits {
            return self.each_match(text, &mut piece);
        }
        let mut start = 0;
        for (i, digit) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
            self.each_match(&text[start..i], &mut piece)?;
            start = i + digit.len_utf8();
            piece(&text[i..start])?;
        }
        self.each_match(&text[start..], &mut piece)
    }

    fn each_match(&self, text: &str, piece: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut start = 0;
        while start < text.len() {
            let end = self.next(text, start);
            piece(&text[start..end])?;
            start = end;
        }
        Ok(())
    }

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
