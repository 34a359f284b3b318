//! What the block products of both x86 sets share: the walk over rows, columns and steps of four blocks. The sets differ in a step.

use crate::matmul::{Job, Out};
use std::arch::x86_64::*;
use strata_quant::Activations;
use strata_quant::activations::Q8Row;

/// A format of blocks of 32 with one scale, on one instruction set: `QUAD_BYTES` hold four blocks.
pub trait Steps<const QUAD_BYTES: usize> {
    /// The first `live` of four blocks of four rows, times quad `q` of `C` columns: the exact block sums as `[block][row]`, then one
    /// fused multiply-add a block, in the order of k, into the four rows of each accumulator.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn step<const C: usize>(
        rows: [&[u8; QUAD_BYTES]; 4],
        xs: &[Q8Row<'_>; C],
        q: usize,
        live: usize,
        acc: &mut [__m128; C],
    );
}

/// All rows of the job times all columns: four rows and up to four columns at a time, four blocks a step.
///
/// # Safety
/// The processor has the instruction set of `F`.
#[inline(always)]
pub unsafe fn matmul<F: Steps<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    for r in (0..job.rows()).step_by(4) {
        // Past the last row the last is computed again, and dropped.
        let row = |i: usize| job.row((r + i).min(job.rows() - 1));
        let rows = [row(0), row(1), row(2), row(3)];
        let mut c = 0;
        while c < x.rows() {
            let step = if c + 4 <= x.rows() { 4 } else { 1 };
            // SAFETY: the caller's promise.
            unsafe {
                if step == 4 {
                    tile::<F, N, 4>(rows, x, c, out, r, job.rows() - r);
                } else {
                    tile::<F, N, 1>(rows, x, c, out, r, job.rows() - r);
                }
            }
            c += step;
        }
    }
}

/// Four rows, of which `live` are wanted, times `C` columns from `c0` on.
///
/// # Safety
/// The processor has the instruction set of `F`.
#[inline(always)]
unsafe fn tile<F: Steps<N>, const N: usize, const C: usize>(
    rows: [&[u8]; 4],
    x: &Activations,
    c0: usize,
    out: Out<'_>,
    r0: usize,
    live: usize,
) {
    let mut xs = [x.q8x32_row(c0); C];
    for c in 1..C {
        xs[c] = x.q8x32_row(c0 + c);
    }
    let blocks = x.cols() / 32;
    // SAFETY: every x86-64 processor has SSE2; registers only.
    let mut acc = unsafe { [_mm_setzero_ps(); C] };
    for q in 0..blocks / 4 {
        let quad = |r: usize| rows[r][q * N..(q + 1) * N].as_array().expect("four blocks");
        // SAFETY: the caller's promise.
        unsafe { F::step([quad(0), quad(1), quad(2), quad(3)], &xs, q, 4, &mut acc) };
    }
    let rest = blocks % 4;
    if rest > 0 {
        let mut padded = [[0; N]; 4];
        for (padded, row) in padded.iter_mut().zip(rows) {
            padded[..rest * (N / 4)].copy_from_slice(&row[blocks / 4 * N..]);
        }
        let [a, b, c, d] = &padded;
        // SAFETY: the caller's promise.
        unsafe { F::step([a, b, c, d], &xs, blocks / 4, rest, &mut acc) };
    }
    for c in 0..C {
        let mut y = [0.0; 4];
        // SAFETY: every x86-64 processor has SSE; `y` has the four values.
        unsafe { _mm_storeu_ps(y.as_mut_ptr(), acc[c]) };
        for r in 0..live.min(4) {
            out.set(c0 + c, r0 + r, y[r]);
        }
    }
}
