//! Locally typical sampling (Meister et al., 2023): keeps tokens whose information is near the entropy.

use super::candidates::{Candidate, Candidates, best_first};
use super::chain::Filter;
use super::settings::Sampling;

/// Keeps the most typical tokens until their probabilities add up to more than a number.
pub struct Typical {
    p: f64,
    min_keep: usize,
}

impl Typical {
    /// `None` if it keeps all.
    pub fn new(settings: &Sampling) -> Option<Typical> {
        (settings.typical_p < 1.0).then_some(Typical { p: settings.typical_p.into(), min_keep: settings.min_keep })
    }
}

impl Filter for Typical {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        candidates.sort();
        let peak = candidates.peak();
        let total = candidates.total(peak);
        let entropy = candidates.entropy(peak, total);
        let ln_total = libm::log(total);
        // |-ln p - H|; the more likely token wins a tie.
        let score = |c: &Candidate| (peak - c.logit + ln_total - entropy).abs();
        let mut ranked: Vec<(f64, Candidate)> = candidates.list().iter().map(|c| (score(c), *c)).collect();
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| best_first(&a.1, &b.1)));
        let mut sum = 0.0;
        let enough = ranked.iter().enumerate().position(|(i, (_, c))| {
            sum += libm::exp(c.logit - peak) / total;
            sum > self.p && i + 1 >= self.min_keep
        });
        ranked.truncate(enough.map_or(ranked.len(), |last| last + 1));
        candidates.replace(ranked.into_iter().map(|(_, c)| c));
    }
}
