//! The other factor of a matrix product: activations, in the forms that weight formats are multiplied with.
//!
//! Weights of 2 to 8 bits are multiplied with 8-bit activations, so that the dot product of a block is exact in integers and only the
//! scales are floats. The activations of a tensor are quantized once and shared by every matrix that reads them.

mod q8x256;
mod q8x32;
pub mod tiled;

pub use q8x32::{BLOCK as Q8_BLOCK, Q8x32Row, QUAD};
pub use q8x256::Q8x256Row;

use crate::float::ROUND;
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
    Q8x32(Q8x32Row<'a>),
    /// `(cols / 256)` blocks
    Q8x256(Q8x256Row<'a>),
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
    /// Quantizes one row of whole blocks.
    fn quantize(x: &[f32], codes: &mut [Self::Codes], scales: &mut [f32], sums: &mut [Self::Sums]);
}

/// The codes of a block; returns `d`.
#[inline(always)]
fn quantize<const N: usize>(x: &[f32; N], codes: &mut [i8; N]) -> f32 {
    // Sixteen peaks side by side: one after the other, each comparison would wait for the one before.
    let mut peaks = [0.0f32; 16];
    let larger = |v: f32, peak: f32| if v > peak { v } else { peak };
    for x in x.as_chunks::<16>().0 {
        for i in 0..16 {
            peaks[i] = larger(x[i].abs(), peaks[i]);
        }
    }
    let peak = peaks.into_iter().fold(0.0, |peak, v| larger(v, peak));
    // A peak so small that 127 / peak overflows is a block of zeros for every practical purpose.
    let inverse = if peak > 1e-36 { 127.0 / peak } else { 0.0 };
    for i in 0..N {
        // |x| * (127 / peak) is at most 127 * (1 + 2^-22), which rounds to 127; the sum's lowest byte is that integer.
        codes[i] = (x[i] * inverse + ROUND).to_bits() as i8;
    }
    peak / 127.0
}

/// A matrix of activations `(rows, cols)` with the forms made of it so far. The buffers are kept and reused.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    values: Vec<f32>, // (rows, cols)
    q8x32: Form<Q8x32>,
    q8x256: Form<Q8x256>,
    tiled: [[Tiled; 2]; 2], // of blocks of 32 and of 256, without and with a bias
}

/// The buffers of an 8-bit form.
struct Form<E: EightBit> {
    made: bool,
    codes: Vec<E::Codes>, // (rows, units)
    scales: Vec<f32>,     // (rows, units, blocks of a unit)
    sums: Vec<E::Sums>,   // (rows, units, blocks of a unit)
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
    fn make<'a>(&'a mut self, values: &'a [f32], rows: usize, cols: usize) -> FormRows<'a, E> {
        assert!(
            cols.is_multiple_of(E::BLOCK),
            "the row length {cols} is not a multiple of the block size {}",
            E::BLOCK
        );
        let units = Self::units(cols);
        let n = rows * units;
        if self.codes.len() < n {
            self.codes.resize(n, E::ZERO.0);
            self.scales.resize(n * E::UNIT, 0.0);
            self.sums.resize(n * E::UNIT, E::ZERO.1);
        }
        self.made = true;
        let (scales, sums) = (&mut self.scales[..n * E::UNIT], &mut self.sums[..n * E::UNIT]);
        FormRows { values, cols, units, codes: &mut self.codes[..n], scales, sums }
    }

    /// `(codes, scales, sums)` of row `r`.
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

    /// Gives the matrix a new shape and its values to write, all of them; forms made before are forgotten.
    pub fn reset(&mut self, rows: usize, cols: usize) -> &mut [f32] {
        (self.rows, self.cols) = (rows, cols);
        (self.q8x32.made, self.q8x256.made) = (false, false);
        self.tiled.iter_mut().flatten().for_each(Tiled::forget);
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
        let values = &self.values[..self.rows * self.cols];
        match kind {
            ActivationKind::F32 => panic!("the values are there as they are"),
            ActivationKind::Q8x32 => FormBuffers(Buffers::Q8x32(self.q8x32.make(values, self.rows, self.cols))),
            ActivationKind::Q8x256 => FormBuffers(Buffers::Q8x256(self.q8x256.make(values, self.rows, self.cols))),
        }
    }

    /// Row `r` in one form, which must have been made.
    pub fn row(&self, kind: ActivationKind, r: usize) -> ActivationRow<'_> {
        assert!(r < self.rows && self.has(kind));
        match kind {
            ActivationKind::F32 => ActivationRow::F32(&self.values[r * self.cols..(r + 1) * self.cols]),
            ActivationKind::Q8x32 => ActivationRow::Q8x32(self.q8x32_row(r)),
            ActivationKind::Q8x256 => ActivationRow::Q8x256(self.q8x256_row(r)),
        }
    }

    /// Row `r` in 8-bit blocks of 32, which must have been made.
    #[inline]
    pub fn q8x32_row(&self, r: usize) -> Q8x32Row<'_> {
        let (quads, scales, sums) = self.q8x32.row(r, self.cols);
        Q8x32Row { quads, scales, sums }
    }

    /// Row `r` in 8-bit blocks of 256, which must have been made.
    #[inline]
    pub fn q8x256_row(&self, r: usize) -> Q8x256Row<'_> {
        let (codes, scales, sums) = self.q8x256.row(r, self.cols);
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
    units: usize,
    codes: &'a mut [E::Codes],
    scales: &'a mut [f32],
    sums: &'a mut [E::Sums],
}

impl<'a, E: EightBit> FormRows<'a, E> {
    fn split_at(self, rows: usize) -> (FormRows<'a, E>, FormRows<'a, E>) {
        let n = rows * self.units;
        let values = self.values.split_at(rows * self.cols);
        let codes = self.codes.split_at_mut(n);
        let scales = self.scales.split_at_mut(n * E::UNIT);
        let sums = self.sums.split_at_mut(n * E::UNIT);
        let (cols, units) = (self.cols, self.units);
        (
            FormRows { values: values.0, cols, units, codes: codes.0, scales: scales.0, sums: sums.0 },
            FormRows { values: values.1, cols, units, codes: codes.1, scales: scales.1, sums: sums.1 },
        )
    }

    #[inline(always)]
    fn fill(self) {
        if self.cols == 0 {
            return;
        }
        let n = self.units * E::UNIT;
        let rows = self.values.chunks_exact(self.cols).zip(self.codes.chunks_exact_mut(self.units));
        let rows = rows.zip(self.scales.chunks_exact_mut(n).zip(self.sums.chunks_exact_mut(n)));
        for ((x, codes), (scales, sums)) in rows {
            E::quantize(x, codes, scales, sums);
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
            let (x, q) = (&acts.values()[r * cols..(r + 1) * cols], acts.q8x32_row(r));
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
            let (x, q) = (&acts.values()[r * cols..(r + 1) * cols], acts.q8x256_row(r));
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

    #[test]
    fn extreme_blocks_stay_in_range() {
        for peak in [0.0, 1e-45, 1e-37, 1e-30, 1.0, 1e30, f32::MAX] {
            let mut acts = Activations::default();
            let x = acts.reset(1, 32);
            x.fill(peak);
            x[3] = -peak;
            acts.form_mut(ActivationKind::Q8x32).fill();
            let row = acts.q8x32_row(0);
            assert!((0..32).all(|i| (-127..=127).contains(&row.code(0, i))), "{peak:e}");
            assert!(row.scales[0].is_finite());
        }
    }
}
