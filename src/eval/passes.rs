//! The chunks of a text through one model, some of them in each pass, and the logits after every scored token: perplexity, base files and
//! tasks alike. The memory does not grow with the text.

use super::compare::text::{Chunk, scored};
use super::compare::{Head, Text, Transform};
use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::model::{CacheTypes, MemoryNeed, Model, Scratch, WholeSequences};
use crate::progress::Progress;

/// Chunks of a pass, however long they are.
const CHUNKS: usize = 8;

/// Tokens up to which a pass takes more chunks.
const TOKENS: usize = 4096;

/// Rows of logits in memory at a time.
pub(super) const LOGIT_ROWS: usize = 64;

/// The fewest tokens for which it pays to find them computed.
const FEWEST_SHARED: usize = 4;

/// Chunks that go through the model together. The answers to a question follow each other, and begin alike: what a chunk has in common with
/// the one before it is computed once. A result does not depend on what else is in a pass.
struct Pass<'t> {
    chunks: &'t [Chunk],
    tokens: Vec<u32>,    // of all chunks, without what they share
    lengths: Vec<usize>, // of these
    shared: Vec<usize>,  // tokens at the beginning of each chunk that are those of the chunk before
}

impl Pass<'_> {
    fn of(chunks: &[Chunk]) -> Pass<'_> {
        let mut pass = Pass { chunks, tokens: Vec::new(), lengths: Vec::new(), shared: Vec::new() };
        let mut before: &[u32] = &[];
        for Chunk { tokens, .. } in chunks {
            let same = before.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            let shared = same.min(tokens.len() - 1);
            let shared = if shared < FEWEST_SHARED { 0 } else { shared };
            pass.tokens.extend_from_slice(&tokens[shared..]);
            pass.lengths.push(tokens.len() - shared);
            pass.shared.push(shared);
            before = tokens;
        }
        pass
    }
}

/// The passes of a text: chunks of so many tokens each.
fn passes(chunks: &[Chunk]) -> impl Iterator<Item = Pass<'_>> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |(i, chunk): &(usize, &Chunk)| {
            tokens += chunk.tokens.len();
            *i < CHUNKS || tokens <= TOKENS
        };
        let (pass, others) = rest.split_at(rest.iter().enumerate().take_while(fits).count());
        rest = others;
        (!pass.is_empty()).then(|| Pass::of(pass))
    })
}

/// The memory beside the weights that the passes take.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(of: &Hyperparameters, text: &Text, types: CacheTypes) -> Result<MemoryNeed> {
    let mut need = MemoryNeed::default();
    for Pass { lengths, shared, .. } in passes(&text.chunks) {
        // A page more for the cache of each sequence.
        let kv = WholeSequences::kv_bytes_sharing(of, &lengths, &shared, types)? + 4096 * lengths.len() as u64;
        let MemoryNeed { kv, scratch } = MemoryNeed::passes(of, kv, lengths.iter().sum(), LOGIT_ROWS);
        need = MemoryNeed { kv: need.kv.max(kv), scratch: need.scratch.max(scratch) };
    }
    Ok(need)
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
    let (of, identity) = (model.hyperparameters(), Transform::default());
    let mut head = Head::new(model, &identity);
    let (mut scratch, mut h, mut logits) = (Scratch::default(), Vec::new(), Vec::new());
    for Pass { chunks, tokens, lengths, shared } in passes(&text.chunks) {
        progress.check()?;
        let sequences = WholeSequences::sharing(of, &tokens, &lengths, &shared, types)?;
        let hidden = model.pass_whole(&mut scratch, sequences, progress)?;
        for scored in scored(chunks, &shared).chunks(LOGIT_ROWS) {
            progress.check()?;
            h.clear();
            scored.iter().for_each(|at| h.extend_from_slice(&hidden.states()[at.row * of.hidden..][..of.hidden]));
            head.logits(&h, &mut logits, progress)?;
            each(&logits, &scored.iter().map(|scored| scored.token).collect::<Vec<_>>())?;
        }
        progress.advance(chunks.iter().map(|chunk| chunk.tokens.len() as u64).sum());
        model.check()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(tokens: Vec<u32>) -> Chunk {
        Chunk { number: 0, scored: vec![0..tokens.len() - 1], tokens }
    }

    #[test]
    fn passes_have_many_short_chunks_or_a_few_long_ones() {
        let of = |lengths: &[usize]| {
            let chunks: Vec<Chunk> = lengths.iter().enumerate().map(|(i, len)| chunk(vec![i as u32; *len])).collect();
            passes(&chunks).map(|pass| pass.chunks.len()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[4096; 20]), [8, 8, 4]);
        assert_eq!(of(&[512; 20]), [8, 8, 4]);
        assert_eq!(of(&[64; 100]), [64, 36]);
        assert_eq!(of(&[&[100; 41][..], &[9000], &[100; 3]].concat()), [40, 5]);
    }

    #[test]
    fn what_chunks_have_in_common_is_in_a_pass_once() {
        let all: [&[u32]; 6] = [
            &[1, 2, 3, 4, 5, 6],
            &[1, 2, 3, 4, 5, 7, 8],
            &[1, 2, 3, 4, 9],
            &[1, 2, 3],
            &[5, 5, 5, 5, 5],
            &[5, 5, 5, 5, 5],
        ];
        let chunks = all.map(|tokens| chunk(tokens.to_vec()));
        let pass = Pass::of(&chunks);
        assert_eq!(pass.shared, [0, 5, 4, 0, 0, 4]);
        assert_eq!(pass.lengths, [6, 2, 1, 3, 5, 1]);
        assert_eq!(pass.tokens, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 5, 5, 5, 5, 5, 5]);
        // The row after each scored token's predecessor holds that predecessor, with the same tokens before it.
        let scored = scored(&chunks, &pass.shared);
        let rows: Vec<usize> = scored.iter().map(|scored| scored.row).collect();
        let expected: [&[usize]; 6] =
            [&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4, 6], &[0, 1, 2, 3], &[9, 10], &[12, 13, 14, 15], &[12, 13, 14, 15]];
        assert_eq!(rows, expected.concat());
    }
}
