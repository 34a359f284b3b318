//! Tasks: questions with a choice of answers, of which a model chooses the one that it finds most likely. File formats, choice of tasks
//! and scoring are llama.cpp's (`llama-perplexity --hellaswag`, `--winogrande`, `--multiple-choice`), so that figures are comparable.
//!
//! * `hellaswag.rs`, `winogrande.rs`, `multiple_choice.rs`: the formats, and which tokens are scored;
//! * `choice.rs`: the random tasks that llama.cpp takes of a file;
//! * [`scoring`]: log-probabilities of scored tokens to answers, answers to figures;
//! * [`answer`]: the answers of one model.

pub mod answer;
mod choice;
mod hellaswag;
mod multiple_choice;
pub mod scoring;
mod winogrande;

pub use scoring::{Flips, Share};

use crate::error::{Error, Result};
use crate::io::text;
use crate::progress::Progress;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use rayon::prelude::*;
use std::path::Path;

/// The file format and the rules of a set of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The most likely of four endings of a text (Zellers et al. 2019).
    HellaSwag,
    /// The more likely of two words in a sentence, by what follows them (Sakaguchi et al. 2019).
    Winogrande,
    /// The most likely of several answers to a question: MMLU, ARC, TruthfulQA.
    MultipleChoice,
}

impl Kind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::HellaSwag => "HellaSwag",
            Kind::Winogrande => "Winogrande",
            Kind::MultipleChoice => "multiple choice",
        }
    }

    /// The number of tasks that llama-perplexity takes unless it is told otherwise; `None` for all.
    pub fn default_tasks(self) -> Option<usize> {
        (self == Kind::HellaSwag).then_some(400)
    }
}

/// Tokens that go through a model together, and those of them that are scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Places in `tokens`, and the token that is scored as what follows there.
    pub scored: Vec<(usize, u32)>,
}

/// A question and its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its place in the file.
    pub place: String,
    /// The question with each answer.
    pub sequences: Vec<Sequence>,
    /// For each answer the scored tokens that it is judged by, at least one, counted through all sequences.
    pub answers: Vec<Vec<usize>>,
    /// Whether each answer is right.
    pub right: Vec<bool>,
}

/// Tasks from a file.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// Their kind.
    pub kind: Kind,
    /// The tasks, in the order in which llama-perplexity takes them.
    pub tasks: Vec<Task>,
    /// The number of tasks in the file.
    pub in_file: usize,
}

/// A task before its text is cut into tokens.
trait Item: Sync {
    /// Cuts it.
    fn task(&self, encode: &Encode<'_>) -> Result<Task>;
}

/// Cuts texts of tasks into tokens, as llama-perplexity does: BOS in front, control tokens as text.
struct Encode<'t>(&'t Tokenizer);

impl Encode<'_> {
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.0.encode(text, EncodeOptions { add_special: true, parse_special: false })
    }
}

impl Tasks {
    /// Reads the tasks of a file, or as many of them as llama.cpp's random choice, and cuts them into tokens. A sequence has at most
    /// `context` tokens.
    ///
    /// # Errors
    /// Names the first line or byte that is not as it must be, or the first task that is too long.
    pub fn open(
        kind: Kind,
        path: &Path,
        at_most: Option<usize>,
        tokenizer: &Tokenizer,
        context: usize,
        progress: &dyn Progress,
    ) -> Result<Tasks> {
        let file = text::read_bytes(path, text::largest(), progress)?;
        let encode = Encode(tokenizer);
        let (tasks, in_file) = match kind {
            Kind::HellaSwag => {
                let items = hellaswag::parse(path, &file)?;
                let chosen = choice::drawn(items.len(), at_most.unwrap_or(items.len()));
                cut(&items, &chosen, &encode, progress)?
            }
            Kind::Winogrande => {
                let items = winogrande::parse(path, &file, progress)?;
                cut(&items, &choice::chosen(items.len(), at_most), &encode, progress)?
            }
            Kind::MultipleChoice => {
                let (items, in_file) = multiple_choice::parse(path, &file, at_most)?;
                let all: Vec<usize> = (0..items.len()).collect();
                (cut(&items, &all, &encode, progress)?.0, in_file)
            }
        };
        for task in &tasks {
            if task.answers.iter().any(Vec::is_empty) {
                let problem = "an answer has no token to judge it by";
                return Err(Error::invalid(path, &task.place, problem, "leave the task out"));
            }
            let longest = task.sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0);
            if longest > context {
                let problem = format!("the task takes {longest} tokens, and the context is {context}");
                return Err(Error::invalid(path, &task.place, problem, "leave the task out, or take a longer context"));
            }
        }
        Ok(Tasks { kind, tasks, in_file })
    }

    /// All sequences of all tasks, in their order.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.tasks.iter().flat_map(|task| &task.sequences)
    }

    /// The number of scored tokens.
    pub fn scored(&self) -> usize {
        self.sequences().map(|sequence| sequence.scored.len()).sum()
    }
}

/// The chosen items as tasks, and the number of all.
fn cut(
    items: &[impl Item],
    chosen: &[usize],
    encode: &Encode<'_>,
    progress: &dyn Progress,
) -> Result<(Vec<Task>, usize)> {
    let one = |&i: &usize| progress.check().and_then(|()| items[i].task(encode));
    Ok((chosen.par_iter().map(one).collect::<Result<_>>()?, items.len()))
}

/// A question that each of its answers continues: all HellaSwag tasks and multiple choices.
struct Question<'f> {
    place: String,
    text: &'f str,
    answers: Vec<&'f str>,
    right: Vec<bool>,
}

impl Item for Question<'_> {
    /// An answer is judged by its tokens from the first that differs between answers: what all have in common tells nothing.
    fn task(&self, encode: &Encode<'_>) -> Result<Task> {
        let tokens = self.answers.iter().map(|answer| encode.tokens(&format!("{} {answer}", self.text)));
        let tokens: Vec<Vec<u32>> = tokens.collect::<Result<_>>()?;
        let first = common_prefix(&tokens);
        let mut scored = 0;
        let (mut sequences, mut answers) = (Vec::new(), Vec::new());
        for tokens in tokens {
            answers.push((scored..scored + tokens.len().saturating_sub(first)).collect());
            let sequence = Sequence { scored: followed(&tokens, first..tokens.len()), tokens };
            scored += sequence.scored.len();
            sequences.push(sequence);
        }
        Ok(Task { place: self.place.clone(), sequences, answers, right: self.right.clone() })
    }
}

/// Tokens that all begin with; not the first, which follows nothing, and not the last of the shortest, so that each has one more.
fn common_prefix(all: &[Vec<u32>]) -> usize {
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    let differs = |i: &usize| all.iter().any(|tokens| tokens[*i] != all[0][*i]);
    (0..shortest).find(differs).unwrap_or(shortest).min(shortest.saturating_sub(1)).max(1)
}

/// The tokens at these places of a sequence, each with the place before it.
fn followed(tokens: &[u32], places: std::ops::Range<usize>) -> Vec<(usize, u32)> {
    places.map(|place| (place - 1, tokens[place])).collect()
}

/// A part of a file as text.
fn utf8<'f>(path: &Path, place: impl FnOnce() -> String, bytes: &'f [u8]) -> Result<&'f str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let problem = format!("is not UTF-8 from its byte {} on", error.valid_up_to());
        Error::invalid(path, place(), problem, "convert the file to UTF-8")
    })
}
