//! The other factor of a matrix product: activations, in the forms that weights ask for.
//!
//! Weights of 4 to 8 bits are multiplied with 8-bit activations, so that the dot product of a block is exact in integers and only the
//! scales are floats. The activations of a tensor are quantized once and shared by every matrix that reads them.
//!
//! # `Q8x32`
//! One `f32` scale per 32 values: `d = max|x| / 127`, `q = round(x / d)`, never -128. Four blocks lie together as a *quad* of 128 bytes,
//! because a 64-byte register then holds the same 16 values of four blocks, as the nibbles of four weight blocks give them:
//! ```text
//! | block 0: 0..16 | block 1: 0..16 | block 2: 0..16 | block 3: 0..16 | block 0: 16..32 | block 1: 16..32 | ...
//! ```
//! Value `i` of block `b` is at `b % 4 * 16 + i / 16 * 64 + i % 16` of quad `b / 4`. A last quad is filled up with zeros.

use crate::float::round_ties_even;

/// Values that share a scale in [`ActivationKind::Q8x32`].
pub const Q8_BLOCK: usize = 32;
/// Blocks in a quad.
pub const QUAD: usize = 4;

/// The form in which a weight format wants the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// As they are.
    F32,
    /// 8-bit, a scale per 32.
    Q8x32,
}

/// One row (one token) of activations, in one form.
#[derive(Clone, Copy, Debug)]
pub enum ActivationRow<'a> {
    /// `(cols)`
    F32(&'a [f32]),
    /// `(cols / 32)` blocks
    Q8x32(Q8Row<'a>),
}

/// A row of 8-bit blocks.
#[derive(Clone, Copy, Debug)]
pub struct Q8Row<'a> {
    /// `(blocks / 4, rounded up)`: the codes; see the module for their order.
    pub quads: &'a [[i8; 128]],
    /// `(4 * quads)`: the scale of each block; zero in the filling.
    pub scales: &'a [f32],
    /// `(4 * quads)`: the sum of each block's codes, for formats whose weights are stored with an offset.
    pub sums: &'a [i32],
}

impl Q8Row<'_> {
    /// Code `i` of block `b`.
    #[inline(always)]
    pub fn code(&self, b: usize, i: usize) -> i32 {
        self.quads[b / QUAD][b % QUAD * 16 + i / 16 * 64 + i % 16] as i32
    }
}

/// A matrix of activations `(rows, cols)` with the forms made of it so far. The buffers are kept and reused.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    values: Vec<f32>,      // (rows, cols)
    quads: Vec<[i8; 128]>, // (rows, quads per row)
    scales: Vec<f32>,      // (rows, 4 * quads per row)
    sums: Vec<i32>,        // (rows, 4 * quads per row)
    has_q8x32: bool,
}

impl Activations {
    /// The tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The values per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values `(rows, cols)`.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.cols]
    }

    /// Gives the matrix a new shape and its values to write, all of them; forms made before are forgotten.
    pub fn reset(&mut self, rows: usize, cols: usize) -> &mut [f32] {
        (self.rows, self.cols, self.has_q8x32) = (rows, cols, false);
        if self.values.len() < rows * cols {
            self.values.resize(rows * cols, 0.0);
        }
        &mut self.values[..rows * cols]
    }

    /// True if the form is there.
    pub fn has(&self, kind: ActivationKind) -> bool {
        match kind {
            ActivationKind::F32 => true,
            ActivationKind::Q8x32 => self.has_q8x32,
        }
    }

    /// Hands out the buffers of the 8-bit form for all rows, to be filled by [`quantize_q8x32`] row by row; it counts as made.
    pub fn q8x32_mut(&mut self) -> Q8Buffers<'_> {
        assert!(self.cols.is_multiple_of(Q8_BLOCK), "rows of {} values are no whole blocks", self.cols);
        let per_row = self.quads_per_row();
        let n = self.rows * per_row;
        if self.quads.len() < n {
            self.quads.resize(n, [0; 128]);
            self.scales.resize(n * QUAD, 0.0);
            self.sums.resize(n * QUAD, 0);
        }
        self.has_q8x32 = true;
        Q8Buffers {
            values: &self.values[..self.rows * self.cols],
            cols: self.cols,
            per_row,
            quads: &mut self.quads[..n],
            scales: &mut self.scales[..n * QUAD],
            sums: &mut self.sums[..n * QUAD],
        }
    }

    /// Row `r` in one form, which must have been made.
    pub fn row(&self, kind: ActivationKind, r: usize) -> ActivationRow<'_> {
        assert!(r < self.rows && self.has(kind));
        match kind {
            ActivationKind::F32 => ActivationRow::F32(&self.values[r * self.cols..(r + 1) * self.cols]),
            ActivationKind::Q8x32 => ActivationRow::Q8x32(self.q8x32_row(r)),
        }
    }

    /// Row `r` in the 8-bit form, which must have been made.
    #[inline]
    pub fn q8x32_row(&self, r: usize) -> Q8Row<'_> {
        let n = self.quads_per_row();
        Q8Row {
            quads: &self.quads[r * n..(r + 1) * n],
            scales: &self.scales[r * n * QUAD..(r + 1) * n * QUAD],
            sums: &self.sums[r * n * QUAD..(r + 1) * n * QUAD],
        }
    }

    fn quads_per_row(&self) -> usize {
        (self.cols / Q8_BLOCK).div_ceil(QUAD)
    }
}

/// The buffers of the 8-bit form, and the values they are made of.
pub struct Q8Buffers<'a> {
    values: &'a [f32],
    cols: usize,
    per_row: usize,
    quads: &'a mut [[i8; 128]],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl<'a> Q8Buffers<'a> {
    /// Cuts off the first `rows` rows: `(those, the rest)`, so that threads can share the work.
    pub fn split_at(self, rows: usize) -> (Q8Buffers<'a>, Q8Buffers<'a>) {
        let n = rows * self.per_row;
        let values = self.values.split_at(rows * self.cols);
        let quads = self.quads.split_at_mut(n);
        let scales = self.scales.split_at_mut(n * QUAD);
        let sums = self.sums.split_at_mut(n * QUAD);
        let (cols, per_row) = (self.cols, self.per_row);
        (
            Q8Buffers { values: values.0, cols, per_row, quads: quads.0, scales: scales.0, sums: sums.0 },
            Q8Buffers { values: values.1, cols, per_row, quads: quads.1, scales: scales.1, sums: sums.1 },
        )
    }

    /// The rows left.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Quantizes every row. Inlined into a function for each instruction set, whose vectors the compiler then uses; the operations
    /// are the same, so the bits are.
    #[inline(always)]
    pub fn fill(self) {
        if self.cols == 0 {
            return;
        }
        let rows = self.values.chunks_exact(self.cols).zip(self.quads.chunks_exact_mut(self.per_row)).zip(
            self.scales.chunks_exact_mut(self.per_row * QUAD).zip(self.sums.chunks_exact_mut(self.per_row * QUAD)),
        );
        for ((x, quads), (scales, sums)) in rows {
            quantize_q8x32(x, quads, scales, sums);
        }
    }
}

/// Quantizes one row of whole blocks; see the module for the formula and the order of the codes.
#[inline(always)]
pub fn quantize_q8x32(x: &[f32], quads: &mut [[i8; 128]], scales: &mut [f32], sums: &mut [i32]) {
    let (blocks, rest) = x.as_chunks::<Q8_BLOCK>();
    assert!(rest.is_empty() && quads.len() == blocks.len().div_ceil(QUAD));
    assert!(scales.len() == quads.len() * QUAD && sums.len() == scales.len());
    let filling = quads.len() * QUAD - blocks.len();
    if filling > 0 {
        quads[blocks.len() / QUAD] = [0; 128];
        scales[blocks.len()..].fill(0.0);
        sums[blocks.len()..].fill(0);
    }
    for (b, block) in blocks.iter().enumerate() {
        let mut peak = 0.0f32;
        for v in block {
            peak = if v.abs() > peak { v.abs() } else { peak };
        }
        let d = peak / 127.0;
        // A peak so small that 127 / peak overflows is a block of zeros for every practical purpose.
        let inverse = if peak > 1e-36 { 127.0 / peak } else { 0.0 };
        let mut codes = [0i8; Q8_BLOCK];
        let mut sum = 0i32;
        for i in 0..Q8_BLOCK {
            // SAFE RANGE: |x| * (127 / peak) is at most 127 * (1 + 2^-22), which rounds to 127.
            let q = round_ties_even(block[i] * inverse) as i32;
            codes[i] = q as i8;
            sum += q;
        }
        let (quad, lane) = (&mut quads[b / QUAD], b % QUAD * 16);
        quad[lane..lane + 16].copy_from_slice(&codes[..16]);
        quad[lane + 64..lane + 80].copy_from_slice(&codes[16..]);
        scales[b] = d;
        sums[b] = sum;
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
        acts.q8x32_mut().fill();
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
    fn extreme_blocks_stay_in_range() {
        for peak in [0.0, 1e-45, 1e-37, 1e-30, 1.0, 1e30, f32::MAX] {
            let mut acts = Activations::default();
            let x = acts.reset(1, 32);
            x.fill(peak);
            x[3] = -peak;
            acts.q8x32_mut().fill();
            let row = acts.q8x32_row(0);
            assert!((0..32).all(|i| (-127..=127).contains(&row.code(0, i))), "{peak:e}");
            assert!(row.scales[0].is_finite());
        }
    }
}
