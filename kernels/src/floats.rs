//! Products with plain weights (F32, F16, BF16): a tile of rows times columns, each with 16 lanes, written once for all sets.
//!
//! The tile shares every load of weights between its columns and every load of activations between its rows; what it computes for one
//! pair is the same whatever the tile. Its size is the instruction set's: as many accumulators as it has registers for.

use crate::matmul::{Job, Out};
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

/// All rows of the job times all rows of the activations, in tiles of `R` rows by `C` columns.
#[inline(always)]
pub fn matmul<S: Simd, P: Plain, const R: usize, const C: usize>(s: S, job: Job<'_>, x: &Activations, out: Out<'_>) {
    let (rows, cols) = (job.rows(), x.rows());
    let mut c = 0;
    while c < cols {
        let wide = c + C <= cols;
        let mut r = 0;
        while r < rows {
            match (wide, r + R <= rows) {
                (true, true) => tile::<S, P, R, C>(s, job, x, out, r, c),
                (true, false) => tile::<S, P, 1, C>(s, job, x, out, r, c),
                (false, true) => tile::<S, P, R, 1>(s, job, x, out, r, c),
                (false, false) => tile::<S, P, 1, 1>(s, job, x, out, r, c),
            }
            r += if r + R <= rows { R } else { 1 };
        }
        c += if wide { C } else { 1 };
    }
}

#[inline(always)]
fn tile<S: Simd, P: Plain, const R: usize, const C: usize>(
    s: S,
    job: Job<'_>,
    x: &Activations,
    out: Out<'_>,
    r0: usize,
    c0: usize,
) {
    let k = x.cols();
    let mut w: [&[u8]; R] = [&[]; R];
    let mut xs: [&[f32]; C] = [&[]; C];
    for (r, w) in w.iter_mut().enumerate() {
        *w = &job.row(r0 + r)[..k * P::BYTES];
    }
    for (c, x_row) in xs.iter_mut().enumerate() {
        *x_row = &x.values()[(c0 + c) * k..(c0 + c + 1) * k];
    }
    let mut acc = [[s.splat(0.0); C]; R];
    let whole = k / 16 * 16;
    let mut i = 0;
    while i < whole {
        let mut columns = [s.splat(0.0); C];
        for c in 0..C {
            columns[c] = s.load(xs[c][i..i + 16].as_array().expect("16 values"));
        }
        for r in 0..R {
            let w = P::widen(s, &w[r][i * P::BYTES..(i + 16) * P::BYTES]);
            for c in 0..C {
                acc[r][c] = s.fma(w, columns[c], acc[r][c]);
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
                acc[r][c] = s.fma(w, s.load_part(&xs[c][whole..], 0.0), acc[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            out.set(c0 + c, r0 + r, s.sum(acc[r][c]));
        }
    }
}
