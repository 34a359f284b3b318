//! All output: results to stdout, everything else to stderr. A full disk and a closed pipe do not panic, and control characters from files
//! do not reach the terminal.

use crate::{remedy, status};
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use strata::error::printable;

/// The exit code of a command that was called wrongly.
const USAGE: u8 = 2;

/// The end of a command that compared and has printed differences: a failure without a message.
#[derive(Debug)]
pub struct Unequal;

impl std::fmt::Display for Unequal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the two differ")
    }
}

impl std::error::Error for Unequal {}

/// Writes text to stdout unchanged and flushes it: generated text, or data.
pub fn print(text: &str) -> Result<()> {
    status::clear();
    let mut out = io::stdout().lock();
    let wrote = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    wrote.context("cannot write to standard output")
}

/// Writes lines to stdout; control characters from files are escaped.
pub fn print_lines(text: &str) -> Result<()> {
    let lines: Vec<_> = text.lines().map(printable).collect();
    print(&(lines.join("\n") + "\n"))
}

/// Writes a JSON document to stdout.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    status::clear();
    let mut out = BufWriter::new(io::stdout().lock());
    let wrote = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    wrote.and_then(|()| writeln!(out)).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Writes a line to stderr; failures are ignored.
pub fn say(text: &str) {
    status::clear();
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// Writes a warning to stderr.
pub fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

/// Writes an error to stderr, with what to do.
pub fn say_error(error: &anyhow::Error) {
    status::clear();
    let _ = writeln!(io::stderr().lock(), "error: {}", in_words(error));
}

/// Prints the error of a command, if any, and returns the exit code. A closed pipe, as in `strata inspect FILE | head`, is not an error.
pub fn finish(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<Unequal>() => ExitCode::FAILURE,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints the message of clap: help and version on stdout, usage errors on stderr.
pub fn finish_usage(said: &clap::Error) -> ExitCode {
    if !said.use_stderr() {
        let wrote = said.print().and_then(|()| io::stdout().flush());
        return finish(wrote.context("cannot write to standard output"));
    }
    let plain = said.to_string();
    let lines: Vec<_> = plain.lines().map(printable).collect();
    // With its colors, unless the arguments bring some of their own.
    let _ = match std::env::args_os().any(|arg| arg.to_string_lossy().contains(char::is_control)) {
        false => said.print(),
        true => writeln!(io::stderr().lock(), "{}", lines.join("\n")),
    };
    ExitCode::from(USAGE)
}

/// Prints what is wrong with the user's defaults, which is a usage error.
pub fn finish_config(problem: &str) -> ExitCode {
    say(&format!("error: {problem}"));
    ExitCode::from(USAGE)
}

/// An error, what led to it and what to do, on one line. The library's own errors have been made harmless part by part.
fn in_words(error: &anyhow::Error) -> String {
    let cause = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<strata::Error>() {
        Some(error) => error.to_string(),
        None => printable(&cause.to_string()).into_owned(),
    };
    error.chain().map(cause).collect::<Vec<_>>().join(": ") + &remedy::after(error)
}

/// True for the error of writing to a closed pipe. The library writes to files only, so its errors are never that.
fn is_closed(error: &anyhow::Error) -> bool {
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(closed))
        && !error.chain().any(|cause| cause.is::<strata::Error>())
}

/// A path as messages show it.
pub fn path(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// Bytes in a decimal unit: `12.3 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.*} {}", if value < 99.5 { 1 } else { 0 }, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        for (n, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (243_100_000_000, "243 GB")]
        {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn an_error_is_one_harmless_line_and_keeps_its_remedy() {
        let long = strata::Error::invalid(Path::new("f"), "y".repeat(5000), "\x1b[31m", "get it again");
        let text = in_words(&anyhow::Error::from(long).context("a\nb\u{9b}"));
        assert!(text.starts_with("a\\nb\\u{9b}: f: yyy") && text.ends_with("get it again"), "{text}");
        assert!(!text.contains('\x1b'));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(in_words(&anyhow::Error::from(full).context("cannot write")).ends_with("choose another disk"));
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed(&anyhow::Error::from(closed()).context("x")));
        let of_library = strata::Error::io("write", Path::new("f"))(closed());
        assert!(!is_closed(&of_library.into()));
    }

    #[test]
    fn the_cause_comes_once_and_the_remedy_last() {
        let error = strata::Error::io("open", Path::new("f"))(io::ErrorKind::NotFound.into());
        assert_eq!(in_words(&anyhow::Error::from(error)), "cannot open f: entity not found; check the path");
    }
}
