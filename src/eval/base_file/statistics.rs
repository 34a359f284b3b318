//! A model beside a base file: the statistics of `llama-perplexity --kl-divergence`, by its formulas.
//!
//! ```text
//! nll = -ln q[token], nll_base = -ln p[token]                      q: the model's softmax, p: the file's
//! kld = sum over p[v] > exp(-16) of p[v] (ln p[v] - ln q[v])       dp = q[token] - p[token]
//! error of a mean = sqrt((mean of squares - square of mean) / (n - 1)), all tokens taken for independent
//! error of f(mean) = |f'| error of the mean;   of a difference: sqrt(a^2 + b^2 - 2 cov(a, b))
//! ```
//! Sums are in double precision. Scores of tokens are kept in single precision, in which percentiles are taken.

use super::{BaseFile, RANGE};
use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::eval::compare::Text;
use crate::eval::passes::{self, LOGIT_ROWS, for_each_scored};
use crate::model::{CacheTypes, MemoryNeed, Model};
use crate::progress::Progress;
use rayon::prelude::*;
use strata_kernels::Isa;

/// The fewest scored tokens of which llama-perplexity makes statistics.
const FEWEST: usize = 100;

/// Shares of tokens whose KL divergence is reported, as llama-perplexity lists them, between the largest and the smallest.
pub const KLD_SHARES: [f32; 9] = [0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001];

/// The same for changes of probability.
pub const DP_SHARES: [f32; 11] = [0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001];

/// A figure and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Figures of all tokens up to some chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimates {
    /// Perplexity of the model.
    pub perplexity: Estimate,
    /// Perplexity of the base, of its 16-bit log-probabilities.
    pub base_perplexity: Estimate,
    /// Correlation of both logarithms of perplexity.
    pub correlation: f64,
    /// Logarithm of the ratio of perplexities.
    pub ln_ratio: Estimate,
    /// Ratio of perplexities.
    pub ratio: Estimate,
    /// Difference of perplexities.
    pub difference: Estimate,
    /// Mean KL divergence in nats.
    pub kld: Estimate,
    /// Mean change of the probability of the right token.
    pub dp: Estimate,
    /// Root of the mean square of that change.
    pub rms_dp: Estimate,
    /// Share of tokens with the same most likely token.
    pub same_top: Estimate,
}

/// What a model makes of the text of a base file.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Figures of the chunks up to each.
    pub running: Vec<Estimates>,
    /// Figures of all.
    pub all: Estimates,
    /// Scored tokens.
    pub tokens: usize,
    /// The largest KL divergence, those of [`KLD_SHARES`], and the smallest.
    pub kld: Vec<f32>,
    /// The largest change of probability, those of [`DP_SHARES`], and the smallest.
    pub dp: Vec<f32>,
}

/// Compares a model with a base file on its text, [`BaseFile::text`]. `types` are those of the cache; `progress` counts tokens.
///
/// # Errors
/// If there are too few tokens for statistics, the file is damaged or changes, a number of the pass is not finite, or the user stopped.
pub fn kl_divergence(
    model: &Model,
    base: &BaseFile,
    text: &Text,
    types: CacheTypes,
    progress: &dyn Progress,
) -> Result<Statistics> {
    let tokens = text.scores();
    if tokens < FEWEST {
        return Err(Error::TooFewForStatistics { tokens, fewest: FEWEST });
    }
    let (shape, isa) = (base.shape(), model.cpu().isa());
    let (mut sums, mut running, mut first) = (Sums::default(), Vec::new(), 0);
    let (mut bytes, mut log_p) = (Vec::new(), Vec::new());
    progress.begin("KL divergence", text.lengths().iter().sum::<usize>() as u64);
    for_each_scored(model, text, types, progress, &mut |logits, targets| {
        log_p.resize(logits.len(), 0.0);
        base.read_rows(first..first + targets.len(), &mut bytes, &mut log_p)?;
        let rows = logits.par_chunks(shape.vocab).zip(log_p.par_chunks(shape.vocab)).zip(targets);
        let of = |weights: &mut Vec<f64>, ((logits, log_p), &token): ((&[f32], &[f32]), &u32)| {
            score(isa, [logits, log_p], token as usize, weights)
        };
        let scores: Vec<Score> = rows.map_init(Vec::new, of).collect();
        for score in &scores {
            sums.add(score);
            first += 1;
            if first % shape.scored() == 0 {
                running.push(sums.estimates());
            }
        }
        Ok(())
    })?;
    base.check()?;
    progress.end();
    let Sums { mut klds, mut dps, .. } = sums;
    klds.sort_by(f32::total_cmp);
    dps.sort_by(f32::total_cmp);
    let all = running.last().copied().ok_or(Error::TooFewScored)?;
    Ok(Statistics { running, all, tokens, kld: quantiles(&klds, &KLD_SHARES), dp: quantiles(&dps, &DP_SHARES) })
}

/// The memory beside the weights that comparing takes.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(of: &Hyperparameters, base: &BaseFile, text: &Text, types: CacheTypes) -> Result<MemoryNeed> {
    // Two scores of each token in single precision, in vectors that double.
    let kept = 16 * text.scores() as u64;
    Ok(passes::need(of, text, types)?.and_bytes(base.row_memory(LOGIT_ROWS).saturating_add(kept)))
}

/// What a model makes of one token.
struct Score {
    nll: f64,
    nll_base: f64,
    kld: f64,
    same_top: bool,
}

/// Of finite logits `(vocab)` and the base's log-probabilities `(vocab)`; `weights` is memory for the exponentials of the former.
fn score(isa: Isa, [logits, log_p]: [&[f32]; 2], token: usize, weights: &mut Vec<f64>) -> Score {
    let (top, max) = greatest(logits);
    weights.resize(logits.len(), 0.0);
    let log_sum = f64::from(max) + libm::log(isa.exponentials(logits, max, weights));
    let likely = log_p.iter().zip(logits).filter(|(log_p, _)| **log_p > -RANGE);
    let term = |(&log_p, &logit): (&f32, &f32)| {
        let log_p = f64::from(log_p);
        libm::exp(log_p) * (log_p - f64::from(logit) + log_sum)
    };
    Score {
        nll: log_sum - f64::from(logits[token]),
        nll_base: -f64::from(log_p[token]),
        kld: likely.map(term).sum(),
        same_top: top == greatest(log_p).0,
    }
}

/// The place of the greatest value, the first of equals, and the value.
fn greatest(values: &[f32]) -> (usize, f32) {
    let all = values.iter().enumerate();
    all.fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best })
}

#[derive(Default)]
struct Sums {
    nll: f64,
    nll2: f64,
    base: f64,
    base2: f64,
    cross: f64, // nll * nll_base
    kld: f64,
    kld2: f64,
    dp: f64,
    dp2: f64,
    dp4: f64,
    same_top: usize,
    klds: Vec<f32>,
    dps: Vec<f32>,
}

impl Sums {
    fn add(&mut self, score: &Score) {
        let Score { nll, nll_base, kld, same_top } = *score;
        let dp = libm::exp(-nll) - libm::exp(-nll_base);
        self.nll += nll;
        self.nll2 += nll * nll;
        self.base += nll_base;
        self.base2 += nll_base * nll_base;
        self.cross += nll * nll_base;
        self.kld += kld;
        self.kld2 += kld * kld;
        self.dp += dp;
        self.dp2 += dp * dp;
        self.dp4 += dp.powi(4);
        self.same_top += usize::from(same_top);
        self.klds.push(kld as f32);
        self.dps.push(dp as f32);
    }

    fn estimates(&self) -> Estimates {
        let n = self.klds.len() as f64;
        let mean = |sum: f64, squares: f64| {
            let value = sum / n;
            let variance = squares / n - value * value;
            Estimate { value, error: if n > 10.0 { (variance.max(0.0) / (n - 1.0)).sqrt() } else { 0.0 } }
        };
        let (ln_q, ln_base) = (mean(self.nll, self.nll2), mean(self.base, self.base2));
        let covariance = if n < 10.0 { 0.0 } else { (self.cross / n - ln_q.value * ln_base.value) / (n - 1.0) };
        let beside = |a: f64, b: f64, covariance: f64| (a * a + b * b - 2.0 * covariance).max(0.0).sqrt();
        let exp = |of: Estimate| Estimate { value: libm::exp(of.value), error: libm::exp(of.value) * of.error };
        let (perplexity, base_perplexity) = (exp(ln_q), exp(ln_base));
        let ln_ratio =
            Estimate { value: ln_q.value - ln_base.value, error: beside(ln_q.error, ln_base.error, covariance) };
        let of_both = perplexity.value * base_perplexity.value * covariance;
        let square = mean(self.dp2, self.dp4);
        let rms = square.value.sqrt();
        let same = self.same_top as f64 / n;
        Estimates {
            perplexity,
            base_perplexity,
            correlation: covariance / (ln_q.error * ln_base.error),
            ln_ratio,
            ratio: exp(ln_ratio),
            difference: Estimate {
                value: perplexity.value - base_perplexity.value,
                error: beside(perplexity.error, base_perplexity.error, of_both),
            },
            kld: mean(self.kld, self.kld2),
            dp: mean(self.dp, self.dp2),
            rms_dp: Estimate { value: rms, error: if rms > 0.0 { 0.5 / rms * square.error } else { 0.0 } },
            same_top: Estimate { value: same, error: (same * (1.0 - same) / (n - 1.0).max(1.0)).sqrt() },
        }
    }
}

/// The greatest of sorted values, those of some shares, and the smallest.
fn quantiles(sorted: &[f32], shares: &[f32]) -> Vec<f32> {
    let ends = |at: usize| sorted.get(at).copied();
    let middle = shares.iter().map(|&share| quantile(sorted, share));
    ends(sorted.len() - 1).into_iter().chain(middle).chain(ends(0)).collect()
}

/// The value that a share of sorted values is below, between two of them in proportion: places in single precision, as in llama.cpp.
fn quantile(sorted: &[f32], share: f32) -> f32 {
    let place = share * (sorted.len() - 1) as f32;
    let (below, part) = ((place as usize).min(sorted.len() - 1), place.fract());
    (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(sorted.len() - 1)]
}
