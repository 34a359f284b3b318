//! A panel: a KC block of some rows of weights as signed bytes, in the order in which a tile takes them.
//!
//! ```text
//! step of k     vector 0: a lane is a row                  vector 1
//! 0..4        | r0 k0 k1 k2 k3 | r1 k0 k1 k2 k3 | ...   | rL k0 k1 k2 k3 | ...
//! 4..8        | r0 k4 k5 k6 k7 | ...
//! ...252..256
//! ```
//! One register holds four values of k of L rows; a dword of activations, the same four values of a column, goes to all lanes. Beside the
//! codes lie what turns their sums into results: scales and offsets of groups as integers, scales of blocks as floats, a lane a row.
//!
//! The blocks' bytes are transposed first, 16 bytes of L rows at a time ([`Vector::transpose`]), and decoded then, a lane a row: what would be a
//! shuffle within a row is a shift of all rows, written once for all instruction sets (`formats.rs`).
//!
//! Where the instructions multiply unsigned with signed bytes, the activations carry a bias (zero point) of 128, and a sum begins with its
//! correction: `-128 * (sum of the weights)`, exactly.

use super::tile::{self, Columns};
use crate::isa::format::BlockFormat;
use std::marker::PhantomData;
use strata_quant::activations::tiled::KC;

/// Groups of 16 in a KC block.
pub const GROUPS: usize = KC / 16;

/// Operations on a vector of `L` lanes, each a row. A value of this type is the proof that the processor has the instructions.
pub trait Vector<const L: usize>: Copy {
    /// True if [`Vector::scaled`] takes sums of 16 bits; their scales are masked to 16 bits then.
    const SUMS_I16: bool;
    /// Integers of 32 bits, or four of 8.
    type I: Copy;
    /// Floats.
    type F: Copy;

    /// Lane i is `v[i]`.
    fn ints(self, v: &[i32; L]) -> Self::I;
    /// The inverse of [`Vector::ints`].
    fn store_ints(self, v: Self::I, out: &mut [i32; L]);
    /// Lane i is `v[i]`.
    fn floats(self, v: &[f32; L]) -> Self::F;
    /// The inverse of [`Vector::floats`].
    fn store_floats(self, v: Self::F, out: &mut [f32; L]);
    /// Lane i is `v[i]`.
    fn codes(self, v: &[[i8; 4]; L]) -> Self::I;
    /// The inverse of [`Vector::codes`].
    fn store_codes(self, v: Self::I, out: &mut [[i8; 4]; L]);
    /// All lanes `v`.
    fn splat(self, v: u32) -> Self::I;
    /// All lanes `v`.
    fn splat_float(self, v: f32) -> Self::F;

    /// The activation bias (zero point) that a format is multiplied with.
    fn bias<F: Expand>() -> u8 {
        0
    }
    /// The exact sums of block `b` of a KC block, group scales included, of `S` vectors times `C` columns.
    #[inline(always)]
    fn isums<F: Expand, const S: usize, const C: usize>(
        self,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        b: usize,
    ) -> [[Self::I; C]; S] {
        tile::isums::<Self, F, L, S, C>(self, panel, x, b)
    }
    /// The exact sums of the `i`th [`step`] values of k.
    #[inline(always)]
    fn sums<F: Expand, const S: usize, const C: usize>(
        self,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        i: usize,
    ) -> [[Self::I; C]; S] {
        tile::sums::<Self, F, L, S, C>(self, panel, x, i)
    }
    /// A group's scale in the form that [`Vector::isums`] reads.
    #[inline(always)]
    fn scale<F: Expand>(self, scale: Self::I) -> Self::I {
        masked::<Self, F, L>(self, scale)
    }
    /// Completes a panel whose codes and scales are there: sets where sums begin, or another order of codes.
    #[inline(always)]
    fn finish<F: Expand, const S: usize>(self, panel: &mut Panel<L, S>) {
        panel.correct_bias::<Self, F>(self);
    }

    /// `acc` plus the four products of the codes `w` with the activations `x`, which have their bias, lane by lane.
    fn dot<F: Expand>(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// `acc + sum * scale`; see [`Vector::SUMS_I16`].
    fn scaled(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I;
    /// `a * b`, the low 32 bits.
    fn mul_ints(self, a: Self::I, b: Self::I) -> Self::I;
    /// `acc` plus the products of the two halves of 16 bits.
    fn pairs(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// Rounded to nearest, once.
    fn to_floats(self, v: Self::I) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `a + b`
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`
    fn sub(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`, byte by byte.
    fn sub_bytes(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bit by bit.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bit by bit.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Every lane times 2^n.
    fn shl(self, v: Self::I, n: u32) -> Self::I;
    /// Every lane shifted down, zeros on top.
    fn shr(self, v: Self::I, n: u32) -> Self::I;
    /// Every lane shifted down, its sign on top.
    fn sar(self, v: Self::I, n: u32) -> Self::I;
    /// Every byte, of 0..16, replaced by what the table says.
    fn look_up(self, table: &[i8; 16], v: Self::I) -> Self::I;
    /// The half-precision numbers in the low halves of the lanes.
    fn halves(self, v: Self::I) -> Self::F;
    /// Prefetches the line of memory at `at`, which may be any address, into the second cache.
    fn prefetch(self, _at: *const u8) {}
    /// The half-precision numbers `v`.
    fn load_halves(self, v: &[u16; L]) -> Self::F;
    /// The dwords of 16 bytes of every row: `(4, L)` of `(L, 4)`.
    fn transpose(self, rows: [&[u8; 16]; L]) -> [Self::I; 4];
}

/// `L` rows, or a KC block of them, as they lie in the file. Loops, not closures: those would not be compiled for the instruction set.
#[derive(Clone, Copy)]
pub struct WeightRows<'a, const L: usize> {
    at: [*const u8; L], // of each row, `len` bytes
    len: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a, const L: usize> WeightRows<'a, L> {
    /// No bytes.
    pub const EMPTY: WeightRows<'static, L> = WeightRows { at: [std::ptr::null(); L], len: 0, life: PhantomData };

    /// Rows of one length.
    #[inline(always)]
    pub fn new(rows: [&'a [u8]; L]) -> WeightRows<'a, L> {
        let mut new = WeightRows { at: [rows[0].as_ptr(); L], len: rows[0].len(), life: PhantomData };
        for lane in 0..L {
            assert!(rows[lane].len() == new.len);
            new.at[lane] = rows[lane].as_ptr();
        }
        new
    }

    /// Up to `len` bytes of every row, from byte `from` on.
    #[inline(always)]
    pub fn part(&self, from: usize, len: usize) -> WeightRows<'a, L> {
        assert!(from <= self.len);
        WeightRows { at: self.places(from), len: len.min(self.len - from), life: PhantomData }
    }

    /// Bytes of a row.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Byte `at` of every row, counted from the KC block's first; the row may end before it.
    #[inline(always)]
    pub fn places(&self, at: usize) -> [*const u8; L] {
        let mut places = self.at;
        for lane in 0..L {
            places[lane] = places[lane].wrapping_add(at);
        }
        places
    }

    /// The `N` bytes at `at` of each row: one check for all.
    #[inline(always)]
    pub fn bytes<const N: usize>(&self, at: usize) -> [&'a [u8; N]; L] {
        assert!(at <= self.len && N <= self.len - at);
        let mut bytes = [&[0; N]; L];
        for lane in 0..L {
            // SAFETY: no CPU feature; every row has `len` bytes at its pointer (`new`, `part`), and `at + N` is at most that.
            bytes[lane] = unsafe { &*self.at[lane].add(at).cast() };
        }
        bytes
    }

    /// The dwords at `at`, `at + 4`, `at + 8` and `at + 12` of every row.
    #[inline(always)]
    pub fn transpose<T: Vector<L>>(&self, t: T, at: usize) -> [T::I; 4] {
        t.transpose(self.bytes(at))
    }

    /// The 16-bit numbers at `at`, `at + stride` and so on of every row, `N` of them at most, zeros beyond the row: `(N, lanes)`.
    #[inline(always)]
    pub fn words<const N: usize>(&self, at: usize, stride: usize) -> [[u16; L]; N] {
        let mut out = [[0; L]; N];
        for i in 0..N.min(self.len / stride) {
            let bytes = self.bytes(i * stride + at);
            for lane in 0..L {
                out[i][lane] = u16::from_le_bytes(*bytes[lane]);
            }
        }
        out
    }
}

/// A block format that can be expanded.
pub trait Expand: BlockFormat {
    /// Weights that share an integer scale; those of a block of 32.
    const GROUP: usize = 32;
    /// The largest magnitude of a code.
    const PEAK: i32;
    /// The middle of unsigned codes, for [`center`]; zero for formats that do without.
    const CENTER: i32 = 0;
    /// The zero point of the codes of a block of 32 if they are left without signs, for [`zero`].
    const ZERO: i32 = 0;
    /// Decodes up to a KC block of `L` rows, whole blocks, into vector `s`.
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    );
}

/// What is subtracted from the codes of a panel, and its share of the sums added again a block at a time, so that sums are as small as they
/// can be: zero where they need not be.
pub const fn center<T: Vector<L>, F: Expand, const L: usize>() -> i32 {
    if T::SUMS_I16 { F::CENTER } else { 0 }
}

/// The zero point of codes without signs, with whose share a block's sum begins: 0 where codes have signs, or offsets instead.
pub const fn zero<T: Vector<L>, F: Expand, const L: usize>() -> i32 {
    if T::SUMS_I16 { F::ZERO } else { 0 }
}

/// True if the sums of so many values of k fit 16 bits.
const fn fits<T: Vector<L>, F: Expand, const L: usize>(step: usize) -> bool {
    let peak = if center::<T, F, L>() > 0 { F::CENTER } else { F::PEAK };
    peak * 127 * step as i32 <= i16::MAX as i32
}

/// Values of k whose sum is multiplied with a group's scale at a time: a group, or as much of it as fits 16 bits where that is wanted and
/// costs less than a product of 32 bits.
pub const fn step<T: Vector<L>, F: Expand, const L: usize>() -> usize {
    match F::GROUP {
        group if F::LEN < KC || !T::SUMS_I16 || fits::<T, F, L>(group) => group,
        _ if fits::<T, F, L>(16) => 16,
        16 => 8,
        group => group,
    }
}

/// True if scales are multiplied with sums that fit 16 bits.
pub const fn sums_i16<T: Vector<L>, F: Expand, const L: usize>() -> bool {
    T::SUMS_I16 && F::LEN == KC && fits::<T, F, L>(step::<T, F, L>())
}

/// A scale, masked where [`Vector::SUMS_I16`] needs it.
#[inline(always)]
pub fn masked<T: Vector<L>, F: Expand, const L: usize>(t: T, scale: T::I) -> T::I {
    if const { sums_i16::<T, F, L>() } { t.and(scale, t.splat(0xffff)) } else { scale }
}

/// A KC block of MR rows, `S` vectors of `L` lanes. A last index counts lanes, the one before vectors.
#[repr(C, align(64))]
pub struct Panel<const L: usize, const S: usize> {
    /// (64 steps of four values of k)
    pub codes: [[[[i8; 4]; L]; S]; 64],
    /// Where sums begin: of [`step`] values, or of blocks, as the set takes them.
    pub start: [[[i32; L]; S]; 32],
    /// Of groups.
    pub scales: [[[i32; L]; S]; GROUPS],
    /// Offsets of two groups, 16 bits each.
    pub mins: [[[i32; L]; S]; GROUPS / 2],
    /// Scales of two groups, 16 bits each, times the [`center`].
    pub centers: [[[i32; L]; S]; GROUPS / 2],
    /// Scales of blocks.
    pub d: [[[f32; L]; S]; 8],
    /// Least values, or scales of offsets, of blocks.
    pub m: [[[f32; L]; S]; 8],
    /// Where the bytes of every row are that a later KC block is made of, if the next tile is to prefetch them.
    pub later: Option<[[*const u8; L]; S]>,
}

impl<const L: usize, const S: usize> Panel<L, S> {
    /// An empty panel.
    pub fn new() -> Panel<L, S> {
        Panel {
            codes: [[[[0; 4]; L]; S]; 64],
            start: [[[0; L]; S]; 32],
            scales: [[[0; L]; S]; GROUPS],
            mins: [[[0; L]; S]; GROUPS / 2],
            centers: [[[0; L]; S]; GROUPS / 2],
            d: [[[0.0; L]; S]; 8],
            m: [[[0.0; L]; S]; 8],
            later: None,
        }
    }

    /// Fills the panel with a KC block of all rows.
    #[inline(always)]
    pub fn expand<T: Vector<L>, F: Expand>(&mut self, t: T, rows: &[WeightRows<'_, L>; S]) {
        for s in 0..S {
            F::expand(t, &rows[s], self, s);
        }
        t.finish::<F, S>(self);
    }

    /// The sums of [`step`] values begin with the correction of the activation bias, if there is one.
    #[inline(always)]
    pub fn correct_bias<T: Vector<L>, F: Expand>(&mut self, t: T) {
        if T::bias::<F>() == 0 {
            return;
        }
        let steps = const { step::<T, F, L>() } / 4;
        let (zero, bias) = (t.splat(0), t.splat(u32::from_ne_bytes([T::bias::<F>(); 4])));
        for s in 0..S {
            for i in 0..64 / steps {
                let mut sum = zero;
                for j in 0..steps {
                    sum = t.dot::<F>(sum, t.codes(&self.codes[i * steps + j][s]), bias);
                }
                t.store_ints(t.sub(zero, sum), &mut self.start[i][s]);
            }
        }
    }

    /// Has the next tile prefetch the KC block that begins `next` bytes after this one.
    #[inline(always)]
    pub fn prefetch_later(&mut self, block: &[WeightRows<'_, L>; S], next: usize) {
        let mut later = [[std::ptr::null(); L]; S];
        for s in 0..S {
            later[s] = block[s].places(next);
        }
        self.later = Some(later);
    }

    /// Prefetches some of the lines that come next, in step `k` of 64: so few at a time that none waits.
    #[inline(always)]
    pub fn prefetch<T: Vector<L>, F: Expand>(&self, t: T, k: usize) {
        let Some(later) = &self.later else { return };
        let lines = const { (KC / F::LEN * F::BYTES).div_ceil(64) }; // of a row
        let steps = const { 64 / (L * S) }; // for a row
        let row = later.as_flattened()[k / steps];
        for i in 0..lines.div_ceil(steps) {
            let line = k % steps + i * steps;
            if line < lines {
                t.prefetch(row.wrapping_add(line * 64));
            }
        }
    }

    /// Four codes of every row.
    #[inline(always)]
    pub fn put<T: Vector<L>>(&mut self, t: T, step: usize, s: usize, codes: T::I) {
        t.store_codes(codes, &mut self.codes[step][s]);
    }

    /// The scale of a group of every row.
    #[inline(always)]
    pub fn put_scale<T: Vector<L>, F: Expand>(&mut self, t: T, group: usize, s: usize, scale: T::I) {
        t.store_ints(t.scale::<F>(scale), &mut self.scales[group][s]);
    }

    /// Four codes of every row, which lose their [`center`].
    #[inline(always)]
    pub fn put_centered<T: Vector<L>, F: Expand>(&mut self, t: T, step: usize, s: usize, codes: T::I) {
        let center = [const { center::<T, F, L>() } as u8; 4];
        let centered = center[0] > 0;
        self.put(t, step, s, if centered { t.sub_bytes(codes, t.splat(u32::from_ne_bytes(center))) } else { codes });
    }

    /// The scales of groups `2 * pair` and `2 * pair + 1`, bytes `at` and `at + 1` of every lane, as shares of the [`center`].
    #[inline(always)]
    pub fn put_centers<T: Vector<L>, F: Expand>(&mut self, t: T, pair: usize, s: usize, bytes: T::I, at: u32) {
        let center = const { center::<T, F, L>() as u32 };
        if center > 0 {
            // A power of two, and products of less than 16 bits.
            t.store_ints(t.shl(words(t, bytes, at), center.ilog2()), &mut self.centers[pair][s]);
        }
    }

    /// The offsets of groups `2 * pair` and `2 * pair + 1`: bytes `at` and `at + 1` of every lane.
    #[inline(always)]
    pub fn put_mins<T: Vector<L>>(&mut self, t: T, pair: usize, s: usize, bytes: T::I, at: u32) {
        t.store_ints(words(t, bytes, at), &mut self.mins[pair][s]);
    }

    /// The scale of a block of every row, in the low halves of the lanes.
    #[inline(always)]
    pub fn put_d<T: Vector<L>>(&mut self, t: T, block: usize, s: usize, half: T::I) {
        t.store_floats(t.halves(half), &mut self.d[block][s]);
    }

    /// The scales of all blocks of 32, and their least values where they have some. What a last, partial KC block lacks counts as zero.
    #[inline(always)]
    pub fn put_all<T: Vector<L>, F: Expand>(&mut self, t: T, rows: &WeightRows<'_, L>, s: usize) {
        let d = rows.words::<8>(F::D, F::BYTES);
        for b in 0..8 {
            t.store_floats(t.load_halves(&d[b]), &mut self.d[b][s]);
        }
        if let Some(at) = F::M {
            let m = rows.words::<8>(at, F::BYTES);
            for b in 0..8 {
                t.store_floats(t.load_halves(&m[b]), &mut self.m[b][s]);
            }
        }
    }

    /// The least value, or the scale of the offsets, of a block of every row, in the low halves of the lanes.
    #[inline(always)]
    pub fn put_m<T: Vector<L>>(&mut self, t: T, block: usize, s: usize, half: T::I) {
        t.store_floats(t.halves(half), &mut self.m[block][s]);
    }
}

/// Bytes `at` and `at + 1` of every lane as its 16-bit halves.
#[inline(always)]
fn words<T: Vector<L>, const L: usize>(t: T, bytes: T::I, at: u32) -> T::I {
    let two = t.shr(bytes, at * 8);
    t.or(t.and(two, t.splat(0xff)), t.shl(t.and(two, t.splat(0xff00)), 8))
}
