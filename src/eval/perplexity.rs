//! Perplexity with llama.cpp's definition, so that numbers can be compared: the text is cut into chunks of the context length, the first
//! token of each is replaced by BOS, and the second half of each is scored.

use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::model::{CacheTypes, Hidden, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;
use rayon::prelude::*;

/// The number of chunks in one pass.
const CHUNKS_PER_PASS: usize = 8;
/// The number of rows of logits in memory at a time.
const LOGIT_ROWS: usize = 64;

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

/// The memory beside the weights that scoring `tokens` tokens in chunks of `context` takes.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(
    of: &Hyperparameters,
    tokens: usize,
    context: usize,
    max_chunks: Option<usize>,
    types: CacheTypes,
) -> Result<MemoryNeed> {
    let chunks = tokens.checked_div(context).unwrap_or(0).min(max_chunks.unwrap_or(usize::MAX));
    let sequences = CHUNKS_PER_PASS.min(chunks);
    let kv = KvCache::bytes(of, context, types)?.saturating_mul(sequences as u64);
    Ok(MemoryNeed::passes(of, kv, sequences.saturating_mul(context), LOGIT_ROWS))
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
    if context < 4 {
        return Err(Error::ContextTooSmall { context });
    }
    let chunks = (tokens.len() / context).min(max_chunks.unwrap_or(usize::MAX));
    if chunks == 0 {
        return Err(Error::TextTooShort { tokens: tokens.len(), chunk: context });
    }
    progress.begin("perplexity", (chunks * context) as u64);
    let (mut scratch, mut scores) = (Scratch::default(), Scores::default());
    let cache = |_| KvCache::with_types(model.hyperparameters(), context, types);
    let mut caches: Vec<KvCache> = (0..CHUNKS_PER_PASS.min(chunks)).map(cache).collect::<Result<_>>()?;
    for group in tokens[..chunks * context].chunks(CHUNKS_PER_PASS * context) {
        progress.check()?;
        let texts: Vec<Vec<u32>> = group
            .chunks_exact(context)
            .map(|chunk| bos.into_iter().chain(chunk[bos.is_some() as usize..].iter().copied()).collect())
            .collect();
        let mut segments: Vec<Segment<'_>> = (texts.iter().zip(&mut caches))
            .map(|(tokens, cache)| {
                cache.truncate(0);
                Segment { tokens, cache }
            })
            .collect();
        let mut hidden = model.pass(&mut scratch, &mut segments, progress)?;
        for (i, tokens) in texts.iter().enumerate() {
            score_chunk(&mut hidden, i * context, tokens, &mut scores, progress)?;
            progress.advance(context as u64);
        }
        model.check()?;
    }
    progress.end();
    scores.finish(chunks)
}

/// Scores positions `context / 2 .. context - 1` of one chunk, whose first token is the pass's `first`th, against the tokens that follow
/// them.
fn score_chunk(
    hidden: &mut Hidden<'_>,
    first: usize,
    tokens: &[u32],
    scores: &mut Scores,
    progress: &dyn Progress,
) -> Result<()> {
    let end = tokens.len() - 1;
    for start in (tokens.len() / 2..end).step_by(LOGIT_ROWS) {
        let rows = start..(start + LOGIT_ROWS).min(end);
        let targets = &tokens[rows.start + 1..rows.end + 1];
        let logits = hidden.logits(first + rows.start..first + rows.end, progress)?; // (rows, vocab)
        let vocab = logits.len() / rows.len();
        let nlls: Vec<f64> = logits.par_chunks_exact(vocab).zip(targets).map(|(l, t)| nll(l, *t)).collect();
        nlls.into_iter().for_each(|nll| scores.add(nll));
    }
    Ok(())
}

/// `-log softmax(logits)[target]`, in `f64`, of finite logits.
pub fn nll(logits: &[f32], target: u32) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let total: f64 = logits.iter().map(|&l| libm::exp(l as f64 - peak)).sum();
    peak + libm::log(total) - logits[target as usize] as f64
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
