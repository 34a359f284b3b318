//! A panel: a slab of some rows of weights as signed bytes, in the order in which a tile takes them.
//!
//! ```text
//! step of k     strip 0: a lane is a row                  strip 1
//! 0..4        | r0 k0 k1 k2 k3 | r1 k0 k1 k2 k3 | ...   | rL k0 k1 k2 k3 | ...
//! 4..8        | r0 k4 k5 k6 k7 | ...
//! ...252..256
//! ```
//! One register holds four values of k of L rows; a dword of activations, the same four values of a column, goes to all lanes. Beside the
//! codes lie what turns their sums into results: scales and offsets of groups as integers, scales of blocks as floats, a lane a row.
//!
//! Where the instructions multiply unsigned with signed bytes, the activations carry a bias of 128, and a sum begins with what the bias adds
//! too much: `-128 * (sum of the weights)`, exactly.

use strata_quant::activations::tiled::SLAB;

/// Groups of 16 in a slab.
const GROUPS: usize = SLAB / 16;

/// Operations on a strip of `L` lanes, each a row. A value of this type is the proof that the processor has the instructions.
pub trait Strip<const L: usize>: Copy {
    /// What the activations have too much.
    const BIAS: u8;
    /// Which bits of a group's scale [`Strip::scaled`] wants.
    const SCALE: i32;
    /// Integers of 32 bits.
    type I: Copy;
    /// Floats.
    type F: Copy;

    /// Lane i is `v[i]`.
    fn ints(self, v: &[i32; L]) -> Self::I;
    /// Lane i is `v[i]`.
    fn floats(self, v: &[f32; L]) -> Self::F;
    /// Lane i is `v[i]`.
    fn codes(self, v: &[[i8; 4]; L]) -> Self::I;
    /// The inverse of [`Strip::floats`].
    fn store(self, v: Self::F, out: &mut [f32; L]);
    /// All lanes `v`.
    fn spread(self, v: &[u8; 4]) -> Self::I;
    /// All lanes `v`.
    fn spread_int(self, v: &i32) -> Self::I;
    /// All lanes `v`.
    fn spread_float(self, v: &f32) -> Self::F;
    /// `acc` plus the four products of the codes `w` with the biased activations `x`.
    fn dot(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// `acc + sum * scale`, `|sum| < 2^15`, scales under the mask [`Strip::SCALE`].
    fn scaled(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I;
    /// `acc + sum * scale`
    fn scaled_wide(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I;
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
    /// The `i`th 64 values of `L` rows to 16 steps of the tile's order.
    #[inline(always)]
    fn weave(self, rows: &[Slab; L], i: usize) -> [[[i8; 4]; L]; 16] {
        let mut out = [[[0; 4]; L]; 16];
        for lane in 0..L {
            let codes = &rows[lane].codes.as_chunks::<4>().0[i * 16..];
            for step in 0..16 {
                out[step][lane] = codes[step];
            }
        }
        out
    }
}

/// A slab of one row, decoded to integers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Slab {
    /// The codes, less their zero point, in the order of k.
    pub codes: [i8; SLAB],
    /// Of groups of 16.
    pub scales: [i16; GROUPS],
    /// Offsets of groups of 16.
    pub mins: [i16; GROUPS],
    /// Scales of the blocks: 8 of 32 weights, or one.
    pub d: [f32; 8],
    /// What the blocks' weights have added: least values, or the scale of the offsets.
    pub m: [f32; 8],
}

/// What a slab of zeros is.
pub const EMPTY: Slab = Slab { codes: [0; SLAB], scales: [0; GROUPS], mins: [0; GROUPS], d: [0.0; 8], m: [0.0; 8] };

/// A block format that can be expanded with the instructions of `T`.
pub trait Expand<T> {
    /// Weights in a block: 32 or 256.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// True if blocks or groups have offsets.
    const MIN: bool;
    /// Values of k whose dot product is multiplied with a group's scale at a time; its magnitude fits 16 bits if this is below 32.
    const STEP: usize;
    /// Decodes up to a slab: whole blocks. What is beyond them is as it was.
    fn slab(t: T, blocks: &[u8], slab: &mut Slab);
}

/// `S` strips of `L` rows of a slab. A last index counts lanes, the one before strips.
#[repr(C, align(64))]
pub struct Panel<const L: usize, const S: usize> {
    /// (64 steps of four values of k)
    pub codes: [[[[i8; 4]; L]; S]; 64],
    /// Where the sums of 8, 16 or 32 values begin.
    pub start: [[[i32; L]; S]; 32],
    /// Of groups of 16.
    pub scales: [[[i32; L]; S]; GROUPS],
    /// Offsets of two groups of 16, 16 bits each.
    pub mins: [[[i32; L]; S]; GROUPS / 2],
    /// Scales of blocks.
    pub d: [[[f32; L]; S]; 8],
    /// Least values, or scales of offsets, of blocks.
    pub m: [[[f32; L]; S]; 8],
}

impl<const L: usize, const S: usize> Panel<L, S> {
    /// Room for one.
    pub fn new() -> Panel<L, S> {
        Panel {
            codes: [[[[0; 4]; L]; S]; 64],
            start: [[[0; L]; S]; 32],
            scales: [[[0; L]; S]; GROUPS],
            mins: [[[0; L]; S]; GROUPS / 2],
            d: [[[0.0; L]; S]; 8],
            m: [[[0.0; L]; S]; 8],
        }
    }

    /// Slab `slab` of the first `live` rows that `row` gives; the others are zero.
    #[inline(always)]
    pub fn expand<'a, T: Strip<L>, F: Expand<T>>(
        &mut self,
        t: T,
        row: impl Fn(usize) -> &'a [u8],
        live: usize,
        slab: usize,
    ) {
        let bytes = SLAB / F::BLOCK * F::BYTES;
        for strip in 0..S {
            let mut rows = [EMPTY; L];
            for lane in 0..L.min(live.saturating_sub(strip * L)) {
                let row = row(strip * L + lane);
                let rest = &row[slab * bytes..];
                F::slab(t, &rest[..rest.len().min(bytes)], &mut rows[lane]);
            }
            self.weave::<T, F>(t, &rows, strip);
        }
    }

    #[inline(always)]
    fn weave<T: Strip<L>, F: Expand<T>>(&mut self, t: T, rows: &[Slab; L], strip: usize) {
        for i in 0..4 {
            let woven = t.weave(rows, i);
            for step in 0..16 {
                self.codes[i * 16 + step][strip] = woven[step];
            }
        }
        let (grouped, per) = (F::BLOCK == SLAB, F::STEP / 4);
        if T::BIAS > 0 {
            for sum in 0..SLAB / F::STEP {
                let start = &mut self.start[sum][strip];
                *start = [0; L];
                for step in sum * per..(sum + 1) * per {
                    let codes = &self.codes[step][strip];
                    for lane in 0..L {
                        let [a, b, c, d] = codes[lane].map(i32::from);
                        start[lane] -= i32::from(T::BIAS) * (a + b + c + d);
                    }
                }
            }
        }
        for lane in 0..L {
            let Slab { scales, mins, d, m, .. } = &rows[lane];
            if grouped {
                let mask = if F::STEP < 32 { T::SCALE } else { -1 };
                for group in 0..GROUPS {
                    self.scales[group][strip][lane] = i32::from(scales[group]) & mask;
                }
                if F::MIN {
                    for (pair, mins) in mins.as_chunks::<2>().0.iter().enumerate() {
                        self.mins[pair][strip][lane] = i32::from(mins[0] as u16) | i32::from(mins[1]) << 16;
                    }
                }
            }
            for block in 0..SLAB / F::BLOCK {
                self.d[block][strip][lane] = d[block];
                if F::MIN {
                    self.m[block][strip][lane] = m[block];
                }
            }
        }
    }
}
