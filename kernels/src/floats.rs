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

/// Row groups of a panel, at most.
const GROUPS: usize = 16;

/// Steps of k that a panel takes at a time: with 4 rows a group it is 256 KB, at home in the second cache; a tile of 6 columns, 24 KB,
/// stays in the first from one group to the next.
const KC: usize = 64;

/// Tiles of columns that go through a panel together where k takes several panels: the sums of all groups, 16 lanes each, take 768 KB.
///
/// Measured on a Xeon with AVX-512 (2026-11-26), BF16 at 512 columns, k = 4096 and 14336, G multiply-adds/s on one thread and on 16: 63, 59
/// and 541, 554; with 32 groups and 16 tiles 61, 64 and 479, 500; with 64 and 8 53, 57 and 346, 631; with all of k in one panel 65, 43 and
/// 349, 381.
const TILES: usize = 32;

/// 16 values of a row or a column, which are a line of the cache.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

const ZERO: Line = Line([0.0; 16]);

/// What a thread keeps.
#[derive(Default)]
struct Buffers {
    panel: Vec<Line>, // (groups, steps, R)
    sums: Vec<Line>,  // (tiles, groups, C, R)
}

thread_local! {
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers { panel: Vec::new(), sums: Vec::new() }) };
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
                    let sums = tile::<S, P, R, $n>(s, w, columns(x, c, 0..x.cols()));
                    write(s, job, place, c, &sums, out);
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
/// for each block of rows, for each block of columns:
///     sums (tiles, groups, C, R, 16) = 0
///     for each KC steps of k:
///         panel (groups, KC, R, 16) = the rows, widened once
///         for each tile of C columns, for each group of R rows:  sums += panel (KC, R, 16) x tile (KC, C, 16)
/// ```
#[inline(always)]
fn gemm<S: Simd, P: Plain, const R: usize, const C: usize>(s: S, job: Job<'_>, x: &Activations, out: Out<'_>) {
    const { assert!(C <= GEMV_COLUMNS) };
    let mut buffers = BUFFERS.take();
    buffers.panel.resize(GROUPS * KC * R, ZERO);
    buffers.sums.resize(TILES * GROUPS * C * R, ZERO);
    let panel = buffers.panel.as_chunks_mut::<R>().0;
    let sums_of = buffers.sums.as_chunks_mut::<R>().0.as_chunks_mut::<C>().0;
    let mut tile = [[ZERO; C]; KC];
    let steps = x.cols().div_ceil(16);
    // Where one panel has all of k, sums stay in registers.
    let together = if steps <= KC { x.rows() } else { TILES * C };
    for block in (0..job.rows()).step_by(GROUPS * R) {
        let groups = GROUPS.min((job.rows() - block).div_ceil(R));
        for (first, from) in places(x.rows(), together, steps) {
            let slice = from..steps.min(from + KC);
            let values = slice.start * 16..x.cols().min(slice.end * 16);
            for (group, panel) in panel.chunks_exact_mut(slice.len()).take(groups).enumerate() {
                widen::<S, P, R>(s, rows::<P, R>(job, |i| block + group * R + i, values.clone()), panel);
            }
            for (t, c) in (first..x.rows().min(first + together)).step_by(C).enumerate() {
                // The last columns are a whole tile as well: those that it shares with the tile before get the same results again.
                let c = c.min(x.rows() - C);
                pack(s, columns::<C>(x, c, values.clone()), &mut tile);
                for (group, panel) in panel.chunks_exact(slice.len()).take(groups).enumerate() {
                    let before = (from > 0).then(|| &sums_of[t * GROUPS + group]);
                    let sums = multiply(s, panel, &tile, before);
                    if slice.end == steps {
                        write_tile(s, (job, out), (block + group * R, c), sums);
                    } else {
                        keep(s, sums, &mut sums_of[t * GROUPS + group]);
                    }
                }
            }
        }
    }
    BUFFERS.set(buffers);
}

/// The first column of each block of columns, and with it the first step of each part of k.
fn places(columns: usize, together: usize, steps: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns).step_by(together).flat_map(move |first| (0..steps).step_by(KC).map(move |from| (first, from)))
}

/// Widens `R` rows into lines `(steps, R)`; beyond their end zeros.
#[inline(always)]
fn widen<S: Simd, P: Plain, const R: usize>(s: S, rows: [&[u8]; R], lines: &mut [[Line; R]]) {
    for r in 0..R {
        let (whole, rest) = rows[r].split_at(rows[r].len() / (16 * P::BYTES) * 16 * P::BYTES);
        let mut to = lines.iter_mut().map(|lines| &mut lines[r].0);
        for (bytes, to) in whole.chunks_exact(16 * P::BYTES).zip(&mut to) {
            s.store(P::widen(s, bytes), to);
        }
        if let (false, Some(to)) = (rest.is_empty(), to.next()) {
            s.store(widen_part::<S, P>(s, rest), to);
        }
    }
}

/// Fewer than 16 weights, and zeros.
#[inline(always)]
fn widen_part<S: Simd, P: Plain>(s: S, bytes: &[u8]) -> S::F {
    let mut part = [0; 64];
    part[..bytes.len()].copy_from_slice(bytes);
    P::widen(s, &part[..16 * P::BYTES])
}

/// Copies some values of `C` columns into lines `(steps, C)`; beyond their end zeros.
#[inline(always)]
fn pack<S: Simd, const C: usize>(s: S, columns: [&[f32]; C], tile: &mut [[Line; C]; KC]) {
    for c in 0..C {
        for (values, lines) in columns[c].chunks(16).zip(&mut *tile) {
            let values = values.as_array().map_or_else(|| s.load_part(values, 0.0), |values| s.load(values));
            s.store(values, &mut lines[c].0);
        }
    }
}

/// The sums before, or zeros, and `panel (steps, R, 16) x tile (steps, C, 16)`: a lane for each k modulo 16.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const C: usize>(
    s: S,
    panel: &[[Line; R]],
    tile: &[[Line; C]; KC],
    before: Option<&[[Line; R]; C]>,
) -> [[S::F; R]; C] {
    let mut sums = [[s.splat(0.0); R]; C];
    if let Some(before) = before {
        for c in 0..C {
            for r in 0..R {
                sums[c][r] = s.load(&before[c][r].0);
            }
        }
    }
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

/// Keeps sums for the next part of k.
#[inline(always)]
fn keep<S: Simd, const R: usize, const C: usize>(s: S, sums: [[S::F; R]; C], to: &mut [[Line; R]; C]) {
    for c in 0..C {
        for r in 0..R {
            s.store(sums[c][r], &mut to[c][r].0);
        }
    }
}

/// Adds the lanes and writes the results of a tile, of the rows that are there.
#[inline(always)]
fn write_tile<S: Simd, const R: usize, const C: usize>(
    s: S,
    (job, out): (Job<'_>, Out<'_>),
    (row, column): (usize, usize),
    sums: [[S::F; R]; C],
) {
    for c in 0..C {
        let sums = s.sums(sums[c]);
        match sums.get(..job.rows() - row) {
            Some(there) => out.set_run(column + c, row, there),
            None => out.set_run(column + c, row, &sums),
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

/// `w (R, k) x (k, C)`, a lane for each k modulo 16. The weights come from memory.
#[inline(always)]
fn tile<S: Simd, P: Plain, const R: usize, const C: usize>(s: S, w: [&[u8]; R], xs: [&[f32]; C]) -> [[S::F; C]; R] {
    let k = xs[0].len();
    let whole = k / 16 * 16;
    let mut sums = [[s.splat(0.0); C]; R];
    let mut i = 0;
    while i < whole {
        let mut columns = [s.splat(0.0); C];
        for c in 0..C {
            columns[c] = s.load(xs[c][i..i + 16].as_array().expect("16 values"));
        }
        for r in 0..R {
            s.prefetch_near(w[r].as_ptr().wrapping_add(i * P::BYTES + PREFETCH));
            let w = P::widen(s, &w[r][i * P::BYTES..(i + 16) * P::BYTES]);
            for c in 0..C {
                sums[r][c] = s.fma(w, columns[c], sums[r][c]);
            }
        }
        i += 16;
    }
    if whole < k {
        for r in 0..R {
            let w = widen_part::<S, P>(s, &w[r][whole * P::BYTES..]);
            for c in 0..C {
                sums[r][c] = s.fma(w, s.load_part(&xs[c][whole..], 0.0), sums[r][c]);
            }
        }
    }
    sums
}

/// Adds the lanes and writes the results of the rows that are there.
#[inline(always)]
fn write<S: Simd, const R: usize, const C: usize>(
    s: S,
    job: Job<'_>,
    place: impl Fn(usize) -> usize,
    first: usize,
    sums: &[[S::F; C]; R],
    out: Out<'_>,
) {
    for r in 0..R {
        if place(r) < job.rows() {
            for c in 0..C {
                out.set(first + c, place(r), s.sum(sums[r][c]));
            }
        }
    }
}
