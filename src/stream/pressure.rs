//! Memory pressure: watches the available memory, so that pinned weights are released before the system kills a program.

use crate::stream::budget::{self, Memory};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A function that reports the memory in place of the system.
pub type Ask = Arc<dyn Fn() -> Option<Memory> + Send + Sync>;

/// The interval of queries. A program that takes 5 GB a second has 100 MB in this time; asking takes 64 us (measured, one control group).
const EVERY: Duration = Duration::from_millis(20);

/// Watches the available memory.
pub struct Pressure {
    ask: Option<Ask>, // the system
    asked: Option<Instant>,
}

impl Pressure {
    /// Queries `ask`, or the system.
    pub fn new(ask: Option<Ask>) -> Pressure {
        Pressure { ask, asked: None }
    }

    /// Bytes that should be released now.
    pub fn shortage(&mut self) -> u64 {
        if self.asked.is_some_and(|asked| asked.elapsed() < EVERY) {
            return 0;
        }
        self.asked = Some(Instant::now());
        let memory = match &self.ask {
            Some(ask) => ask(),
            None => budget::memory(),
        };
        memory.map_or(0, |memory| memory.shortage())
    }
}
