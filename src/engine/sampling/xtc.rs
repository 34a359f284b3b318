//! Exclude top choices (XTC: P. E. Weidmann, 2024): now and then drops the most likely tokens but for the last that is likely enough.

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;
use crate::random::uniform;

/// Drops, with a probability, all tokens at least as likely as a threshold except the least likely of these.
pub struct Xtc {
    probability: f64,
    threshold: f64,
    min_keep: usize,
}

impl Xtc {
    /// `None` if it is off. Above a threshold of one half there is never a second token to keep.
    pub fn new(settings: &Sampling) -> Option<Xtc> {
        let (probability, threshold) = (settings.xtc_probability.into(), settings.xtc_threshold.into());
        let on = probability > 0.0 && threshold <= 0.5;
        on.then_some(Xtc { probability, threshold, min_keep: settings.min_keep })
    }
}

impl Filter for Xtc {
    fn apply(&mut self, candidates: &mut Candidates, random: &mut u64) {
        if candidates.len() < 2 || uniform(random) >= self.probability {
            return;
        }
        candidates.sort();
        let peak = candidates.peak();
        let least = self.threshold * candidates.total(peak);
        let likely = candidates.list().partition_point(|c| libm::exp(c.logit - peak) >= least);
        let dropped = likely.saturating_sub(1);
        if candidates.len() - dropped >= self.min_keep {
            candidates.drop_sorted(dropped);
        }
    }
}
