//! What the worker tells of a pass while it goes on, and when it stops in the middle.

use super::Shared;
use crate::output;
use strata::engine::Cancel;
use strata::progress::Progress;

/// The progress of a pass of one model.
pub struct Watch<'a> {
    model: &'a str,
    cancel: Option<&'a Cancel>,
    status: &'a Shared,
}

impl<'a> Watch<'a> {
    /// Of a pass that `cancel` stops. The passes of a scheduler have none: it knows what each of its requests wishes.
    pub fn new(model: &'a str, cancel: Option<&'a Cancel>, status: &'a Shared) -> Watch<'a> {
        Watch { model, cancel, status }
    }
}

impl Progress for Watch<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}

    fn step(&self, what: &str) {
        self.status.lock().step = Some((self.model.to_owned(), what.to_owned()));
    }

    fn warn(&self, what: &str) {
        output::warn(&format!("{}: {what}", self.model));
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_some_and(Cancel::is_cancelled) || self.status.is_halted()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.status.lock().step = None;
    }
}
