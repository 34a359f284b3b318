//! A progress that keeps what it is warned of, for tests.

use std::sync::Mutex;
use strata::progress::Progress;

/// The warnings of a piece of work.
#[derive(Default)]
pub struct Warnings(pub Mutex<Vec<String>>);

impl Progress for Warnings {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn warn(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
    fn cancelled(&self) -> bool {
        false
    }
}
