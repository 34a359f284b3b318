//! llama.cpp's file of multiple choices:
//!
//! ```text
//! tasks u32   the byte at which each begins u32 x tasks
//! a task:     question text   answers with one right answer   answers with several, which are not used
//! answers:    count u32, at most 100   text x count   label i32 x count, 1 for right
//! text:       bytes u32   UTF-8                                                              all little-endian
//! ```

use super::{Question, choice, utf8};
use crate::error::{Error, Result};
use std::path::Path;

/// llama.cpp's limit.
const MOST_ANSWERS: usize = 100;

/// The tasks of a file: all in their order, or `at_most` chosen at random; and the number of all.
pub(super) fn parse<'f>(path: &Path, file: &'f [u8], at_most: Option<usize>) -> Result<(Vec<Question<'f>>, usize)> {
    let mut reader = Reader { path, file, at: 0 };
    let count = reader.number("the number of tasks")?;
    if count == 0 {
        return Err(reader.invalid(0, "there is no task"));
    }
    let begins = reader.take("the table of tasks", count.saturating_mul(4))?;
    let begin = |i: usize| {
        let at = begins.as_chunks::<4>().0[i];
        u32::from_le_bytes(at) as usize
    };
    let all = at_most.is_none_or(|n| n >= count);
    let tasks = choice::chosen(count, at_most).into_iter().map(|i| {
        if !all {
            reader.at = begin(i);
        }
        reader.question(i)
    });
    Ok((tasks.collect::<Result<_>>()?, count))
}

/// Reads a file from front to back.
struct Reader<'p, 'f> {
    path: &'p Path,
    file: &'f [u8],
    at: usize,
}

impl<'f> Reader<'_, 'f> {
    fn invalid(&self, at: usize, problem: impl Into<String>) -> Error {
        let remedy = "make the file again, in llama.cpp's binary format of multiple choices";
        Error::invalid(self.path, format!("byte {at}"), problem, remedy)
    }

    fn take(&mut self, what: &str, bytes: usize) -> Result<&'f [u8]> {
        let taken = self.at.checked_add(bytes).and_then(|end| self.file.get(self.at..end)).ok_or_else(|| {
            let problem = format!("{what} would take {bytes} bytes, and the file has {}", self.file.len());
            self.invalid(self.at, problem)
        })?;
        self.at += bytes;
        Ok(taken)
    }

    fn number(&mut self, what: &str) -> Result<usize> {
        let bytes = self.take(what, 4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn text(&mut self, what: &str) -> Result<&'f str> {
        let len = self.number(what)?;
        let (at, path) = (self.at, self.path);
        utf8(path, || format!("byte {at}"), self.take(what, len)?)
    }

    /// Answers and whether each is right.
    fn answers(&mut self) -> Result<(Vec<&'f str>, Vec<i32>)> {
        let at = self.at;
        let count = self.number("the number of answers")?;
        if count > MOST_ANSWERS {
            return Err(self.invalid(at, format!("{count} answers, of which there are {MOST_ANSWERS} at most")));
        }
        let answers = (0..count).map(|_| self.text("an answer")).collect::<Result<_>>()?;
        let labels = self.take("the labels of answers", 4 * count)?;
        Ok((answers, labels.as_chunks().0.iter().map(|label| i32::from_le_bytes(*label)).collect()))
    }

    /// Task `i`, which begins here.
    fn question(&mut self, i: usize) -> Result<Question<'f>> {
        let at = self.at;
        let text = self.text("a question")?;
        let (answers, labels) = self.answers()?;
        self.answers()?;
        let problem = match () {
            () if text.is_empty() => "the question is empty",
            () if answers.is_empty() => "there is no answer",
            () if answers.contains(&"") => "an answer is empty",
            () if labels.iter().any(|label| !(0..=1).contains(label)) => "a label is neither 0 nor 1",
            () if !labels.contains(&1) => "no answer is right",
            () => {
                let right = labels.iter().map(|label| *label == 1).collect();
                return Ok(Question { place: format!("task {} at byte {at}", i + 1), text, answers, right });
            }
        };
        Err(self.invalid(at, format!("task {}: {problem}", i + 1)))
    }
}
