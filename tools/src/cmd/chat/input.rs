//! What the user says: lines from an editor on a terminal, or from a pipe.
//!
//! A message goes on after a line that ends with a backslash, and from `"""` to `"""`; what is pasted into the editor is one message.

use super::command::NAMES;
use crate::progress::at_once;
use crate::{folders, output};
use anyhow::{Context as _, Result, ensure};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::fs;
use std::io::{BufRead, IsTerminal, Read, stdin, stdout};
use std::path::PathBuf;

/// The most bytes of a message from a pipe.
const LONGEST: u64 = 64 << 20;

/// The mark around a message of several lines.
const BLOCK: &str = "\"\"\"";

/// Where messages come from.
pub enum Input {
    /// A line editor.
    Terminal(Box<Terminal>),
    /// A pipe or a file.
    Pipe,
}

/// A line editor with its history.
pub struct Terminal {
    editor: Editor<Lines, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Input {
    /// A line editor if a person sits there, else standard input as it is.
    pub fn open() -> Input {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Input::Pipe;
        }
        let config = Config::builder().completion_type(CompletionType::List).build();
        let Ok(mut editor) = Editor::with_config(config) else { return Input::Pipe };
        editor.set_helper(Some(Lines { files: FilenameCompleter::new() }));
        let history = history_file();
        if let Some(file) = &history {
            // There is none before the first time.
            let _ = editor.load_history(file);
        }
        Input::Terminal(Box::new(Terminal { editor, history }))
    }

    /// Whether a person sits there.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next lines that belong together, after `text`, which the user may change; `None` if there are no more.
    pub fn next(&mut self, text: &str) -> Result<Option<String>> {
        match self {
            Input::Terminal(terminal) => terminal.next(text),
            Input::Pipe => at_once(piped),
        }
    }
}

impl Terminal {
    fn next(&mut self, text: &str) -> Result<Option<String>> {
        let mut interrupted = false;
        loop {
            // The editor makes Ctrl-C a key; the signal to end ends the program, which waits here.
            match at_once(|| self.editor.readline_with_initial("> ", (text, ""))) {
                Ok(line) => {
                    self.remember(&line);
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) if !interrupted => {
                    interrupted = true;
                    output::say("(Ctrl-C again, Ctrl-D or /exit leaves)");
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Signal(_)) => {}
                Err(error) => return Err(error).context("cannot read from the terminal"),
            }
        }
    }

    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() || !self.editor.add_history_entry(line).unwrap_or(false) {
            return;
        }
        if let Some(file) = &self.history
            && let Err(error) = self.editor.append_history(file)
        {
            output::warn(&format!("{}: the history is not kept: {error}", output::path(file)));
            self.history = None;
        }
    }
}

/// The file of what the user typed, in a folder that only the user can read; `None` if there can be none.
fn history_file() -> Option<PathBuf> {
    let folder = folders::of_user("XDG_STATE_HOME", ".local/state")?;
    fs::create_dir_all(&folder).ok()?;
    #[cfg(unix)]
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).ok()?;
    Some(folder.join("chat_history"))
}

/// The next lines of standard input that belong together.
fn piped() -> Result<Option<String>> {
    let (mut input, mut all) = (stdin().lock(), Vec::new());
    loop {
        let room = LONGEST + 1 - all.len() as u64;
        let read = input.by_ref().take(room).read_until(b'\n', &mut all).context("cannot read standard input")?;
        ensure!(all.len() as u64 <= LONGEST, "a message has more than {LONGEST} bytes; shorten it");
        let text = String::from_utf8_lossy(&all);
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        if read == 0 {
            return Ok((!all.is_empty()).then(|| text.to_owned()));
        }
        if is_whole(text) {
            return Ok(Some(text.to_owned()));
        }
    }
}

/// Whether these lines are a whole message.
fn is_whole(lines: &str) -> bool {
    match lines.trim_start().strip_prefix(BLOCK) {
        Some(block) => block.trim_end().ends_with(BLOCK),
        None => !lines.ends_with('\\'),
    }
}

/// The message in lines that belong together.
pub fn message(lines: &str) -> String {
    if let Some(block) = lines.trim_start().strip_prefix(BLOCK) {
        let block = block.trim_end();
        let block = block.strip_suffix(BLOCK).unwrap_or(block);
        return block.strip_prefix('\n').unwrap_or(block).trim_end_matches('\n').to_owned();
    }
    let plain = lines.strip_prefix("//").map_or(lines.to_owned(), |text| format!("/{text}"));
    plain.replace("\\\n", "\n").trim_end_matches('\\').to_owned()
}

/// What the editor knows of messages.
struct Lines {
    files: FilenameCompleter,
}

impl Helper for Lines {}
impl Highlighter for Lines {}
impl Hinter for Lines {
    type Hint = String;
}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Lines {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        if !before.starts_with('/') {
            return Ok((at, Vec::new()));
        }
        if before.contains(' ') {
            return self.files.complete_path(line, at);
        }
        let names = NAMES.iter().map(|(name, ..)| *name).filter(|name| name.starts_with(before));
        Ok((0, names.map(|name| Pair { display: name.to_owned(), replacement: name.to_owned() }).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_may_have_many_lines() {
        for (lines, whole, said) in [
            ("Hi", true, "Hi"),
            ("", true, ""),
            ("one\\", false, "one"),
            ("one\\\n  two\\\nthree", true, "one\n  two\nthree"),
            ("pasted\nlines", true, "pasted\nlines"),
            ("\"\"\"one\ntwo", false, "one\ntwo"),
            ("\"\"\"\none\\\n\n  two\n\"\"\" ", true, "one\\\n\n  two"),
            ("\"\"\"", false, ""),
            ("\"\"\"\"\"\"", true, ""),
            ("say \"\"\"", true, "say \"\"\""),
            ("//help", true, "/help"),
        ] {
            assert_eq!((is_whole(lines), message(lines).as_str()), (whole, said), "{lines:?}");
        }
    }
}
