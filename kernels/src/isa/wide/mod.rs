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
use std::ops::Range;
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

/// Values that a thread keeps room for with panels of `rows` rows: the results of a group, and what it takes to start at a whole line.
pub const fn room_values(rows: usize) -> usize {
    GROUP * rows * COLUMNS + 16
}

/// [`COLUMNS`] in whole tiles of `c`.
const fn together(c: usize) -> usize {
    COLUMNS / c * c
}

/// Columns up to which memory counts more than arithmetic.
const FEW: usize = 16;

/// Bytes of a row from those in hand to those that are asked for, with few columns. Measured on a Xeon with AVX-512 (2026-11-25), Q4_K at 4
/// columns, GB/s on two threads in huge pages, when the panel still asked for a third of the lines: 25.8 at 288, 25.4 at 512, 23.6 at 1024, 24.2
/// at 3072.
const AHEAD: usize = 512;

/// All rows of the job times all columns. The activations must be there as tiles of `C` columns, or of what [`width`] says.
#[inline(always)]
pub fn matmul<T, F, const L: usize, const S: usize, const C: usize>(t: T, job: Job<'_>, x: &Activations, out: Out<'_>)
where
    T: Strip<L>,
    F: Expand,
{
    let places = Places::new(job, L * S, x.rows());
    let mut panel = Panel::<L, S>::new();
    let mut room = ROOM.take();
    room.resize(room_values(L * S), 0.0);
    let whole_lines = room.as_ptr().align_offset(64);
    let acc = room[whole_lines..].as_chunks_mut::<L>().0.as_chunks_mut::<S>().0; // (panels, columns, strips, lanes)
    let step = if places.few { 1 } else { GROUP };
    for first in (0..places.panels).step_by(step) {
        let panels = first..places.panels.min(first + step);
        for columns in (0..x.rows()).step_by(together(C)) {
            let columns = columns..x.rows().min(columns + together(C));
            let acc = &mut acc[..panels.len() * columns.len()];
            acc.fill([[0.0; L]; S]);
            group::<T, F, L, S, C>(t, (job, x, out), &places, panels.clone(), columns, &mut panel, acc);
        }
    }
    ROOM.set(room);
}

/// Which rows are in which panel.
///
/// With few columns memory is what counts: the rows of a panel are as far apart as they can be, so that each lane reads a long run of
/// memory from row to row, which the processor's prefetchers follow. With many, the results are: rows that are neighbours share their lines.
struct Places {
    rows: usize,
    height: usize, // of a panel
    panels: usize,
    few: bool,
    stagger: usize, // rows that each run begins later than the one before
}

/// How many rows each of `height` runs of `rows` rows is to begin later than the one before, so that what is read of all of them at a time
/// has as many places in the first cache as can be: lines that lie a page apart, or a multiple, have the same few.
fn stagger(rows: usize, height: usize, row_bytes: usize) -> usize {
    const PAGE: usize = 4096;
    const PLACE: usize = 128; // about what is read of a row at a time
    let places = |stagger: usize| {
        let apart = (rows + stagger) * row_bytes;
        (0..height).fold(0u32, |places, i| places | 1 << (i * apart % PAGE / PLACE)).count_ones()
    };
    (0..8).rev().max_by_key(|&rows| places(rows)).expect("a range that is not empty")
}

impl Places {
    fn new(job: Job<'_>, height: usize, columns: usize) -> Places {
        let (panels, few) = (job.rows().div_ceil(height), columns <= FEW);
        let stagger = if few { stagger(panels, height, job.row(0).len()) } else { 0 };
        Places { rows: job.rows(), height, panels, few, stagger }
    }

    /// The job's row that is row `i` of panel `p`; there may be no such row.
    #[inline(always)]
    fn row(&self, p: usize, i: usize) -> usize {
        if self.few { i * self.panels + (p + i * self.stagger) % self.panels } else { p * self.height + i }
    }

    /// The rows of a panel. Past the last row the last is computed again, and dropped.
    #[inline(always)]
    fn rows<'a, const L: usize, const S: usize>(&self, job: Job<'a>, p: usize) -> [Rows<'a, L>; S] {
        let mut rows = [Rows::EMPTY; S];
        for s in 0..S {
            let mut lanes = [job.row(0); L];
            for lane in 0..L {
                lanes[lane] = job.row(self.row(p, s * L + lane).min(self.rows - 1));
            }
            rows[s] = Rows::new(lanes);
        }
        rows
    }
}

/// Some panels times some columns: `acc (panels, columns, rows)`, which goes to the result in the end.
#[inline(always)]
fn group<T, F, const L: usize, const S: usize, const C: usize>(
    t: T,
    (job, x, out): (Job<'_>, &Activations, Out<'_>),
    places: &Places,
    panels: Range<usize>,
    columns: Range<usize>,
    panel: &mut Panel<L, S>,
    acc: &mut [[[f32; L]; S]],
) where
    T: Strip<L>,
    F: Expand,
{
    let kind = if F::BLOCK == SLAB { ActivationKind::Q8x256 } else { ActivationKind::Q8x32 };
    let (tiled, width) = (x.tiled(kind, T::bias::<F>()), width(x.rows(), C));
    let bytes = SLAB / F::BLOCK * F::BYTES; // of a slab of a row
    let mut rows = [[Rows::EMPTY; S]; GROUP];
    for (rows, p) in rows.iter_mut().zip(panels.clone()) {
        *rows = places.rows(job, p);
    }
    for slab in 0..x.slabs() {
        let last = slab + 1 == x.slabs();
        for ((rows, p), acc) in rows.iter().zip(panels.clone()).zip(acc.chunks_exact_mut(columns.len())) {
            let mut slabs = [Rows::EMPTY; S];
            for s in 0..S {
                slabs[s] = rows[s].part(slab * bytes, bytes);
            }
            panel.expand::<T, F>(t, &slabs);
            if columns.end == x.rows() {
                let next = match last {
                    _ if places.few => AHEAD,
                    false => bytes,
                    true => L * S * panels.len() * rows[0].len() - slab * bytes, // the next group's rows come after those of this one
                };
                panel.look_ahead(&slabs, next);
            }
            for (c, acc) in columns.clone().step_by(width).zip(acc.chunks_mut(width)) {
                if !places.few && last {
                    for c in c..c + acc.len() {
                        ask_results::<T, L, S>(t, out.place(c, places.row(p, 0)));
                    }
                }
                tile::run::<T, F, L, S, C>(t, panel, tiled.tile(x.rows(), slab, c, acc.len()), acc);
                panel.ahead = None;
                if last {
                    write(acc, c, places, p, out);
                }
            }
        }
    }
}

/// Asks for the lines of a column's results, which are as far from those of the next column as the matrix is high: what is written there
/// would wait for each of them.
#[inline(always)]
fn ask_results<T: Strip<L>, const L: usize, const S: usize>(t: T, at: *const f32) {
    for value in (0..L * S).step_by(16) {
        t.prefetch(at.wrapping_add(value).cast());
    }
}

/// Writes the results `acc (columns, rows)` of panel `p`, the first of them that of column `first`.
#[inline(always)]
fn write<const L: usize, const S: usize>(acc: &[[[f32; L]; S]], first: usize, places: &Places, p: usize, out: Out<'_>) {
    if !places.few && (p + 1) * places.height <= places.rows {
        for (c, acc) in acc.iter().enumerate() {
            out.set_run(first + c, places.row(p, 0), acc.as_flattened());
        }
        return;
    }
    for i in 0..L * S {
        let row = places.row(p, i);
        if row < places.rows {
            for (c, acc) in acc.iter().enumerate() {
                out.set(first + c, row, acc[i / L][i % L]);
            }
        }
    }
}

/// The columns of a tile where it may have up to `most`: one width for all as far as it goes, since narrow ones make less of each load.
pub fn width(columns: usize, most: usize) -> usize {
    if columns <= together(most) { columns.div_ceil(columns.div_ceil(most)) } else { most }
}

/// Compiles the products over many columns for an instruction set: `WIDE`, for its table. `$token` is an expression for a token of type
/// `$Token`, valid inside functions with `$feature`; `$l` lanes, `$s` strips and `$c` columns are the tile; `$from` says from how many columns
/// on a format's panels pay.
macro_rules! instantiate {
    ($Token:ty = $token:expr, #[$feature:meta], $l:literal lanes x $s:literal strips, $c:literal columns, from $from:expr) => {
        /// This set's products over many columns.
        pub const WIDE: crate::table::Wide = crate::table::Wide {
            width: |m| $crate::isa::wide::width(m, $c),
            rows: $l * $s,
            room: $crate::isa::wide::room_values($l * $s) * size_of::<f32>(),
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
