//! GEMM: expand a panel of rows once, use it for all columns.
//!
//! ```text
//! for each group of panels of MR rows (L lanes x S vectors):
//!     acc (panels, columns, rows) = 0                              in the second cache
//!     for each block of KC = 256 values of k:
//!         for each panel:
//!             panel = the KC block of these rows, in tile order    in the first cache: read from the file's blocks once
//!             for each tile of NR = C columns:                     their KC block in the second cache, read from the third once a group
//!                 acc += panel x tile                              in registers
//!     write acc
//! ```
//! What is computed for a row and a column is exactly what GEMV computes, in the same order of k: a lane is a row, so that
//! no sum ever crosses lanes. See [`panel`] for the picture, [`tile`] for the innermost loops.

pub mod formats;
pub mod panel;
pub mod tile;

use crate::matmul::{Job, Out};
use panel::{Expand, Panel, Vector, WeightRows};
use std::cell::Cell;
use std::ops::Range;
use strata_quant::activations::tiled::KC;
use strata_quant::{ActivationKind, Activations};

/// Columns, planes of tokens, that go through a panel together, whole tiles of them: as many as the forward pass has tokens in a sub-batch.
const NC: usize = 516;

/// Panels in a group, whose rows are MC. With 32 rows each their results of all columns take 264 KB: they and a KC block of the columns are
/// at home in the second cache.
const PANELS: usize = 4;

thread_local! {
    /// The results of a group.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Floats of a thread's results with panels of `rows` rows: those of a group, and what it takes to start at a whole line.
pub const fn scratch_values(rows: usize) -> usize {
    PANELS * rows * NC + 16
}

/// The tokens of `planes` columns each that [`NC`] has, in whole tiles of up to `c` columns.
const fn together(planes: usize, c: usize) -> usize {
    let width = c / planes;
    NC / planes / width * width
}

/// Columns up to which reading the weights takes longer than multiplying.
const MEMORY_BOUND: usize = 16;

/// Bytes of a row between those being read and those being prefetched, up to [`MEMORY_BOUND`] columns. Measured on a Xeon with AVX-512
/// (2026-11-25), Q4_K at 4 columns, GB/s on two threads in huge pages, when the panel still prefetched a third of the lines: 25.8 at 288, 25.4
/// at 512, 23.6 at 1024, 24.2 at 3072.
const PREFETCH: usize = 512;

/// All rows of the job times all columns. The activations must be there as tiles of `C` columns, or of what [`width`] says.
#[inline(always)]
pub fn matmul<T, F, const L: usize, const S: usize, const C: usize>(t: T, job: Job<'_>, x: &Activations, out: Out<'_>)
where
    T: Vector<L>,
    F: Expand,
{
    let planes = x.bits().planes();
    let places = Places::new(job, L * S, planes * x.rows());
    let mut panel = Panel::<L, S>::new();
    let mut scratch = SCRATCH.take();
    scratch.resize(scratch_values(L * S), 0.0);
    let whole_lines = scratch.as_ptr().align_offset(64);
    let acc = scratch[whole_lines..].as_chunks_mut::<L>().0.as_chunks_mut::<S>().0; // (panels, tokens, vectors, lanes)
    let step = if places.memory_bound { 1 } else { PANELS };
    for first in (0..places.panels).step_by(step) {
        let panels = first..places.panels.min(first + step);
        for tokens in (0..x.rows()).step_by(together(planes, C)) {
            let tokens = tokens..x.rows().min(tokens + together(planes, C));
            let acc = &mut acc[..panels.len() * tokens.len()];
            acc.fill([[0.0; L]; S]);
            group::<T, F, L, S, C>(t, (job, x, out), &places, panels.clone(), tokens, &mut panel, acc);
        }
    }
    SCRATCH.set(scratch);
}

/// Which rows are in which panel.
///
/// Where reading is what takes time, the rows of a panel are as far apart as they can be, so that each lane reads a long run of memory from
/// row to row, which the processor's prefetchers follow. Elsewhere they are neighbours, which share the lines of the result.
struct Places {
    rows: usize,
    height: usize, // of a panel
    panels: usize,
    memory_bound: bool,
    stagger: usize, // rows that each run begins later than the one before
}

/// How many rows each of `height` runs of `rows` rows is to begin later than the one before, so that what is read of all of them at a time
/// has as many places in the first cache as can be: lines a page apart, or a multiple, share the same few.
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
        let (panels, memory_bound) = (job.rows().div_ceil(height), columns <= MEMORY_BOUND);
        let stagger = if memory_bound { stagger(panels, height, job.row(0).len()) } else { 0 };
        Places { rows: job.rows(), height, panels, memory_bound, stagger }
    }

    /// The job's row that is row `i` of panel `p`; there may be no such row.
    #[inline(always)]
    fn row(&self, p: usize, i: usize) -> usize {
        if self.memory_bound { i * self.panels + (p + i * self.stagger) % self.panels } else { p * self.height + i }
    }

    /// The rows of a panel. Past the last row the last is computed again, and dropped.
    #[inline(always)]
    fn rows<'a, const L: usize, const S: usize>(&self, job: Job<'a>, p: usize) -> [WeightRows<'a, L>; S] {
        let mut rows = [WeightRows::EMPTY; S];
        for s in 0..S {
            let mut lanes = [job.row(0); L];
            for lane in 0..L {
                lanes[lane] = job.row(self.row(p, s * L + lane).min(self.rows - 1));
            }
            rows[s] = WeightRows::new(lanes);
        }
        rows
    }
}

/// Some panels times some tokens: `acc (panels, tokens, rows)`, which goes to the result in the end.
#[inline(always)]
fn group<T, F, const L: usize, const S: usize, const C: usize>(
    t: T,
    (job, x, out): (Job<'_>, &Activations, Out<'_>),
    places: &Places,
    panels: Range<usize>,
    tokens: Range<usize>,
    panel: &mut Panel<L, S>,
    acc: &mut [[[f32; L]; S]],
) where
    T: Vector<L>,
    F: Expand,
{
    let kind = if F::LEN == KC { ActivationKind::Q8x256 } else { ActivationKind::Q8x32 };
    let (tiled, planes) = (x.tiled(kind, T::bias::<F>()), x.bits().planes());
    let width = width(x.rows(), planes, C);
    let bytes = KC / F::LEN * F::BYTES; // of a KC block of a row
    let mut rows = [[WeightRows::EMPTY; S]; PANELS];
    for (rows, p) in rows.iter_mut().zip(panels.clone()) {
        *rows = places.rows(job, p);
    }
    for block in 0..x.kc_blocks() {
        let last = block + 1 == x.kc_blocks();
        for ((rows, p), acc) in rows.iter().zip(panels.clone()).zip(acc.chunks_exact_mut(tokens.len())) {
            let mut weights = [WeightRows::EMPTY; S];
            for s in 0..S {
                weights[s] = rows[s].part(block * bytes, bytes);
            }
            panel.expand::<T, F>(t, &weights);
            if tokens.end == x.rows() {
                let next = match last {
                    _ if places.memory_bound => PREFETCH,
                    false => bytes,
                    true => L * S * panels.len() * rows[0].len() - block * bytes, // the next group's rows come after those of this one
                };
                panel.prefetch_later(&weights, next);
            }
            for (first, acc) in tokens.clone().step_by(width).zip(acc.chunks_mut(width)) {
                if !places.memory_bound && last {
                    for token in first..first + acc.len() {
                        prefetch_results::<T, L, S>(t, out.place(token, places.row(p, 0)));
                    }
                }
                let x = tiled.tile(planes * x.rows(), block, planes * first, planes * acc.len());
                tile::run::<T, F, L, S, C>(t, panel, x, planes, acc);
                panel.later = None;
                if last {
                    write(acc, first, places, p, out);
                }
            }
        }
    }
}

/// Prefetches the lines of a token's results, which are as far from those of the next token as the matrix is high: what is written there
/// would wait for each of them.
#[inline(always)]
fn prefetch_results<T: Vector<L>, const L: usize, const S: usize>(t: T, at: *const f32) {
    for value in (0..L * S).step_by(16) {
        t.prefetch(at.wrapping_add(value).cast());
    }
}

/// Writes the results `acc (tokens, rows)` of panel `p`, the first of them that of token `first`.
#[inline(always)]
fn write<const L: usize, const S: usize>(acc: &[[[f32; L]; S]], first: usize, places: &Places, p: usize, out: Out<'_>) {
    if !places.memory_bound && (p + 1) * places.height <= places.rows {
        for (token, acc) in acc.iter().enumerate() {
            out.set_run(first + token, places.row(p, 0), acc.as_flattened());
        }
        return;
    }
    for i in 0..L * S {
        let row = places.row(p, i);
        if row < places.rows {
            for (token, acc) in acc.iter().enumerate() {
                out.set(first + token, row, acc[i / L][i % L]);
            }
        }
    }
}

/// The tokens of a tile, of `planes` columns each, where it may have up to `most` columns (NR): one width for all tiles as far as possible, since
/// a last, small one makes less of each load.
pub fn width(tokens: usize, planes: usize, most: usize) -> usize {
    let together = together(planes, most);
    let most = most / planes;
    if tokens <= together { tokens.div_ceil(tokens.div_ceil(most)) } else { most }
}

/// Compiles GEMM for an instruction set: `GEMM`, for its table. `$token` is an expression for a token of type
/// `$Token`, valid inside functions with `$feature`; `$l` lanes, `$s` vectors and `$c` columns are the tile; `$from` says from how many columns
/// on a format's panels pay.
macro_rules! instantiate {
    ($Token:ty = $token:expr, #[$feature:meta], $l:literal lanes x $s:literal vectors, $c:literal columns, from $from:expr) => {
        /// This set's GEMM.
        pub const GEMM: $crate::table::Gemm = $crate::table::Gemm {
            nr: |tokens, planes| planes * $crate::isa::gemm::width(tokens, planes, $c),
            mr: $l * $s,
            scratch_bytes: $crate::isa::gemm::scratch_values($l * $s) * size_of::<f32>(),
            from: $from,
            kernels: instances::KERNELS,
        };

        mod instances {
            use super::*;
            use crate::isa::gemm::formats::*;
            use crate::isa::gemm::panel::{Expand, Vector};
            use crate::matmul::{Job, Out};
            use crate::table::GemmKernel;
            use strata_quant::Activations;

            #[$feature]
            fn matmul<F: Expand>(job: Job<'_>, x: &Activations, out: Out<'_>) {
                crate::isa::gemm::matmul::<$Token, F, $l, $s, $c>($token, job, x, out)
            }

            const fn of<F: Expand>() -> GemmKernel {
                GemmKernel { ty: F::TYPE, run: matmul::<F>, bias: <$Token as Vector<$l>>::bias::<F> }
            }

            pub const KERNELS: &[GemmKernel] = expanded!(of);
        }
    };
}
pub(crate) use instantiate;
