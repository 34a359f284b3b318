//! The chunks of a text through one model, some of them in each pass, and the logits after every scored token: perplexity, base files and
//! tasks alike. The memory does not grow with the text.

use super::compare::text::scored;
use super::compare::{Head, Text, Transform};
use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::model::sequences::longest_of;
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;
use std::ops::Range;

/// Chunks of a pass, however long they are.
const CHUNKS: usize = 8;

/// Tokens up to which a pass takes more chunks.
const TOKENS: usize = 4096;

/// Rows of logits in memory at a time.
pub(super) const LOGIT_ROWS: usize = 64;

/// The chunks of each pass, of so many tokens each.
fn passes(lengths: &[usize]) -> Vec<Range<usize>> {
    let (mut passes, mut first) = (Vec::new(), 0);
    while first < lengths.len() {
        let mut tokens = 0;
        let fits = |(i, len): &(usize, &usize)| {
            tokens += *len;
            *i < CHUNKS || tokens <= TOKENS
        };
        let chunks = lengths[first..].iter().enumerate().take_while(fits).count();
        passes.push(first..first + chunks);
        first += chunks;
    }
    passes
}

/// The memory beside the weights that the passes take.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(of: &Hyperparameters, text: &Text, types: CacheTypes) -> Result<MemoryNeed> {
    let lengths = text.lengths();
    let passes = passes(&lengths);
    // Every layer of a cache begins at a page.
    let page = 4096 * of.layers as u64;
    let cache = |tokens: usize| Ok(KvCache::bytes(of, tokens, types)?.saturating_add(page));
    let kv = longest_of(&lengths, &passes).into_iter().map(cache).collect::<Result<Vec<u64>>>()?;
    let tokens = passes.into_iter().map(|pass| lengths[pass].iter().sum()).max();
    let kv = kv.into_iter().fold(0, u64::saturating_add);
    Ok(MemoryNeed::passes(of, kv, tokens.unwrap_or(0), LOGIT_ROWS))
}

/// Takes the logits `(rows, vocab)` after some scored tokens and the tokens that follow them.
pub(super) type Each<'a> = dyn FnMut(&[f32], &[u32]) -> Result<()> + 'a;

/// Calls `each` with the logits after all scored tokens, some at a time, in the order of the text.
/// `types` are those of the cache; `progress` counts tokens.
///
/// # Errors
/// If the memory cannot be had, weights cannot be read, a number is not finite, or the user stopped; or the error of `each`.
pub(super) fn for_each_scored(
    model: &Model,
    text: &Text,
    types: CacheTypes,
    progress: &dyn Progress,
    each: &mut Each<'_>,
) -> Result<()> {
    let (of, identity, lengths) = (model.hyperparameters(), Transform::default(), text.lengths());
    let passes = passes(&lengths);
    let mut head = Head::new(model, &identity);
    let cache = |tokens: usize| KvCache::with_types(of, tokens, types);
    let mut caches: Vec<KvCache> = longest_of(&lengths, &passes).into_iter().map(cache).collect::<Result<_>>()?;
    let (mut scratch, mut h, mut logits) = (Scratch::default(), Vec::new(), Vec::new());
    for pass in passes {
        progress.check()?;
        caches.iter_mut().for_each(|cache| cache.truncate(0));
        let pass = &text.chunks[pass];
        let sequences = pass.iter().zip(&mut caches);
        let mut segments: Vec<_> = sequences.map(|(chunk, cache)| Segment { tokens: &chunk.tokens, cache }).collect();
        let hidden = model.pass(&mut scratch, &mut segments, progress)?;
        for scored in scored(pass).chunks(LOGIT_ROWS) {
            progress.check()?;
            h.clear();
            scored.iter().for_each(|at| h.extend_from_slice(&hidden.states()[at.row * of.hidden..][..of.hidden]));
            head.logits(&h, &mut logits, progress)?;
            each(&logits, &scored.iter().map(|scored| scored.token).collect::<Vec<_>>())?;
        }
        progress.advance(pass.iter().map(|chunk| chunk.tokens.len() as u64).sum());
        model.check()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_have_many_short_chunks_or_a_few_long_ones() {
        let of = |lengths: &[usize]| {
            let passes = passes(lengths);
            (passes.iter().map(|pass| pass.len()).collect::<Vec<_>>(), longest_of(lengths, &passes))
        };
        assert_eq!(of(&[4096; 20]), (vec![8, 8, 4], vec![4096; 8]));
        assert_eq!(of(&[512; 20]).0, [8, 8, 4]);
        assert_eq!(of(&[64; 100]).0, [64, 36]);
        let (passes, capacities) = of(&[&[100; 41][..], &[9000], &[100; 3]].concat());
        assert_eq!((passes, capacities[0], capacities[1]), (vec![40, 5], 100, 9000));
    }
}
