//! The chunks of a text through one model, some of them in each pass, and the logits after every scored token: perplexity, base files and
//! tasks alike. The memory does not grow with the text.

use super::compare::text::Chunk;
use super::compare::{Head, Text, Transform};
use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;

/// Chunks of a pass, however long they are.
const CHUNKS: usize = 8;

/// Tokens up to which a pass takes more chunks.
const TOKENS: usize = 4096;

/// Rows of logits in memory at a time.
pub(super) const LOGIT_ROWS: usize = 64;

/// The chunks of each pass.
fn passes(text: &Text) -> Vec<&[Chunk]> {
    let (mut passes, mut rest) = (Vec::new(), &text.chunks[..]);
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |(i, chunk): &(usize, &Chunk)| {
            tokens += chunk.tokens.len();
            *i < CHUNKS || tokens <= TOKENS
        };
        let (pass, others) = rest.split_at(rest.iter().enumerate().take_while(fits).count());
        passes.push(pass);
        rest = others;
    }
    passes
}

/// The longest sequence that each KV cache must hold: that of the first chunk of each pass, of the second ...
fn capacities(passes: &[&[Chunk]]) -> Vec<usize> {
    let mut capacities = Vec::new();
    for pass in passes {
        capacities.resize(capacities.len().max(pass.len()), 0);
        capacities.iter_mut().zip(*pass).for_each(|(most, chunk)| *most = chunk.tokens.len().max(*most));
    }
    capacities
}

/// The memory beside the weights that the passes take.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(of: &Hyperparameters, text: &Text, types: CacheTypes) -> Result<MemoryNeed> {
    let passes = passes(text);
    // Every layer of a cache begins at a page.
    let page = 4096 * of.layers as u64;
    let cache = |tokens: usize| Ok(KvCache::bytes(of, tokens, types)?.saturating_add(page));
    let kv = capacities(&passes).into_iter().map(cache).collect::<Result<Vec<u64>>>()?;
    let tokens = passes.iter().map(|pass| pass.iter().map(|chunk| chunk.tokens.len()).sum()).max();
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
    let (of, identity, passes) = (model.hyperparameters(), Transform::default(), passes(text));
    let mut head = Head::new(model, &identity);
    let cache = |tokens: usize| KvCache::with_types(of, tokens, types);
    let mut caches: Vec<KvCache> = capacities(&passes).into_iter().map(cache).collect::<Result<_>>()?;
    let (mut scratch, mut h, mut logits) = (Scratch::default(), Vec::new(), Vec::new());
    for pass in passes {
        progress.check()?;
        caches.iter_mut().for_each(|cache| cache.truncate(0));
        let sequences = pass.iter().zip(&mut caches);
        let mut segments: Vec<_> = sequences.map(|(chunk, cache)| Segment { tokens: &chunk.tokens, cache }).collect();
        let hidden = model.pass(&mut scratch, &mut segments, progress)?;
        let (mut first, mut scored) = (0, Vec::new());
        for chunk in pass {
            scored.extend(chunk.positions().map(|at| (first + at, chunk.tokens[at + 1])));
            first += chunk.tokens.len();
        }
        for scored in scored.chunks(LOGIT_ROWS) {
            progress.check()?;
            h.clear();
            scored.iter().for_each(|(row, _)| h.extend_from_slice(&hidden.states()[row * of.hidden..][..of.hidden]));
            head.logits(&h, &mut logits, progress)?;
            each(&logits, &scored.iter().map(|&(_, token)| token).collect::<Vec<_>>())?;
        }
        progress.advance(first as u64);
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
            let chunk = |&n: &usize| Chunk { number: 0, tokens: vec![0; n], scored: Vec::new() };
            let text = Text::of_chunks("t", lengths.iter().map(chunk).collect());
            let passes = passes(&text);
            (passes.iter().map(|pass| pass.len()).collect::<Vec<_>>(), capacities(&passes))
        };
        assert_eq!(of(&[4096; 20]), (vec![8, 8, 4], vec![4096; 8]));
        assert_eq!(of(&[512; 20]).0, [8, 8, 4]);
        assert_eq!(of(&[64; 100]).0, [64, 36]);
        let (passes, capacities) = of(&[&[100; 41][..], &[9000], &[100; 3]].concat());
        assert_eq!((passes, capacities[0], capacities[1]), (vec![40, 5], 100, 9000));
    }
}
