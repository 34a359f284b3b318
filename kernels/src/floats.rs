//! Products with plain weights (F32, F16, BF16): a tile of rows times columns, each with 16 lanes, written once for all sets.
//!
//! The tile shares every load of weights between its columns and every load of activations between its rows; what it computes for one
//! pair is the same whatever the tile. Its size is the instruction set's: as many accumulators as it has registers for.

use crate::matmul::{Job, Out};
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

/// Row groups of a block of rows: its weights and its sums stay in the second cache while all columns pass.
const GROUPS: usize = 16;

/// Bytes of weights of such a block, at most.
const BLOCK: usize = 512 << 10;

/// Values of k that a tile takes at a time, so that those of its columns stay in the first cache from one group of rows to the next.
const KC: usize = 1024;

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
/// for each block of rows, for each C columns:
///     acc (groups, R, C) = 0
///     for each KC block of k, for each group of R rows:  acc += w (R, KC) x (KC, C)
/// ```
#[inline(always)]
fn gemm<S: Simd, P: Plain, const R: usize, const C: usize>(s: S, job: Job<'_>, x: &Activations, out: Out<'_>) {
    let k = x.cols();
    let groups = (BLOCK / (R * k * P::BYTES).max(1)).clamp(1, GROUPS);
    for block in (0..job.rows()).step_by(groups * R) {
        let groups = groups.min((job.rows() - block).div_ceil(R));
        let place = |group: usize| move |i: usize| block + group * R + i;
        let mut c = 0;
        while c + C <= x.rows() {
            let mut acc = [[[s.splat(0.0); C]; R]; GROUPS];
            for from in (0..k).step_by(KC) {
                let slice = from..k.min(from + KC);
                let x = columns::<C>(x, c, slice.clone());
                for (group, acc) in acc[..groups].iter_mut().enumerate() {
                    tile::<S, P, R, C, false>(s, rows::<P, R>(job, place(group), slice.clone()), x, acc);
                }
            }
            for (group, acc) in acc[..groups].iter().enumerate() {
                write(s, job, place(group), c, acc, out);
            }
            c += C;
        }
        for c in c..x.rows() {
            for group in 0..groups {
                let mut acc = [[s.splat(0.0)]; R];
                let w = rows::<P, R>(job, place(group), 0..k);
                tile::<S, P, R, 1, false>(s, w, columns(x, c, 0..k), &mut acc);
                write(s, job, place(group), c, &acc, out);
            }
        }
    }
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
