//! Pre-tokenizers: they split a text into pieces that byte-level BPE never merges across.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word behind it. Engines
//! that know lookahead backtrack, and the one in the crate `tokenizers` gives up, silently, on a run of a million
//! spaces. `regex` runs in linear time but has no lookahead, so the patterns here end in `\s+` and [`Words::next`]
//! gives the last space back.

use std::path::Path;

use regex::Regex;

use crate::error::quoted;
use crate::{Error, Result};

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// The supported values of `tokenizer.ggml.pre`, with all names that llama.cpp has for each.
const KNOWN: [(&[&str], Kind); 5] = [
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        Kind::Llama3,
    ),
    (&["dbrx", "smaug-bpe"], Kind::Dbrx),
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        Kind::Gpt2,
    ),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], Kind::Digits),
    (&["default"], Kind::Default),
];

#[derive(Clone, Copy)]
enum Kind {
    /// Llama 3: a piece that is a token is that token, and texts begin with BOS.
    Llama3,
    /// Llama 3's expression without both of these.
    Dbrx,
    Gpt2,
    /// GPT-2's expression between single digits.
    Digits,
    /// llama.cpp's pre-tokenizer for files that name none.
    Default,
}

/// A pre-tokenizer.
#[derive(Clone, Debug)]
pub(super) struct Split {
    /// Each step splits the pieces of the one before it.
    steps: Vec<Step>,
    /// A piece that is a token is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Texts begin with BOS by default.
    pub(super) add_bos: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// Matches are pieces, and so is what lies between them.
    Isolate(Regex),
    Words(Words),
}

/// A pattern with an alternative for every character, whose last one stands for `\s+(?!\S)|\s+`.
#[derive(Clone, Debug)]
struct Words {
    pattern: Regex,
    /// A match that ends a line keeps its end: the pattern has an alternative `\s*[\r\n]+`.
    line_ends_stay: bool,
}

impl Split {
    /// The pre-tokenizer that `tokenizer.ggml.pre` names; without a name, llama.cpp's default.
    pub(super) fn new(pre: Option<&str>, path: &Path) -> Result<Split> {
        let pre = pre.filter(|pre| !pre.is_empty()).unwrap_or("default");
        let Some((_, kind)) = KNOWN.iter().find(|(names, _)| names.contains(&pre)) else {
            let known: Vec<&str> = KNOWN.iter().flat_map(|(names, _)| names.iter().copied()).collect();
            return Err(Error::invalid(
                path,
                "tokenizer.ggml.pre",
                format!("the pre-tokenizer {} is not supported", quoted(pre)),
                format!("use a model with one of {}", known.join(", ")),
            ));
        };
        let regex = |pattern| Regex::new(pattern).expect("the patterns are constants, and the tests compile each");
        let isolate = |pattern| Step::Isolate(regex(pattern));
        let words = |pattern, line_ends_stay| Step::Words(Words { pattern: regex(pattern), line_ends_stay });
        let steps = match kind {
            Kind::Llama3 | Kind::Dbrx => vec![words(LLAMA3, true)],
            Kind::Gpt2 => vec![words(GPT2, false)],
            Kind::Digits => vec![isolate(r"\p{N}"), words(GPT2, false)],
            Kind::Default => {
                vec![isolate(r"[\p{P}$+<=>^~|]+"), words(GPT2, false), isolate(r"\p{N}+"), isolate("[0-9]{3}")]
            }
        };
        let llama3 = matches!(kind, Kind::Llama3);
        Ok(Split { steps, ignore_merges: llama3, add_bos: llama3 })
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
