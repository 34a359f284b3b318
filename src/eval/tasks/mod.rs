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

use super::compare::Text;
use super::compare::text::Chunk;
use crate::error::{Error, Result};
use crate::io::text;
use crate::progress::Progress;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// The file format and the rules of a set of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What the scored tokens of a question with each of its answers mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its place in the file.
    pub place: String,
    /// The number of its sequences.
    pub sequences: usize,
    /// The scored tokens that each answer is judged by, at least one, counted through all sequences of the task.
    pub answers: Vec<Range<usize>>,
    /// Whether each answer is right.
    pub right: Vec<bool>,
}

/// Tasks, whose sequences are the chunks of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    /// Their kind.
    pub kind: Kind,
    /// The tasks, in the order in which llama-perplexity takes them.
    pub tasks: Vec<Task>,
    /// The number of tasks in the file.
    pub in_file: usize,
}

/// The most bytes of a file, some ten times those of the largest sets: the shortest tasks take twenty times their bytes in memory.
const LARGEST: u64 = 64 << 20;

/// A task before its text is cut into tokens.
trait Item: Sync {
    /// Cuts it: the task and its sequences.
    fn task(&self, encode: &Encode<'_>) -> Result<(Task, Vec<Chunk>)>;
}

/// Cuts texts of tasks into tokens, as llama-perplexity does: BOS in front, nothing behind, control tokens as text.
struct Encode<'t>(&'t Tokenizer);

impl Encode<'_> {
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.0.encode(text, EncodeOptions::default())?;
        Ok(self.0.bos().into_iter().chain(tokens).collect())
    }
}

/// Reads the tasks of a file, or as many of them as llama.cpp's random choice, as a text with [`TextFacts::tasks`]. A sequence has at most
/// `context` tokens.
///
/// # Errors
/// Names the first line or byte that is not as it must be, or the first task that is too long.
///
/// [`TextFacts::tasks`]: super::compare::text::TextFacts::tasks
pub fn open(
    kind: Kind,
    path: &Path,
    at_most: Option<usize>,
    tokenizer: &Tokenizer,
    context: usize,
    progress: &dyn Progress,
) -> Result<Text> {
    let file = text::read_bytes(path, LARGEST, progress)?;
    let cut = Cut { encode: Encode(tokenizer), path, context, progress };
    let (tasks, in_file) = match kind {
        Kind::HellaSwag => {
            let items = hellaswag::parse(path, &file)?;
            let chosen = choice::drawn(items.len(), at_most.unwrap_or(items.len()));
            (cut.all(&items, &chosen)?, items.len())
        }
        Kind::Winogrande => {
            let items = winogrande::parse(path, &file, progress)?;
            (cut.all(&items, &choice::chosen(items.len(), at_most))?, items.len())
        }
        Kind::MultipleChoice => {
            let (items, in_file) = multiple_choice::parse(path, &file, at_most)?;
            (cut.all(&items, &(0..items.len()).collect::<Vec<_>>())?, in_file)
        }
    };
    let (tasks, sequences): (Vec<Task>, Vec<Vec<Chunk>>) = tasks.into_iter().unzip();
    let mut text = Text::of_chunks(path.to_string_lossy(), sequences.into_iter().flatten().collect());
    text.texts.iter_mut().for_each(|text| text.tasks = Some(Tasks { kind, tasks: tasks.clone(), in_file }));
    Ok(text)
}

/// What tasks are cut with.
struct Cut<'a> {
    encode: Encode<'a>,
    path: &'a Path,
    context: usize,
    progress: &'a dyn Progress,
}

impl Cut<'_> {
    /// The chosen items as tasks and their sequences.
    fn all(&self, items: &[impl Item], chosen: &[usize]) -> Result<Vec<(Task, Vec<Chunk>)>> {
        let all: Vec<Result<_>> = chosen.par_iter().map(|&i| self.one(&items[i])).collect();
        all.into_iter().collect()
    }

    fn one(&self, item: &impl Item) -> Result<(Task, Vec<Chunk>)> {
        self.progress.check()?;
        let (task, sequences) = item.task(&self.encode)?;
        let longest = sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0);
        let problem = match () {
            () if task.answers.iter().any(Range::is_empty) => "an answer has no token to judge it by".to_owned(),
            () if longest > self.context => {
                format!("the task takes {longest} tokens, and the context is {}", self.context)
            }
            () => return Ok((task, sequences)),
        };
        Err(Error::invalid(self.path, task.place, problem, "leave the task out"))
    }
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
    fn task(&self, encode: &Encode<'_>) -> Result<(Task, Vec<Chunk>)> {
        let tokens = self.answers.iter().map(|answer| encode.tokens(&format!("{} {answer}", self.text)));
        let tokens: Vec<Vec<u32>> = tokens.collect::<Result<_>>()?;
        let (first, mut scored) = (common_prefix(&tokens), 0);
        let (mut sequences, mut answers) = (Vec::new(), Vec::new());
        for tokens in tokens {
            let sequence = sequence(tokens, first, 0);
            answers.push(scored..scored + sequence.scores());
            scored += sequence.scores();
            sequences.push(sequence);
        }
        let (place, right) = (self.place.clone(), self.right.clone());
        Ok((Task { place, sequences: sequences.len(), answers, right }, sequences))
    }
}

/// Tokens that all begin with; not the first, which follows nothing, and not the last of the shortest, so that each has one more.
fn common_prefix(all: &[Vec<u32>]) -> usize {
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    let differs = |i: &usize| all.iter().any(|tokens| tokens[*i] != all[0][*i]);
    (0..shortest).find(differs).unwrap_or(shortest).min(shortest.saturating_sub(1)).max(1)
}

/// A sequence of which the tokens from `first` on are scored, which is not 0, but for the last few.
fn sequence(tokens: Vec<u32>, first: usize, without_last: usize) -> Chunk {
    let end = (tokens.len() - without_last).max(first);
    Chunk { number: 0, tokens, scored: vec![first - 1..end - 1] }
}

/// A part of a file as text.
fn utf8<'f>(path: &Path, place: impl FnOnce() -> String, bytes: &'f [u8]) -> Result<&'f str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let problem = format!("is not UTF-8 from its byte {} on", error.valid_up_to());
        Error::invalid(path, place(), problem, "convert the file to UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Quiet;

    /// The number of tasks that a format finds in a file.
    fn parse(kind: Kind, file: &[u8], at_most: Option<usize>) -> Result<usize> {
        let path = Path::new("tasks");
        match kind {
            Kind::HellaSwag => hellaswag::parse(path, file).map(|tasks| tasks.len()),
            Kind::Winogrande => winogrande::parse(path, file, &Quiet).map(|tasks| tasks.len()),
            Kind::MultipleChoice => multiple_choice::parse(path, file, at_most).map(|(tasks, _)| tasks.len()),
        }
    }

    /// Every file that is cut off or has one wrong byte is parsed or refused, by a message that names the file.
    #[test]
    fn damaged_files_do_no_harm() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-rustdoc/tasks");
        for (kind, name, count) in [
            (Kind::HellaSwag, "hellaswag.txt", 16),
            (Kind::Winogrande, "winogrande.csv", 15),
            (Kind::MultipleChoice, "multiple_choice.bin", 16),
        ] {
            let whole = std::fs::read(folder.join(name)).unwrap();
            assert_eq!(parse(kind, &whole, None).unwrap(), count);
            let mut refused = 0;
            let mut try_one = |file: &[u8]| {
                for at_most in [None, Some(3)] {
                    if let Err(error) = parse(kind, file, at_most) {
                        refused += 1;
                        assert!(error.to_string().starts_with("tasks: "), "{error}");
                    }
                }
            };
            for i in 0..whole.len() {
                try_one(&whole[..i]);
                for byte in [0, b'\n', b',', 0x7f, 0xff] {
                    let mut damaged = whole.clone();
                    damaged[i] = byte;
                    try_one(&damaged);
                }
            }
            assert!(refused > 1000, "{name}: {refused}");
        }
    }

    #[test]
    fn answers_are_scored_from_the_first_different_token_and_never_from_the_first() {
        let same = |all: &[&[u32]]| common_prefix(&all.iter().map(|tokens| tokens.to_vec()).collect::<Vec<_>>());
        assert_eq!(same(&[&[1, 2, 3, 4], &[1, 2, 5]]), 2);
        assert_eq!(same(&[&[1, 2, 3, 4], &[1, 2, 3]]), 2); // else the second would have nothing
        assert_eq!(same(&[&[7, 2], &[1, 2]]), 1);
        assert_eq!((same(&[&[], &[1]]), same(&[&[1], &[2]])), (1, 1));
        let chunk = sequence(vec![5, 6, 7, 8], 2, 1);
        assert_eq!(chunk.scored, [1..2]);
        assert_eq!(sequence(vec![5], 1, 0).scores(), 0);
    }
}
