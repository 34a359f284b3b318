//! How long work reports where it is and learns that the user wants it to stop, without knowing of terminals or signals.

use crate::error::{Error, Result};

/// Watches a piece of long work.
pub trait Progress: Sync {
    /// The work starts: `total` units (bytes or tokens, as the function says), under this name.
    fn begin(&self, what: &str, total: u64);
    /// The part of the work that is done from now on, as a tensor's name.
    fn step(&self, _what: &str) {}
    /// `units` more are done.
    fn advance(&self, units: u64);
    /// The work ended well.
    fn end(&self);
    /// Something that the user should know, and that does not end the work: said at once, whole.
    fn warn(&self, _what: &str) {}
    /// True once the user asked to stop; the work then ends with [`Error::Cancelled`] at its next step.
    fn cancelled(&self) -> bool;

    /// `Err(Cancelled)` once the user asked to stop.
    fn check(&self) -> Result<()> {
        if self.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Reports nothing and never stops.
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        false
    }
}
