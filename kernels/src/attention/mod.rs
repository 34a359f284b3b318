//! Attention of tokens to the positions before them, or to the last of these (sliding window): `softmax(q k^T scale) v`, grouped heads, one
//! result.
//!
//! The positions are walked in *spans* of 256, whatever the batch and the number of threads. Within a span, for one query head of one
//! token:
//! ```text
//! s_j = (q . k_j) * scale          the values of the head in order, a fused multiply-add each
//! m   = max s_j
//! p_j = exp(s_j - m)
//! l   = sum p_j                    lane j % 16, added by the fixed tree
//! a   = sum p_j v_j                j increasing, a fused multiply-add each
//! ```
//! and the spans are merged in order by the online softmax (Milakov and Gimelshein, 2018): with `M = max(m1, m2)`,
//! `l = l1 exp(m1 - M) + l2 exp(m2 - M)`, `a` likewise; at the end `a / l`. A later span never changes what an earlier one gave, so
//! spans may be computed anywhere and merged in order.
//!
//! What makes it fast is that keys and values are read once for many rows. The rows of a *tile* are the heads of a query group, of one token
//! or of some that follow each other. Where there are many tiles (a prompt), a thread walks the spans of
//! one tile and merges as it goes. Where there are few (a token), threads share out the spans, and the one that ends the last of a tile
//! merges them.

pub mod kv;
pub mod span;

pub use kv::{KvEntries, KvLayout};

use crate::jobs::{PartialSoftmax, QueryRows, SPAN, Scores, WeightedSum};
use crate::pool::Pool;
use crate::shared::SharedSlice;
use crate::table::Isa;
use kv::TILE;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use strata_quant::GgmlType;

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, which divide the query heads.
    pub kv_heads: usize,
    /// Values in a query or key head.
    pub head_dim: usize,
    /// The factor of scores.
    pub scale: f32,
    /// Positions that a token attends to at most, itself the last of them (sliding window).
    pub window: usize,
}

impl AttentionShape {
    /// Attention to all positions before, with the usual factor `1 / sqrt(head_dim)`.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionShape { heads, kv_heads, head_dim, scale, window: usize::MAX }
    }

    /// Heads of a query group, which share a key and value head (GQA).
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Values of a head, padded to whole vectors.
    fn width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }
}

/// A part of one sequence in a batch: tokens that follow each other, in the batch as in the sequence.
#[derive(Clone, Copy, Debug)]
pub struct SequenceChunk {
    /// The sequence, by the caller's number.
    pub sequence: usize,
    /// How many.
    pub tokens: usize,
    /// The position of the first in its sequence.
    pub position: usize,
}

/// QueryRows of a tile: so many that what is read of keys and values is little beside what is computed.
const ROWS: usize = 64;
/// From so many rows on, entries are widened to floats once for all of them.
const WIDEN: usize = 9;
/// With fewer tiles than so many for each thread, threads share spans.
const TILES: usize = 16;
/// The most results of spans that wait to be merged, in rows.
const PARTS: usize = 1 << 16;

/// Some tokens of a run.
#[derive(Clone, Copy)]
struct Tile {
    sequence: usize,
    token: usize, // in the batch
    tokens: usize,
    position: usize,
    first: usize, // the span where the window of its first token begins
    item: usize,  // its first among all spans of all heads of all tiles
    part: usize,  // its first row among those of all items
}

impl Tile {
    /// Spans that its tokens attend to.
    fn spans(&self) -> Range<usize> {
        self.first..(self.position + self.tokens).div_ceil(SPAN)
    }
}

/// Buffers that are reused between calls.
#[derive(Default)]
pub struct AttentionScratch {
    tiles: Vec<Tile>,
    work: Vec<f32>,         // for each thread: see `Work`
    widened: Vec<u8>,       // for each thread: see `Work`
    parts: Vec<f32>,        // for each item: a `PartialSoftmax`
    left: Vec<AtomicUsize>, // for each head of each tile: spans that are not done
}

/// One thread's buffers.
struct Work<'a> {
    q: &'a mut [f32],      // (rows, head_dim)
    scores: &'a mut [f32], // (rows, SPAN)
    part: &'a mut [f32],   // (rows, stride)
    all: &'a mut [f32],    // (rows, stride)
    widened: &'a mut [u8], // keys (SPAN / 16, head_dim, 16) and values (SPAN, width) as F32
}

/// The buffers of all threads.
struct Buffers<'a> {
    work: SharedSlice<'a, f32>,
    widened: SharedSlice<'a, u8>,
    lens: [usize; 4], // of one thread's `q`, `scores`, `part` and `all`
    widened_len: usize,
}

impl<'a> Buffers<'a> {
    fn new(
        work: &'a mut Vec<f32>,
        widened: &'a mut Vec<u8>,
        rows: usize,
        shape: AttentionShape,
        threads: usize,
    ) -> Buffers<'a> {
        let (d, width) = (shape.head_dim, shape.width());
        let part = rows * PartialSoftmax::stride(width);
        let lens = [rows * d.next_multiple_of(16), rows * SPAN, part, part];
        let widened_len = 4 * SPAN * (d + width);
        let work = SharedSlice::new(aligned(work, lens.iter().sum::<usize>() * threads, 0.0));
        Buffers { work, widened: SharedSlice::new(aligned(widened, widened_len * threads, 0)), lens, widened_len }
    }

    /// Those of one thread.
    ///
    /// # Safety
    /// Nobody else uses those of this thread.
    unsafe fn of(&self, thread: usize) -> Work<'_> {
        let len = self.lens.iter().sum::<usize>();
        // SAFETY: every thread has its own ranges, and the caller promises to be the only one of this thread.
        let (work, widened) = unsafe {
            (
                self.work.range(thread * len..(thread + 1) * len),
                self.widened.range(thread * self.widened_len..(thread + 1) * self.widened_len),
            )
        };
        let (q, work) = work.split_at_mut(self.lens[0]);
        let (scores, work) = work.split_at_mut(self.lens[1]);
        let (part, all) = work.split_at_mut(self.lens[2]);
        Work { q, scores, part, all, widened }
    }
}

/// Attention of all tokens of the chunks: `q` and `out` are `(tokens, heads, head_dim)`. `entries(sequence)` are a layer's. False if
/// a score or a result is not finite.
pub fn attention<'a>(
    (isa, pool): (Isa, &Pool),
    scratch: &mut AttentionScratch,
    shape: AttentionShape,
    q: &[f32],
    chunks: &[SequenceChunk],
    entries: impl Fn(usize) -> KvEntries<'a> + Sync,
    out: &mut [f32],
) -> bool {
    let (d, width, threads) = (shape.head_dim, shape.width(), pool.threads());
    let AttentionScratch { tiles, work, widened, parts, left } = scratch;
    let tile_tokens = (ROWS / shape.group()).max(1);
    let (tokens, items, part_rows) = cut(tiles, chunks, tile_tokens, shape);
    assert!(q.len() == out.len() && q.len() == tokens * shape.heads * d);

    let (rows, stride) = (tile_tokens * shape.group(), PartialSoftmax::stride(width));
    let buffers = Buffers::new(work, widened, rows, shape, threads);
    let call = Call { isa, shape, q, tiles, entries, out: SharedSlice::new(out), finite: AtomicBool::new(true) };

    let pairs = tiles.len() * shape.kv_heads;
    if pairs >= TILES * threads || part_rows > PARTS {
        let taken = AtomicUsize::new(0);
        pool.run(&|thread| {
            // SAFETY: `Pool::run` calls this once for each thread.
            let mut work = unsafe { buffers.of(thread) };
            loop {
                let i = taken.fetch_add(1, Ordering::Relaxed);
                if i >= pairs {
                    return;
                }
                // The longest first, so that no thread is left with one at the end.
                call.walk(tiles.len() - 1 - i / shape.kv_heads, i % shape.kv_heads, &mut work);
            }
        });
        return call.finite.into_inner();
    }
    left.resize_with(pairs.max(left.len()), AtomicUsize::default);
    for (tile, left) in tiles.iter().zip(left.chunks_mut(shape.kv_heads)) {
        left.iter_mut().for_each(|left| *left.get_mut() = tile.spans().len());
    }
    let parts = SharedSlice::new(aligned(parts, part_rows * stride, 0.0));
    pool.run(&|thread| {
        // Neighbours in memory: what is prefetched is what comes next.
        // SAFETY: `Pool::run` calls this once for each thread.
        let mut work = unsafe { buffers.of(thread) };
        for item in items * thread / threads..items * (thread + 1) / threads {
            call.share(item, &parts, left, &mut work);
        }
    });
    call.finite.into_inner()
}

/// Cuts the chunks into tiles. Returns how many tokens, items and rows of items there are.
fn cut(tiles: &mut Vec<Tile>, chunks: &[SequenceChunk], most: usize, shape: AttentionShape) -> (usize, usize, usize) {
    let (mut token, mut item, mut part) = (0, 0, 0);
    tiles.clear();
    for &SequenceChunk { sequence, tokens, position } in chunks {
        for first in (0..tokens).step_by(most) {
            let tokens = (tokens - first).min(most);
            let position = position + first;
            let window = (position + 1).saturating_sub(shape.window) / SPAN;
            let tile = Tile { sequence, token: token + first, tokens, position, first: window, item, part };
            item += tile.spans().len() * shape.kv_heads;
            part += tile.spans().len() * shape.heads * tokens;
            tiles.push(tile);
        }
        token += tokens;
    }
    (token, item, part)
}

/// The front of a buffer, grown if it must be, from the start of a cache line.
fn aligned<T: Copy>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    let more = 64 / size_of::<T>();
    if buffer.len() < len + more {
        buffer.resize(len + more, zero);
    }
    let start = buffer.as_ptr().align_offset(64).min(more);
    &mut buffer[start..start + len]
}

/// One attention: what all its threads read, and where they write.
struct Call<'a, F> {
    isa: Isa,
    shape: AttentionShape,
    q: &'a [f32],
    tiles: &'a [Tile],
    entries: F,
    out: SharedSlice<'a, f32>,
    finite: AtomicBool, // as far as anybody has seen
}

impl<'c, F: Fn(usize) -> KvEntries<'c>> Call<'_, F> {
    /// All spans of a head of a tile, merged as they come.
    fn walk(&self, tile: usize, head: usize, work: &mut Work<'_>) {
        let tile = &self.tiles[tile];
        let n = self.rows(tile, tile.first).rows;
        let len = n * PartialSoftmax::stride(self.shape.width());
        let (mut part, mut all) =
            (PartialSoftmax::new(&mut work.part[..len], n), PartialSoftmax::new(&mut work.all[..len], n));
        all.peaks.fill(f32::NEG_INFINITY);
        self.gather(tile, head, work.q);
        for span in tile.spans() {
            self.span(tile, head, span, (work.q, work.scores, work.widened), &mut part);
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().merge)(self.rows(tile, span), &part, &mut all) }
        }
        self.finish(tile, head, &all);
    }

    /// One item: a span of a head of a tile. The last of these spans to be done merges them all.
    fn share(&self, item: usize, parts: &SharedSlice<'_, f32>, left: &[AtomicUsize], work: &mut Work<'_>) {
        let (shape, stride) = (self.shape, PartialSoftmax::stride(self.shape.width()));
        let index = self.tiles.partition_point(|tile| tile.item <= item) - 1;
        let tile = &self.tiles[index];
        let (span, head) = (tile.first + (item - tile.item) / shape.kv_heads, (item - tile.item) % shape.kv_heads);
        let n = self.rows(tile, span).rows;
        let floats = |span: usize| {
            let first = tile.part + ((span - tile.first) * shape.kv_heads + head) * n;
            first * stride..(first + n) * stride
        };
        self.gather(tile, head, work.q);
        // SAFETY: only this item has this range, until it is counted below.
        let mut part = PartialSoftmax::new(unsafe { parts.range(floats(span)) }, n);
        self.span(tile, head, span, (work.q, work.scores, work.widened), &mut part);
        if left[index * shape.kv_heads + head].fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let mut all = PartialSoftmax::new(&mut work.all[..n * stride], n);
        all.peaks.fill(f32::NEG_INFINITY);
        for span in tile.spans() {
            // SAFETY: all spans of this head of this tile have been counted; nobody else touches their ranges any more.
            let part = PartialSoftmax::new(unsafe { parts.range(floats(span)) }, n);
            // SAFETY: `Isa` proves the instruction set of its table.
            unsafe { (self.isa.table().merge)(self.rows(tile, span), &part, &mut all) }
        }
        self.finish(tile, head, &all);
    }

    fn rows(&self, tile: &Tile, span: usize) -> QueryRows {
        let group = self.shape.group();
        let (position, start, window) = (tile.position, span * SPAN, self.shape.window);
        QueryRows { rows: tile.tokens * group, group, position, start, window }
    }

    /// Keys and values of a span of a head, as far as the tile attends to them.
    fn block(&self, tile: &Tile, head: usize, span: usize) -> (&'c [u8], &'c [u8]) {
        let KvEntries { layout, bytes } = (self.entries)(tile.sequence);
        let most = self.rows(tile, span).most();
        let start = layout.block(span, head);
        let (keys, values) = bytes[start..start + layout.block_bytes()].split_at(layout.key_bytes());
        (&keys[..most.div_ceil(TILE) * (keys.len() / (SPAN / TILE))], &values[..most * layout.row_bytes()])
    }

    /// The queries of a head of a tile, `(rows, head_dim)`.
    fn gather(&self, tile: &Tile, head: usize, q: &mut [f32]) {
        let len = self.shape.group() * self.shape.head_dim;
        for (t, q) in q.chunks_exact_mut(len).take(tile.tokens).enumerate() {
            let start = ((tile.token + t) * self.shape.kv_heads + head) * len;
            q.copy_from_slice(&self.q[start..start + len]);
        }
    }

    /// One span: its part.
    fn span(
        &self,
        tile: &Tile,
        head: usize,
        span: usize,
        (q, scores, widened): (&[f32], &mut [f32], &mut [u8]),
        part: &mut PartialSoftmax<'_>,
    ) {
        let (d, width, rows) = (self.shape.head_dim, self.shape.width(), self.rows(tile, span));
        let (keys, values) = self.block(tile, head, span);
        let layout = (self.entries)(tile.sequence).layout;
        assert!(
            layout.heads() == self.shape.kv_heads && layout.head_dim() == d,
            "KV cache entries of another shape than the queries"
        );
        let (table, (k, v)) = (self.isa.table(), layout.types());
        let (q, scores) = (&q[..rows.rows * d], &mut scores[..rows.rows * SPAN]);
        let (widened_keys, widened_values) = widened.split_at_mut(4 * SPAN * d);
        let widened_keys = &mut widened_keys[..4 * d * rows.most().next_multiple_of(TILE)];
        let widened_values = &mut widened_values[..4 * width * rows.most()];
        let widen = |ty: GgmlType| ty != GgmlType::F32 && rows.rows >= WIDEN;
        // SAFETY: `Isa` proves the instruction set of its table.
        unsafe {
            let (copy, scale) = (widen(k), self.shape.scale);
            let (k, keys) = if copy {
                ((table.kv)(k).widen_keys)(keys, d, widened_keys);
                (GgmlType::F32, &*widened_keys)
            } else {
                (k, keys)
            };
            ((table.kv)(k).scores)(Scores { rows, d, scale, q, keys, copy, out: scores });
            if !(table.softmax)(rows, scores, part.peaks, part.sums) {
                self.finite.store(false, Ordering::Relaxed);
            }
            let copy = widen(v);
            let (v, values) = if copy {
                ((table.kv)(v).widen_values)(values, width, widened_values);
                (GgmlType::F32, &*widened_values)
            } else {
                (v, values)
            };
            ((table.kv)(v).weighted_sum)(WeightedSum { rows, p: scores, values, width, copy, out: part.a });
        }
    }

    /// Divides by the sums and writes the result.
    fn finish(&self, tile: &Tile, head: usize, all: &PartialSoftmax<'_>) {
        let (d, width, group) = (self.shape.head_dim, self.shape.width(), self.shape.group());
        for (r, (a, &sum)) in all.a.chunks_exact(width).zip(all.sums.iter()).enumerate() {
            let (token, head) = (tile.token + r / group, head * group + r % group);
            let start = (token * self.shape.heads + head) * d;
            // SAFETY: `Isa` proves the instruction set of its table; only this head of this tile has this range.
            if !unsafe { (self.isa.table().divide)(&a[..d], sum, self.out.range(start..start + d)) } {
                self.finite.store(false, Ordering::Relaxed);
            }
        }
    }
}
