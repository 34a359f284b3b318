//! Filters that keep the most likely tokens: as many as given, or as far as a probability or a logit reaches.

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;

/// Keeps so many of the most likely tokens (Fan et al., 2018).
pub struct TopK(usize);

impl TopK {
    /// `None` if it keeps all.
    pub fn new(settings: &Sampling) -> Option<TopK> {
        (settings.top_k > 0).then_some(TopK(settings.top_k))
    }
}

impl Filter for TopK {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        candidates.keep_best(self.0);
    }

    fn keeps_the_best(&self) -> bool {
        true
    }

    fn leaves_one(&self) -> bool {
        self.0 == 1
    }
}

/// Keeps the most likely tokens until their probabilities add up to a number (nucleus sampling: Holtzman et al., 2020).
pub struct TopP {
    p: f64,
    min_keep: usize,
}

impl TopP {
    /// `None` if it keeps all.
    pub fn new(settings: &Sampling) -> Option<TopP> {
        (settings.top_p < 1.0).then_some(TopP { p: settings.top_p.into(), min_keep: settings.min_keep })
    }
}

impl Filter for TopP {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        let peak = candidates.peak();
        let enough = self.p * candidates.total(peak);
        let (mut sum, mut kept, mut sorted) = (0.0, 0, 0);
        while kept < candidates.len() {
            if kept == sorted {
                sorted = candidates.rank(sorted);
            }
            sum += libm::exp(candidates.list()[kept].logit - peak);
            kept += 1;
            if sum >= enough && kept >= self.min_keep {
                break;
            }
        }
        candidates.keep_sorted(kept);
    }

    fn keeps_the_best(&self) -> bool {
        true
    }
}

/// Drops tokens less likely than a share of the most likely one (Nguyen et al., 2024).
pub struct MinP {
    ln_p: f64,
    min_keep: usize,
}

impl MinP {
    /// `None` if it keeps all.
    pub fn new(settings: &Sampling) -> Option<MinP> {
        let (ln_p, min_keep) = (libm::log(settings.min_p.into()), settings.min_keep);
        (settings.min_p > 0.0).then_some(MinP { ln_p, min_keep })
    }
}

impl Filter for MinP {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        candidates.keep_from(candidates.peak() + self.ln_p, self.min_keep);
    }

    fn keeps_the_best(&self) -> bool {
        true
    }
}

/// Keeps logits within so many standard deviations of the largest (Tang et al., 2024).
pub struct TopNSigma(f64);

impl TopNSigma {
    /// `None` if it keeps all.
    pub fn new(settings: &Sampling) -> Option<TopNSigma> {
        (settings.top_n_sigma > 0.0).then_some(TopNSigma(settings.top_n_sigma.into()))
    }
}

impl Filter for TopNSigma {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        let n = candidates.len() as f64;
        let logits = || candidates.list().iter().map(|c| c.logit);
        let mean = logits().sum::<f64>() / n;
        let variance = logits().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>() / n;
        candidates.keep_from(candidates.peak() - self.0 * libm::sqrt(variance), 1);
    }

    fn keeps_the_best(&self) -> bool {
        true
    }
}
