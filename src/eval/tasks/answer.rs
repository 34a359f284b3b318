//! The answers of one model: its sequences in groups, each in one pass.

use super::scoring::Answers;
use super::{Sequence, Tasks};
use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::eval::compare::{Head, Transform};
use crate::eval::perplexity::nll;
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;
use rayon::prelude::*;

/// The most tokens of a pass, but for a longer sequence.
const TOKENS_PER_PASS: usize = 4096;

/// Rows of logits in memory at a time.
const LOGIT_ROWS: usize = 64;

/// The sequences of each pass.
fn passes(tasks: &Tasks) -> Vec<Vec<&Sequence>> {
    let (mut passes, mut tokens) = (vec![Vec::new()], 0);
    for sequence in tasks.sequences() {
        tokens += sequence.tokens.len();
        match passes.last_mut() {
            Some(pass) if tokens <= TOKENS_PER_PASS || pass.is_empty() => pass.push(sequence),
            _ => {
                tokens = sequence.tokens.len();
                passes.push(vec![sequence]);
            }
        }
    }
    passes
}

/// The memory beside the weights that answering takes.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(of: &Hyperparameters, tasks: &Tasks, types: CacheTypes) -> Result<MemoryNeed> {
    let tokens = |pass: &Vec<&Sequence>| pass.iter().map(|sequence| sequence.tokens.len()).sum();
    // Caches begin at pages of memory, each layer of each.
    const PAGE: u64 = 4096;
    let cache = |sequence: &&Sequence| -> Result<u64> {
        Ok(KvCache::bytes(of, sequence.tokens.len(), types)? + PAGE * of.layers as u64)
    };
    let passes = passes(tasks);
    let kv = passes.iter().map(|pass| pass.iter().map(cache).sum()).collect::<Result<Vec<u64>>>()?;
    let most = passes.iter().map(tokens).max().unwrap_or(0);
    Ok(MemoryNeed::passes(of, kv.into_iter().max().unwrap_or(0), most, LOGIT_ROWS))
}

/// The answers of a model. `types` are those of the cache; `progress` counts tokens.
///
/// # Errors
/// If the memory cannot be had, weights cannot be read, a number is not finite, or the user stopped.
pub fn answer(model: &Model, tasks: &Tasks, types: CacheTypes, progress: &dyn Progress) -> Result<Answers> {
    let (d, identity) = (model.hyperparameters().hidden, Transform::default());
    let mut head = Head::new(model, &identity);
    let (mut scratch, mut nlls) = (Scratch::default(), Vec::with_capacity(tasks.scored()));
    let (mut h, mut logits) = (Vec::new(), Vec::new());
    progress.begin(tasks.kind.name(), tasks.sequences().map(|sequence| sequence.tokens.len() as u64).sum());
    for pass in passes(tasks) {
        let cache = |sequence: &&Sequence| KvCache::with_types(model.hyperparameters(), sequence.tokens.len(), types);
        let mut caches: Vec<KvCache> = pass.iter().map(cache).collect::<Result<_>>()?;
        let sequences = pass.iter().zip(&mut caches);
        let mut segments: Vec<_> =
            sequences.map(|(sequence, cache)| Segment { tokens: &sequence.tokens, cache }).collect();
        let hidden = model.pass(&mut scratch, &mut segments, progress)?;
        let (mut first, mut scored) = (0, Vec::new());
        for sequence in &pass {
            scored.extend(sequence.scored.iter().map(|&(row, token)| (first + row, token)));
            first += sequence.tokens.len();
        }
        for scored in scored.chunks(LOGIT_ROWS) {
            progress.check()?;
            h.clear();
            scored.iter().for_each(|&(row, _)| h.extend_from_slice(&hidden.states()[row * d..(row + 1) * d]));
            head.logits(&h, &mut logits, progress)?;
            let rows = logits.par_chunks_exact(logits.len() / scored.len()).zip(scored);
            nlls.extend(rows.map(|(logits, (_, token))| nll(logits, *token)).collect::<Vec<_>>());
        }
        progress.advance(first as u64);
    }
    model.check()?;
    progress.end();
    Ok(Answers::of(tasks, &nlls))
}
