//! The other factor of a matrix product: activations, in the forms that weight formats are multiplied with.
//!
//! Weights of 2 to 8 bits are multiplied with 8-bit activations, so that the dot product of a block is exact in integers and only the
//! scales are floats. The activations of a tensor are quantized once and shared by every matrix that reads them.
//!
//! Activations of 16 bits are two *planes* of 8-bit codes with one scale: `q = RADIX * high + low`, each of -127..=127. A kernel reads the
//! weights once and multiplies them with both; the sums of the planes are as exact as those of 8 bits, and `RADIX * high + low` of them, a
//! fused multiply-add, is the sum of the block.

mod precision;
mod q8x256;
mod q8x32;
pub mod tiled;

pub use precision::{ActivationBits, Planes, RADIX};
pub use q8x32::{BLOCK as Q8_BLOCK, Q8x32Row, QUAD};
pub use q8x256::Q8x256Row;

use q8x32::Q8x32;
use q8x256::Q8x256;
use tiled::Tiled;

/// The form of activations that a weight format is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// Plain floats.
    F32,
    /// 8-bit, a scale per 32.
    Q8x32,
    /// 8-bit, a scale per 256.
    Q8x256,
}

/// One row (one token) of activations, in one form.
#[derive(Clone, Copy, Debug)]
pub enum ActivationRow<'a> {
    /// `(cols)`
    F32(&'a [f32]),
    /// `(cols / 32)` blocks
    Q8x32(Planes<Q8x32Row<'a>>),
    /// `(cols / 256)` blocks
    Q8x256(Planes<Q8x256Row<'a>>),
}

/// An 8-bit form: units of one or more blocks, each with its codes, and a scale and sums a block.
trait EightBit {
    /// The codes of a unit.
    type Codes: Copy;
    /// The sums of a block.
    type Sums: Copy;
    /// Values in a block.
    const BLOCK: usize;
    /// Blocks in a unit.
    const UNIT: usize;
    /// An empty unit.
    const ZERO: (Self::Codes, Self::Sums);
    /// Quantizes one row of whole blocks to `P` planes: `codes (P, units)`, `scales` and `sums (P, units, blocks of a unit)`. The planes have the
    /// same scales.
    fn quantize<const P: usize>(x: &[f32], codes: &mut [Self::Codes], scales: &mut [f32], sums: &mut [Self::Sums]);
}

/// A matrix of activations `(rows, cols)` with the forms made of it so far. The buffers are kept and reused.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    bits: ActivationBits,
    values: Vec<f32>, // (rows, cols)
    q8x32: Form<Q8x32>,
    q8x256: Form<Q8x256>,
    tiled: [[Tiled; 2]; 2], // of blocks of 32 and of 256, without and with a bias
}

/// The buffers of an 8-bit form. Its rows are the planes of the matrix's rows.
struct Form<E: EightBit> {
    made: bool,
    codes: Vec<E::Codes>, // (rows, planes, units)
    scales: Vec<f32>,     // (rows, planes, units, blocks of a unit)
    sums: Vec<E::Sums>,   // (rows, planes, units, blocks of a unit)
}

impl<E: EightBit> Default for Form<E> {
    fn default() -> Self {
        Form { made: false, codes: Vec::new(), scales: Vec::new(), sums: Vec::new() }
    }
}

impl<E: EightBit> Form<E> {
    /// Units in a row.
    fn units(cols: usize) -> usize {
        (cols / E::BLOCK).div_ceil(E::UNIT)
    }

    /// Hands out the buffers, to be filled; the form counts as made.
    fn make<'a>(&'a mut self, values: &'a [f32], rows: usize, cols: usize, bits: ActivationBits) -> FormRows<'a, E> {
        assert!(
            cols.is_multiple_of(E::BLOCK),
            "the row length {cols} is not a multiple of the block size {}",
            E::BLOCK
        );
        let units = Self::units(cols);
        let n = rows * bits.planes() * units;
        if self.codes.len() < n {
            self.codes.resize(n, E::ZERO.0);
            self.scales.resize(n * E::UNIT, 0.0);
            self.sums.resize(n * E::UNIT, E::ZERO.1);
        }
        self.made = true;
        let (scales, sums) = (&mut self.scales[..n * E::UNIT], &mut self.sums[..n * E::UNIT]);
        FormRows { values, cols, bits, units, codes: &mut self.codes[..n], scales, sums }
    }

    /// `(codes, scales, sums)` of row `r` of the form.
    #[inline]
    fn row(&self, r: usize, cols: usize) -> (&[E::Codes], &[f32], &[E::Sums]) {
        let units = Self::units(cols);
        let blocks = r * units * E::UNIT..(r + 1) * units * E::UNIT;
        (&self.codes[r * units..(r + 1) * units], &self.scales[blocks.clone()], &self.sums[blocks])
    }
}

impl Activations {
    /// Rows, one a token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values `(rows, cols)`.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.cols]
    }

    /// Their precision in products with quantized weights.
    pub fn bits(&self) -> ActivationBits {
        self.bits
    }

    /// Sets the precision; forms that were made with another are forgotten.
    pub fn set_bits(&mut self, bits: ActivationBits) {
        if self.bits != bits {
            self.bits = bits;
            self.forget();
        }
    }

    fn forget(&mut self) {
        (self.q8x32.made, self.q8x256.made) = (false, false);
        self.tiled.iter_mut().flatten().for_each(Tiled::forget);
    }

    /// Gives the matrix a new shape and its values to write, all of them; forms made before are forgotten.
    pub fn reset(&mut self, rows: usize, cols: usize) -> &mut [f32] {
        (self.rows, self.cols) = (rows, cols);
        self.forget();
        if self.values.len() < rows * cols {
            self.values.resize(rows * cols, 0.0);
        }
        &mut self.values[..rows * cols]
    }

    /// True if the form is there.
    pub fn has(&self, kind: ActivationKind) -> bool {
        match kind {
            ActivationKind::F32 => true,
            ActivationKind::Q8x32 => self.q8x32.made,
            ActivationKind::Q8x256 => self.q8x256.made,
        }
    }

    /// Hands out the buffers of an 8-bit form for all rows, to be filled; it counts as made.
    ///
    /// # Panics
    /// If the row length is not a multiple of the block size, or the form is [`ActivationKind::F32`], which is always there.
    pub fn form_mut(&mut self, kind: ActivationKind) -> FormBuffers<'_> {
        let (rows, cols, bits) = (self.rows, self.cols, self.bits);
        let values = &self.values[..rows * cols];
        FormBuffers(match kind {
            ActivationKind::F32 => panic!("the values are there as they are"),
            ActivationKind::Q8x32 => Buffers::Q8x32(self.q8x32.make(values, rows, cols, bits)),
            ActivationKind::Q8x256 => Buffers::Q8x256(self.q8x256.make(values, rows, cols, bits)),
        })
    }

    /// Row `r` in one form, which must have been made.
    pub fn row(&self, kind: ActivationKind, r: usize) -> ActivationRow<'_> {
        assert!(r < self.rows && self.has(kind));
        match kind {
            ActivationKind::F32 => ActivationRow::F32(&self.values[r * self.cols..(r + 1) * self.cols]),
            ActivationKind::Q8x32 => ActivationRow::Q8x32(Planes::new(self.bits, |plane| self.q8x32_row(r, plane))),
            ActivationKind::Q8x256 => ActivationRow::Q8x256(Planes::new(self.bits, |plane| self.q8x256_row(r, plane))),
        }
    }

    /// A plane of row `r` in 8-bit blocks of 32, which must have been made.
    #[inline]
    pub fn q8x32_row(&self, r: usize, plane: usize) -> Q8x32Row<'_> {
        let (quads, scales, sums) = self.q8x32.row(r * self.bits.planes() + plane, self.cols);
        Q8x32Row { quads, scales, sums }
    }

    /// A plane of row `r` in 8-bit blocks of 256, which must have been made.
    #[inline]
    pub fn q8x256_row(&self, r: usize, plane: usize) -> Q8x256Row<'_> {
        let (codes, scales, sums) = self.q8x256.row(r * self.bits.planes() + plane, self.cols);
        Q8x256Row { codes, scales, sums }
    }
}

/// The buffers of an 8-bit form for some rows, and the values they are made of.
pub struct FormBuffers<'a>(Buffers<'a>);

enum Buffers<'a> {
    Q8x32(FormRows<'a, Q8x32>),
    Q8x256(FormRows<'a, Q8x256>),
}

impl<'a> FormBuffers<'a> {
    /// Cuts off the first `rows` rows: `(those, the rest)`, so that threads can share the work.
    pub fn split_at(self, rows: usize) -> (FormBuffers<'a>, FormBuffers<'a>) {
        let both = |(a, b)| (FormBuffers(a), FormBuffers(b));
        match self.0 {
            Buffers::Q8x32(part) => {
                let (a, b) = part.split_at(rows);
                both((Buffers::Q8x32(a), Buffers::Q8x32(b)))
            }
            Buffers::Q8x256(part) => {
                let (a, b) = part.split_at(rows);
                both((Buffers::Q8x256(a), Buffers::Q8x256(b)))
            }
        }
    }

    /// Quantizes every row. Inlined into a function for each instruction set, whose vectors the compiler then uses; the operations
    /// are the same, so the bits are.
    #[inline(always)]
    pub fn fill(self) {
        match self.0 {
            Buffers::Q8x32(part) => part.fill(),
            Buffers::Q8x256(part) => part.fill(),
        }
    }
}

struct FormRows<'a, E: EightBit> {
    values: &'a [f32],
    cols: usize,
    bits: ActivationBits,
    units: usize,
    codes: &'a mut [E::Codes],
    scales: &'a mut [f32],
    sums: &'a mut [E::Sums],
}

impl<'a, E: EightBit> FormRows<'a, E> {
    fn split_at(self, rows: usize) -> (FormRows<'a, E>, FormRows<'a, E>) {
        let n = rows * self.bits.planes() * self.units;
        let values = self.values.split_at(rows * self.cols);
        let codes = self.codes.split_at_mut(n);
        let scales = self.scales.split_at_mut(n * E::UNIT);
        let sums = self.sums.split_at_mut(n * E::UNIT);
        let (cols, bits, units) = (self.cols, self.bits, self.units);
        (
            FormRows { values: values.0, cols, bits, units, codes: codes.0, scales: scales.0, sums: sums.0 },
            FormRows { values: values.1, cols, bits, units, codes: codes.1, scales: scales.1, sums: sums.1 },
        )
    }

    #[inline(always)]
    fn fill(self) {
        match self.bits {
            ActivationBits::Eight => self.fill_planes::<1>(),
            ActivationBits::Sixteen => self.fill_planes::<2>(),
        }
    }

    #[inline(always)]
    fn fill_planes<const P: usize>(self) {
        if self.cols == 0 {
            return;
        }
        let units = P * self.units;
        let n = units * E::UNIT;
        let rows = self.values.chunks_exact(self.cols).zip(self.codes.chunks_exact_mut(units));
        let rows = rows.zip(self.scales.chunks_exact_mut(n).zip(self.sums.chunks_exact_mut(n)));
        for ((x, codes), (scales, sums)) in rows {
            E::quantize::<P>(x, codes, scales, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_values_and_sums() {
        let cols = 32 * 6;
        let mut acts = Activations::default();
        for (i, v) in acts.reset(2, cols).iter_mut().enumerate() {
            *v = ((i * 37 % 101) as f32 - 50.0) * 0.03;
        }
        acts.form_mut(ActivationKind::Q8x32).fill();
        for r in 0..2 {
            let (x, q) = (&acts.values()[r * cols..(r + 1) * cols], acts.q8x32_row(r, 0));
            for b in 0..6 {
                let codes: Vec<i32> = (0..32).map(|i| q.code(b, i)).collect();
                assert_eq!(codes.iter().sum::<i32>(), q.sums[b]);
                assert_eq!(codes.iter().map(|c| c.abs()).max(), Some(127));
                for i in 0..32 {
                    assert!((codes[i] as f32 * q.scales[b] - x[b * 32 + i]).abs() <= q.scales[b] * 0.5001);
                }
            }
            assert_eq!((q.scales[6], q.scales[7], q.sums[7]), (0.0, 0.0, 0));
        }
    }

    #[test]
    fn blocks_of_256_keep_their_values_and_sums() {
        let cols = 512;
        let mut acts = Activations::default();
        for (i, v) in acts.reset(2, cols).iter_mut().enumerate() {
            *v = ((i * 37 % 101) as f32 - 50.0) * 0.03 * (1 + i / 256) as f32;
        }
        acts.form_mut(ActivationKind::Q8x256).fill();
        for r in 0..2 {
            let (x, q) = (&acts.values()[r * cols..(r + 1) * cols], acts.q8x256_row(r, 0));
            for b in 0..2 {
                for i in 0..256 {
                    assert!((q.codes[b][i] as f32 * q.scales[b] - x[b * 256 + i]).abs() <= q.scales[b] * 0.5001);
                }
                for group in 0..16 {
                    let sum: i16 = q.codes[b][group * 16..(group + 1) * 16].iter().map(|&q| q as i16).sum();
                    assert_eq!(sum, q.sums[b][group]);
                }
                assert_eq!(q.codes[b].iter().map(|c| c.abs()).max(), Some(127));
            }
        }
    }

    /// Half a step of the code is all that is lost, of values of which some are small, and the planes are digits.
    #[test]
    fn sixteen_bits_are_two_planes() {
        let cols = 512;
        let mut acts = Activations::default();
        acts.set_bits(ActivationBits::Sixteen);
        for (i, v) in acts.reset(2, cols).iter_mut().enumerate() {
            *v = ((i * 37 % 101) as f32 - 50.0) * 0.03 * (1 + i / 256) as f32 / (1 + i % 7 * 1000) as f32;
        }
        let codes = |high: i8, low: i8| f64::from(RADIX * i32::from(high) + i32::from(low));
        acts.form_mut(ActivationKind::Q8x32).fill();
        acts.form_mut(ActivationKind::Q8x256).fill();
        for r in 0..2 {
            let x = &acts.values()[r * cols..(r + 1) * cols];
            let near = |i: usize, q: f64, d: f32, len: usize| {
                let first = i / len * len;
                let peak = x[first..first + len].iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
                assert_eq!(d, peak / 32512.0);
                assert!((q * f64::from(d) - f64::from(x[i])).abs() <= f64::from(d) * 0.5001, "value {i}");
            };
            let [high, low] = [0, 1].map(|plane| acts.q8x32_row(r, plane));
            for (i, b) in (0..cols).map(|i| (i, i / 32)) {
                assert_eq!(high.scales[b], low.scales[b]);
                near(i, codes(high.code(b, i % 32) as i8, low.code(b, i % 32) as i8), high.scales[b], 32);
            }
            let [high, low] = [0, 1].map(|plane| acts.q8x256_row(r, plane));
            for (i, b) in (0..cols).map(|i| (i, i / 256)) {
                assert_eq!(high.scales[b], low.scales[b]);
                near(i, codes(high.codes[b][i % 256], low.codes[b][i % 256]), high.scales[b], 256);
                for plane in [high, low] {
                    let group = &plane.codes[b][i % 256 / 16 * 16..][..16];
                    assert_eq!(group.iter().map(|&q| i16::from(q)).sum::<i16>(), plane.sums[b][i % 256 / 16]);
                }
            }
        }
    }

    #[test]
    fn extreme_blocks_stay_in_range() {
        for bits in [ActivationBits::Eight, ActivationBits::Sixteen] {
            for peak in [0.0, 1e-45, 1e-37, 1e-35, 1e-30, 1.0, 1e30, f32::MAX] {
                let mut acts = Activations::default();
                acts.set_bits(bits);
                let x = acts.reset(1, 32);
                x.fill(peak);
                x[3] = -peak;
                acts.form_mut(ActivationKind::Q8x32).fill();
                for plane in 0..bits.planes() {
                    let row = acts.q8x32_row(0, plane);
                    assert!((0..32).all(|i| (-127..=127).contains(&row.code(0, i))), "{peak:e}");
                    assert!(row.scales[0].is_finite());
                }
            }
        }
    }
}
