//! Mirostat (Basu et al., 2021): keeps so many tokens that the surprise of the text stays near a target.

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;
use std::f64::consts::LN_2;

/// The version of Mirostat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Estimates the exponent of Zipf's law from the most likely tokens, and from it how many to keep.
    One,
    /// Keeps the tokens whose surprise is at most the bound.
    Two,
}

/// The most likely tokens that the exponent is estimated from, as in the paper.
const ESTIMATED_FROM: usize = 100;

/// Mirostat and its bound of the surprise, which each chosen token moves.
pub struct Mirostat {
    version: MirostatVersion,
    vocab: f64,
    tau: f64, // bits
    eta: f64,
    mu: f64, // bits
}

impl Mirostat {
    /// `None` if it is off.
    pub fn new(settings: &Sampling, vocab: usize) -> Option<Mirostat> {
        let (tau, eta) = (f64::from(settings.mirostat_tau), settings.mirostat_eta.into());
        let version = settings.mirostat?;
        Some(Mirostat { version, vocab: vocab as f64, tau, eta, mu: 2.0 * tau })
    }

    /// How many tokens version 1 keeps: `k = ((s - 1) * 2^mu / (1 - n^(1 - s)))^(1/s)` with the exponent `s` that fits the logits best.
    fn count(&self, candidates: &mut Candidates) -> usize {
        candidates.rank(0);
        let best = &candidates.list()[..candidates.len().min(ESTIMATED_FROM)];
        let (mut products, mut squares) = (0.0, 0.0);
        for (i, pair) in best.windows(2).enumerate() {
            let t = libm::log((i + 2) as f64 / (i + 1) as f64);
            products += t * (pair[0].logit - pair[1].logit);
            squares += t * t;
        }
        let s = products / squares;
        let epsilon = s - 1.0;
        // Its limit where the exponent is 1 is ln n.
        let ln_n = libm::log(self.vocab);
        let below = if epsilon == 0.0 { ln_n } else { -libm::expm1(-epsilon * ln_n) / epsilon };
        // A number that is not one becomes 0, a larger one the most.
        libm::pow(libm::exp2(self.mu) / below, 1.0 / s) as usize
    }
}

impl Filter for Mirostat {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        match self.version {
            MirostatVersion::One => {
                let count = self.count(candidates);
                // A selection that is not sorted to its end is never kept.
                if count < candidates.len() { candidates.keep_best(count) } else { candidates.sort() }
            }
            MirostatVersion::Two => {
                let peak = candidates.peak();
                // -log2 p <= mu
                let least = peak + libm::log(candidates.total(peak)) - self.mu * LN_2;
                candidates.keep_from(least, 1);
            }
        }
    }

    fn chosen(&mut self, probability: f64) {
        self.mu -= self.eta * (-libm::log2(probability) - self.tau);
    }
}
