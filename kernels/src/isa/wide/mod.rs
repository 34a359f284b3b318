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

pub mod panel;
pub mod tile;

use crate::matmul::{Job, Out};
use panel::{Expand, Panel, Strip};
use strata_quant::activations::tiled::SLAB;
use strata_quant::{ActivationKind, Activations};

/// Columns that go through a panel together: as many whole tiles as the forward pass has tokens in a sub-batch. 66 KB of results.
const COLUMNS: usize = 516;

/// All rows of the job times all columns. The activations must be there as tiles of `C` columns.
#[inline(always)]
pub fn matmul<T, F, const L: usize, const S: usize, const C: usize>(t: T, job: Job<'_>, x: &Activations, out: Out<'_>)
where
    T: Strip<L>,
    F: Expand<T>,
{
    let (m, slabs, rows) = (x.rows(), x.slabs(), L * S);
    let tiled = x.tiled(if F::BLOCK == SLAB { ActivationKind::Q8x256 } else { ActivationKind::Q8x32 });
    let mut panel = Panel::<L, S>::new();
    let mut acc = [[[0.0; L]; S]; COLUMNS]; // (columns, rows)
    for r in (0..job.rows()).step_by(rows) {
        let live = rows.min(job.rows() - r);
        for first in (0..m).step_by(COLUMNS) {
            let n = COLUMNS.min(m - first);
            acc[..n].fill([[0.0; L]; S]);
            for slab in 0..slabs {
                panel.expand::<T, F>(t, |i| job.row(r + i), live, slab);
                for c in (0..n).step_by(C) {
                    let width = C.min(n - c);
                    let (x, acc) = (tiled.tile(m, slab, first + c, width), &mut acc[c..c + width]);
                    tile::run::<T, F, L, S>(t, &panel, x, acc);
                }
            }
            for c in 0..n {
                let acc = acc[c].as_flattened();
                for i in 0..live {
                    out.set(first + c, r + i, acc[i]);
                }
            }
        }
    }
}
