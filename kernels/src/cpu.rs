//! The operations of a transformer on one processor: an instruction set and a pool of threads.
//!
//! Work is cut into ranges that depend only on its shape and the number of threads; what each range computes depends on neither.

use crate::attention::{self, AttentionScratch, AttentionShape, KvEntries, KvLayout, SequenceChunk};
use crate::jobs::SPAN;
use crate::matmul::{Matrix, SharedOutput};
use crate::pool::Pool;
use crate::rope::{Rope, Rotation};
use crate::shared::SharedSlice;
use crate::table::Isa;
use std::array;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use strata_quant::activations::FormBuffers;
use strata_quant::activations::tiled::{TiledPart, Tiling};
use strata_quant::{ActivationBits, ActivationKind, Activations};

/// Rows of weights are shared out in multiples of this, the height of the register tiles.
const ROW_STEP: usize = 4;

/// Up to so many values one thread is done sooner than others are woken.
const ALONE: usize = 16 << 10;

/// Values that are handled in one go where rows do not matter.
const PIECE: usize = 1024;

/// How the rows of a matrix are shared out: most of them evenly, in long chunks that memory is read fast in; the last eighth in small pieces for
/// the first thread that is done, since no two are equally fast for long.
#[derive(Clone, Copy)]
struct Shares {
    rows: usize,
    step: usize,
    threads: usize,
    piece: usize, // rows
}

impl Shares {
    /// Pieces for each thread.
    const PIECES: usize = 2;

    fn new(rows: usize, step: usize, threads: usize) -> Shares {
        let piece = if threads > 1 { rows / (8 * Shares::PIECES * threads) / step * step } else { 0 };
        Shares { rows, step, threads, piece }
    }

    /// Rows that are shared out evenly; the pieces begin after them.
    fn even(&self) -> usize {
        self.rows - Shares::PIECES * self.threads * self.piece
    }

    /// The rows of thread `i`.
    fn own(&self, i: usize) -> Range<usize> {
        share(self.even(), self.step, i, self.threads)
    }

    /// Piece `i`, if there are so many.
    fn more(&self, i: usize) -> Option<Range<usize>> {
        let start = self.even() + i * self.piece;
        (self.piece > 0 && start < self.rows).then(|| start..start + self.piece)
    }
}

/// The `i`th of `of` shares of `n` things, cut at multiples of `step`.
fn share(n: usize, step: usize, i: usize, of: usize) -> Range<usize> {
    let steps = n.div_ceil(step);
    let cut = |i: usize| (steps * i / of * step).min(n);
    cut(i)..cut(i + 1)
}

/// An instruction set and a pool of threads. An operation that returns a `bool` says whether all its numbers were finite: what comes after
/// would lose those that are not.
pub struct Cpu {
    isa: Isa,
    activations: ActivationBits,
    pub(crate) pool: Pool,
}

impl Cpu {
    /// A processor with `threads` threads, at least one.
    pub fn new(isa: Isa, threads: usize) -> Cpu {
        Cpu { isa, activations: ActivationBits::default(), pool: Pool::new(threads) }
    }

    /// The same, which multiplies quantized weights with activations of this precision. Plain weights are multiplied with them as they are.
    pub fn with_activations(self, activations: ActivationBits) -> Cpu {
        Cpu { activations, ..self }
    }

    /// The precision of the activations that quantized weights are multiplied with.
    pub fn activations(&self) -> ActivationBits {
        self.activations
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes that the threads take for themselves: scratch for results, and what they use of their stacks. Measured (2026-11-25): 62 threads
    /// more made a process larger by 377 KB each, where this says 395.
    pub fn memory_bytes(&self) -> u64 {
        const STACK: usize = 128 << 10;
        let scratch = self.isa.table().gemm.map_or(0, |gemm| gemm.scratch_bytes);
        (self.threads() * (scratch + STACK)) as u64
    }

    /// `y = x w^T`: `w (n, k)`, `x (m, k)`, `y (m, n)`. Makes the form of `x` that `w` is multiplied with, if it is not there yet.
    pub fn matmul(&self, w: Matrix<'_>, x: &mut Activations, y: &mut [f32]) {
        self.matmuls([w], x, [y]);
    }

    /// [`Cpu::matmul`] of several matrices with the same `x`; the threads meet once, not after each.
    pub fn matmuls<const N: usize>(&self, ws: [Matrix<'_>; N], x: &mut Activations, ys: [&mut [f32]; N]) {
        x.set_bits(self.activations);
        let (m, planes, table) = (x.rows(), self.activations.planes(), self.isa.table());
        let products = ws.map(|w| {
            assert!(w.cols == x.cols(), "a product of {} with {} columns", w.cols, x.cols());
            self.prepare(w.format.activation, x);
            match table.gemm(w.format.ty, planes * m) {
                Some((gemm, kernel)) => {
                    let (kind, columns) = (w.format.activation, (gemm.nr)(m, planes));
                    let tiling = Tiling { kind, columns, bias: (kernel.bias)() };
                    self.prepare_tiles(tiling, x);
                    (w, kernel.run, Shares::new(w.rows, gemm.mr, self.threads()))
                }
                None => (w, table.gemv(w.format.ty), Shares::new(w.rows, ROW_STEP, self.threads())),
            }
        });
        let (x, mut heights) = (&*x, ws.iter().map(Matrix::rows));
        let ys = ys.map(|y| SharedOutput::new(y, m, heights.next().expect("as many results as matrices")));
        let next: [AtomicUsize; N] = array::from_fn(|_| AtomicUsize::new(0));
        self.pool.run(&|thread| {
            let run = |i: usize, rows: Range<usize>| {
                let (w, kernel, _) = products[i];
                for (rows, job) in w.jobs(rows) {
                    // SAFETY: `Isa` proves the instruction set of its table; of all shares no two have a row in common.
                    unsafe { kernel(job, x, ys[i].rows(rows)) }
                }
            };
            for i in 0..N {
                run(i, products[i].2.own(thread));
            }
            for i in 0..N {
                while let Some(rows) = products[i].2.more(next[i].fetch_add(1, Ordering::Relaxed)) {
                    run(i, rows);
                }
            }
        });
    }

    fn prepare_tiles(&self, tiling: Tiling, x: &mut Activations) {
        if x.tiled(tiling.kind, tiling.bias).is(tiling) {
            return;
        }
        let blocks = x.kc_blocks();
        x.tiled_mut(tiling, |whole| self.cut(whole, blocks, TiledPart::split_at, TiledPart::fill));
    }

    fn prepare(&self, kind: ActivationKind, x: &mut Activations) {
        if x.has(kind) {
            return;
        }
        let rows = x.rows();
        if rows * x.cols() < ALONE {
            // SAFETY: `Isa` proves the instruction set of its table.
            return unsafe { (self.isa.table().quantize)(x.form_mut(kind)) };
        }
        self.cut(x.form_mut(kind), rows, FormBuffers::split_at, |part| {
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().quantize)(part) }
        });
    }

    /// Every row of `x (m, d)` normalized into `y`; see `norm.rs`. `w` is `(d)`.
    #[must_use]
    pub fn rms_norm(&self, x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> bool {
        let d = w.len();
        assert!(x.len() == y.len() && x.len().is_multiple_of(d));
        self.rows_mut(y, d, |row, y| {
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().rms_norm)(&x[row * d..(row + 1) * d], w, eps, y) }
        })
    }

    /// Every head of every token, `x (tokens, heads, d)`, normalized in place; see `norm.rs`. `w` is `(d)`.
    #[must_use]
    pub fn rms_norm_heads(&self, x: &mut [f32], heads: usize, w: &[f32], eps: f32) -> bool {
        self.rows_mut(x, heads * w.len(), |_, x| {
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().rms_norm_heads)(x, w, eps) }
        })
    }

    /// `x *= by`. One factor is taken as none.
    pub fn scale(&self, x: &mut [f32], by: f32) {
        if by == 1.0 {
            return;
        }
        let len = x.len();
        let x = SharedSlice::new(x);
        self.items(len.div_ceil(PIECE), len, |i| {
            // SAFETY: every item has its own range.
            let x = unsafe { x.range(i * PIECE..((i + 1) * PIECE).min(len)) };
            x.iter_mut().for_each(|x| *x *= by);
            true
        });
    }

    /// `out = silu(gate) * up`, all of one length.
    #[must_use]
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) -> bool {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        let len = out.len();
        let out = SharedSlice::new(out);
        // An exponential takes as long as several sums.
        self.items(len.div_ceil(PIECE), 4 * len, |i| {
            let range = i * PIECE..((i + 1) * PIECE).min(len);
            // SAFETY: every item has its own range; `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().silu_mul)(&gate[range.clone()], &up[range.clone()], out.range(range)) }
        })
    }

    /// `x += y`, rows of `d` values.
    #[must_use]
    pub fn add(&self, x: &mut [f32], y: &[f32], d: usize) -> bool {
        assert!(x.len() == y.len() && x.len().is_multiple_of(d));
        self.rows_mut(x, d, |row, x| {
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().add)(x, &y[row * d..(row + 1) * d]) }
        })
    }

    /// `x += y`, then every row of `x (m, d)` normalized into `out`; see `norm.rs`. `w` is `(d)`.
    #[must_use]
    pub fn add_rms_norm(&self, x: &mut [f32], y: &[f32], w: &[f32], eps: f32, out: &mut [f32]) -> bool {
        let d = w.len();
        assert!(x.len() == y.len() && x.len() == out.len() && x.len().is_multiple_of(d));
        let x = SharedSlice::new(x);
        self.rows_mut(out, d, |row, out| {
            // SAFETY: every item has its own row; `Isa` proves the instruction set of its table.
            unsafe {
                let x = x.range(row * d..(row + 1) * d);
                // The norm notices what is not finite in the sums.
                (self.isa.table().add)(x, &y[row * d..(row + 1) * d]);
                (self.isa.table().rms_norm)(x, w, eps, out)
            }
        })
    }

    /// Adds the row `bias (d)` to every row of `x (m, d)`.
    #[must_use]
    pub fn add_bias(&self, x: &mut [f32], bias: &[f32]) -> bool {
        assert!(x.len().is_multiple_of(bias.len()));
        self.rows_mut(x, bias.len(), |_, x| {
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().add)(x, bias) }
        })
    }

    /// Rotates the heads of every token, `x (tokens, heads, head_dim)`, in place. `places (tokens)` are those of their positions in `rotation`.
    pub fn rope(&self, x: &mut [f32], heads: usize, head_dim: usize, rotation: &Rotation, places: &[usize]) {
        let d = heads * head_dim;
        self.rows_mut(x, d, |token, x| {
            let (cos, sin) = rotation.angles(places[token]);
            assert!(cos.len() * 2 <= head_dim);
            let rotate = match rotation.rope() {
                Rope::Interleaved => self.isa.table().rope,
                Rope::Neox => self.isa.table().rope_neox,
            };
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { rotate(x, head_dim, cos, sin) }
            true
        });
    }

    /// Attention of the tokens of the chunks, in their order: `q (tokens, heads, head_dim)` into `out` of the same shape.
    /// `entries(sequence)` are the layer's KV cache entries of a sequence, those of the tokens themselves included.
    #[must_use]
    pub fn attention<'a>(
        &self,
        scratch: &mut AttentionScratch,
        shape: AttentionShape,
        q: &[f32],
        chunks: &[SequenceChunk],
        entries: impl Fn(usize) -> KvEntries<'a> + Sync,
        out: &mut [f32],
    ) -> bool {
        attention::attention((self.isa, &self.pool), scratch, shape, q, chunks, entries, out)
    }

    /// Appends the keys and values `(tokens, kv_heads, head_dim)` of tokens from `position` on to a layer's KV cache.
    pub fn append_kv(&self, layout: KvLayout, position: usize, k: &[f32], v: &[f32], entries: &mut [u8]) {
        let (d, heads) = (layout.head_dim(), layout.heads());
        let tokens = k.len() / (heads * d);
        assert!(k.len() == tokens * heads * d && v.len() == k.len());
        let spans = position / SPAN..(position + tokens).div_ceil(SPAN);
        let entries = SharedSlice::new(entries);
        let write = |i: usize| {
            let (span, head) = (spans.start + i / heads, i % heads);
            let start = layout.block(span, head);
            // SAFETY: every item has its own block.
            let block = unsafe { entries.range(start..start + layout.block_bytes()) };
            for at in position.max(span * SPAN)..(position + tokens).min((span + 1) * SPAN) {
                let row = ((at - position) * heads + head) * d..((at - position) * heads + head + 1) * d;
                layout.store(self.isa, at % SPAN, &k[row.clone()], &v[row], block);
            }
            true
        };
        self.items(spans.len() * heads, k.len(), write);
    }

    /// The `i`th thread's share of `n` things, cut at multiples of `step`.
    pub(crate) fn share(&self, n: usize, step: usize, i: usize) -> Range<usize> {
        share(n, step, i, self.threads())
    }

    /// Calls `work(row, values)` for every row of `d` values; true if all calls gave true.
    fn rows_mut(&self, x: &mut [f32], d: usize, work: impl Fn(usize, &mut [f32]) -> bool + Sync) -> bool {
        let (rows, len) = (x.len() / d, x.len());
        let x = SharedSlice::new(x);
        // SAFETY: every item has its own row.
        self.items(rows, len, |row| work(row, unsafe { x.range(row * d..(row + 1) * d) }))
    }

    /// Calls `work(i)` for `n` items, which handle `values` values in all: on this thread alone where waking the others takes longer.
    /// True if all calls gave true.
    fn items(&self, n: usize, values: usize, work: impl Fn(usize) -> bool + Sync) -> bool {
        if n < 2 || values < ALONE {
            return (0..n).fold(true, |all, i| all & work(i));
        }
        let all = AtomicBool::new(true);
        self.pool.run(&|thread| {
            if !self.share(n, 1, thread).fold(true, |all, i| all & work(i)) {
                all.store(false, Ordering::Relaxed);
            }
        });
        all.into_inner()
    }

    /// Cuts `whole`, which has `n` rows, into a share for each thread; which thread has which does not matter.
    fn cut<T: Send>(&self, whole: T, n: usize, split: impl Fn(T, usize) -> (T, T) + Sync, work: impl Fn(T) + Sync) {
        let rest = Mutex::new((0, Some(whole)));
        self.pool.run(&|_| {
            let mut rest = rest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let Some(whole) = rest.1.take() else { return };
            let (part, others) = split(whole, self.share(n, 1, rest.0).len());
            *rest = (rest.0 + 1, Some(others));
            drop(rest);
            work(part);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_one_share() {
        for rows in [0, 1, 4, 5, 63, 64, 1000, 4096, 4099] {
            for (step, threads) in [(4, 1), (4, 2), (4, 3), (32, 2), (16, 16)] {
                let shares = Shares::new(rows, step, threads);
                let own = (0..threads).map(|i| shares.own(i));
                let all = own.chain((0..).map_while(|i| shares.more(i)));
                let end = all.fold(0, |end, range| {
                    assert!(range.start == end && range.end >= end, "{range:?} after {end} of {rows}");
                    range.end
                });
                assert_eq!(end, rows, "{threads} threads, step {step}");
            }
        }
    }
}
