//! Everything that can go wrong in the library: each error names the file, the place in it, and what to do.

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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, doing, source } => {
                write!(f, "cannot {doing} {}: {source}", path.display())?;
                match source.kind() {
                    io::ErrorKind::NotFound => f.write_str("; check the path"),
                    io::ErrorKind::StorageFull => f.write_str("; free some space or choose another disk"),
                    io::ErrorKind::PermissionDenied => f.write_str("; check the permissions"),
                    _ => Ok(()),
                }
            }
            Error::Invalid { path, place, problem, remedy } => {
                write!(f, "{}: {place}: {problem}; {remedy}", path.display())
            }
            Error::Request(what) => f.write_str(what),
            Error::Cancelled => f.write_str("stopped"),
        }
    }
}

// `source` is left empty: the reason is part of the message.
impl std::error::Error for Error {}
