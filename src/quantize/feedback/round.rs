//! Rounding the rows of a matrix with error feedback, from the scales that a search has found for its blocks.
//!
//! Codes and scales of groups change, what the groups of a block share stays. So the bytes are as many, and any program reads them.

use super::columns::{Columns, SomeRows, Sweep};
use super::factor::Factor;
use rayon::prelude::*;
use std::ops::Range;
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, BlockScales, Codec, GgmlType, Grid, LANES};

/// Columns that are rounded before the others hear of their errors: at first those of their span, the others after the whole span.
const BLOCK: usize = 128;

/// Columns that hear of the errors of all others by one matrix product: so wide that reading the errors takes less time than multiplying.
const SPAN: usize = 4 * BLOCK;

/// Sweeps of coordinate descent after the feedback; each lowers the loss a little, the first the most.
const SWEEPS: usize = 2;

/// Some rows of a matrix that are being rounded. Columns are in the order of the factor, but for codes and grids, which are as in the file.
#[derive(Default)]
pub struct Rows {
    cols: usize,
    weights: Vec<f32>,        // (rows, columns)
    errors: Vec<f32>,         // (rows, columns): weights less what their codes stand for
    codes: Vec<u8>,           // (rows, columns)
    grids: Vec<Grid>,         // (rows, groups)
    scales: Vec<BlockScales>, // (rows, blocks)
    x: Activations,           // (rows, columns): errors that are multiplied
    w: Vec<u8>,               // in F32, with what
    y: Vec<f32>,              // and their product: what the columns of a span hear
    before: Vec<f32>,         // (rows, columns of a block): the errors that a span has heard of
    new: Vec<f32>,            // what it hears of the changes
}

impl Rows {
    /// Takes rows `w (rows, columns)` that are encoded as `blocks`, of a type with this codec.
    pub fn take(&mut self, factor: &Factor, (ty, codec): (GgmlType, &Codec), w: &[f32], blocks: &[u8]) {
        let (cols, len) = (factor.cols(), ty.block_len());
        self.cols = cols;
        self.weights.resize(w.len(), 0.0);
        self.errors.resize(w.len(), 0.0);
        self.codes.resize(w.len(), 0);
        let unpack = |(codes, block): (&mut [u8], &[u8])| (codec.unpack)(block, codes);
        self.scales.clear();
        self.codes
            .par_chunks_mut(len)
            .zip(blocks.par_chunks(ty.block_bytes()))
            .map(unpack)
            .collect_into_vec(&mut self.scales);
        let groups = len / codec.group;
        let grids = self.scales.iter().flat_map(|scales| (0..groups).map(move |group| (codec.grid)(scales, group)));
        self.grids.clear();
        self.grids.extend(grids);
        let rows = self.weights.par_chunks_mut(cols).zip(self.errors.par_chunks_mut(cols));
        let rows = rows.zip(self.codes.par_chunks(cols)).zip(self.grids.par_chunks(cols / codec.group));
        rows.zip(w.par_chunks(cols)).for_each(|((((weights, errors), codes), grids), w)| {
            for (place, &c) in factor.order.iter().enumerate() {
                weights[place] = w[c];
                errors[place] = w[c] - grids[c / codec.group].value(codes[c]);
            }
        });
    }

    /// Aims at `weights + strength * shift` from now on, `shift (rows, columns)` in the factor's order.
    pub fn shift(&mut self, shift: &[f32], strength: f32) {
        let weights = self.weights.par_iter_mut().zip(&mut self.errors);
        weights.zip(shift).for_each(|((weight, error), shift)| {
            *weight += strength * shift;
            *error += strength * shift;
        });
    }

    /// `sum d e^T` of the errors as they are with `d (rows, columns)` in the factor's order.
    pub fn along(&self, d: &[f32]) -> f64 {
        let row = |(e, d): (&[f32], &[f32])| e.iter().zip(d).map(|(e, d)| f64::from(*e) * f64::from(*d)).sum::<f64>();
        let rows: Vec<f64> = self.errors.par_chunks(self.cols).zip(d.par_chunks(self.cols)).map(row).collect();
        rows.into_iter().sum()
    }

    /// The loss of the errors as they are: `sum over rows of e M e^T` for a symmetric moment `(columns, columns)` in the factor's order.
    pub fn loss(&mut self, cpu: &Cpu, moment: &[f32]) -> f64 {
        let (cols, rows) = (self.cols, self.weights.len() / self.cols);
        let mut losses = vec![0.0; rows];
        for first in (0..cols).step_by(SPAN) {
            let span = first..cols.min(first + SPAN);
            // Each pair of columns once: what is after the span counts twice.
            self.hear(cpu, span.clone(), first, |c, j| if j < span.end { 1.0 } else { 2.0 } * moment[c * cols + j]);
            let rows = self.errors.par_chunks(cols).zip(self.y.par_chunks(span.len()));
            losses.par_iter_mut().zip(rows).for_each(|(loss, (e, y))| {
                *loss += e[span.clone()].iter().zip(y).map(|(e, y)| f64::from(*e) * f64::from(*y)).sum::<f64>();
            });
        }
        losses.into_iter().sum()
    }

    /// Rounds all rows, group by group in the order of the factor, each with what the errors before it add to its targets. Every group gets the
    /// scales about its own that leave the least loss ([`strata_quant::round_given`]).
    pub fn feed_back(&mut self, cpu: &Cpu, factor: &Factor, format: (GgmlType, &Codec)) {
        self.sweep(cpu, factor, format, Sweep::Feedback);
    }

    /// Coordinate descent: each group in turn gets better scales and codes, given all others, or stays. The loss never grows but by rounding.
    pub fn descend(&mut self, cpu: &Cpu, factor: &Factor, format: (GgmlType, &Codec)) {
        (0..SWEEPS).for_each(|_| self.sweep(cpu, factor, format, Sweep::Descent));
    }

    /// All groups of all rows, once.
    fn sweep(&mut self, cpu: &Cpu, factor: &Factor, format: (GgmlType, &Codec), sweep: Sweep) {
        let (cols, adds) = (self.cols, sweep.adds(factor));
        let mut end = cols;
        while end > 0 {
            let span = end.saturating_sub(SPAN)..end;
            let from = if sweep == Sweep::Feedback { end } else { 0 };
            self.hear(cpu, span.clone(), from, |c, j| adds[c * cols + j]);
            while end > span.start {
                let places = end.saturating_sub(BLOCK).max(span.start)..end;
                self.round(cpu, &Columns::new(factor, format, sweep, &span, places.clone()), adds);
                end = places.start;
            }
        }
    }

    /// Rounds the groups of a block, and tells what comes after it in its span.
    fn round(&mut self, cpu: &Cpu, block: &Columns<'_>, adds: &[f32]) {
        let (cols, rows, places, after) = (self.cols, self.weights.len() / self.cols, block.places(), block.after());
        self.before.resize(rows * places.len(), 0.0);
        let before = self.before.par_chunks_mut(places.len()).zip(self.errors.par_chunks(cols));
        before.for_each(|(before, e)| match block.sweep {
            Sweep::Feedback => before.fill(0.0), // nothing has heard of the errors
            Sweep::Descent => before.copy_from_slice(&e[places.clone()]),
        });
        let sixteen = self.weights.par_chunks(LANES * cols).zip(self.errors.par_chunks_mut(LANES * cols));
        let heard = self.y.par_chunks_mut(LANES * block.span.len());
        let coded = self.codes.par_chunks_mut(LANES * cols);
        let coded = coded.zip(self.grids.par_chunks_mut(LANES * cols / block.codec.group));
        let coded = coded.zip(self.scales.par_chunks_mut(LANES * cols / block.ty.block_len()));
        sixteen.zip(coded).zip(heard).for_each(|(((weights, errors), ((codes, grids), scales)), heard)| {
            block.round(cpu.isa(), SomeRows { weights, errors, codes, grids, scales, heard });
        });
        if after.is_empty() {
            return;
        }
        let x = self.x.reset(rows, places.len()).par_chunks_mut(places.len());
        let changes = self.errors.par_chunks(cols).zip(self.before.par_chunks(places.len()));
        x.zip(changes).for_each(|(x, (e, before))| {
            x.iter_mut().zip(&e[places.clone()]).zip(before).for_each(|((x, e), before)| *x = e - before);
        });
        values(after.len(), places.len(), |c, j| adds[(after.start + c) * cols + places.start + j], &mut self.w);
        let w = Matrix::new(GgmlType::F32, after.len(), places.len(), &self.w).expect("rows of F32");
        self.new.resize(rows * after.len(), 0.0);
        cpu.matmul(w, &mut self.x, &mut self.new);
        let heard = self.y.par_chunks_mut(block.span.len()).zip(self.new.par_chunks(after.len()));
        heard.for_each(|(heard, new)| heard.iter_mut().zip(new).for_each(|(heard, new)| *heard += new));
    }

    /// `y (rows, columns of the span)`: what the errors of the columns from `from` on add to those of the span; `adds` says what that of
    /// column `j` adds to column `c`, `(c, j)`.
    fn hear(&mut self, cpu: &Cpu, span: Range<usize>, from: usize, adds: impl Fn(usize, usize) -> f32 + Sync) {
        let (cols, rows) = (self.cols, self.weights.len() / self.cols);
        self.y.clear();
        self.y.resize(rows * span.len(), 0.0);
        if from == cols {
            return;
        }
        let x = self.x.reset(rows, cols - from).par_chunks_mut(cols - from);
        x.zip(self.errors.par_chunks(cols)).for_each(|(x, errors)| x.copy_from_slice(&errors[from..]));
        let width = cols - from;
        values(span.len(), width, |c, j| adds(span.start + c, from + j), &mut self.w);
        let w = Matrix::new(GgmlType::F32, span.len(), width, &self.w).expect("rows of F32");
        cpu.matmul(w, &mut self.x, &mut self.y);
    }

    /// Writes the codes into the blocks, with the scales that they were taken with.
    pub fn put(&self, (ty, codec): (GgmlType, &Codec), blocks: &mut [u8]) {
        let codes = self.codes.par_chunks(ty.block_len());
        let blocks = blocks.par_chunks_mut(ty.block_bytes());
        blocks.zip(codes).zip(&self.scales).for_each(|((block, codes), scales)| (codec.pack)(scales, codes, block));
    }
}

/// A matrix of values `(rows, columns)` as bytes.
fn values(rows: usize, cols: usize, at: impl Fn(usize, usize) -> f32 + Sync, to: &mut Vec<u8>) {
    to.resize(4 * rows * cols, 0);
    to.par_chunks_mut(4 * cols).enumerate().for_each(|(r, to)| {
        to.as_chunks_mut::<4>().0.iter_mut().enumerate().for_each(|(c, to)| *to = at(r, c).to_le_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_kernels::Isa;

    /// Values between -1 and 1 in no order.
    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// A moment whose columns differ in energy and go together.
    fn moment(cols: usize) -> Vec<f32> {
        let (tokens, mixed) = (600, numbers(cols * cols, 3));
        let x = numbers(tokens * 8, 5);
        let value = |t: usize, c: usize| {
            let common: f32 = (0..8).map(|i| x[t * 8 + i] * mixed[c * cols + i]).sum();
            (common + 0.3 * mixed[(t * 7 + c * 3) % mixed.len()]) * (1.0 + (c % 17) as f32)
        };
        let rows: Vec<Vec<f32>> = (0..tokens).map(|t| (0..cols).map(|c| value(t, c)).collect()).collect();
        let at = |r: usize, c: usize| rows.iter().map(|x| x[r] * x[c]).sum::<f32>() / tokens as f32;
        (0..cols * cols).map(|i| at((i / cols).max(i % cols), (i / cols).min(i % cols))).collect()
    }

    fn plain(ty: GgmlType, w: &[f32], importance: &[f32]) -> Vec<u8> {
        let cols = importance.len();
        let mut blocks = vec![0; w.len() / cols * ty.row_bytes(cols).unwrap()];
        for (w, blocks) in w.chunks(cols).zip(blocks.chunks_mut(ty.row_bytes(cols).unwrap())) {
            Isa::best().encode(ty, w, Some(importance), blocks);
        }
        blocks
    }

    #[test]
    fn feedback_and_descent_lower_the_loss_of_every_format() {
        let (rows, cols) = (5, 256);
        let (moment, w) = (moment(cols), numbers(rows * cols, 1));
        let cpu = Cpu::new(Isa::best(), 1);
        let factor = Factor::new(&cpu, &moment, cols).unwrap();
        let importance: Vec<f32> = (0..cols).map(|c| moment[c * cols + c]).collect();
        let mut formats = 0;
        for format in GgmlType::with_format() {
            let (Some(codec), ty) = (format.codec, format.ty) else { continue };
            let mut blocks = plain(ty, &w, &importance);
            let (before, mut all) = (blocks.clone(), Rows::default());
            all.take(&factor, (ty, &codec), &w, &blocks);
            all.put((ty, &codec), &mut blocks);
            assert_eq!(blocks, before, "{ty}: nothing is changed");
            let rounded = all.loss(&cpu, &factor.moment);
            all.feed_back(&cpu, &factor, (ty, &codec));
            let fed_back = all.loss(&cpu, &factor.moment);
            all.descend(&cpu, &factor, (ty, &codec));
            let descended = all.loss(&cpu, &factor.moment);
            assert!(fed_back < 0.7 * rounded, "{ty}: {fed_back} of {rounded}");
            assert!(descended <= fed_back, "{ty}: {descended} of {fed_back}");
            all.put((ty, &codec), &mut blocks);
            // The errors are those of the blocks as any reader decodes them.
            let mut values = vec![0.0; rows * cols];
            (format.decode)(&blocks, &mut values);
            for (i, error) in all.errors.iter().enumerate() {
                let at = i / cols * cols + factor.order[i % cols];
                assert_eq!((w[at] - values[at]).to_bits(), error.to_bits(), "{ty}");
            }
            if ty.block_len() > codec.group {
                let mut codes = vec![0; ty.block_len()];
                let mut shared = |block: &[u8]| {
                    let BlockScales { d, m, .. } = (codec.unpack)(block, &mut codes);
                    [d, m]
                };
                for (a, b) in blocks.chunks(ty.block_bytes()).zip(before.chunks(ty.block_bytes())) {
                    assert_eq!(shared(a), shared(b), "{ty}");
                }
            }
            formats += 1;
        }
        assert!(formats >= 12, "{formats}");
    }

    #[test]
    fn the_loss_is_what_the_factor_says() {
        // sum_c D_c (target_c - value_c)^2 = e A e^T: with the targets that the errors before give.
        let (cols, ty) = (2 * SPAN + BLOCK + 32, GgmlType::Q4_0);
        let (moment, w) = (moment(cols), numbers(cols, 9));
        let cpu = Cpu::new(Isa::best(), 1);
        let factor = Factor::new(&cpu, &moment, cols).unwrap();
        let codec = ty.format().unwrap().codec.unwrap();
        let blocks = plain(ty, &w, &vec![1.0; cols]);
        let mut all = Rows::default();
        all.take(&factor, (ty, &codec), &w, &blocks);
        all.feed_back(&cpu, &factor, (ty, &codec));
        let e: Vec<f64> = all.errors.iter().map(|&e| f64::from(e)).collect();
        let carry = |c: usize, j: usize| f64::from(factor.carry[c * cols + j]);
        // D from the moment: A_cc = sum over k of L_ck^2 D_k.
        let mut d = vec![0.0; cols];
        for c in 0..cols {
            let before: f64 = (0..c).map(|k| carry(k, c) * carry(k, c) * d[k]).sum();
            d[c] = f64::from(factor.moment[c * cols + c]) - before;
        }
        let sum: f64 =
            (0..cols).map(|c| d[c] * (e[c] + (c + 1..cols).map(|j| e[j] * carry(c, j)).sum::<f64>()).powi(2)).sum();
        let loss = all.loss(&cpu, &factor.moment);
        assert!((sum / loss - 1.0).abs() < 1e-3, "{sum} {loss}");
        let of = |i: usize| f64::from(factor.moment[i]) * e[i / cols] * e[i % cols];
        let definition = (0..cols * cols).map(of).sum::<f64>();
        assert!((definition / loss - 1.0).abs() < 1e-4, "{definition} {loss}");
        // Descent hears of all errors, and its own: what it takes for the loss falls, and so does the loss.
        all.descend(&cpu, &factor, (ty, &codec));
        let descended = all.loss(&cpu, &factor.moment);
        assert!(descended < 0.999 * loss, "{descended} {loss}");
        let changed = |all: &mut Rows| {
            all.sweep(&cpu, &factor, (ty, &codec), Sweep::Descent);
            all.loss(&cpu, &factor.moment)
        };
        let losses: Vec<f64> = (0..6).map(|_| changed(&mut all)).collect();
        assert!(losses.is_sorted_by(|a, b| b <= &(a * 1.000_001)), "{losses:?}");
    }

    #[test]
    fn the_same_codes_on_every_instruction_set_and_any_number_of_threads() {
        let (rows, cols, ty) = (9, 2 * SPAN + 256, GgmlType::Q4_K);
        let (moment, w) = (moment(cols), numbers(rows * cols, 2));
        let codec = ty.format().unwrap().codec.unwrap();
        let results = Isa::available().flat_map(|isa| [(isa, 1), (isa, 3)]).map(|(isa, threads)| {
            let cpu = Cpu::new(isa, threads);
            let factor = Factor::new(&cpu, &moment, cols).unwrap();
            let (mut blocks, mut all) = (plain(ty, &w, &vec![1.0; cols]), Rows::default());
            all.take(&factor, (ty, &codec), &w, &blocks);
            all.feed_back(&cpu, &factor, (ty, &codec));
            all.descend(&cpu, &factor, (ty, &codec));
            all.put((ty, &codec), &mut blocks);
            blocks
        });
        let results: Vec<_> = results.collect();
        assert!(results.iter().all(|result| *result == results[0]));
    }
}
