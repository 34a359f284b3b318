//! Sampling: chooses the next token from logits, greedily or at random.
//!
//! The chain is llama.cpp's, in its order and with its defaults: top-k, top-p, min-p, temperature. All arithmetic after the logits is
//! in `f64` with exponentials that are the same on every platform, so a seed gives the same text everywhere.

use crate::random::uniform;
use std::ops::RangeInclusive;
use strata_quant::float::all_finite;

/// The valid temperatures; NaN is not among them.
pub const TEMPERATURES: RangeInclusive<f32> = 0.0..=f32::MAX;

/// The valid probabilities, for top-p and min-p.
pub const PROBABILITIES: RangeInclusive<f32> = 0.0..=1.0;

/// Settings of a sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The divisor of logits; zero or less selects the most likely token.
    pub temperature: f32,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one.
    pub min_p: f32,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: 0 }
    }
}

/// A sampler with its random state.
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    pub fn new(sampling: Sampling) -> Sampler {
        Sampler { sampling, state: sampling.seed, candidates: Vec::new() }
    }

    /// Samples a token from `logits`, `(vocab)`; the lower id wins a tie. `None` if there is no logit, or one is not finite and so cannot be
    /// compared.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        if !all_finite(logits) {
            return None;
        }
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let all = logits.iter().zip(0..).map(|(&l, i)| (l, i));
        if temperature <= 0.0 {
            return all.min_by(better).map(|(_, token)| token);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(all);
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, better);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(better);
        let peak = candidates.first()?.0 as f64;
        if top_p < 1.0 {
            let total: f64 = candidates.iter().map(|c| libm::exp(c.0 as f64 - peak)).sum();
            let mut sum = 0.0;
            let enough = candidates.iter().position(|c| {
                sum += libm::exp(c.0 as f64 - peak);
                sum >= top_p as f64 * total
            });
            candidates.truncate(enough.map_or(candidates.len(), |i| i + 1));
        }
        // At most 1, so that the most likely token stays.
        let least = (min_p as f64).min(1.0);
        candidates.retain(|c| libm::exp(c.0 as f64 - peak) >= least);
        let weight = |c: &(f32, u32)| libm::exp((c.0 as f64 - peak) / temperature as f64);
        let total: f64 = candidates.iter().map(weight).sum();
        let mut left = uniform(&mut self.state) * total;
        for c in candidates.iter() {
            left -= weight(c);
            if left < 0.0 {
                return Some(c.1);
            }
        }
        candidates.last().map(|c| c.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..10_000 {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
        assert_eq!(sampler.sample(&[1.0, -2.0, 3.0, 3.0]), Some(2));
        assert_eq!(sampler.sample(&[]), None);
    }

    #[test]
    fn nothing_is_chosen_beside_what_is_not_finite() {
        for temperature in [0.0, 0.8] {
            let mut sampler = Sampler::new(Sampling { temperature, ..Sampling::default() });
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(sampler.sample(&[1.0, bad, 3.0, 3.0]), None, "{bad}");
                assert_eq!(sampler.sample(&[bad]), None, "{bad}");
            }
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.04, 0.01].iter().map(|p| p.ln()).collect();
        let plain = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 };
        for (count, p) in counts(plain, &logits).iter().zip([0.5, 0.3, 0.15, 0.04, 0.01]) {
            assert!((*count as f64 / 1e4 - p).abs() < 0.02, "{count} for {p}");
        }
        assert_eq!(counts(Sampling { top_k: 2, ..plain }, &logits)[2..], [0, 0, 0]);
        assert_eq!(counts(Sampling { top_p: 0.9, ..plain }, &logits)[3..], [0, 0]);
        assert_eq!(counts(Sampling { min_p: 0.2, ..plain }, &logits)[3..], [0, 0]);
        assert!(counts(Sampling { temperature: 0.2, ..plain }, &logits)[0] > 9_000);
    }

    #[test]
    fn the_most_likely_token_is_always_a_candidate() {
        let logits = [0.5, 2.0, -1.0];
        for (top_p, min_p) in [(0.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (0.0, f32::INFINITY)] {
            for top_k in [0, 1, usize::MAX] {
                let sampling = Sampling { top_k, top_p, min_p, temperature: 1.0, seed: 3 };
                assert_eq!(Sampler::new(sampling).sample(&logits), Some(1), "{sampling:?}");
            }
        }
        assert!(!TEMPERATURES.contains(&f32::NAN) && !TEMPERATURES.contains(&f32::INFINITY));
        assert!(!PROBABILITIES.contains(&1.5) && PROBABILITIES.contains(&1.0) && PROBABILITIES.contains(&0.0));
    }

    #[test]
    fn a_seed_gives_the_same_tokens() {
        let logits = [0.1, 0.2, 0.3, 0.4];
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() });
            (0..50).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
