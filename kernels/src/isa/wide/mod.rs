//! Products over many columns: expand a panel of rows once, use it for all columns.
//!
//! ```text
//! for each group of panels of rows (L lanes x S strips):
//!     acc (panels, columns, rows) = 0                              in the second cache
//!     for each slab of 256 values of k:
//!         for each panel:
//!             panel = the slab of these rows, as bytes in tile order   in the first cache: read from the file's blocks once
//!             for each tile of C columns:                              their slab in the second cache, read from the third once a group
//!                 acc += panel x tile                                  in registers
//!     write acc
//! ```
//! What is computed for a row and a column is exactly what the narrow products compute, in the same order of k: a lane is a row, so that
//! no sum ever crosses lanes. See [`panel`] for the picture, [`tile`] for the innermost loops.

pub mod formats;
pub mod panel;
pub mod tile;

use crate::matmul::{Job, Out};
use panel::{Expand, Panel, Rows, Strip};
use std::cell::Cell;
use strata_quant::activations::tiled::SLAB;
use strata_quant::{ActivationKind, Activations};

/// Columns that go through a panel together, whole tiles of them: as many as the forward pass has tokens in a sub-batch.
const COLUMNS: usize = 516;

/// Panels in a group. With 32 rows their results of all columns take 264 KB: they and a slab of the columns are at home in the second cache.
const GROUP: usize = 4;

thread_local! {
    /// Room for the results of a group.
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

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
    let kind = if F::BLOCK == SLAB { ActivationKind::Q8x256 } else { ActivationKind::Q8x32 };
    let (tiled, width) = (x.tiled(kind, T::bias::<F>()), width(m, C));
    let bytes = SLAB / F::BLOCK * F::BYTES; // of a slab of a row
    let (few, panels) = (m <= FEW, job.rows().div_ceil(L * S));
    let mut panel = Panel::<L, S>::new();
    let mut room = ROOM.take();
    room.resize(GROUP * L * S * COLUMNS + 16, 0.0);
    let whole_lines = room.as_ptr().align_offset(64);
    let acc = room[whole_lines..].as_chunks_mut::<L>().0.as_chunks_mut::<S>().0; // (panels, columns, strips, lanes)
    let place = |p: usize, s: usize, lane: usize| match s * L + lane {
        // Each run begins a row later than the one before: where a run's bytes are a multiple of a page, lines of all of them would have
        // the same few places in the first cache.
        run if few => run * panels + (p + run) % panels,
        row => p * S * L + row,
    };
    let step = if few { 1 } else { GROUP };
    for first_panel in (0..panels).step_by(step) {
        let group = first_panel..panels.min(first_panel + step);
        let mut rows = [[Rows::EMPTY; S]; GROUP];
        for p in group.clone() {
            for s in 0..S {
                let mut lanes = [job.row(0); L];
                for lane in 0..L {
                    // Past the last row the last is computed again, and dropped.
                    lanes[lane] = job.row(place(p, s, lane).min(job.rows() - 1));
                }
                rows[p - first_panel][s] = Rows::new(lanes, few);
            }
        }
        for first in (0..m).step_by(together(C)) {
            let n = together(C).min(m - first);
            acc[..group.len() * n].fill([[0.0; L]; S]);
            for slab in 0..x.slabs() {
                let last = slab + 1 == x.slabs();
                for (p, acc) in group.clone().zip(acc.chunks_exact_mut(n)) {
                    let rows = &rows[p - first_panel];
                    let mut slabs = [Rows::EMPTY; S];
                    for s in 0..S {
                        slabs[s] = rows[s].part(slab * bytes, bytes);
                    }
                    panel.expand::<T, F>(t, &slabs);
                    let tiles = n.div_ceil(width);
                    // Where the next slab is; the rows of the next group come after those of this one.
                    let next = if last { L * S * group.len() * rows[0].len() - slab * bytes } else { bytes };
                    for (i, c) in (0..n).step_by(width).enumerate() {
                        let width = width.min(n - c);
                        if !few && first + together(C) >= m {
                            for row in (L * S * i / tiles)..(L * S * (i + 1) / tiles) {
                                slabs[row / L].prefetch(t, row % L, next, bytes);
                            }
                        }
                        if !few && last {
                            for c in first + c..first + c + width {
                                ask::<T, L, S>(t, out.place(c, place(p, 0, 0)));
                            }
                        }
                        let (x, acc) = (tiled.tile(m, slab, first + c, width), &mut acc[c..c + width]);
                        tile::run::<T, F, L, S, C>(t, &panel, x, acc);
                        if last {
                            write(acc, first + c, job.rows(), |s, lane| place(p, s, lane), few, out);
                        }
                    }
                }
            }
        }
    }
    ROOM.set(room);
}

/// Asks for the lines of a column's results, which are as far from those of the next column as the matrix is high: what is written there
/// would wait for each of them.
#[inline(always)]
fn ask<T: Strip<L>, const L: usize, const S: usize>(t: T, at: *const f32) {
    for value in (0..L * S).step_by(16) {
        t.prefetch(at.wrapping_add(value).cast());
    }
}

/// Writes the results `acc (columns, rows)` of a panel, the first of them that of column `first`; `place(strip, lane)` says which row of
/// the job's `rows` is where. Columns are outermost: neighbouring rows are neighbours in a column.
#[inline(always)]
fn write<const L: usize, const S: usize>(
    acc: &[[[f32; L]; S]],
    first: usize,
    rows: usize,
    place: impl Fn(usize, usize) -> usize,
    few: bool,
    out: Out<'_>,
) {
    for (c, acc) in acc.iter().enumerate() {
        if !few && place(S - 1, L - 1) < rows {
            out.set_run(first + c, place(0, 0), acc.as_flattened());
            continue;
        }
        for s in 0..S {
            for lane in (0..L).filter(|&lane| place(s, lane) < rows) {
                out.set(first + c, place(s, lane), acc[s][lane]);
            }
        }
    }
}

/// The columns of a tile where it may have up to `most`: one width for all as far as it goes, since narrow ones make less of each load.
pub fn width(columns: usize, most: usize) -> usize {
    if columns <= together(most) { columns.div_ceil(columns.div_ceil(most)) } else { most }
}

/// Compiles the products over many columns for an instruction set: `WIDE`, for its table. `$token` is an expression for a token of type
/// `$Token`, valid inside functions with `$feature`; `$l` lanes, `$s` strips and `$c` columns are the tile; `$from` says from how many columns on they pay.
macro_rules! instantiate {
    ($Token:ty = $token:expr, #[$feature:meta], $l:literal lanes x $s:literal strips, $c:literal columns, from $from:expr) => {
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
