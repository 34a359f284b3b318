//! Progress on stderr, with rate and time left: a bar on a terminal, plain lines elsewhere. And Ctrl-C, which stops the work cleanly.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strata::progress::Progress;

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C (or SIGTERM) asks the work to stop; a second one ends the process.
pub fn watch_signals() {
    let stop = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
    };
    if let Err(error) = ctrlc::set_handler(stop) {
        eprintln!("warning: Ctrl-C will end the program at once: {error}");
    }
}

/// True while a status stands where the next text will.
static STATUS: AtomicBool = AtomicBool::new(false);

/// When a status last went to a file.
static LAST_STATUS: Mutex<Option<Instant>> = Mutex::new(None);

/// How often a status goes to where lines stay.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Shows, between two pieces of text, where the work on the next is: on a terminal after the text, until more comes; elsewhere in lines.
fn status(what: &str) {
    let mut out = std::io::stderr().lock();
    // Where nobody sees it, nothing is lost.
    if std::io::stderr().is_terminal() {
        STATUS.store(true, Ordering::Relaxed);
        let _ = write!(out, "\x1b7 ({what})\x1b[K\x1b8");
    } else {
        let mut last = LAST_STATUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.is_none_or(|last| last.elapsed() > STATUS_EVERY) {
            *last = Some(Instant::now());
            let _ = writeln!(out, "{what}");
        }
    }
    let _ = out.flush();
}

/// Takes the status away: text comes.
pub fn clear_status() {
    if STATUS.swap(false, Ordering::Relaxed) {
        eprint!("\x1b[J");
    }
}

/// What the units of a piece of work are.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes
    Bytes,
    /// Tokens
    Tokens,
}

/// Shows one piece of work after the other.
pub struct Shown {
    unit: Unit,
    work: Mutex<Option<Work>>,
}

struct Work {
    what: String,
    step: String,
    total: u64,
    done: u64,
    start: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Shown {
    /// For work in these units.
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
            let template = match self.unit {
                Unit::Bytes => {
                    "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left"
                }
                Unit::Tokens => "{msg} [{bar:30}] {pos}/{len} tokens, {per_sec}, {eta} left",
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what.to_owned())
        });
        let now = Instant::now();
        let work = Work { what: what.to_owned(), step: String::new(), total, done: 0, start: now, last_line: now, bar };
        self.with_work(|slot| *slot = Some(work));
    }

    fn step(&self, what: &str) {
        self.with_work(|slot| {
            let Some(work) = slot else { return status(what) };
            work.step = what.to_owned();
            if let Some(bar) = &work.bar {
                bar.set_message(format!("{} {what}", work.what));
            }
        });
    }

    fn advance(&self, units: u64) {
        self.with_work(|slot| {
            let Some(work) = slot else { return };
            work.done += units;
            match &work.bar {
                Some(bar) => bar.inc(units),
                None if work.last_line.elapsed() > Duration::from_secs(10) => {
                    work.last_line = Instant::now();
                    let rate = work.done as f64 / work.start.elapsed().as_secs_f64();
                    let left = work.total.saturating_sub(work.done) as f64 / rate;
                    let share = 100.0 * work.done as f64 / work.total.max(1) as f64;
                    let rate = match self.unit {
                        Unit::Bytes => format!("{}/s", crate::output::bytes(rate as u64)),
                        Unit::Tokens => format!("{rate:.1} tokens/s"),
                    };
                    let what = format!("{} {}", work.what, work.step);
                    eprintln!("{}: {share:.0} %, {rate}, {left:.0} s left", what.trim_end());
                }
                None => {}
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
            Some(bar) => bar.suspend(|| crate::output::warn(what)),
            None => crate::output::warn(what),
        });
    }

    fn cancelled(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}
