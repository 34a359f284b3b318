//! Products over many columns: expand a panel of rows once, use it for all columns.
//!
//! ```text
//! for each panel of rows (L lanes x S strips):
//!     acc (columns, rows) = 0                                     in the second cache
//!     for each slab of 256 values of k:
//!         panel = the slab of these rows, as bytes in tile order   in the first cache: read from the file's blocks once
//!         for each tile of C columns:
//!             acc += panel x tile                                  in registers
//!     write acc
//! ```
//! What is computed for a row and a column is exactly what the narrow products compute, in the same order of k: a lane is a row, so that
//! no sum ever crosses lanes. See [`panel`] for the picture, [`tile`] for the innermost loops.

pub mod formats;
pub mod panel;
pub mod tile;

use crate::matmul::{Job, Out};
use panel::{Expand, Panel, Rows, Strip};
use strata_quant::activations::tiled::SLAB;
use strata_quant::{ActivationKind, Activations};

/// Columns that go through a panel together, whole tiles of them: as many as the forward pass has tokens in a sub-batch. Their results take
/// 66 KB with 32 rows.
const COLUMNS: usize = 516;

/// [`COLUMNS`] in whole tiles of `c`.
const fn together(c: usize) -> usize {
    COLUMNS / c * c
}

/// Columns up to which memory counts more than arithmetic.
const FEW: usize = 16;

/// All rows of the job times all columns. The activations must be there as tiles of `C` columns, or of what [`width`] says.
///
/// With few columns memory is what counts: the rows of a panel are as far apart as they can be, so that each lane reads a long run of
/// memory from row to row, which the processor's prefetchers follow. With many, the results are: rows that are neighbours share their lines.
#[inline(always)]
pub fn matmul<T, F, const L: usize, const S: usize, const C: usize>(t: T, job: Job<'_>, x: &Activations, out: Out<'_>)
where
    T: Strip<L>,
    F: Expand,
{
    let m = x.rows();
    let (tiled, width) =
        (x.tiled(if F::BLOCK == SLAB { ActivationKind::Q8x256 } else { ActivationKind::Q8x32 }), width(m, C));
    let bytes = SLAB / F::BLOCK * F::BYTES; // of a slab of a row
    let panels = job.rows().div_ceil(L * S);
    let mut panel = Panel::<L, S>::new();
    let mut acc = [[[0.0; L]; S]; COLUMNS]; // (columns, rows)
    for p in 0..panels {
        let place = |s: usize, lane: usize| match m {
            0..=FEW => p + (s * L + lane) * panels,
            _ => (p * S + s) * L + lane,
        };
        let mut rows = [[job.row(0); L]; S];
        for s in 0..S {
            for lane in 0..L {
                // Past the last row the last is computed again, and dropped.
                rows[s][lane] = job.row(place(s, lane).min(job.rows() - 1));
            }
        }
        for first in (0..m).step_by(together(C)) {
            let n = together(C).min(m - first);
            acc[..n].fill([[0.0; L]; S]);
            for slab in 0..x.slabs() {
                let mut slabs = [Rows::new(&rows[0], slab * bytes, bytes); S];
                for s in 1..S {
                    slabs[s] = Rows::new(&rows[s], slab * bytes, bytes);
                }
                panel.expand::<T, F>(t, &slabs);
                let mut ahead = (first == 0).then_some(&slabs);
                for c in (0..n).step_by(width) {
                    let width = width.min(n - c);
                    let (x, acc) = (tiled.tile(m, slab, first + c, width), &mut acc[c..c + width]);
                    tile::run::<T, F, L, S, C>(t, &panel, x, acc, ahead.take());
                }
            }
            // Columns outermost: neighbouring rows are neighbours in a column.
            for c in 0..n {
                for s in 0..S {
                    for lane in 0..L {
                        if place(s, lane) < job.rows() {
                            out.set(first + c, place(s, lane), acc[c][s][lane]);
                        }
                    }
                }
            }
        }
    }
}

/// The columns of a tile where it may have up to `most`: one width for all as far as it goes, since narrow ones make less of each load.
pub fn width(columns: usize, most: usize) -> usize {
    if columns <= together(most) { columns.div_ceil(columns.div_ceil(most)) } else { most }
}

/// Compiles the products over many columns for an instruction set: `WIDE`, for its table. `$token` is an expression for a token of type
/// `$Token`, valid inside functions with `$feature`; `$l` lanes, `$s` strips and `$c` columns are the tile.
macro_rules! instantiate {
    ($Token:ty = $token:expr, #[$feature:meta], $l:literal lanes x $s:literal strips, $c:literal columns, from $from:literal columns on) => {
        /// This set's products over many columns.
        pub const WIDE: crate::table::Wide = crate::table::Wide {
            width: |m| $crate::isa::wide::width(m, $c),
            rows: $l * $s,
            from: $from,
            product: instances::product,
        };

        mod instances {
            use super::*;
            use crate::isa::wide::formats::*;
            use crate::isa::wide::panel::{Expand, Strip};
            use crate::matmul::{Job, Out};
            use crate::table::Matmul;
            use strata_quant::{Activations, GgmlType};

            #[$feature]
            fn matmul<F: Expand>(job: Job<'_>, x: &Activations, out: Out<'_>) {
                crate::isa::wide::matmul::<$Token, F, $l, $s, $c>($token, job, x, out)
            }

            fn of<F: Expand>() -> Option<(Matmul, u8)> {
                Some((matmul::<F>, <$Token as Strip<$l>>::bias::<F>()))
            }

            pub fn product(ty: GgmlType) -> Option<(Matmul, u8)> {
                match ty {
                    GgmlType::Q4_0 => of::<Q4_0>(),
                    GgmlType::Q4_1 => of::<Q4_1>(),
                    GgmlType::Q5_0 => of::<Q5_0>(),
                    GgmlType::Q5_1 => of::<Q5_1>(),
                    GgmlType::Q8_0 => of::<Q8_0>(),
                    GgmlType::IQ4_NL => of::<Iq4Nl>(),
                    GgmlType::Q2_K => of::<Q2K>(),
                    GgmlType::Q3_K => of::<Q3K>(),
                    GgmlType::Q4_K => of::<Q4K>(),
                    GgmlType::Q5_K => of::<Q5K>(),
                    GgmlType::Q6_K => of::<Q6K>(),
                    GgmlType::IQ4_XS => of::<Iq4Xs>(),
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use instantiate;
