//! Winogrande as llama.cpp keeps it: a line a task, `number,sentence,choice 1,choice 2,right choice`, in which `_` of the sentence stands
//! for the choice. The sentence may be in quotes, and may have commas then.
//!
//! A choice is judged by what follows it, without the last token, unless so little follows that all from the first different token on is
//! taken. llama.cpp then reads the first token of the second choice from behind the last token of the first sentence, which is no place
//! that it follows. Its figures are what others publish, so this is done here as well.

use super::{Chunk, Encode, Item, Task, common_prefix, sequence, utf8};
use crate::error::{Error, Result, quoted};
use crate::progress::Progress;
use std::path::Path;

/// With no more different tokens than this in either sentence, the choice itself is scored.
const FEW: usize = 3;

/// A sentence with a gap and two words for it.
pub(super) struct Gap<'f> {
    place: String,
    before: &'f str,
    after: &'f str,
    choices: [&'f str; 2],
    right: usize,
}

/// The tasks of a file.
///
/// llama-perplexity takes one line feed off the end of the file, and no line without one: the last task is lost, unless an empty line
/// follows it. Which tasks a random choice takes depends on their number, so the same are left out here.
pub(super) fn parse<'f>(path: &Path, file: &'f [u8], progress: &dyn Progress) -> Result<Vec<Gap<'f>>> {
    let mut lines: Vec<&[u8]> = file.strip_suffix(b"\n").unwrap_or(file).split(|&byte| byte == b'\n').collect();
    let number = lines.len();
    if let Some(last) = lines.pop()
        && !last.is_empty()
    {
        progress.warn(&format!(
            "{}: line {number}, the last, is left out, as llama-perplexity does: both score the same tasks",
            path.display()
        ));
    }
    if lines.is_empty() {
        let remedy = "give each task a line, and an empty line to the end of the file";
        return Err(Error::invalid(path, "tasks", "there is no task", remedy));
    }
    lines.iter().enumerate().map(|(i, line)| gap(path, i + 1, line)).collect()
}

fn gap<'f>(path: &Path, number: usize, line: &'f [u8]) -> Result<Gap<'f>> {
    let place = || format!("line {number}");
    let invalid = |problem: String| {
        let remedy = "write number,sentence with _,choice 1,choice 2,1 or 2";
        Error::invalid(path, place(), problem, remedy)
    };
    let line = utf8(path, place, line.strip_suffix(b"\r").unwrap_or(line))?;
    let mut quoted_part = false;
    let outside = |&(_, c): &(usize, char)| {
        quoted_part ^= c == '"';
        c == ',' && !quoted_part
    };
    let commas: Vec<usize> = line.char_indices().filter(outside).map(|(at, _)| at).take(4).collect();
    let [a, b, c, d] = commas[..] else {
        return Err(invalid(format!("{} commas outside of quotes, where there must be 4", commas.len())));
    };
    let sentence = &line[a + 1..b];
    let sentence = sentence.strip_prefix('"').map_or(sentence, |rest| rest.strip_suffix('"').unwrap_or(rest));
    let (before, after) =
        sentence.split_once('_').ok_or_else(|| invalid(format!("no _ in the sentence {}", quoted(sentence))))?;
    let answer = line[d + 1..].trim();
    let right = match answer {
        "1" => 0,
        "2" => 1,
        _ => return Err(invalid(format!("the right choice is {}, not 1 or 2", quoted(answer)))),
    };
    Ok(Gap { place: place(), before, after, choices: [&line[b + 1..c], &line[c + 1..d]], right })
}

impl Item for Gap<'_> {
    fn task(&self, encode: &Encode<'_>) -> Result<(Task, Vec<Chunk>)> {
        let Gap { before, after, choices, .. } = self;
        let tokens = choices.map(|choice| encode.tokens(&format!("{before}{choice}{after}")));
        let tokens: Vec<Vec<u32>> = tokens.into_iter().collect::<Result<_>>()?;
        let common = common_prefix(&tokens);
        let behind = choices.map(|choice| encode.tokens(&format!("{before}{choice}")).map(|tokens| tokens.len()));
        let behind: Vec<usize> = behind.into_iter().collect::<Result<_>>()?;
        let much = tokens.iter().all(|tokens| tokens.len().saturating_sub(common) > FEW);
        // Where nothing follows the choice, llama.cpp divides by zero.
        let skips_choice = much && tokens.iter().zip(&behind).all(|(tokens, first)| *first < tokens.len());
        let sequences = tokens.into_iter().zip(behind).map(|(tokens, behind)| {
            let first = if skips_choice { behind.max(1) } else { common };
            let without_last = usize::from(tokens.len() > first + 1);
            sequence(tokens, first, without_last)
        });
        let mut sequences: Vec<Chunk> = sequences.collect();
        let [first, second] = &mut sequences[..] else { return Err(Error::Internal("a gap has two choices")) };
        let own = first.scores();
        if !skips_choice && second.scores() > 0 {
            // The token is scored where it would follow the first sentence.
            second.scored[0].start += 1;
            second.scored.retain(|scored| !scored.is_empty());
            first.scored.push(first.tokens.len() - 1..first.tokens.len());
            first.tokens.push(second.tokens[common]);
        }
        let all = first.scores() + second.scores();
        let right = (0..2).map(|choice| choice == self.right).collect();
        Ok((Task { place: self.place.clone(), sequences: 2, answers: vec![0..own, own..all], right }, sequences))
    }
}
