//! One span: the steps of attention for the rows of a tile, written once for all instruction sets.
//!
//! Both products are register tiles of up to 4 rows by `N` registers, `N` the instruction set's: each load of keys or values serves
//! 4 rows. What one row gets is the same in any tile.

use super::kv::{Entries, TILE};
use crate::exp::exp;
use crate::finite::Finite;
use crate::jobs::{PartialSoftmax, QueryRows, SPAN, Scores, WeightedSum};
use strata_quant::simd::Simd;

/// Positions whose values are used by all rows before the next are touched: at most half of the first cache.
const CHUNK: usize = 64;

/// Bytes between those being read and those being prefetched into the second cache: one core reads F16 at 10 GB/s without, where plain
/// reading gets 15; with 4 KiB at 11.5, with 16 to 64 KiB at 13.4. Every second line only is as without. (Xeon with AVX-512, November 2026.)
const DISTANCE: usize = 32 << 10;
/// Places that lines are prefetched at in turn: two cores read 26.7 GB/s with one, 28.2 with two, 30.5 with four, 29 with eight, of 37.
const PLACES: usize = 4;

/// Prefetches what comes next, a few lines at a time.
struct Prefetch {
    base: *const u8,
    next: usize,  // lines prefetched so far
    lines: usize, // in all
    step: usize,  // lines at a time
}

impl Prefetch {
    /// What lies [`DISTANCE`] beyond `bytes`, in `calls` steps; nothing if they are a widened copy, which the cache has.
    #[inline(always)]
    fn new(bytes: &[u8], calls: usize, copy: bool) -> Prefetch {
        let lines = if copy { 0 } else { bytes.len().div_ceil(64 * PLACES) * PLACES };
        Prefetch { base: bytes.as_ptr().wrapping_add(DISTANCE), next: 0, lines, step: lines.div_ceil(calls) }
    }

    #[inline(always)]
    fn some<S: Simd>(&mut self, s: S) {
        for _ in 0..self.step {
            if self.next < self.lines {
                let (place, line) = (self.next % PLACES, self.next / PLACES);
                s.prefetch(self.base.wrapping_add((place * (self.lines / PLACES) + line) * 64));
                self.next += 1;
            }
        }
    }
}

/// Calls a function generic in rows and registers for the numbers at hand.
macro_rules! tile {
    ($rows:expr, $wide:expr, $n:ident, $f:ident::<$S:ty, $P:ty>($($arg:expr),* $(,)?)) => {
        match ($rows, $wide) {
            (1, true) => $f::<$S, $P, 1, $n>($($arg),*),
            (2, true) => $f::<$S, $P, 2, $n>($($arg),*),
            (3, true) => $f::<$S, $P, 3, $n>($($arg),*),
            (_, true) => $f::<$S, $P, 4, $n>($($arg),*),
            (1, false) => $f::<$S, $P, 1, 1>($($arg),*),
            (2, false) => $f::<$S, $P, 2, 1>($($arg),*),
            (3, false) => $f::<$S, $P, 3, 1>($($arg),*),
            (_, false) => $f::<$S, $P, 4, 1>($($arg),*),
        }
    };
}

/// `s_j = (q . k_j) * scale` for every row and every position of the span that is visible to it; beyond, up to whole 16, numbers without
/// meaning.
#[inline(always)]
pub fn scores<S: Simd, P: Entries, const N: usize>(s: S, job: Scores<'_>) {
    let Scores { rows, d, scale, q, keys, copy, out } = job;
    assert!(q.len() == rows.rows * d && out.len() == rows.rows * SPAN);
    let bytes = P::tile_bytes(d);
    let blocks = rows.most().div_ceil(TILE);
    let mut block = 0;
    while block < blocks {
        let n = if block + N <= blocks { N } else { 1 };
        let keys = &keys[block * bytes..(block + n) * bytes];
        let mut prefetch = Prefetch::new(keys, d, copy);
        let mut r = 0;
        while r < rows.rows {
            let m = (rows.rows - r).min(4);
            if rows.visible(r + m - 1) > TILE * block && rows.before_window(r) < TILE * (block + n) {
                let (q, out) = (&q[r * d..(r + m) * d], &mut out[r * SPAN + TILE * block..]);
                tile!(m, n == N, N, score::<S, P>(s, q, d, keys, &mut prefetch, scale, out));
            }
            r += m;
        }
        block += n;
    }
}

/// `R` rows by `N` tiles of 16 keys: `q (R, d)`; `out` has rows of `SPAN`.
#[inline(always)]
fn score<S: Simd, P: Entries, const R: usize, const N: usize>(
    s: S,
    q: &[f32],
    d: usize,
    keys: &[u8],
    prefetch: &mut Prefetch,
    scale: f32,
    out: &mut [f32],
) {
    let bytes = P::tile_bytes(d);
    let (mut qs, mut tiles) = ([&q[..d]; R], [&keys[..bytes]; N]);
    for r in 1..R {
        qs[r] = &q[r * d..(r + 1) * d];
    }
    for n in 1..N {
        tiles[n] = &keys[n * bytes..(n + 1) * bytes];
    }
    let mut acc = [[s.splat(0.0); N]; R];
    let mut scales = [s.splat(0.0); N];
    let mut i = 0;
    while i < d {
        for n in 0..N {
            scales[n] = P::scales(s, tiles[n], i / 32);
        }
        let end = (i + 32).min(d);
        while i < end {
            prefetch.some(s);
            let mut k = [s.splat(0.0); N];
            for n in 0..N {
                k[n] = P::keys(s, tiles[n], i, scales[n]);
            }
            for r in 0..R {
                let q = s.splat(qs[r][i]);
                for n in 0..N {
                    acc[r][n] = s.fma(q, k[n], acc[r][n]);
                }
            }
            i += 1;
        }
    }
    for r in 0..R {
        let out = &mut out[r * SPAN..r * SPAN + N * TILE];
        for (acc, out) in acc[r].iter().zip(out.as_chunks_mut::<16>().0) {
            s.store(s.mul(*acc, s.splat(scale)), out);
        }
    }
}

/// Of every row that attends to some of the span: the peak `m = max s_j`, `p_j = exp(s_j - m)` in the place of the scores, and
/// `l = sum p_j`. False if a score is not finite: here it would be lost.
#[inline(always)]
pub fn softmax<S: Simd>(s: S, rows: QueryRows, scores: &mut [f32], peaks: &mut [f32], sums: &mut [f32]) -> bool {
    let mut finite = Finite::new(s);
    for (r, scores) in scores.chunks_exact_mut(SPAN).enumerate() {
        let (first, n) = (rows.before_window(r), rows.visible(r));
        if first >= n {
            continue;
        }
        let scores = &mut scores[..n.next_multiple_of(16)];
        // No score is less, so that this is never the peak, and it is finite.
        scores[..first].fill(f32::MIN);
        scores[n..].fill(f32::MIN);
        let mut tops = s.splat(f32::NEG_INFINITY);
        for scores in scores.as_chunks::<16>().0 {
            let scores = s.load(scores);
            finite.check(scores);
            tops = s.max(scores, tops);
        }
        let mut lanes = [0.0; 16];
        s.store(tops, &mut lanes);
        let mut peak = f32::NEG_INFINITY;
        for top in lanes {
            peak = if top > peak { top } else { peak };
        }
        for scores in scores.as_chunks_mut::<16>().0 {
            s.store(exp(s, s.sub(s.load(scores), s.splat(peak))), scores);
        }
        scores[..first].fill(0.0);
        scores[n..].fill(0.0);
        let mut total = s.splat(0.0);
        for p in scores.as_chunks::<16>().0 {
            total = s.add(total, s.load(p));
        }
        (peaks[r], sums[r]) = (peak, s.sum(total));
    }
    finite.all()
}

/// `a = sum p_j v_j` for every row, over the positions visible to it.
#[inline(always)]
pub fn weighted_sum<S: Simd, P: Entries, const N: usize>(s: S, job: WeightedSum<'_>) {
    let WeightedSum { rows, p, values, width, copy, out } = job;
    assert!(p.len() == rows.rows * SPAN && out.len() == rows.rows * width && width.is_multiple_of(16));
    out.fill(0.0);
    let (most, vectors) = (rows.most(), width / 16);
    let steps = vectors / N + vectors % N;
    for start in (0..most).step_by(CHUNK) {
        let end = (start + CHUNK).min(most);
        let bytes = P::row_bytes(width);
        let mut prefetch = Prefetch::new(&values[start * bytes..end * bytes], (end - start) * steps, copy);
        let mut r = 0;
        while r < rows.rows {
            let m = (rows.rows - r).min(4);
            // The weights before a window are zero, and the windows of later tokens begin later.
            let outside = rows.before_window(r) >= end;
            // More is visible to later tokens: what all have in common, then what is left for each.
            let all = rows.visible(r).min(end);
            if start < all && !outside {
                let (p, out) = (&p[r * SPAN..], &mut out[r * width..(r + m) * width]);
                weighted_sum_rows::<S, P, N>(s, m, p, start..all, values, &mut prefetch, out);
            }
            for r in r + 1..r + m {
                let rest = all.max(start)..rows.visible(r).min(end);
                if !rest.is_empty() {
                    let (p, out) = (&p[r * SPAN..], &mut out[r * width..(r + 1) * width]);
                    weighted_sum_rows::<S, P, N>(s, 1, p, rest, values, &mut prefetch, out);
                }
            }
            r += m;
        }
    }
}

/// `m` rows over `range` of the positions, register by register of the width.
#[inline(always)]
fn weighted_sum_rows<S: Simd, P: Entries, const N: usize>(
    s: S,
    m: usize,
    p: &[f32],
    range: std::ops::Range<usize>,
    values: &[u8],
    prefetch: &mut Prefetch,
    out: &mut [f32],
) {
    let width = out.len() / m;
    let vectors = width / 16;
    for i in 0..vectors / N {
        tile!(m, true, N, weighted_sum_tile::<S, P>(s, p, range.clone(), values, N * i, prefetch, out));
    }
    for i in vectors / N * N..vectors {
        tile!(m, false, N, weighted_sum_tile::<S, P>(s, p, range.clone(), values, i, prefetch, out));
    }
}

/// `R` rows by the `N` vectors from `16 first` on: `p` has rows of `SPAN`; `out` is `(R, width)`.
#[inline(always)]
fn weighted_sum_tile<S: Simd, P: Entries, const R: usize, const N: usize>(
    s: S,
    p: &[f32],
    range: std::ops::Range<usize>,
    values: &[u8],
    first: usize,
    prefetch: &mut Prefetch,
    out: &mut [f32],
) {
    let width = out.len() / R;
    let bytes = P::row_bytes(width);
    let rows = &values[range.start * bytes..range.end * bytes];
    let mut ps = [&p[..0]; R];
    let mut acc = [[s.splat(0.0); N]; R];
    for r in 0..R {
        ps[r] = &p[r * SPAN + range.start..r * SPAN + range.end];
        for (n, out) in out[r * width + 16 * first..][..16 * N].as_chunks::<16>().0.iter().enumerate() {
            acc[r][n] = s.load(out);
        }
    }
    for (j, row) in rows.chunks_exact(bytes).enumerate() {
        prefetch.some(s);
        let mut v = [s.splat(0.0); N];
        for n in 0..N {
            v[n] = P::values(s, row, first + n);
        }
        for r in 0..R {
            let p = s.splat(ps[r][j]);
            for n in 0..N {
                acc[r][n] = s.fma(p, v[n], acc[r][n]);
            }
        }
    }
    for r in 0..R {
        for (n, out) in out[r * width + 16 * first..][..16 * N].as_chunks_mut::<16>().0.iter_mut().enumerate() {
            s.store(acc[r][n], out);
        }
    }
}

/// Merges a span into the running result of every row that attends to some of it; the first is copied.
#[inline(always)]
pub fn merge<S: Simd>(s: S, rows: QueryRows, part: &PartialSoftmax<'_>, all: &mut PartialSoftmax<'_>) {
    let width = part.a.len() / rows.rows;
    for (r, (part_a, a)) in part.a.chunks_exact(width).zip(all.a.chunks_exact_mut(width)).enumerate() {
        if rows.sees_nothing(r) {
            continue;
        }
        let (old_peak, new_peak) = (all.peaks[r], part.peaks[r]);
        if old_peak == f32::NEG_INFINITY {
            (all.peaks[r], all.sums[r]) = (new_peak, part.sums[r]);
            a.copy_from_slice(part_a);
            continue;
        }
        let peak = if new_peak > old_peak { new_peak } else { old_peak };
        let mut factors = [0.0; 16];
        s.store(exp(s, s.load_part(&[old_peak - peak, new_peak - peak], 0.0)), &mut factors);
        let (old, new) = (s.splat(factors[0]), s.splat(factors[1]));
        for (a, p) in a.as_chunks_mut::<16>().0.iter_mut().zip(part_a.as_chunks::<16>().0) {
            s.store(s.fma(s.load(p), new, s.mul(s.load(a), old)), a);
        }
        all.sums[r] = all.sums[r] * factors[0] + part.sums[r] * factors[1];
        all.peaks[r] = peak;
    }
}

/// `out = x / by`; false if a result is not finite.
#[inline(always)]
pub fn divide<S: Simd>(s: S, x: &[f32], by: f32, out: &mut [f32]) -> bool {
    let mut finite = Finite::new(s);
    for (x, out) in x.chunks(16).zip(out.chunks_mut(16)) {
        let quotient = s.div(s.load_part(x, 0.0), s.splat(by));
        finite.check(quotient);
        s.store_part(quotient, out);
    }
    finite.all()
}

/// Tiles of keys `(tiles, d, 16)` as KV cache entries of F32.
#[inline(always)]
pub fn widen_keys<S: Simd, P: Entries>(s: S, keys: &[u8], d: usize, out: &mut [u8]) {
    let bytes = P::tile_bytes(d);
    for (t, out) in out.chunks_exact_mut(64 * d).enumerate() {
        let tile = &keys[t * bytes..(t + 1) * bytes];
        for (i, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            store_bytes(s, P::keys(s, tile, i, P::scales(s, tile, i / 32)), out);
        }
    }
}

/// Rows of values `(positions, width)` as KV cache entries of F32.
#[inline(always)]
pub fn widen_values<S: Simd, P: Entries>(s: S, values: &[u8], width: usize, out: &mut [u8]) {
    let bytes = P::row_bytes(width);
    for (j, out) in out.chunks_exact_mut(4 * width).enumerate() {
        let row = &values[j * bytes..(j + 1) * bytes];
        for (i, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            store_bytes(s, P::values(s, row, i), out);
        }
    }
}

#[inline(always)]
fn store_bytes<S: Simd>(s: S, v: S::F, out: &mut [u8; 64]) {
    let mut lanes = [0.0; 16];
    s.store(v, &mut lanes);
    for (lane, out) in lanes.iter().zip(out.as_chunks_mut().0) {
        *out = lane.to_le_bytes();
    }
}
