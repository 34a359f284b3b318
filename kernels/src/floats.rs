//! Products with plain weights (F32, F16, BF16): a tile of rows times columns, each with 16 lanes, written once for all sets.
//!
//! The tile shares every load of weights between its columns and every load of activations between its rows; what it computes for one
//! pair is the same whatever the tile. Its size is the instruction set's: as many accumulators as it has registers for.

use crate::matmul::{Job, Out};
use std::cell::Cell;
use std::ops::Range;
use strata_quant::Activations;
use strata_quant::simd::Simd;

/// A plain weight format: how 16 weights become 16 lanes.
pub trait Plain {
    /// Bytes of a weight.
    const BYTES: usize;
    /// 16 weights; `bytes` holds `16 * BYTES`.
    fn widen<S: Simd>(s: S, bytes: &[u8]) -> S::F;
}

/// F32
pub struct F32;
/// F16
pub struct F16;
/// BF16
pub struct Bf16;

impl Plain for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn widen<S: Simd>(s: S, bytes: &[u8]) -> S::F {
        let mut w = [0.0; 16];
        for (w, b) in w.iter_mut().zip(bytes.as_chunks().0) {
            *w = f32::from_le_bytes(*b);
        }
        s.load(&w)
    }
}

impl Plain for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn widen<S: Simd>(s: S, bytes: &[u8]) -> S::F {
        s.load_f16(bytes.as_chunks().0.as_array().expect("16 halves"))
    }
}

impl Plain for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn widen<S: Simd>(s: S, bytes: &[u8]) -> S::F {
        s.load_bf16(bytes.as_chunks().0.as_array().expect("16 halves"))
    }
}

/// Columns up to which reading the weights takes longer than multiplying.
const GEMV_COLUMNS: usize = 8;

/// Bytes of a panel, at most, unless a group of rows takes more: it stays in the second cache while all columns pass.
const PANEL: usize = 1 << 20;

/// Row groups of a panel, at most.
const GROUPS: usize = 64;

/// Steps of k that a tile takes at a time, so that those of its columns stay in the first cache from one group of rows to the next.
const KC: usize = 64;

/// 16 values of a row or a column, which are a line of the cache.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

const ZERO: Line = Line([0.0; 16]);

thread_local! {
    /// The panel of a thread.
    static PANEL_OF: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// All rows of the job times all rows of the activations, in tiles of `R` rows by up to `C` columns.
#[inline(always)]
pub fn matmul<S: Simd, P: Plain, const R: usize, const C: usize>(s: S, job: Job<'_>, x: &Activations, out: Out<'_>) {
    if x.rows() <= GEMV_COLUMNS { gemv::<S, P, R>(s, job, x, out) } else { gemm::<S, P, R, C>(s, job, x, out) }
}

/// `R` rows at a time, as far apart as they can be, so that each is a long run of memory from row to row.
#[inline(always)]
fn gemv<S: Simd, P: Plain, const R: usize>(s: S, job: Job<'_>, x: &Activations, out: Out<'_>) {
    let stride = job.rows().div_ceil(R);
    for r in 0..stride {
        let place = |i: usize| r + i * stride;
        let w = rows::<P, R>(job, place, 0..x.cols());
        for c in (0..x.rows()).step_by(4) {
            macro_rules! columns {
                ($n:literal) => {{
                    let mut acc = [[s.splat(0.0); $n]; R];
                    tile::<S, P, R, $n, true>(s, w, columns(x, c, 0..x.cols()), &mut acc);
                    write(s, job, place, c, &acc, out);
                }};
            }
            match x.rows() - c {
                1 => columns!(1),
                2 => columns!(2),
                3 => columns!(3),
                _ => columns!(4),
            }
        }
    }
}

/// ```text
/// for each block of rows:
///     panel (groups, steps of k, R, 16) = the rows, widened once
///     for each C columns:
///         acc (groups, R, C) = 0
///         for each KC steps of k, for each group of R rows:  acc += panel (KC, R, 16) x (KC, C, 16)
/// ```
#[inline(always)]
fn gemm<S: Simd, P: Plain, const R: usize, const C: usize>(s: S, job: Job<'_>, x: &Activations, out: Out<'_>) {
    let steps = x.cols().div_ceil(16);
    let groups = (PANEL / (steps * R * size_of::<Line>()).max(1)).clamp(1, GROUPS);
    const { assert!(C <= GEMV_COLUMNS) };
    let mut acc = [[[s.splat(0.0); R]; C]; GROUPS];
    let mut panel = PANEL_OF.take();
    for block in (0..job.rows()).step_by(groups * R) {
        let groups = groups.min((job.rows() - block).div_ceil(R));
        panel.resize(panel.len().max(groups * steps * R), ZERO);
        let panel = panel[..groups * steps * R].as_chunks_mut::<R>().0;
        for (group, panel) in panel.chunks_exact_mut(steps).enumerate() {
            let rows = rows::<P, R>(job, |i| block + group * R + i, 0..x.cols());
            for (r, row) in rows.iter().enumerate() {
                widen::<S, P>(s, row, panel.iter_mut().map(|lines| &mut lines[r]));
            }
        }
        let panel = Panel { steps, lines: panel, block };
        for c in (0..x.rows()).step_by(C) {
            // The last columns are a whole tile as well: those that it shares with the tile before get the same results again.
            panel.times(s, (job, x, out), c.min(x.rows() - C), &mut acc);
        }
    }
    PANEL_OF.set(panel);
}

/// Widens a row into lines; beyond its end zeros.
#[inline(always)]
fn widen<'a, S: Simd, P: Plain>(s: S, row: &[u8], lines: impl Iterator<Item = &'a mut Line>) {
    for (bytes, line) in row.chunks(16 * P::BYTES).zip(lines) {
        if bytes.len() == 16 * P::BYTES {
            s.store(P::widen(s, bytes), &mut line.0);
        } else {
            let mut part = [0; 64];
            part[..bytes.len()].copy_from_slice(bytes);
            s.store(P::widen(s, &part[..16 * P::BYTES]), &mut line.0);
        }
    }
}

/// The widened rows from `block` on.
struct Panel<'a, const R: usize> {
    steps: usize,
    lines: &'a [[Line; R]], // (groups, steps)
    block: usize,
}

impl<const R: usize> Panel<'_, R> {
    /// Its rows times `C` columns from `first` on.
    #[inline(always)]
    fn times<S: Simd, const C: usize>(
        &self,
        s: S,
        (job, x, out): (Job<'_>, &Activations, Out<'_>),
        first: usize,
        acc: &mut [[[S::F; R]; C]; GROUPS],
    ) {
        let mut tile = [[ZERO; C]; KC];
        for from in (0..self.steps).step_by(KC) {
            let slice = from..self.steps.min(from + KC);
            let values = slice.start * 16..x.cols().min(slice.end * 16);
            for (c, column) in columns::<C>(x, first, values).into_iter().enumerate() {
                for (values, lines) in column.chunks(16).zip(&mut tile) {
                    let values = values.as_array().map_or_else(|| s.load_part(values, 0.0), |values| s.load(values));
                    s.store(values, &mut lines[c].0);
                }
            }
            for (group, panel) in self.lines.chunks_exact(self.steps).enumerate() {
                let sums = if from == 0 { [[s.splat(0.0); R]; C] } else { acc[group] };
                let sums = multiply(s, &panel[slice.clone()], &tile, sums);
                if slice.end < self.steps {
                    acc[group] = sums;
                    continue;
                }
                let row = self.block + group * R;
                for c in 0..C {
                    let sums = s.sums(sums[c]);
                    match sums.get(..job.rows() - row) {
                        Some(there) => out.set_run(first + c, row, there),
                        None => out.set_run(first + c, row, &sums),
                    }
                }
            }
        }
    }
}

/// `sums + panel (steps, R, 16) x tile (steps, C, 16)`, a lane for each k modulo 16.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const C: usize>(
    s: S,
    panel: &[[Line; R]],
    tile: &[[Line; C]; KC],
    mut sums: [[S::F; R]; C],
) -> [[S::F; R]; C] {
    for (w, x) in panel.iter().zip(tile) {
        let mut columns = [s.splat(0.0); C];
        for c in 0..C {
            columns[c] = s.load(&x[c].0);
        }
        for r in 0..R {
            let w = s.load(&w[r].0);
            for c in 0..C {
                sums[c][r] = s.fma(w, columns[c], sums[c][r]);
            }
        }
    }
    sums
}

/// The bytes of some values of `R` rows; past the last row the last again.
#[inline(always)]
fn rows<'a, P: Plain, const R: usize>(job: Job<'a>, place: impl Fn(usize) -> usize, k: Range<usize>) -> [&'a [u8]; R] {
    let mut w: [&[u8]; R] = [&[]; R];
    for i in 0..R {
        w[i] = &job.row(place(i).min(job.rows() - 1))[k.start * P::BYTES..k.end * P::BYTES];
    }
    w
}

/// Some values of `C` columns.
#[inline(always)]
fn columns<const C: usize>(x: &Activations, first: usize, k: Range<usize>) -> [&[f32]; C] {
    let mut xs: [&[f32]; C] = [&[]; C];
    for c in 0..C {
        xs[c] = &x.values()[(first + c) * x.cols()..][k.clone()];
    }
    xs
}

/// Bytes between those being read and those being prefetched in each row.
const PREFETCH: usize = 2048;

/// `acc += w (R, k) x (k, C)`, a lane for each k modulo 16. `FAR`: the weights come from memory.
#[inline(always)]
fn tile<S: Simd, P: Plain, const R: usize, const C: usize, const FAR: bool>(
    s: S,
    w: [&[u8]; R],
    xs: [&[f32]; C],
    acc: &mut [[S::F; C]; R],
) {
    let k = xs[0].len();
    let whole = k / 16 * 16;
    let mut sums = *acc;
    let mut i = 0;
    while i < whole {
        let mut columns = [s.splat(0.0); C];
        for c in 0..C {
            columns[c] = s.load(xs[c][i..i + 16].as_array().expect("16 values"));
        }
        for r in 0..R {
            if FAR {
                s.prefetch_near(w[r].as_ptr().wrapping_add(i * P::BYTES + PREFETCH));
            }
            let w = P::widen(s, &w[r][i * P::BYTES..(i + 16) * P::BYTES]);
            for c in 0..C {
                sums[r][c] = s.fma(w, columns[c], sums[r][c]);
            }
        }
        i += 16;
    }
    if whole < k {
        for r in 0..R {
            let mut bytes = [0; 64];
            bytes[..(k - whole) * P::BYTES].copy_from_slice(&w[r][whole * P::BYTES..]);
            let w = P::widen(s, &bytes[..16 * P::BYTES]);
            for c in 0..C {
                sums[r][c] = s.fma(w, s.load_part(&xs[c][whole..], 0.0), sums[r][c]);
            }
        }
    }
    *acc = sums;
}

/// Adds the lanes and writes the results of the rows that are there.
#[inline(always)]
fn write<S: Simd, const R: usize, const C: usize>(
    s: S,
    job: Job<'_>,
    place: impl Fn(usize) -> usize,
    first: usize,
    acc: &[[S::F; C]; R],
    out: Out<'_>,
) {
    for r in 0..R {
        if place(r) < job.rows() {
            for c in 0..C {
                out.set(first + c, place(r), s.sum(acc[r][c]));
            }
        }
    }
}
