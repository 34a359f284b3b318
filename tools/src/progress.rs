//! Progress on stderr with rate and time left, a bar on a terminal and plain lines elsewhere; and clean stopping by Ctrl-C.

use crate::{output, status};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strata::error::printable;
use strata::progress::{Progress, three_digits, time};

static STOP: AtomicBool = AtomicBool::new(false);

/// True while no code checks [`STOP`] and the process may end at once.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Installs the handler: the first Ctrl-C or SIGTERM asks the work to stop, a second one ends the process.
pub fn watch_signals() {
    let stop = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        } else if AT_ONCE.load(Ordering::SeqCst) {
            output::say("error: stopped");
            std::process::exit(1);
        }
    };
    // A thread is tried first: without its own thread the handler would swallow the signals.
    let thread = std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join());
    let watched = thread.map_err(|error| error.to_string()).and_then(|_| {
        ctrlc::set_handler(stop).map_err(|error| error.to_string()) // and so that its own failure is told
    });
    if let Err(error) = watched {
        output::warn(&format!("Ctrl-C will end the program at once: {error}"));
    }
}

/// True once the user asked to stop.
pub fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Takes back that the user asked to stop: that work has ended, and the program goes on.
pub fn go_on() {
    STOP.store(false, Ordering::SeqCst);
}

/// Runs work that does not check for Ctrl-C and leaves nothing behind; Ctrl-C ends the process meanwhile.
pub fn at_once<T>(work: impl FnOnce() -> T) -> T {
    AT_ONCE.store(true, Ordering::SeqCst);
    if STOP.load(Ordering::SeqCst) {
        output::say("error: stopped");
        std::process::exit(1);
    }
    let done = work();
    AT_ONCE.store(false, Ordering::SeqCst);
    done
}

/// The time of the last status line that was not written to a terminal.
static LAST_STATUS: Mutex<Option<Instant>> = Mutex::new(None);

/// The intervals of progress lines and of redrawing a bar.
const LINE_EVERY: Duration = Duration::from_secs(10);
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Shows where the work on the next text is: behind the text on a terminal, in lines of their own elsewhere.
fn show_status(what: &str) {
    if std::io::stderr().is_terminal() {
        return status::draw(what);
    }
    let mut last = LAST_STATUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if last.is_none_or(|last| last.elapsed() > LINE_EVERY) {
        *last = Some(Instant::now());
        output::say(what);
    }
}

/// The unit of a piece of work.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
    /// Requests.
    Requests,
}

impl Unit {
    /// A rate per second with three digits.
    fn rate(self, units: f64) -> String {
        match self {
            Unit::Tokens => format!("{} tokens/s", three_digits(units)),
            Unit::Requests => format!("{} requests/s", three_digits(units)),
            Unit::Bytes => {
                let (scale, unit) = match units {
                    ..999.5e3 => (1e3, "kB"),
                    ..999.5e6 => (1e6, "MB"),
                    _ => (1e9, "GB"),
                };
                format!("{} {unit}/s", three_digits(units / scale))
            }
        }
    }

    /// The finished and the total amount.
    fn amounts(self, done: u64, total: u64) -> String {
        match self {
            Unit::Tokens => format!("{done} of {total} tokens"),
            Unit::Requests => format!("{done} of {total} requests"),
            Unit::Bytes => format!("{} of {}", output::bytes(done), output::bytes(total)),
        }
    }
}

/// The progress display of one piece of work after the other.
pub struct Shown {
    unit: Unit,
    work: Mutex<Option<Work>>,
}

struct Work {
    unit: Unit,
    what: String,
    step: String,
    total: u64,
    done: u64,
    start: Instant,
    said: Instant, // the last line, or the last drawing of the bar
    bar: Option<ProgressBar>,
}

impl Work {
    /// `45 %, 1.23 GB/s, 24 s left`
    fn numbers(&self, elapsed: Duration) -> String {
        let share = (100 * self.done as u128 / self.total.max(1) as u128).min(100);
        let rate = self.done as f64 / elapsed.as_secs_f64();
        if !rate.is_finite() || rate <= 0.0 {
            return format!("{share} %");
        }
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        format!("{share} %, {}, {} left", self.unit.rate(rate), time(left))
    }

    /// The line where stderr is not a terminal.
    fn line(&self) -> String {
        let what = format!("{} {}", self.what, self.step);
        format!("{}: {}", what.trim_end(), self.numbers(self.start.elapsed()))
    }

    /// The line for a terminal of `columns` columns: numbers always, then a bar, amounts and the step as far as they fit.
    fn bar_line(&self, columns: usize, elapsed: Duration) -> String {
        let (room, numbers) = (columns.saturating_sub(1), self.numbers(elapsed));
        let cells = match columns {
            ..80 => 10,
            80..120 => 20,
            _ => 30,
        };
        let full = (cells as u128 * self.done as u128 / self.total.max(1) as u128).min(cells as u128) as usize;
        let head = if full < cells { format!("{}>", "=".repeat(full)) } else { "=".repeat(full) };
        let bar = format!("{} [{head:<cells$}]", self.what);
        let mut line = format!("{bar} {}, {numbers}", self.unit.amounts(self.done, self.total));
        for shorter in [format!("{bar} {numbers}"), format!("{}: {numbers}", self.what)] {
            if line.chars().count() > room {
                line = shorter;
            }
        }
        if !self.step.is_empty() && line.chars().count() + 8 < room {
            line.push_str(": ");
            line.push_str(&self.step);
        }
        line.chars().take(room).collect()
    }

    fn draw(&mut self) {
        if let Some(bar) = &self.bar {
            self.said = Instant::now();
            bar.set_message(self.bar_line(columns(), self.start.elapsed()));
        }
    }
}

/// The width of the terminal.
fn columns() -> usize {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stderr()) {
        return usize::from(size.ws_col).max(20);
    }
    80
}

impl Shown {
    /// A display for work in `unit`s.
    pub fn new(unit: Unit) -> Shown {
        Shown { unit, work: Mutex::new(None) }
    }

    fn with_work(&self, f: impl FnOnce(&mut Option<Work>)) {
        f(&mut self.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

impl Progress for Shown {
    fn begin(&self, what: &str, total: u64) {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style)
        });
        let now = Instant::now();
        let (what, step) = (printable(what).into_owned(), String::new());
        let mut work = Work { unit: self.unit, what, step, total, done: 0, start: now, said: now, bar };
        work.draw();
        self.with_work(|slot| *slot = Some(work));
    }

    fn step(&self, what: &str) {
        self.with_work(|slot| {
            let Some(work) = slot else { return show_status(what) };
            work.step = printable(what).into_owned();
            if work.said.elapsed() > DRAW_EVERY {
                work.draw();
            }
        });
    }

    fn step_left(&self, what: &str, left: f64) {
        let mut shown = false;
        self.with_work(|slot| shown = slot.is_some());
        match shown {
            // The line of the whole work has its own time left.
            true => self.step(what),
            false => show_status(&format!("{what}, {} left", time(left))),
        }
    }

    fn advance(&self, units: u64) {
        self.with_work(|slot| {
            let Some(work) = slot else { return };
            work.done = work.done.saturating_add(units);
            match &work.bar {
                Some(_) if work.said.elapsed() > DRAW_EVERY => work.draw(),
                None if work.said.elapsed() > LINE_EVERY => {
                    work.said = Instant::now();
                    output::say(&work.line());
                }
                _ => {}
            }
        });
    }

    fn end(&self) {
        self.with_work(|slot| {
            if let Some(bar) = slot.take().and_then(|work| work.bar) {
                bar.finish_and_clear();
            }
        });
    }

    fn warn(&self, what: &str) {
        self.with_work(|slot| match slot.as_ref().and_then(|work| work.bar.as_ref()) {
            Some(bar) => bar.suspend(|| output::warn(what)),
            None => output::warn(what),
        });
    }

    fn cancelled(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}

impl Drop for Shown {
    /// Removes the bar of failed work before its error is printed.
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(unit: Unit, done: u64) -> Work {
        let (what, step) = ("perplexity".to_owned(), "layer 3 of 126, 6.93 GB/s from disk".to_owned());
        let now = Instant::now();
        Work { unit, what, step, total: 4_500_000_000, done, start: now, said: now, bar: None }
    }

    #[test]
    fn a_line_has_one_rate_and_one_time_and_fits() {
        let after = Duration::from_millis(1234);
        for columns in [20, 60, 80, 100, 120, 200, 1000] {
            for (unit, rate) in [(Unit::Bytes, "1.46 GB/s"), (Unit::Tokens, "1460000000 tokens/s")] {
                let line = work(unit, 1_800_000_000).bar_line(columns, after);
                assert!(line.chars().count() < columns, "{line}");
                assert_eq!(line.matches(" left").count(), usize::from(columns > 20), "{line}");
                assert!(columns < 60 || line.contains(&format!("40 %, {rate}, 2 s left")), "{line}");
                assert_eq!(line.contains('['), columns >= 60, "{line}");
                assert!(columns < 120 || line.contains(" of 4"), "{line}");
                assert!(columns < 200 || line.ends_with("6.93 GB/s from disk"), "{line}");
            }
        }
        assert!(work(Unit::Bytes, 0).bar_line(80, after).contains("0 B of 4.5 GB, 0 %"));
        assert!(work(Unit::Bytes, u64::MAX).bar_line(80, after).contains("100 %"));
        assert!(work(Unit::Bytes, 5).bar_line(80, Duration::ZERO).contains("0 %"));
    }

    #[test]
    fn rates_have_a_unit() {
        for (unit, rate, text) in [
            (Unit::Tokens, 216.6988, "217 tokens/s"),
            (Unit::Tokens, 0.0512, "0.0512 tokens/s"),
            (Unit::Bytes, 217e6, "217 MB/s"),
            (Unit::Bytes, 999.9e6, "1.00 GB/s"),
            (Unit::Bytes, 12.0, "0.0120 kB/s"),
        ] {
            assert_eq!(unit.rate(rate), text);
        }
    }
}
