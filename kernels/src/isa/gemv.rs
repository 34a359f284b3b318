//! GEMV, and GEMM with few columns: the loops over rows, columns and steps of k. Formats and instruction sets differ in a step.

use crate::matmul::{Job, Out};
use strata_quant::activations::{Q8x32Row, Q8x256Row};
use strata_quant::{ActivationBits, Activations};

/// A plane of a row of activations in 8-bit blocks.
pub trait QuantizedRow<'a>: Copy {
    /// Values in a block.
    const BLOCK: usize;
    /// Blocks in a step.
    const BLOCKS: usize;
    /// A plane of row `c`.
    fn of(x: &'a Activations, c: usize, plane: usize) -> Self;
}

impl<'a> QuantizedRow<'a> for Q8x32Row<'a> {
    const BLOCK: usize = 32;
    const BLOCKS: usize = 4;
    #[inline(always)]
    fn of(x: &'a Activations, c: usize, plane: usize) -> Q8x32Row<'a> {
        x.q8x32_row(c, plane)
    }
}

impl<'a> QuantizedRow<'a> for Q8x256Row<'a> {
    const BLOCK: usize = 256;
    const BLOCKS: usize = 1;
    #[inline(always)]
    fn of(x: &'a Activations, c: usize, plane: usize) -> Q8x256Row<'a> {
        x.q8x256_row(c, plane)
    }
}

/// Four numbers in a register.
pub trait Acc: Copy {
    /// Four zeros.
    fn zero() -> Self;
    /// The four numbers.
    fn values(self) -> [f32; 4];
    /// Prefetches the bytes of steps after step `i`, of `N` bytes a row.
    fn prefetch<const N: usize>(_rows: [&[u8]; 4], _i: usize) {}
}

/// A block format on one instruction set: `N` are the bytes of a step's blocks of one row.
pub trait Steps<const N: usize> {
    /// The proof that the processor has the instruction set.
    type Token: Copy;
    /// The form of the activations that the format is multiplied with.
    type Row<'a>: QuantizedRow<'a>;
    /// Four sums, one a row.
    type Acc: Acc;

    /// The first `live` blocks of step `i` of four rows times `C` columns of `P` planes: the exact block sums, then one fused multiply-add a
    /// block (two where the format has offsets), in the order of k, into the four rows of each accumulator. The sum of a block with two
    /// planes is `RADIX * high + low`, a fused multiply-add of both as floats, or in integers where no rounding can come between.
    fn step<const C: usize, const P: usize>(
        t: Self::Token,
        rows: [&[u8; N]; 4],
        xs: &[[Self::Row<'_>; P]; C],
        i: usize,
        live: usize,
        acc: &mut [Self::Acc; C],
    );
}

/// All rows of the job times all columns: four rows and up to four planes of columns at a time. The four rows are a quarter of the job apart, so
/// that memory is read as four long runs, which is what the processor's prefetchers follow: neighbouring rows, which end after a few
/// kilobytes, reached only half of the speed.
#[inline(always)]
pub fn matmul<F: Steps<N>, const N: usize>(t: F::Token, job: Job<'_>, x: &Activations, out: Out<'_>) {
    match x.bits() {
        ActivationBits::Eight => all_rows::<F, N, 1>(t, job, x, out),
        ActivationBits::Sixteen => all_rows::<F, N, 2>(t, job, x, out),
    }
}

#[inline(always)]
fn all_rows<F: Steps<N>, const N: usize, const P: usize>(t: F::Token, job: Job<'_>, x: &Activations, out: Out<'_>) {
    let quarter = job.rows().div_ceil(4);
    for r in 0..quarter {
        // Past the last row the last is computed again, and dropped.
        let places = [r, r + quarter, r + 2 * quarter, r + 3 * quarter];
        let row = |i: usize| job.row(places[i].min(job.rows() - 1));
        let rows = [row(0), row(1), row(2), row(3)];
        let mut c = 0;
        while c < x.rows() {
            let columns = (x.rows() - c).min(4 / P);
            match columns {
                1 => tile::<F, N, 1, P>(t, rows, x, c, out, places),
                2 => tile::<F, N, 2, P>(t, rows, x, c, out, places),
                // A condition on constants: what it rules out is not compiled.
                3 if P == 1 => tile::<F, N, 3, P>(t, rows, x, c, out, places),
                4 if P == 1 => tile::<F, N, 4, P>(t, rows, x, c, out, places),
                n => unreachable!("{n} columns of {P} planes"),
            }
            c += columns;
        }
    }
}

/// Four rows times `C` columns of `P` planes from `c0` on. The results go to the rows `places`; those past the last row are dropped.
#[inline(always)]
fn tile<'a, F: Steps<N>, const N: usize, const C: usize, const P: usize>(
    t: F::Token,
    rows: [&[u8]; 4],
    x: &'a Activations,
    c0: usize,
    out: Out<'_>,
    places: [usize; 4],
) {
    let mut xs = [[F::Row::<'a>::of(x, c0, 0); P]; C];
    for c in 0..C {
        for plane in 0..P {
            xs[c][plane] = F::Row::<'a>::of(x, c0 + c, plane);
        }
    }
    let blocks = x.cols() / F::Row::<'a>::BLOCK;
    let whole = F::Row::<'a>::BLOCKS;
    let mut acc = [F::Acc::zero(); C];
    for i in 0..blocks / whole {
        F::Acc::prefetch::<N>(rows, i);
        let of = |r: usize| rows[r][i * N..(i + 1) * N].as_array().expect("whole blocks");
        F::step(t, [of(0), of(1), of(2), of(3)], &xs, i, whole, &mut acc);
    }
    let rest = blocks % whole;
    if rest > 0 {
        let mut padded = [[0; N]; 4];
        for (padded, row) in padded.iter_mut().zip(rows) {
            padded[..rest * (N / whole)].copy_from_slice(&row[blocks / whole * N..]);
        }
        let [a, b, c, d] = &padded;
        F::step(t, [a, b, c, d], &xs, blocks / whole, rest, &mut acc);
    }
    for c in 0..C {
        let y = acc[c].values();
        for r in 0..4 {
            if places[r] < out.rows() {
                out.set(c0 + c, places[r], y[r]);
            }
        }
    }
}
