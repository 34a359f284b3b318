//! What a layer computes:
//!
//! ```text
//! x = norm(h);   q, k, v = Wq x, Wk x, Wv x;   rotate q, k;   append k, v to the KV cache
//! h = h + Wo attention(q, k, v)
//! x = norm(h);   h = h + Wdown(act(Wgate x) * Wup x)
//! ```
//! Some models norm the heads of q and k first, some layers rotate nothing, and some models scale what is added to `h`.
//!
//! Inside a layer the tokens go in sub-batches, which bound the memory between the matrices.

use super::finite::{Stage, finite};
use super::{KvCache, Model};
use crate::arch::{Activation, MatrixInput, Norm, Role};
use crate::weights::{Layer, Linear};
use std::ops::{ControlFlow, Range};
use strata_kernels::{AttentionScratch, Rotation, SequenceChunk};
use strata_quant::Activations;

/// Tokens that go through a layer's matrices together.
pub(crate) const SUB_BATCH: usize = 512;

/// New tokens of one sequence, which continue what its cache holds.
pub struct Segment<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// The keys and values of the sequence so far.
    pub cache: &'a mut KvCache,
}

/// Sees what each matrix reads, `(tokens, columns)`, before it is multiplied: the layer, which input it is, the values. A hook that breaks is
/// not interested in what the rest of the layer makes of these tokens: their hidden states stay as they are then.
pub type Hook<'a> = dyn FnMut(usize, MatrixInput, &Activations) -> ControlFlow<()> + 'a;

/// Buffers that passes reuse: after the first pass of a shape, the next allocates nothing.
#[derive(Default)]
pub struct Scratch {
    pub(super) h: Vec<f32>,        // (tokens, hidden): the hidden states of a pass
    pub(super) logits: Vec<f32>,   // (rows, vocab)
    pub(super) rotation: Rotation, // of the positions of a pass
    pub(super) places: Vec<usize>, // (tokens): of each token's position in the rotation
    pub(super) shared: Vec<usize>, // (segments): tokens at its beginning that are those of the segment before it
    pub(super) x: Activations,     // (sub-batch, hidden or q width or ffn): what the next matrix reads
    chunks: Vec<SequenceChunk>,    // of the sub-batch
    q: Vec<f32>,                   // (sub-batch, heads, head_dim)
    k: Vec<f32>,                   // (sub-batch, kv_heads, head_dim)
    v: Vec<f32>,                   // (sub-batch, kv_heads, head_dim)
    gate: Vec<f32>,                // (sub-batch, ffn)
    up: Vec<f32>,                  // (sub-batch, ffn)
    y: Vec<f32>,                   // (sub-batch, hidden)
    attention: AttentionScratch,
}

impl Model {
    /// Layer `i`, whose weights are `w`, over the tokens of all segments: `h (tokens, hidden)` in place. Appends their keys and values to
    /// the caches, whose lengths stay. The tokens' places in `rotation`, and what the segments share, are in `scratch`.
    ///
    /// # Errors
    /// The operation whose results are not finite.
    pub(super) fn layer(
        &self,
        i: usize,
        w: &Layer<'_>,
        h: &mut [f32],
        segments: &mut [Segment<'_>],
        (scratch, rotation): (&mut Scratch, &Rotation),
        mut hook: Option<&mut Hook<'_>>,
    ) -> Result<(), Stage> {
        let hidden = self.hyperparameters.hidden;
        let tokens = h.len() / hidden;
        for start in (0..tokens).step_by(SUB_BATCH) {
            let range = start..(start + SUB_BATCH).min(tokens);
            let h = &mut h[range.start * hidden..range.end * hidden]; // (n, hidden)
            let mut see =
                |input, x: &Activations| hook.as_mut().map_or(ControlFlow::Continue(()), |hook| hook(i, input, x));
            if self.attention(i, w, h, range, segments, (&mut *scratch, rotation), &mut see)?.is_continue() {
                // Whoever breaks there wants no more either.
                let _ = self.feed_forward(w, h, scratch, &mut see)?;
            }
        }
        Ok(())
    }

    /// `h = h + Wo attention(norm(h))` for `range` of the tokens of all segments, whose hidden states are `h`; leaves `norm(h)` in
    /// `scratch.x`. Whatever a later step would lose is checked: NaN is no maximum of a softmax, and has no 8-bit code.
    // The layer, its weights, and the batch are one argument each elsewhere; here their parts are borrowed apart.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        i: usize,
        w: &Layer<'_>,
        h: &mut [f32],
        range: Range<usize>,
        segments: &mut [Segment<'_>],
        (scratch, rotation): (&mut Scratch, &Rotation),
        see: &mut impl FnMut(MatrixInput, &Activations) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stage> {
        let (of, cpu, n) = (&self.hyperparameters, &self.cpu, range.len());
        let Norm::Rms = self.architecture.norm;
        let Scratch { places, shared, x, q, k, v, y, chunks, attention, .. } = scratch;

        finite(cpu.rms_norm(h, w.attn_norm, of.norm_eps, x.reset(n, of.hidden)), Stage::AttentionNorm)?;
        if see(MatrixInput::Attention, x).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let [q, k, v] = self.linears([w.q, w.k, w.v], x, [q, k, v]);
        let normed = |x: &mut [f32], heads, norm: Option<&[f32]>, role| {
            finite(norm.is_none_or(|w| cpu.rms_norm_heads(x, heads, w, of.norm_eps)), Stage::Projection(role))
        };
        normed(q, of.heads, w.q_norm, Role::AttnQ)?;
        normed(k, of.kv_heads, w.k_norm, Role::AttnK)?;
        if !of.no_rope.contains(i) {
            cpu.rope(q, of.heads, of.head_dim, rotation, &places[range.clone()]);
            cpu.rope(k, of.kv_heads, of.head_dim, rotation, &places[range.clone()]);
        }

        chunks_of(segments, range, chunks);
        let (mut keys, mut values) = (&*k, &*v);
        for chunk in &*chunks {
            let shared = shared[chunk.sequence];
            if shared > 0 && chunk.position == shared {
                let (before, own) = segments.split_at_mut(chunk.sequence);
                own[0].cache.copy_beginning(before[chunk.sequence - 1].cache, i, shared);
            }
            let (layout, entries) = segments[chunk.sequence].cache.entries_mut(i);
            let len = chunk.tokens * of.kv_width();
            cpu.append_kv(layout, chunk.position, &keys[..len], &values[..len], entries);
            (keys, values) = (&keys[len..], &values[len..]);
        }
        let entries = |sequence: usize| segments[sequence].cache.entries(i);
        let attended = cpu.attention(attention, of.attention(i), q, chunks, entries, x.reset(n, of.q_width()));
        if !attended {
            return Err(Stage::of_attention(q, k, v, entries(chunks[0].sequence).layout));
        }
        if see(MatrixInput::AttentionOutput, x).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let [attended] = self.linears([w.o], x, [y]);
        cpu.scale(attended, of.scales.residual);
        let normed = cpu.add_rms_norm(h, attended, w.ffn_norm, of.norm_eps, x.reset(n, of.hidden));
        finite(normed, Stage::AttentionOutput).map(ControlFlow::Continue)
    }

    /// `h = h + Wdown(act(Wgate x) * Wup x)`, where `x` is `scratch.x`.
    fn feed_forward(
        &self,
        w: &Layer<'_>,
        h: &mut [f32],
        scratch: &mut Scratch,
        see: &mut impl FnMut(MatrixInput, &Activations) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stage> {
        let (of, cpu) = (&self.hyperparameters, &self.cpu);
        let Activation::Silu = self.architecture.activation;
        let Scratch { x, gate, up, y, .. } = scratch;
        if see(MatrixInput::Ffn, x).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let [gate, up] = self.linears([w.gate, w.up], x, [gate, up]);
        let n = x.rows();
        finite(cpu.silu_mul(gate, up, x.reset(n, of.ffn)), Stage::Gate)?;
        if see(MatrixInput::FfnDown, x).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let [down] = self.linears([w.down], x, [y]);
        cpu.scale(down, of.scales.residual);
        finite(cpu.add(h, down, of.hidden), Stage::Down).map(ControlFlow::Continue)
    }

    /// `W x + b`, and what adapters add, of all matrices that read the same `x`, into the fronts of `ys`, `(rows of x, rows of W)` each.
    pub(super) fn linears<'y, const N: usize>(
        &self,
        ws: [Linear<'_>; N],
        x: &mut Activations,
        ys: [&'y mut Vec<f32>; N],
    ) -> [&'y mut [f32]; N] {
        let mut lengths = ws.iter().map(|w| x.rows() * w.weight.rows());
        let mut ys = ys.map(|y| {
            let len = lengths.next().expect("as many results as matrices");
            if y.len() < len {
                y.resize(len, 0.0);
            }
            &mut y[..len]
        });
        self.cpu.matmuls(ws.map(|w| w.weight), x, ys.each_mut().map(|y| &mut **y));
        for (w, y) in ws.iter().zip(&mut ys) {
            if let Some(bias) = w.bias {
                // Whoever reads the results checks them.
                let _ = self.cpu.add_bias(y, bias);
            }
            if let Some(head_dim) = w.head_dim {
                interleave(y, head_dim);
            }
            w.low_rank.iter().for_each(|added| added.add(&self.cpu, x, y));
        }
        ys
    }
}

/// Which tokens of which segments are in `range` of all of them.
fn chunks_of(segments: &[Segment<'_>], range: Range<usize>, chunks: &mut Vec<SequenceChunk>) {
    chunks.clear();
    let mut first = 0;
    for (sequence, Segment { tokens, cache }) in segments.iter().enumerate() {
        let (start, end) = (range.start.max(first), range.end.min(first + tokens.len()));
        if start < end {
            chunks.push(SequenceChunk { sequence, tokens: end - start, position: cache.len() + start - first });
        }
        first += tokens.len();
    }
}

/// The longest head that [`interleave`] has room for; that of [`crate::arch::hyperparameters`] is no longer.
const LONGEST_HEAD: usize = crate::arch::hyperparameters::MAX_HEAD_DIM;

/// Puts the two halves of every head of `y (tokens, heads, head_dim)` together in pairs: the results of rows in the order of a checkpoint
/// become those of the rows that [`crate::arch::tensors::permuted_row`] takes.
fn interleave(y: &mut [f32], head_dim: usize) {
    let mut halves = [0.0; LONGEST_HEAD];
    let halves = &mut halves[..head_dim];
    for head in y.chunks_exact_mut(head_dim) {
        halves.copy_from_slice(head);
        let (first, second) = halves.split_at(head_dim / 2);
        for ((pair, &a), &b) in head.as_chunks_mut().0.iter_mut().zip(first).zip(second) {
            *pair = [a, b];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::tensors::permuted_row;

    #[test]
    fn results_are_permuted_as_rows_are() {
        for head_dim in [2, 8, 64] {
            let results: Vec<f32> = (0..6 * head_dim).map(|r| r as f32).collect();
            let mut interleaved = results.clone();
            interleave(&mut interleaved, head_dim);
            let permuted: Vec<f32> = (0..results.len()).map(|r| results[permuted_row(r, head_dim)]).collect();
            assert_eq!(interleaved, permuted);
        }
    }
}
