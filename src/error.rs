//! Everything that can go wrong in the library: each error says what is wrong and where.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The error of every fallible function of the library.
///
/// Its text says what is wrong and where. It ends with what to do where that is the same for every caller; a caller with settings of its
/// own, as the command with its options, adds theirs by variant. The text does not repeat [`source`](std::error::Error::source).
#[derive(Debug)]
#[non_exhaustive]
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
        /// The setting that the remedy would change, if it is one.
        setting: Option<Setting>,
    },
    /// The system has no memory for a buffer.
    OutOfMemory {
        /// What the buffer is for.
        what: Allocation,
        /// Its size.
        bytes: u64,
    },
    /// The system does not start a thread.
    Thread(io::Error),
    /// The system does not tell how much memory it has, and the budget is a share of it.
    MemoryUnknown,
    /// The least memory that a streamed model takes is more than its budget. All fields are bytes.
    BudgetTooSmall {
        /// What the model may take.
        budget: u64,
        /// What it takes at least: the sum of the others.
        need: u64,
        /// The KV cache.
        kv: u64,
        /// Activations.
        activations: u64,
        /// Weights that are not streamed: the output matrix, vectors.
        pinned: u64,
        /// The buffers that streamed layers pass through.
        ring: u64,
        /// The program itself and its vocabulary.
        program: u64,
    },
    /// The buffers of a conversion do not fit into [`Options::memory`](crate::convert::Options::memory).
    ConversionTooLarge {
        /// Bytes that may be used.
        limit: u64,
        /// Bytes that the smallest buffers take.
        need: u64,
        /// The tensor with the largest rows.
        tensor: String,
        /// The number of threads, each with buffers of its own.
        threads: usize,
    },
    /// The system refuses a way of reading that was asked for by name.
    ReaderRefused {
        /// Its name.
        reader: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The thread that streams weights has ended; the model must be opened again.
    ReaderStopped {
        /// True if it had met an error before, which was returned then.
        after_error: bool,
    },
    /// A model in memory was given to what works on files only.
    InMemory {
        /// What was attempted, as in "a model in memory cannot be {doing}".
        doing: &'static str,
    },
    /// Tokens do not fit behind those that the KV cache holds.
    ContextFull {
        /// Tokens in the cache.
        have: usize,
        /// Tokens to append.
        more: usize,
        /// The capacity of the cache in tokens.
        room: usize,
    },
    /// A token number is beyond the vocabulary.
    TokenOutOfVocabulary {
        /// The token.
        token: u32,
        /// The number of tokens in the vocabulary.
        vocab: usize,
    },
    /// A prompt has no token.
    EmptyPrompt,
    /// No token can be chosen: there is no logit, one is not finite, or all tokens are excluded.
    NoCandidate,
    /// A text does not fill one chunk, or no chunk was asked for.
    TextTooShort {
        /// Tokens in the text.
        tokens: usize,
        /// Tokens in a chunk.
        chunk: usize,
    },
    /// A context has too few tokens to score any of them.
    ContextTooSmall {
        /// Its length in tokens.
        context: usize,
    },
    /// A window moves by no token, or by more than it has.
    StrideOutOfRange {
        /// Tokens that it moves by.
        stride: usize,
        /// Tokens that it has.
        context: usize,
    },
    /// Only one token was scored, which has no standard error.
    TooFewScored,
    /// Statistics of so few tokens would tell nothing.
    TooFewForStatistics {
        /// Scored tokens.
        tokens: usize,
        /// The fewest that are enough.
        fewest: usize,
    },
    /// A perplexity is too large for a float.
    PerplexityOverflow {
        /// The mean negative log-likelihood of a token in nats.
        mean_nll: f64,
    },
    /// A type, shape or other thing was asked for by a name that does not exist.
    UnknownName {
        /// What it should name: "type".
        kind: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: Vec<&'static str>,
    },
    /// A mix cannot be made without an importance matrix.
    ImportanceMissing {
        /// The name of the mix.
        mix: &'static str,
    },
    /// A metadata key cannot be set to what was asked for; see [`Target::metadata`](crate::convert::Target::metadata).
    MetadataRefused {
        /// The key.
        key: String,
        /// Why not.
        problem: String,
    },
    /// A model would be spread over so many files that some have no tensor.
    FilesWithoutTensors {
        /// Tensors of the model.
        tensors: usize,
        /// Files that were asked for.
        files: usize,
        /// Files that would have tensors.
        used: usize,
    },
    /// An importance matrix is too large for a `.dat` file, which counts in 32 bits.
    DatOverflow {
        /// The number that does not fit.
        count: u64,
        /// What it counts.
        what: &'static str,
    },
    /// An argument that no file or result can be made of.
    InvalidArgument {
        /// The argument.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A grammar, a JSON schema or a regular expression that answers should follow cannot be compiled.
    GrammarRefused {
        /// What was given: "grammar", "JSON schema", "regular expression".
        what: &'static str,
        /// Where in it: a line and column, a JSON pointer, or "" if it is about all of it.
        place: String,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// An answer cannot go on under its grammar: it is too ambiguous, needs text that no token has, or was given a token that it forbids.
    GrammarStopped {
        /// What is wrong.
        problem: String,
    },
    /// Strata contradicts itself: a defect of the program.
    Internal(&'static str),
    /// A pass failed that several requests shared.
    Shared(Arc<Error>),
    /// The user stopped the work.
    Cancelled,
}

/// `Result` with the library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A setting of the library by which the caller can avoid an [`Error::Invalid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// [`Options::restart`](crate::convert::Options::restart) discards what an earlier run has left.
    Restart,
    /// [`Options::requantize`](crate::convert::Options::requantize) takes quantized tensors for a source.
    Requantize,
    /// [`Target::metadata`](crate::convert::Target::metadata) sets metadata keys.
    Metadata,
    /// The source that [`verify::model`](crate::verify::model) compares with.
    Source,
    /// A prompt of token numbers instead of text.
    Tokens,
    /// The types of the KV cache.
    CacheTypes,
    /// A [`BaseFile`](crate::eval::base_file::BaseFile) that a [`BaseWriter`](crate::eval::base_file::BaseWriter) has written.
    BaseFile,
    /// A setting of [`Sampling`](crate::engine::sampling::Sampling), by its name behind `general.sampling.` in a file.
    Sampling(&'static str),
    /// A [`ChatTemplate`](crate::engine::template::ChatTemplate) in place of the file's.
    ChatTemplate,
    /// The [`Adapter`](crate::adapter::Adapter)s that a conversion merges.
    Adapter,
}

/// What a buffer that the system has no memory for would hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Allocation {
    /// The KV cache of a context.
    KvCache {
        /// The length of the context.
        tokens: usize,
    },
    /// The activations of a pass.
    Activations {
        /// Tokens of the pass.
        tokens: usize,
    },
    /// Weights that stay in memory, or buffers that they are streamed through.
    Weights,
    /// Buffers between reading, encoding and writing.
    Conversion,
    /// Second moments of activations.
    Moments,
}

impl Error {
    /// An [`Error::Io`] about `path`: `file.map_err(Error::io("read", path))`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { path, doing, source }
    }

    /// An [`Error::Invalid`] whose remedy is no setting.
    pub fn invalid(
        path: &Path,
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        let (path, place, problem, remedy) = (path.to_owned(), place.into(), problem.into(), remedy.into());
        Error::Invalid { path, place, problem, remedy, setting: None }
    }

    /// The same [`Error::Invalid`], whose remedy is a setting.
    pub(crate) fn with_setting(mut self, avoided_by: Setting) -> Error {
        if let Error::Invalid { setting, .. } = &mut self {
            *setting = Some(avoided_by);
        }
        self
    }

    /// The error of a request, which may be that of others too.
    pub(crate) fn of_request(error: Arc<Error>) -> Error {
        Arc::try_unwrap(error).unwrap_or_else(Error::Shared)
    }

    /// An [`Error::InvalidArgument`].
    pub(crate) fn argument(what: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::InvalidArgument { what: what.into(), problem: problem.into() }
    }

    /// The same, with the file that an argument is about.
    pub(crate) fn of_file(self, path: &Path) -> Error {
        match self {
            Error::InvalidArgument { what, problem } => {
                Error::InvalidArgument { what: format!("{}: {what}", path.display()), problem }
            }
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

/// Whether a terminal obeys a character rather than show it, or writes in another direction behind it.
pub fn commands_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` on one line, with nothing in it that a terminal obeys or that turns the direction of writing, and at most a thousand characters
/// of it: the last guard of every message, for what was not [`quoted`].
pub fn printable(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 1000;
    let (text, rest) = text.split_at(text.char_indices().nth(LONGEST).map_or(text.len(), |(end, _)| end));
    if rest.is_empty() && !text.contains(commands_terminal) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if commands_terminal(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if !rest.is_empty() {
        shown.push_str("...");
    }
    Cow::Owned(shown)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, doing, .. } => write!(f, "cannot {doing} {}", printable(&path.to_string_lossy())),
            Error::Invalid { path, place, problem, remedy, .. } => {
                let path = path.to_string_lossy();
                let [path, place, problem, remedy] = [&path, place.as_str(), problem, remedy].map(printable);
                write!(f, "{path}: {place}: {problem}; {remedy}")
            }
            Error::Thread(_) => f.write_str("the system starts no thread"),
            Error::ReaderRefused { reader, .. } => write!(f, "this system refuses the reader {reader}"),
            Error::InMemory { doing } => write!(f, "a model in memory cannot be {doing}; write it to a file"),
            Error::ReaderStopped { after_error } => {
                let when = if *after_error { "after an error" } else { "unexpectedly" };
                write!(f, "reading of weights has ended {when}; open the model again")
            }
            Error::UnknownName { kind, name, known } => {
                write!(f, "there is no {kind} {}; choose one of {}", quoted(name), known.join(", "))
            }
            Error::MetadataRefused { key, problem } => {
                write!(f, "cannot set the metadata key {}: {}", quoted(key), printable(problem))
            }
            Error::InvalidArgument { what, problem } => write!(f, "{}: {}", printable(what), printable(problem)),
            Error::GrammarRefused { what, place, problem, remedy } => {
                let at = if place.is_empty() { "" } else { ": " };
                let [place, problem, remedy] = [place, problem, remedy].map(|text| printable(text));
                write!(f, "{what}{at}{place}: {problem}; {remedy}")
            }
            Error::GrammarStopped { problem } => write!(f, "the grammar cannot be followed: {}", printable(problem)),
            Error::Internal(what) => write!(f, "{what}, which is a defect of Strata; report it"),
            Error::Shared(_) => f.write_str("a pass failed that this request shared with others"),
            Error::Cancelled => f.write_str("stopped"),
            memory @ (Error::OutOfMemory { .. }
            | Error::MemoryUnknown
            | Error::BudgetTooSmall { .. }
            | Error::ConversionTooLarge { .. }) => memory.fmt_memory(f),
            limit => limit.fmt_limit(f),
        }
    }
}

impl Error {
    /// The text of an error about memory.
    fn fmt_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfMemory { what, bytes } => {
                write!(f, "no memory for {bytes} bytes of ")?;
                match what {
                    Allocation::KvCache { tokens } => write!(f, "KV cache for a context of {tokens} tokens"),
                    Allocation::Activations { tokens } => write!(f, "activations for {tokens} tokens"),
                    Allocation::Weights => f.write_str("weights"),
                    Allocation::Conversion => f.write_str("conversion buffers"),
                    Allocation::Moments => f.write_str("second moments of activations"),
                }
            }
            Error::BudgetTooSmall { budget, need, kv, activations, pinned, ring, program } => write!(
                f,
                "a budget of {} is too small: {} for the KV cache, {} for activations, {} for the output matrix and vectors, {} for the \
                 layers being streamed and {} for the program make {}",
                short(*budget),
                short(*kv),
                short(*activations),
                short(*pinned),
                short(*ring),
                short(*program),
                short(*need),
            ),
            Error::ConversionTooLarge { limit, need, tensor, threads } => write!(
                f,
                "cannot convert within {limit} bytes of memory: the largest rows, of {}, take {need} bytes with {threads} threads",
                printable(tensor)
            ),
            Error::MemoryUnknown => f.write_str("this system does not tell how much memory it has"),
            other => fmt::Debug::fmt(other, f),
        }
    }

    /// The text of an error about a limit of a model, a text or a format.
    fn fmt_limit(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ContextFull { have, more, room } => {
                write!(f, "{have} tokens and {more} more do not fit into a context of {room}")
            }
            Error::TokenOutOfVocabulary { token, vocab } => {
                write!(f, "token {token} is not in the vocabulary of {vocab} tokens")
            }
            Error::EmptyPrompt => f.write_str("nothing to continue: the prompt has no token"),
            Error::NoCandidate => f.write_str("no token is left to choose from"),
            Error::TextTooShort { tokens, chunk } => {
                write!(f, "the text has {tokens} tokens and a chunk takes {chunk}")
            }
            Error::StrideOutOfRange { stride, context } => {
                write!(f, "a window of {context} tokens cannot move by {stride} tokens")
            }
            Error::ContextTooSmall { context } => write!(f, "a context of {context} tokens is too small to score"),
            Error::TooFewScored => f.write_str("one token is too little to measure an error by"),
            Error::TooFewForStatistics { tokens, fewest } => {
                write!(f, "{tokens} scored tokens are too few for statistics, which take {fewest} at least")
            }
            Error::PerplexityOverflow { mean_nll } => write!(
                f,
                "the perplexity is too large for a number: a token costs {mean_nll:.1} nats on average; this is no working model of \
                 the text"
            ),
            Error::ImportanceMissing { mix } => write!(f, "{mix} is of no use without an importance matrix"),
            Error::FilesWithoutTensors { tensors, files, used } => {
                write!(f, "cannot spread {tensors} tensors over {files} files: only {used} would get any")
            }
            Error::DatOverflow { count, what } => write!(f, "a .dat file cannot hold {count} {what}"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

/// Bytes in the unit of memory sizes: `70 MB`, `1.50 GB`.
fn short(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Thread(source) | Error::ReaderRefused { source, .. } => Some(source),
            Error::Shared(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_cannot_harm_a_terminal() {
        assert_eq!(quoted("a \"b\" \u{e9}"), "\"a \\\"b\\\" \u{e9}\"");
        let hostile = "\x1b]0;x\x07\r\n\u{9b}31m\u{202e}";
        let error = Error::invalid(Path::new(hostile), hostile, hostile, hostile).to_string();
        assert!(!error.contains(['\x1b', '\x07', '\r', '\n', '\u{9b}', '\u{202e}']), "{error}");
        let (what, problem) = (hostile.to_owned(), hostile.to_owned());
        assert!(!Error::InvalidArgument { what, problem }.to_string().contains('\x1b'));
        assert_eq!(quoted(&"x".repeat(5000)).len(), 205);
        let long = Error::invalid(Path::new("f"), "y".repeat(1 << 20), "\u{e9}".repeat(1 << 20), "get it again");
        assert!(long.to_string().chars().count() < 2100);
    }

    #[test]
    fn every_error_has_a_text_that_does_not_repeat_its_source() {
        let reason = || io::Error::other("the reason");
        let tensor = "w".to_owned();
        for error in [
            Error::Io { path: "f".into(), doing: "read", source: reason() },
            Error::Thread(reason()),
            Error::ReaderRefused { reader: "uring", source: reason() },
        ] {
            assert!(!error.to_string().contains("the reason"), "{error}");
            assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the reason");
        }
        let parts = (5, 4, 3, 2, 1);
        let (kv, activations, pinned, ring, program) = parts;
        for error in [
            Error::OutOfMemory { what: Allocation::Weights, bytes: 7 },
            Error::MemoryUnknown,
            Error::BudgetTooSmall { budget: 1, need: 15, kv, activations, pinned, ring, program },
            Error::ConversionTooLarge { limit: 1, need: 2, tensor, threads: 1 },
            Error::ContextFull { have: 1, more: 2, room: 2 },
            Error::TokenOutOfVocabulary { token: 3, vocab: 3 },
            Error::EmptyPrompt,
            Error::NoCandidate,
            Error::TextTooShort { tokens: 1, chunk: 2 },
            Error::ContextTooSmall { context: 1 },
            Error::StrideOutOfRange { stride: 2, context: 1 },
            Error::TooFewScored,
            Error::TooFewForStatistics { tokens: 7, fewest: 100 },
            Error::PerplexityOverflow { mean_nll: 800.0 },
            Error::ImportanceMissing { mix: "Q2_K_S" },
            Error::FilesWithoutTensors { tensors: 1, files: 2, used: 1 },
            Error::DatOverflow { count: 1 << 40, what: "chunks" },
            Error::GrammarStopped { problem: "no token".to_owned() },
        ] {
            assert!(error.to_string().len() > 10, "{error:?}");
            assert!(std::error::Error::source(&error).is_none(), "{error:?}");
        }
    }
}
