//! What the scores of tokens say of a candidate, each figure with a 95 % interval.
//!
//! Tokens of one chunk are not independent, chunks nearly are: intervals come from resampling chunks (bootstrap, Efron 1979), the same
//! resamples for every candidate, so that the difference of two is measured on the same text. The percentiles of resampled figures are
//! widened by `t / z * sqrt(n / (n - 1))`, without which intervals of few chunks are too narrow (Hesterberg 2015, "What teachers should know
//! about the bootstrap", 5.3).
//!
//! Resampling fails for percentiles near the maximum: no resample has a larger one. Their intervals come from the number of tokens beyond them
//! (Woodruff 1952), whose variance is that between chunks: see `beyond.rs`.

use super::beyond;
use super::scores::{CandidateScores, ReferenceScores, TOP};
use crate::random::uniform;
use rayon::prelude::*;
use std::ops::Range;

/// Resamples of the chunks.
const RESAMPLES: usize = 2000;

/// Percentiles of the divergence that are reported, in percent.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];

/// A figure and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The figure of all tokens.
    pub value: f64,
    /// The ends of the interval; infinite where the tokens tell nothing.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// A candidate on a text, beside its reference.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Perplexity of the candidate.
    pub perplexity: Figure,
    /// Its ratio to the reference's.
    pub perplexity_ratio: Figure,
    /// Correlation of the log-probabilities of tokens.
    pub correlation: Figure,
    /// Mean divergence, in nats.
    pub mean_kld: Figure,
    /// [`PERCENTILES`] of the divergence.
    pub kld_percentiles: [Figure; PERCENTILES.len()],
    /// The largest divergence.
    pub max_kld: f64,
    /// Share of tokens with the same most likely token.
    pub same_top: Figure,
    /// Mean share of the most likely five tokens that both have.
    pub common_top: Figure,
    /// Mean change of the probability of the right token.
    pub mean_dp: Figure,
    /// Root of the mean square of that change.
    pub rms_dp: Figure,
    /// Standard error of the mean divergence, over chunks.
    pub se_kld: f64,
}

/// Two candidates on the same tokens.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Mean divergence of the first less that of the second, in nats.
    pub difference: Figure,
    /// Chunks that would decide which is better, by the spread of these; `None` if it is decided, or the means are equal.
    pub chunks_to_decide: Option<u64>,
}

impl Figure {
    /// True if the interval excludes zero.
    pub fn is_decided(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// Resampled chunks: how often each is drawn, `(resamples, chunks)`.
pub struct Resamples {
    counts: Vec<Vec<u32>>,
    widen: f64,
}

impl Resamples {
    /// Draws them. The same numbers on every machine.
    pub fn new(chunks: usize) -> Resamples {
        let draw = |i: usize| {
            let mut state = 0x5eed_0000 + i as u64 * 0x9e37_79b9;
            let mut counts = vec![0; chunks];
            (0..chunks).for_each(|_| counts[((uniform(&mut state) * chunks as f64) as usize).min(chunks - 1)] += 1);
            counts
        };
        let n = chunks as f64;
        let widen = if chunks > 1 { student_t(chunks - 1) / 1.959_964 * (n / (n - 1.0)).sqrt() } else { f64::INFINITY };
        Resamples { counts: (0..RESAMPLES).into_par_iter().map(draw).collect(), widen }
    }

    /// The figure that `of` makes of chunks drawn so often.
    fn figure(&self, chunks: usize, of: impl Fn(&[u32]) -> f64 + Sync) -> Figure {
        let value = of(&vec![1; chunks]);
        if chunks < 2 {
            return Figure { value, low: f64::NEG_INFINITY, high: f64::INFINITY };
        }
        let mut all: Vec<f64> = self.counts.par_iter().map(|counts| of(counts)).collect();
        all.sort_by(f64::total_cmp);
        let end = |share: f64| value + (percentile(&all, share) - value) * self.widen;
        Figure { value, low: end(2.5).min(value), high: end(97.5).max(value) }
    }
}

/// The 97.5 % quantile of Student's t with `n` degrees of freedom (Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5).
fn student_t(n: usize) -> f64 {
    const EXACT: [f64; 8] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306];
    if let Some(t) = EXACT.get(n - 1) {
        return *t;
    }
    let (z, n) = (1.959_964f64, n as f64);
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let g3 = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + g1 / n + g2 / n.powi(2) + g3 / n.powi(3)
}

/// The percentile of sorted values, between two of them in proportion, as numpy and llama.cpp take it.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = percent / 100.0 * (sorted.len() - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] * (1.0 - share) + sorted[above] * share
}

/// Sums of chunks: `(chunks)` for each figure that is a function of sums.
struct Sums {
    n: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
    bb: Vec<f64>,
    cc: Vec<f64>,
    bc: Vec<f64>,
    kld: Vec<f64>,
    same: Vec<f64>,
    common: Vec<f64>,
    dp: Vec<f64>,
    dp2: Vec<f64>,
}

fn weighted(values: &[f64], counts: &[u32]) -> f64 {
    values.iter().zip(counts).map(|(v, &n)| v * f64::from(n)).sum()
}

impl Sums {
    fn of(b: &ReferenceScores, c: &CandidateScores, chunks: &[Range<usize>]) -> Sums {
        let by_chunk = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
            chunks.iter().map(|chunk| chunk.clone().map(of).sum()).collect()
        };
        let dp = |i: usize| libm::exp(-c.nll[i]) - libm::exp(-b.nll[i]);
        Sums {
            n: by_chunk(&|_| 1.0),
            b: by_chunk(&|i| b.nll[i]),
            c: by_chunk(&|i| c.nll[i]),
            bb: by_chunk(&|i| b.nll[i] * b.nll[i]),
            cc: by_chunk(&|i| c.nll[i] * c.nll[i]),
            bc: by_chunk(&|i| b.nll[i] * c.nll[i]),
            kld: by_chunk(&|i| c.kld[i]),
            same: by_chunk(&|i| f64::from(u8::from(c.same_top[i]))),
            common: by_chunk(&|i| f64::from(c.common_top[i]) / TOP as f64),
            dp: by_chunk(&dp),
            dp2: by_chunk(&|i| dp(i) * dp(i)),
        }
    }

    fn mean(&self, values: &[f64], counts: &[u32]) -> f64 {
        weighted(values, counts) / weighted(&self.n, counts)
    }

    fn correlation(&self, counts: &[u32]) -> f64 {
        let [b, c, bb, cc, bc] = [&self.b, &self.c, &self.bb, &self.cc, &self.bc].map(|v| self.mean(v, counts));
        (bc - b * c) / ((bb - b * b) * (cc - c * c)).sqrt()
    }
}

/// Summarizes a candidate's scores; `ranges` are those of each chunk.
pub fn summarize(b: &ReferenceScores, c: &CandidateScores, ranges: &[Range<usize>], resamples: &Resamples) -> Summary {
    let sums = Sums::of(b, c, ranges);
    let mut sorted: Vec<f64> = ranges.iter().cloned().flat_map(|chunk| &c.kld[chunk]).copied().collect();
    sorted.sort_by(f64::total_cmp);
    let chunks = ranges.len();
    let mean = |values: &[f64]| resamples.figure(chunks, |counts| sums.mean(values, counts));
    Summary {
        perplexity: resamples.figure(chunks, |counts| libm::exp(sums.mean(&sums.c, counts))),
        perplexity_ratio: resamples
            .figure(chunks, |counts| libm::exp(sums.mean(&sums.c, counts) - sums.mean(&sums.b, counts))),
        correlation: resamples.figure(chunks, |counts| sums.correlation(counts)),
        mean_kld: mean(&sums.kld),
        kld_percentiles: PERCENTILES.map(|percent| percentile_figure(&sorted, percent, &c.kld, ranges)),
        max_kld: sorted.last().copied().unwrap_or(0.0),
        same_top: mean(&sums.same),
        common_top: mean(&sums.common),
        mean_dp: mean(&sums.dp),
        rms_dp: resamples.figure(chunks, |counts| sums.mean(&sums.dp2, counts).sqrt()),
        se_kld: standard_error(&sums.kld, &sums.n),
    }
}

/// A percentile of all `values` of these chunks, `sorted`, and its interval.
fn percentile_figure(sorted: &[f64], percent: f64, values: &[f64], chunks: &[Range<usize>]) -> Figure {
    let value = percentile(sorted, percent);
    let beyond = |chunk: &Range<usize>| chunk.clone().filter(|&t| values[t] > value).count() as f64;
    let (beyond, n): (Vec<f64>, Vec<f64>) = chunks.iter().map(|chunk| (beyond(chunk), chunk.len() as f64)).unzip();
    let (all, mean) = (sorted.len(), sorted.len() as f64 * (1.0 - percent / 100.0));
    let error = standard_error(&beyond, &n) * all as f64;
    let t = if chunks.len() > 1 { student_t(chunks.len() - 1) } else { f64::INFINITY };
    let (least, most) = beyond::interval(mean, error * error, t);
    // With so many values beyond the true percentile, it lies between these two.
    let low = most.and_then(|most| all.checked_sub(most + 1)).map_or(f64::NEG_INFINITY, |at| sorted[at]);
    let high = if least > 0 { sorted[all - least] } else { f64::INFINITY };
    Figure { value, low: low.min(value), high: high.max(value) }
}

/// The standard error of the mean of chunks' sums over their numbers of tokens.
fn standard_error(sums: &[f64], n: &[f64]) -> f64 {
    let (chunks, total) = (sums.len() as f64, n.iter().sum::<f64>());
    let mean = sums.iter().sum::<f64>() / total;
    let squares: f64 = sums.iter().zip(n).map(|(sum, n)| (sum - n * mean).powi(2)).sum();
    if chunks > 1.0 { (squares * chunks / (chunks - 1.0)).sqrt() / total } else { f64::INFINITY }
}

/// Compares the divergence of two candidates token by token.
pub fn pair(a: &CandidateScores, b: &CandidateScores, chunks: &[Range<usize>], resamples: &Resamples) -> Pair {
    let sum = |chunk: &Range<usize>| chunk.clone().map(|t| a.kld[t] - b.kld[t]).sum();
    let sums: Vec<f64> = chunks.iter().map(sum).collect();
    let n: Vec<f64> = chunks.iter().map(|chunk| chunk.len() as f64).collect();
    let difference = resamples.figure(n.len(), |counts| weighted(&sums, counts) / weighted(&n, counts));
    let error = standard_error(&sums, &n);
    let undecided = !difference.is_decided() && difference.value != 0.0 && error.is_finite();
    // The error falls with the root of the number of chunks.
    let wanted = || (n.len() as f64 * (1.96 * error / difference.value).powi(2)).ceil().min(1e15) as u64;
    Pair { difference, chunks_to_decide: undecided.then(wanted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        for (percent, value) in [(0.0, 1.0), (50.0, 3.0), (90.0, 6.8), (100.0, 8.0)] {
            assert!((percentile(&sorted, percent) - value).abs() < 1e-12, "{percent}");
        }
    }

    #[test]
    fn quantiles_of_t() {
        for (n, t) in [(1, 12.706), (4, 2.776), (5, 2.571), (10, 2.228), (19, 2.093), (100, 1.984)] {
            assert!((student_t(n) - t).abs() < 0.003, "{n}: {}", student_t(n));
        }
    }

    /// The interval of the mean of few chunks of skewed numbers holds the true mean about as often as it says.
    #[test]
    fn intervals_hold_what_they_promise() {
        let (chunk, chunks, trials, mut held) = (16, 20, 200, 0);
        for trial in 0..trials {
            let mut state = trial as u64 * 7919;
            let kld: Vec<f64> = (0..chunks * chunk)
                .map(|i| -(1.0 - uniform(&mut state)).ln() * if i % chunk == 0 { 8.0 } else { 1.0 })
                .collect();
            let n = kld.len();
            let b = ReferenceScores { nll: vec![1.0; n] };
            let c = CandidateScores {
                nll: vec![1.0; n],
                kld,
                same_top: vec![true; n],
                common_top: vec![5; n],
                ..Default::default()
            };
            let ranges: Vec<_> = (0..chunks).map(|i| i * chunk..(i + 1) * chunk).collect();
            let figure = summarize(&b, &c, &ranges, &Resamples::new(chunks)).mean_kld;
            let truth = (15.0 + 8.0) / 16.0;
            held += usize::from(figure.low <= truth && truth <= figure.high);
        }
        assert!((180..=198).contains(&held), "{held} of {trials}");
    }
}
