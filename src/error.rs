//! Everything that can go wrong in the library: each error names the file, the place in it, and what to do.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The error of every fallible function of the library.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused: open, read, write, rename.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, as in "cannot {doing} PATH".
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file from outside breaks the rules of its format, or holds what Strata does not support.
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it: a key, a tensor, a byte offset.
        place: String,
        /// What is wrong, and with what values.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// The caller asked for something impossible: a context too long, an unknown type.
    Request(String),
    /// The user stopped the work.
    Cancelled,
}

/// `Result` with the library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] about `path`: `file.map_err(Error::io("read", path))`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { path, doing, source }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(
        path: &Path,
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        Error::Invalid { path: path.to_owned(), place: place.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl Error {
    /// The same, with the name of the file that a request is about.
    pub(crate) fn of_file(self, path: &Path) -> Error {
        match self {
            Error::Request(what) => Error::Request(format!("{}: {what}", path.display())),
            other => other,
        }
    }
}

/// Text of a file or of the user as a message shows it: in quotes, escaped, and cut after 200 characters.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", printable(&text[..end])),
        None => format!("{:?}", printable(text)),
    }
}

/// `text` on one line, with nothing in it that a terminal obeys or that turns the direction of writing, and at most a thousand characters
/// of it: the last guard of every message, for what was not [`quoted`].
pub fn printable(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 1000;
    let obeyed = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let (text, rest) = text.split_at(text.char_indices().nth(LONGEST).map_or(text.len(), |(end, _)| end));
    if rest.is_empty() && !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if !rest.is_empty() {
        shown.push_str("...");
    }
    Cow::Owned(shown)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, doing, source } => {
                write!(f, "cannot {doing} {}: {source}", printable(&path.to_string_lossy()))?;
                match source.kind() {
                    io::ErrorKind::NotFound => f.write_str("; check the path"),
                    io::ErrorKind::StorageFull => f.write_str("; free some space or choose another disk"),
                    io::ErrorKind::OutOfMemory => f.write_str("; free some memory, or raise its limit (ulimit -v)"),
                    io::ErrorKind::PermissionDenied => f.write_str("; check the permissions"),
                    _ => Ok(()),
                }
            }
            Error::Invalid { path, place, problem, remedy } => {
                let path = path.to_string_lossy();
                let [path, place, problem, remedy] = [&path, place.as_str(), problem, remedy].map(printable);
                write!(f, "{path}: {place}: {problem}; {remedy}")
            }
            Error::Request(what) => f.write_str(&printable(what)),
            Error::Cancelled => f.write_str("stopped"),
        }
    }
}

// `source` is left empty: the reason is part of the message.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_cannot_harm_a_terminal() {
        assert_eq!(quoted("a \"b\" \u{e9}"), "\"a \\\"b\\\" \u{e9}\"");
        let hostile = "\x1b]0;x\x07\r\n\u{9b}31m\u{202e}";
        let error = Error::invalid(Path::new(hostile), hostile, hostile, hostile).to_string();
        assert!(!error.contains(['\x1b', '\x07', '\r', '\n', '\u{9b}', '\u{202e}']), "{error}");
        assert!(!Error::Request(hostile.to_owned()).to_string().contains('\x1b'));
        assert_eq!(quoted(&"x".repeat(5000)).len(), 205);
        let long = Error::invalid(Path::new("f"), "y".repeat(1 << 20), "\u{e9}".repeat(1 << 20), "get it again");
        assert!(long.to_string().chars().count() < 2100);
    }
}
