//! Second moments of what a matrix reads: `sum a b^T` over tokens, of one stream of activations or of two beside each other.
//!
//! The tokens are taken in tiles of [`TILE`], counted from the first one, whatever pieces they come in; the products of a tile are one
//! matrix product in single precision, and the tiles are added in their order. So the sums have the same bits on every machine.

use crate::error::{Allocation, Error, Result};
use rayon::prelude::*;
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, GgmlType};

/// Tokens whose products are summed by one matrix product.
const TILE: usize = 512;

/// Columns of `a` whose products with those of `b` are computed together: their results stay in the cache.
const PANEL: usize = 256;

/// Buffers that the sums of all inputs share.
#[derive(Default)]
pub struct MomentScratch {
    a: Activations,
    b: Vec<u8>, // (columns, tokens) in F32
    y: Vec<f32>,
}

/// Sums of `a b^T`, still growing.
pub struct Moments {
    rows: usize, // columns of a
    cols: usize, // columns of b
    cross: bool,
    weight: f64,    // of all tokens
    sums: Vec<f32>, // (rows, cols); where both are one, the lower triangle and the panels on the diagonal
    a: Vec<f32>,    // (tokens of the tile that is not full, columns)
    b: Vec<f32>,    // the same; empty unless `cross`
}

impl Moments {
    /// Sums over `x x^T` for `cols` columns.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn of_one(cols: usize) -> Result<Moments> {
        Moments::new(cols, cols, false)
    }

    /// Sums over `a b^T` for `a` of `rows` values and `b` of `cols`.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn of_two(rows: usize, cols: usize) -> Result<Moments> {
        Moments::new(rows, cols, true)
    }

    fn new(rows: usize, cols: usize, cross: bool) -> Result<Moments> {
        Ok(Moments { rows, cols, cross, weight: 0.0, sums: zeros(rows * cols)?, a: Vec::new(), b: Vec::new() })
    }

    /// Bytes that sums of so many columns take.
    pub fn bytes(cols: usize) -> u64 {
        4 * (cols as u64).saturating_mul(cols as u64 + 2 * TILE as u64)
    }

    /// Adds the products of some tokens, `a (tokens, rows)` and `b (tokens, cols)`, each as if there were `weight` of it; `b` is not looked at
    /// where both are one.
    pub fn add(&mut self, a: &[f32], b: &[f32], weight: f32, cpu: &Cpu, scratch: &mut MomentScratch) {
        let root = weight.sqrt();
        let (rows, cols, tokens, mut at) = (self.rows, self.cols, a.len() / self.rows, 0);
        while at < tokens {
            let end = tokens.min(at + TILE - self.a.len() / rows);
            gather(&mut self.a, &a[at * rows..end * rows], root);
            if self.cross {
                gather(&mut self.b, &b[at * cols..end * cols], root);
            }
            if self.a.len() == TILE * rows {
                self.flush(cpu, scratch);
            }
            at = end;
        }
        self.weight += f64::from(weight) * tokens as f64;
    }

    /// Adds the tile that is gathered.
    fn flush(&mut self, cpu: &Cpu, scratch: &mut MomentScratch) {
        let (rows, cols, tokens) = (self.rows, self.cols, self.a.len() / self.rows);
        if tokens == 0 {
            return;
        }
        let MomentScratch { a, b, y } = scratch;
        transpose(if self.cross { &self.b } else { &self.a }, cols, b);
        for first in (0..rows).step_by(PANEL) {
            let end = (first + PANEL).min(rows);
            let width = if self.cross { cols } else { end };
            let panel = a.reset(end - first, tokens);
            panel.par_chunks_mut(tokens).enumerate().for_each(|(c, column)| {
                column.iter_mut().enumerate().for_each(|(t, value)| *value = self.a[t * rows + first + c]);
            });
            let w = Matrix::new(GgmlType::F32, width, tokens, &b[..4 * width * tokens]).expect("whole rows of F32");
            y.resize((end - first) * width, 0.0);
            cpu.matmul(w, a, y);
            let sums = self.sums[first * cols..end * cols].par_chunks_mut(cols);
            sums.zip(y.par_chunks(width)).for_each(|(sums, y)| sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += y));
        }
        self.a.clear();
        self.b.clear();
    }

    /// The mean over all tokens, `(rows, cols)`; zeros if there was none.
    pub fn mean(mut self, cpu: &Cpu, scratch: &mut MomentScratch) -> Vec<f32> {
        self.flush(cpu, scratch);
        let share = if self.weight > 0.0 { (1.0 / self.weight) as f32 } else { 1.0 };
        let cols = self.cols;
        self.sums.par_iter_mut().for_each(|sum| *sum *= share);
        if !self.cross {
            mirror(&mut self.sums, cols);
        }
        self.sums
    }
}

/// `n` zeros.
pub fn zeros(n: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    let bytes = 4 * n as u64;
    values.try_reserve_exact(n).map_err(|_| Error::OutOfMemory { what: Allocation::Moments, bytes })?;
    values.resize(n, 0.0);
    Ok(values)
}

/// Appends `factor * values`.
fn gather(to: &mut Vec<f32>, values: &[f32], factor: f32) {
    let there = to.len();
    to.resize(there + values.len(), 0.0);
    to[there..].par_iter_mut().zip(values).for_each(|(to, value)| *to = factor * value);
}

/// The columns of `x (tokens, cols)` one after the other, as bytes.
fn transpose(x: &[f32], cols: usize, to: &mut Vec<u8>) {
    let tokens = x.len() / cols;
    to.resize(4 * x.len(), 0);
    to.par_chunks_mut(4 * tokens).enumerate().for_each(|(c, column)| {
        for (t, value) in column.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *value = x[t * cols + c].to_le_bytes();
        }
    });
}

/// Copies what is below the panels on the diagonal of `a (n, n)` to the other side.
fn mirror(a: &mut [f32], n: usize) {
    const TOGETHER: usize = 16; // a cache line of what is copied
    for first in (0..n).step_by(PANEL) {
        let end = n.min(first + PANEL);
        let (panel, below) = a.split_at_mut(end * n);
        panel[first * n..].par_chunks_mut(TOGETHER * n).enumerate().for_each(|(i, rows)| {
            for (c, of) in below.chunks_exact(n).enumerate() {
                let values = &of[first + i * TOGETHER..end];
                rows.chunks_exact_mut(n).zip(values).for_each(|(row, value)| row[end + c] = *value);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_kernels::Isa;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn mean(a: &[f32], b: Option<&[f32]>, cols: usize, piece: usize, isa: Isa, threads: usize) -> Vec<f32> {
        let (cpu, mut scratch) = (Cpu::new(isa, threads), MomentScratch::default());
        let mut moments = if b.is_some() { Moments::of_two(cols, cols) } else { Moments::of_one(cols) }.unwrap();
        for (a, b) in a.chunks(piece * cols).zip(b.unwrap_or(a).chunks(piece * cols)) {
            moments.add(a, b, 1.0, &cpu, &mut scratch);
        }
        moments.mean(&cpu, &mut scratch)
    }

    #[test]
    fn moments_are_those_of_the_definition() {
        let (cols, tokens) = (300, 700);
        let x = numbers(cols * (tokens + 1));
        let (a, b) = (&x[..cols * tokens], &x[cols..]);
        for other in [None, Some(b)] {
            let got = mean(a, other, cols, 64, Isa::best(), 2);
            for (r, c) in [(0, 0), (1, 0), (0, 299), (299, 3), (257, 258), (17, 17)] {
                let of = |t: usize| f64::from(a[t * cols + r]) * f64::from(other.unwrap_or(a)[t * cols + c]);
                let want = (0..tokens).map(of).sum::<f64>() / tokens as f64;
                assert!((f64::from(got[r * cols + c]) - want).abs() < 1e-5, "{r}, {c}");
            }
        }
    }

    #[test]
    fn the_same_bits_however_the_tokens_come() {
        let (cols, tokens) = (70, 1100);
        let x = numbers(cols * tokens);
        let want = mean(&x, None, cols, tokens, Isa::named("scalar").unwrap(), 1);
        for isa in Isa::available() {
            for (piece, threads) in [(1, 1), (512, 2), (700, 3)] {
                assert_eq!(mean(&x, None, cols, piece, isa, threads), want, "{isa:?}");
            }
        }
    }
}
