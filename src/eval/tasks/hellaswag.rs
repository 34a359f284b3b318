//! HellaSwag as llama.cpp keeps it: six lines a task.
//!
//! ```text
//! the beginning of a text: activity and context
//! the number of its right ending, 0 to 3
//! four endings, a line each
//! ```

use super::{Question, utf8};
use crate::error::{Error, Result};
use std::path::Path;

const LINES: usize = 6;

/// The tasks of a file.
pub(super) fn parse<'f>(path: &Path, file: &'f [u8]) -> Result<Vec<Question<'f>>> {
    let mut lines: Vec<&[u8]> = file.split(|&byte| byte == b'\n').collect();
    lines.pop_if(|last| last.is_empty());
    if lines.is_empty() || !lines.len().is_multiple_of(LINES) {
        let problem = format!("the file has {} lines, which is no multiple of {LINES}", lines.len());
        let remedy = "give each task six lines: context, number of the right ending, four endings";
        return Err(Error::invalid(path, "tasks", problem, remedy));
    }
    lines.chunks_exact(LINES).enumerate().map(|(i, task)| question(path, LINES * i + 1, task)).collect()
}

/// The task that begins at this line.
fn question<'f>(path: &Path, first: usize, lines: &[&'f [u8]]) -> Result<Question<'f>> {
    let text = |i: usize| {
        let line = lines[i].strip_suffix(b"\r").unwrap_or(lines[i]);
        utf8(path, || format!("line {}", first + i), line)
    };
    let label = text(1)?;
    let right = label.trim().parse::<usize>().ok().filter(|right| *right < 4).ok_or_else(|| {
        let problem = format!("{} is not the number of an ending", crate::error::quoted(label));
        Error::invalid(path, format!("line {}", first + 1), problem, "give 0, 1, 2 or 3")
    })?;
    let answers = (2..LINES).map(|i| match text(i)? {
        "" => {
            let remedy = "give each task six lines: context, number of the right ending, four endings";
            Err(Error::invalid(path, format!("line {}", first + i), "an ending is empty", remedy))
        }
        ending => Ok(ending),
    });
    Ok(Question {
        place: format!("line {first}"),
        text: text(0)?,
        answers: answers.collect::<Result<_>>()?,
        right: (0..4).map(|i| i == right).collect(),
    })
}
