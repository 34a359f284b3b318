//! Compiling: on a thread of its own, with a deep stack, in bounded time, and without a panic that reaches the caller.

use super::limits;
use super::matcher::Template;
use super::vocabulary::GrammarVocabulary;
use crate::error::{Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, panic_utils};
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// Compilations whose thread still runs.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Running;

impl Running {
    fn start(what: &'static str) -> Result<Running> {
        let running = Running;
        match RUNNING.fetch_add(1, Ordering::Relaxed) {
            0..limits::COMPILING => Ok(running),
            _ => Err(Error::GrammarRefused {
                what,
                place: String::new(),
                problem: format!("{} others are being compiled", limits::COMPILING),
                remedy: "try again in a moment".to_owned(),
            }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Compiles what `source` makes, a `what` in messages.
pub(super) fn compile(
    what: &'static str,
    vocabulary: &Arc<GrammarVocabulary>,
    source: impl FnOnce() -> Result<TopLevelGrammar> + Send + 'static,
) -> Result<Template> {
    let running = Running::start(what)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let vocabulary = vocabulary.clone();
    let work = move || {
        let template = guarded(what, || {
            let parser = vocabulary.factory.create_parser(source()?);
            let parser = parser.map_err(|error| refused(what, error))?;
            Template::new(what, Matcher::new(Ok(parser)), &vocabulary)
        });
        drop(running);
        // Nobody may be waiting any more.
        let _ = sender.send(template);
    };
    thread::Builder::new()
        .name("grammar".to_owned())
        .stack_size(limits::STACK_BYTES)
        .spawn(work)
        .map_err(Error::Thread)?;
    receiver.recv_timeout(limits::COMPILE_TIME).unwrap_or_else(|_| {
        Err(Error::GrammarRefused {
            what,
            place: String::new(),
            problem: format!("it takes longer than {} s to compile", limits::COMPILE_TIME.as_secs_f64()),
            remedy: "make it smaller".to_owned(),
        })
    })
}

/// Runs code of llguidance, and makes an error of its panic.
pub(super) fn guarded<T>(what: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // Only what cannot be seen any more after a panic is left half done.
    panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(work()))).unwrap_or_else(|panic| Err(refused(what, panic)))
}

/// The error of llguidance's message about a `what`.
pub(super) fn refused(what: &'static str, message: impl Display) -> Error {
    let remedy = match what {
        "JSON schema" => "change the schema",
        "vocabulary" => "use this model without a grammar",
        _ => "change it",
    };
    let problem = short(message);
    // A place in a grammar of Lark, which is the source itself only if that is what was given.
    let place = problem.strip_prefix("at ").and_then(|rest| rest.split_once("): "));
    let place = place.and_then(|(place, problem)| Some((place.split_once('(')?, problem)));
    let (place, problem) = match place {
        Some(((line, column), problem)) if what == "Lark grammar" => {
            (format!("line {line}, column {column}"), problem.to_owned())
        }
        Some((_, problem)) => (String::new(), problem.to_owned()),
        None => (String::new(), problem),
    };
    Error::GrammarRefused { what, place, problem, remedy: remedy.to_owned() }
}

/// What a message of llguidance says, without the state of its parser, its source and the trace of its panic.
pub(super) fn short(message: impl Display) -> String {
    let message = message.to_string();
    // What is wrong with a regular expression stands below the expression.
    if let Some(wrong) = message.lines().find_map(|line| line.strip_prefix("error: ")) {
        return format!("a regular expression is not valid: {wrong}");
    }
    message.lines().next().unwrap_or("").trim_end_matches(['.', ':', ' ']).to_owned()
}
