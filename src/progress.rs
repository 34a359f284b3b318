//! How long work reports where it is and learns that the user wants it to stop, without knowing of terminals or signals.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Watches a piece of long work.
pub trait Progress: Sync {
    /// The work starts: `total` units (bytes or tokens, as the function says), under this name.
    fn begin(&self, what: &str, total: u64);
    /// The part of the work that is done from now on, as a tensor's name.
    fn step(&self, _what: &str) {}
    /// A part that will be done in `left` seconds. Whoever shows how long the whole work takes says nothing of that.
    fn step_left(&self, what: &str, left: f64) {
        self.step(&format!("{what}, {} left", time(left)));
    }
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

/// The progress of work within other work, which has its own units and its own beginning and end.
pub(crate) struct Within<'a> {
    outer: &'a dyn Progress,
    inner_units: Option<u64>, // in one unit of the work around it; `None` counts nothing there
    passed: AtomicU64,        // inner units
}

impl<'a> Within<'a> {
    /// Whose units somebody else counts, or nobody.
    pub(crate) fn uncounted(outer: &'a dyn Progress) -> Within<'a> {
        Within { outer, inner_units: None, passed: AtomicU64::new(0) }
    }

    /// Of which `inner_units` are one unit of the work around it.
    pub(crate) fn counted(outer: &'a dyn Progress, inner_units: u64) -> Within<'a> {
        Within { outer, inner_units: Some(inner_units), passed: AtomicU64::new(0) }
    }
}

impl Progress for Within<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn end(&self) {}
    fn advance(&self, units: u64) {
        if let Some(inner_units) = self.inner_units {
            let before = self.passed.fetch_add(units, Ordering::Relaxed);
            self.outer.advance((before + units) / inner_units - before / inner_units);
        }
    }
    fn step(&self, what: &str) {
        self.outer.step(what);
    }
    fn step_left(&self, what: &str, left: f64) {
        self.outer.step_left(what, left);
    }
    fn warn(&self, what: &str) {
        self.outer.warn(what);
    }
    fn cancelled(&self) -> bool {
        self.outer.cancelled()
    }
}

/// A number with three digits, as rates are shown: `217`, `6.93`, `0.0123`; no more are zeros in front of it.
pub fn three_digits(x: f64) -> String {
    let magnitude = if x.abs() >= 1e-9 { x.abs().log10().floor() as i32 } else { 2 };
    // Rounded first: 9.999 is 10.0.
    let unit = 10f64.powi(magnitude - 2);
    let rounded = (x / unit).round() * unit;
    let magnitude = magnitude + i32::from(rounded.abs() >= 10f64.powi(magnitude + 1));
    format!("{rounded:.*}", (2 - magnitude).max(0) as usize)
}

/// A time in its largest unit: `24 s`, `12 min`, `3.5 h`.
pub fn time(seconds: f64) -> String {
    match seconds {
        ..99.5 => format!("{seconds:.0} s"),
        ..5970.0 => format!("{:.0} min", seconds / 60.0),
        ..360_000.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits_and_times_one_unit() {
        for (x, text) in [
            (216.6988, "217"),
            (6.9312, "6.93"),
            (99.96, "100"),
            (9.999, "10.0"),
            (12_345.0, "12300"),
            (999.9, "1000"),
            (0.012_345, "0.0123"),
            (0.0, "0"),
            (1.0, "1.00"),
        ] {
            assert_eq!(three_digits(x), text);
        }
        for (seconds, text) in [(0.0, "0 s"), (99.4, "99 s"), (720.0, "12 min"), (12_600.0, "3.5 h"), (1e6, "12 days")]
        {
            assert_eq!(time(seconds), text);
        }
    }
}
