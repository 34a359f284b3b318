//! Perplexity with llama.cpp's definition, so that numbers can be compared: the text is cut into chunks of the context length, the first
//! token of each is replaced by BOS, and the second half of each is scored.

use super::base_file::BaseWriter;
use super::compare::Text;
use super::compare::text::Cut;
use super::passes::for_each_scored;
use crate::error::{Error, Result};
use crate::model::{CacheTypes, Model};
use crate::progress::Progress;
use rayon::prelude::*;
use strata_kernels::Isa;

/// The perplexity of a model on a text.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity {
    /// Mean negative log-likelihood of a scored token, in nats.
    pub mean_nll: f64,
    /// `exp(mean_nll)`
    pub perplexity: f64,
    /// Standard error of the perplexity.
    pub standard_error: f64,
    /// The number of tokens scored.
    pub tokens_scored: usize,
    /// The number of chunks.
    pub chunks: usize,
}

/// Scores `tokens` in chunks of `context`, at most `max_chunks` of them. `bos` replaces the first token of each chunk;
/// `types` are those of the cache.
///
/// # Errors
/// If the tokens do not fill one chunk, the context is too small or too long, only one token is scored, a result is not finite, or the
/// user stopped.
pub fn perplexity(
    model: &Model,
    tokens: &[u32],
    context: usize,
    max_chunks: Option<usize>,
    bos: Option<u32>,
    types: CacheTypes,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    let text = Text::raw("", tokens, Cut { context, stride: None, max_chunks }, bos)?;
    score(model, &text, types, None, progress)
}

/// Scores a text, and writes the distributions to a base file of it, if there is one. `progress` counts tokens.
///
/// # Errors
/// If only one token is scored, a result is not finite, the file cannot be written, or the user stopped.
pub fn score(
    model: &Model,
    text: &Text,
    types: CacheTypes,
    mut base: Option<BaseWriter>,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    let mut scores = Scores::default();
    progress.begin("perplexity", text.lengths().iter().sum::<usize>() as u64);
    for_each_scored(model, text, types, progress, &mut |logits, targets| {
        nlls(model.cpu().isa(), logits, targets).into_iter().for_each(|nll| scores.add(nll));
        base.as_mut().map_or(Ok(()), |base| base.rows(logits))
    })?;
    let result = scores.finish(text.chunks.len())?;
    base.map_or(Ok(()), BaseWriter::finish)?;
    progress.end();
    Ok(result)
}

/// [`nll`] of each row of logits `(rows, vocab)` and its target.
pub(super) fn nlls(isa: Isa, logits: &[f32], targets: &[u32]) -> Vec<f64> {
    let rows = logits.par_chunks_exact(logits.len() / targets.len()).zip(targets);
    rows.map_init(Vec::new, |weights, (logits, target)| nll(isa, logits, *target, weights)).collect()
}

/// `-log softmax(logits)[target]`, in `f64`, of finite logits; `weights` is memory for their exponentials.
fn nll(isa: Isa, logits: &[f32], target: u32, weights: &mut Vec<f64>) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.resize(logits.len(), 0.0);
    let total = isa.exponentials(logits, peak, weights);
    f64::from(peak) + libm::log(total) - f64::from(logits[target as usize])
}

#[derive(Default)]
struct Scores {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Scores {
    fn add(&mut self, nll: f64) {
        self.n += 1;
        self.sum += nll;
        self.squares += nll * nll;
    }

    fn finish(&self, chunks: usize) -> Result<Perplexity> {
        if self.n < 2 {
            return Err(Error::TooFewScored);
        }
        let n = self.n as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let perplexity = libm::exp(mean);
        let standard_error = (variance / (n - 1.0)).sqrt() * perplexity;
        if !(perplexity.is_finite() && standard_error.is_finite()) {
            return Err(Error::PerplexityOverflow { mean_nll: mean });
        }
        Ok(Perplexity { mean_nll: mean, perplexity, standard_error, tokens_scored: self.n, chunks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_log_of_the_vocabulary() {
        let nll = |logits: &[f32], target| nll(Isa::best(), logits, target, &mut Vec::new());
        assert!((nll(&[3.0; 1000], 17) - 1000f64.ln()).abs() < 1e-12);
        assert!((nll(&[0.0, 1000.0], 0) - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn the_error_is_that_of_the_mean_times_the_perplexity() {
        let mut scores = Scores::default();
        [1.0, 2.0, 3.0, 4.0].into_iter().for_each(|nll| scores.add(nll));
        let p = scores.finish(1).unwrap();
        assert!((p.perplexity - 2.5f64.exp()).abs() < 1e-12);
        assert!((p.standard_error - (1.25f64 / 3.0).sqrt() * p.perplexity).abs() < 1e-12);
    }

    #[test]
    fn no_result_is_not_a_number() {
        for (nlls, words) in [(&[][..], "one token"), (&[1.0], "one token"), (&[900.0, 800.0], "too large")] {
            let mut scores = Scores::default();
            nlls.iter().for_each(|nll| scores.add(*nll));
            let said = scores.finish(1).unwrap_err().to_string();
            assert!(said.contains(words), "{words:?} is not in: {said}");
        }
    }
}
