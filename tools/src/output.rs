//! Writing results to stdout: what was written is there, or an error says so.

use anyhow::Result;
use serde_json::Value;
use std::io::{self, Write};

/// Writes text at once.
pub fn print(text: &str) -> Result<()> {
    crate::progress::clear_status();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes one JSON document.
pub fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Says something on stderr, on a line of its own. Where nobody can read it, nothing is lost.
pub fn say(text: &str) {
    crate::progress::clear_status();
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says what the user should know before the result is believed.
pub fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

/// True for the error of writing to a reader that has gone, as `strata inspect FILE | head` does: no failure.
pub fn is_closed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// Bytes as people read them: `12.3 MB`.
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
    #[test]
    fn bytes_read_well() {
        for (n, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (243_100_000_000, "243 GB")]
        {
            assert_eq!(super::bytes(n), text);
        }
    }
}
