//! The status line on a terminal: where the work on the next text is, shown behind the last text until more comes.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use strata::error::printable;

/// True while a status stands where the next text will.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Draws `what` behind the text, cut at the end of the line.
pub fn draw(what: &str) {
    SHOWN.store(true, Ordering::Relaxed);
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "\x1b7\x1b[?7l ({})\x1b[K\x1b[?7h\x1b8", printable(what));
    let _ = out.flush();
}

/// Removes the status before text is written.
pub fn clear() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(std::io::stderr().lock(), "\x1b[J");
    }
}
