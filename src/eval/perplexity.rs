//! Perplexity with llama.cpp's definition, so that numbers can be compared: the text is cut into chunks of the context length, the first
//! token of each is replaced by BOS, and the second half of each is scored.

use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::eval::base_file::BaseWriter;
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;
use rayon::prelude::*;
use std::ops::Range;

/// The number of chunks in one pass.
const CHUNKS_PER_PASS: usize = 8;
/// The number of rows of logits in memory at a time.
pub(super) const LOGIT_ROWS: usize = 64;

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

/// A text in chunks of equal length.
pub struct Chunks<'a> {
    tokens: &'a [u32], // (chunks, context)
    context: usize,
    bos: Option<u32>,
}

impl<'a> Chunks<'a> {
    /// Cuts `tokens` into chunks of `context`, at most `max_chunks`. `bos` replaces the first token of each in a pass. What does not fill
    /// a chunk is left out.
    ///
    /// # Errors
    /// If the tokens do not fill one chunk, or the context is too small.
    pub fn cut(tokens: &'a [u32], context: usize, max_chunks: Option<usize>, bos: Option<u32>) -> Result<Chunks<'a>> {
        if context < 4 {
            return Err(Error::ContextTooSmall { context });
        }
        match (tokens.len() / context).min(max_chunks.unwrap_or(usize::MAX)) {
            0 => Err(Error::TextTooShort { tokens: tokens.len(), chunk: context }),
            chunks => Ok(Chunks { tokens: &tokens[..chunks * context], context, bos }),
        }
    }

    /// The tokens of all chunks, as they are in the text.
    pub fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// The number of chunks.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.context
    }
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
    score(model, &Chunks::cut(tokens, context, max_chunks, bos)?, types, None, progress)
}

/// Scores chunks, and writes their distributions to a base file of them, if there is one. `progress` counts tokens.
///
/// # Errors
/// As [`perplexity`], or if the file cannot be written.
pub fn score(
    model: &Model,
    chunks: &Chunks<'_>,
    types: CacheTypes,
    mut base: Option<BaseWriter>,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    let mut scores = Scores::default();
    progress.begin("perplexity", chunks.tokens.len() as u64);
    for_each_scored(model, chunks, types, progress, &mut |&Scored { logits, targets, .. }| {
        let vocab = logits.len() / targets.len();
        let nlls: Vec<f64> = logits.par_chunks_exact(vocab).zip(targets).map(|(l, t)| nll(l, *t)).collect();
        nlls.into_iter().for_each(|nll| scores.add(nll));
        base.as_mut().map_or(Ok(()), |base| base.rows(logits))
    })?;
    progress.end();
    let result = scores.finish(chunks.count())?;
    base.map_or(Ok(()), BaseWriter::finish)?;
    Ok(result)
}

/// The logits after some scored tokens of a chunk.
pub(super) struct Scored<'a> {
    /// The chunk.
    pub chunk: usize,
    /// Places of these among the scored tokens of the chunk.
    pub rows: Range<usize>,
    /// `(rows, vocab)`
    pub logits: &'a [f32],
    /// `(rows)`: the tokens that follow.
    pub targets: &'a [u32],
}

/// Calls `each` for positions `context / 2 .. context - 1` of all chunks in order, some rows at a time. `progress` counts tokens.
///
/// # Errors
/// If a number of a pass is not finite, weights cannot be read, or the user stopped; or the error of `each`.
pub(super) fn for_each_scored(
    model: &Model,
    chunks: &Chunks<'_>,
    types: CacheTypes,
    progress: &dyn Progress,
    each: &mut dyn FnMut(&Scored<'_>) -> Result<()>,
) -> Result<()> {
    let &Chunks { tokens, context, bos } = chunks;
    let mut scratch = Scratch::default();
    let cache = |_| KvCache::with_types(model.hyperparameters(), context, types);
    let mut caches: Vec<KvCache> = (0..CHUNKS_PER_PASS.min(chunks.count())).map(cache).collect::<Result<_>>()?;
    let scored = context / 2..context - 1;
    for (group_number, group) in tokens.chunks(CHUNKS_PER_PASS * context).enumerate() {
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
            for start in scored.clone().step_by(LOGIT_ROWS) {
                progress.check()?;
                let rows = start..(start + LOGIT_ROWS).min(scored.end);
                let targets = &tokens[rows.start + 1..rows.end + 1];
                let logits = hidden.logits(i * context + rows.start..i * context + rows.end, progress)?;
                let (chunk, rows) = (group_number * CHUNKS_PER_PASS + i, start - scored.start..rows.end - scored.start);
                each(&Scored { chunk, rows, logits, targets })?;
            }
            progress.advance(context as u64);
        }
        model.check()?;
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
