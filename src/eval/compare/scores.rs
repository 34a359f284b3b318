//! What a candidate makes of each scored token, beside its reference: from the logits of both, over the whole vocabulary, in double
//! precision.
//!
//! ```text
//! p = softmax(b), q = softmax(c)          b, c: logits of the reference and of the candidate
//! nll = -ln q[token]
//! kld = sum_v p[v] (ln p[v] - ln q[v]) = sum_v p[v] (b[v] - c[v]) + lse(c) - lse(b)        (Kullback and Leibler 1951)
//! ```

use super::astray::{Astray, Expected, Probability, Worst};
use rayon::prelude::*;
use std::ops::Range;
use strata_kernels::Isa;

/// The number of most likely tokens that are compared as a set.
pub const TOP: usize = 5;

/// Scores of the tokens of a text, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceScores {
    /// `-ln p` of each token, in nats.
    pub nll: Vec<f64>,
}

/// Scores of a candidate on the same tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CandidateScores {
    /// `-ln q` of each token, in nats.
    pub nll: Vec<f64>,
    /// Kullback-Leibler divergence of the candidate's distribution from the reference's, in nats.
    pub kld: Vec<f64>,
    /// True where both have the same most likely token.
    pub same_top: Vec<bool>,
    /// How many of the [`TOP`] most likely tokens both have.
    pub common_top: Vec<u8>,
    /// The tokens with the largest divergence.
    pub astray: Worst,
}

/// A token that is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The place of the token before it among the tokens of all chunks.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// The number of its chunk in all texts.
    pub chunk: usize,
    /// Its place in the chunk.
    pub place: usize,
}

impl CandidateScores {
    /// The mean divergence, in nats.
    pub fn mean_kld(&self) -> f64 {
        self.kld.iter().sum::<f64>() / self.kld.len() as f64
    }

    /// Appends the scores of some of another's tokens, but not those that are astray, which are of no range.
    pub fn append(&mut self, other: &CandidateScores, range: Range<usize>) {
        self.nll.extend_from_slice(&other.nll[range.clone()]);
        self.kld.extend_from_slice(&other.kld[range.clone()]);
        self.same_top.extend_from_slice(&other.same_top[range.clone()]);
        self.common_top.extend_from_slice(&other.common_top[range]);
    }
}

/// The distributions of the reference for some tokens.
pub struct Distributions {
    isa: Isa,
    vocab: usize,
    logits: Vec<f32>,   // (rows, vocab)
    weights: Vec<f64>,  // (rows, vocab): exp(b - max)
    rows: Vec<Softmax>, // (rows)
}

/// The softmax of a row of logits.
struct Softmax {
    log_sum: f64, // ln sum exp
    sum: f64,     // of exp(b - max)
    top: [u32; TOP],
}

impl Softmax {
    /// What it says of the token, from the logits that it is of.
    fn expected(&self, logits: &[f32], token: u32) -> Expected {
        let p = |token: u32| libm::exp(logits[token as usize] as f64 - self.log_sum).min(1.0);
        let top = self.top.iter().filter(|token| **token != u32::MAX);
        Expected { token: p(token), top: top.map(|&token| (token, Probability(p(token)))).collect() }
    }
}

impl Distributions {
    /// None yet.
    pub fn new(isa: Isa) -> Distributions {
        Distributions { isa, vocab: 0, logits: Vec::new(), weights: Vec::new(), rows: Vec::new() }
    }

    /// Those of finite logits `(rows, vocab)`, whose memory is exchanged for that of the last; adds the scores of the tokens that follow them,
    /// `targets (rows)`.
    pub fn set(&mut self, logits: &mut Vec<f32>, targets: &[Scored], scores: &mut ReferenceScores) {
        let (isa, vocab) = (self.isa, logits.len() / targets.len());
        self.vocab = vocab;
        std::mem::swap(&mut self.logits, logits);
        self.weights.resize(self.logits.len(), 0.0);
        let rows = self.logits.par_chunks_exact(vocab).zip(self.weights.par_chunks_exact_mut(vocab));
        rows.map(|(logits, weights)| softmax(isa, logits, weights)).collect_into_vec(&mut self.rows);
        let nll = self.rows.iter().zip(targets).zip(self.logits.chunks_exact(vocab));
        scores.nll.extend(nll.map(|((row, t), logits)| row.log_sum - logits[t.token as usize] as f64));
    }

    /// Adds the scores of a candidate with finite logits `(rows, vocab)` for the same tokens.
    pub fn compare(&self, logits: &[f32], targets: &[Scored], scores: &mut CandidateScores) {
        let vocab = self.vocab;
        let rows = logits.par_chunks_exact(vocab).zip(self.logits.par_chunks_exact(vocab));
        let rows = rows.zip(self.weights.par_chunks_exact(vocab)).zip(&self.rows);
        let scored: Vec<(Softmax, f64)> = rows
            .map_init(Vec::new, |of_candidate, (((c, b), weights), of_b)| {
                of_candidate.resize(vocab, 0.0);
                let of_c = softmax(self.isa, c, of_candidate);
                let difference = self.isa.weighted_difference(weights, b, c);
                // Rounding may leave a little less than nothing of equal distributions.
                let kld = (difference / of_b.sum + of_c.log_sum - of_b.log_sum).max(0.0);
                (of_c, kld)
            })
            .collect();
        for (r, ((of_c, kld), (of_b, target))) in scored.into_iter().zip(self.rows.iter().zip(targets)).enumerate() {
            let [b, c] = [&self.logits, logits].map(|logits| &logits[r * vocab..(r + 1) * vocab]);
            scores.nll.push(of_c.log_sum - c[target.token as usize] as f64);
            scores.kld.push(kld);
            scores.same_top.push(of_c.top[0] == of_b.top[0]);
            scores.common_top.push(of_c.top.iter().filter(|token| of_b.top.contains(token)).count() as u8);
            scores.astray.offer(kld, target.chunk, target.place, || {
                let [reference, candidate] =
                    [(of_b, b), (&of_c, c)].map(|(of, logits)| of.expected(logits, target.token));
                Astray { kld, chunk: target.chunk, place: target.place, reference, candidate }
            });
        }
    }
}

/// The softmax of `logits (vocab)`, and into `weights (vocab)` its unnormed exponentials.
fn softmax(isa: Isa, logits: &[f32], weights: &mut [f64]) -> Softmax {
    let top = top(logits);
    let max = logits[top[0] as usize];
    let sum = isa.exponentials(logits, max, weights);
    Softmax { log_sum: f64::from(max) + libm::log(sum), sum, top }
}

/// The tokens with the largest logits, the largest first; of equals the lower number first. Numbers beyond a smaller vocabulary are
/// `u32::MAX`.
fn top(logits: &[f32]) -> [u32; TOP] {
    let (mut top, mut values) = ([u32::MAX; TOP], [f32::NEG_INFINITY; TOP]);
    for (v, &logit) in logits.iter().enumerate() {
        if logit <= values[TOP - 1] && top[TOP - 1] != u32::MAX {
            continue;
        }
        let place = values.iter().zip(&top).position(|(&value, &token)| logit > value || token == u32::MAX);
        let Some(place) = place else { continue };
        values[place..].rotate_right(1);
        top[place..].rotate_right(1);
        (values[place], top[place]) = (logit, v as u32);
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(b: &[f32], c: &[f32], target: u32) -> (f64, CandidateScores) {
        let (mut reference, mut candidate) = (ReferenceScores::default(), CandidateScores::default());
        let targets = [Scored { row: 0, token: target, chunk: 2, place: 3 }];
        let mut distributions = Distributions::new(Isa::best());
        distributions.set(&mut b.to_vec(), &targets, &mut reference);
        distributions.compare(c, &targets, &mut candidate);
        (reference.nll[0], candidate)
    }

    #[test]
    fn two_coins() {
        // p = (1/2, 1/2), q = (4/5, 1/5).
        let (nll, candidate) = scores(&[0.0, 0.0], &[4f32.ln(), 0.0], 1);
        assert!((nll - 2f64.ln()).abs() < 1e-12);
        assert!((candidate.nll[0] - 5f64.ln()).abs() < 1e-7);
        let expected = 0.5 * (0.5f64 / 0.8).ln() + 0.5 * (0.5f64 / 0.2).ln();
        assert!((candidate.kld[0] - expected).abs() < 1e-7, "{} {expected}", candidate.kld[0]);
        assert!(candidate.same_top[0]);
        let [astray] = candidate.astray.tokens() else { panic!("{candidate:?}") };
        assert_eq!((astray.kld, astray.chunk, astray.place), (candidate.kld[0], 2, 3));
        assert_eq!(astray.reference.top, [(0, Probability(0.5)), (1, Probability(0.5))]);
        let [(0, p), (1, q)] = astray.candidate.top[..] else { panic!("{astray:?}") };
        assert!((p.0 - 0.8).abs() < 1e-7 && (q.0 - 0.2).abs() < 1e-7 && q.0 == astray.candidate.token);
    }

    #[test]
    fn equals_do_not_diverge_and_shifts_do_not_matter() {
        let b: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let shifted: Vec<f32> = b.iter().map(|b| b + 32.0).collect();
        for c in [&b, &shifted] {
            let (nll, candidate) = scores(&b, c, 3);
            assert!(candidate.kld[0] < 1e-6 && (candidate.nll[0] - nll).abs() < 1e-5);
            assert_eq!((candidate.same_top[0], candidate.common_top[0]), (true, TOP as u8));
        }
    }

    #[test]
    fn the_largest_come_first_and_of_equals_the_lower() {
        assert_eq!(top(&[1.0, 5.0, 2.0, 5.0, 4.0, 3.0, 0.0]), [1, 3, 4, 5, 2]);
        assert_eq!(top(&[0.0; 7]), [0, 1, 2, 3, 4]);
        assert_eq!(top(&[f32::MIN, 1.0]), [1, 0, u32::MAX, u32::MAX, u32::MAX]);
    }
}
