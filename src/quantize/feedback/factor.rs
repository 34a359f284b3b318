//! The factor of a second moment: how much of a rounding error in one column the columns after it can make up for.
//!
//! With `A = U D U^T`, `U` unit upper triangular and the columns in the order in which they are rounded, the loss of a row's errors `e` is
//! ```text
//! e A e^T = sum_c D_c (e_c + sum over j < c of e_j U_jc)^2
//! ```
//! so whoever rounds column `c` aims at `w_c + sum over j < c of e_j U_jc` (GPTQ, arXiv 2210.17323, in the form of LDLQ, arXiv 2307.13304).
//! Columns are rounded group by group ([`GROUP`]), in descending order of energy: of the groups, and in each of the columns. Here they are
//! kept in ascending order, and rounded from the last to the first: then `A = L D L^T` with `L` unit lower triangular, `U_jc` is `L_jc` with
//! `j > c`, and the factors are the usual ones.

use super::moments::zeros;
use crate::error::Result;
use rayon::prelude::*;
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, GgmlType, GroupMetric};

/// Columns that share their scales in formats: they follow each other in the order, as do those of each half, which share them in others. So
/// the scales of a group can be found when its first column is rounded.
const GROUP: usize = 32;

/// Columns of a block of [`Factor::solve`].
const BLOCK: usize = 64;

/// Columns that are factorized together.
const PANEL: usize = 256;

/// What is added to each value of the diagonal, as a share of it: activations of other texts are never quite those of the calibration, and
/// what columns have to do with each other differs more than their energy does. It is the same as shrinking all that is off the diagonal.
///
/// Measured on SmolLM2 in Q4_0 (37k tokens of prose, code and chats; mean divergence on 24 chunks of others and of French): 0.147 with 0.02,
/// 0.136 with 0.05, 0.131 with 0.1; with 0.01 of the mean alone, as is usual, 10 % more than with 0.02. From 0.1 to 0.4 the losses of six of its
/// matrices in IQ4_NL grow by 3, 4 and 2 % on other prose, code and chats and shrink by 7 % on French, which the calibration has nothing of.
/// Counting the first token of a chunk, which all others attend to, 4 or 11 times gained as much at 0.02 and nothing at 0.1 or 0.3; leaving it
/// out cost half as much again.
const DAMPING: f64 = 0.3;

/// The same as a share of the mean of the diagonal, for columns that the calibration hardly uses.
const MEAN_DAMPING: f64 = 0.0001;

/// A moment in the order of its columns' energy, and its factor.
pub struct Factor {
    /// The columns: groups, halves of them, and columns in these, each with the least energy (of its largest column) first.
    pub order: Vec<usize>,
    /// The damped moment in that order, `(columns, columns)`.
    pub moment: Vec<f32>,
    /// Row `c` holds column `c` of `L`: at `j > c` what an error in column `j` adds to the target of column `c`; zeros before.
    pub carry: Vec<f32>,
    diagonal: Vec<f32>, // D
}

impl Factor {
    /// Of a moment `(columns, columns)`.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(cpu: &Cpu, moment: &[f32], cols: usize) -> Result<Factor> {
        let order = order(&(0..cols).map(|c| moment[c * cols + c]).collect::<Vec<_>>());
        let mean = (0..cols).map(|c| f64::from(moment[c * cols + c])).sum::<f64>() / cols.max(1) as f64;
        let mut damping = MEAN_DAMPING * mean;
        let mut a = zeros(cols * cols)?;
        loop {
            a.par_chunks_mut(cols.max(1)).enumerate().for_each(|(r, row)| {
                row.iter_mut().zip(&order).for_each(|(to, &c)| *to = moment[order[r] * cols + c]);
                row[r] = (f64::from(row[r]) * (1.0 + DAMPING) + damping) as f32;
            });
            // In a moment of zeros no errors matter; in one that is not finite nothing can be learned.
            if mean == 0.0 || !(damping as f32).is_finite() {
                return Ok(Factor { order, moment: a, carry: zeros(cols * cols)?, diagonal: vec![1.0; cols] });
            }
            if let Some((lower, diagonal)) = factorize(cpu, &a, cols)? {
                return Ok(Factor { order, moment: a, carry: transposed(&lower, cols)?, diagonal });
            }
            damping *= 3.0;
        }
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.order.len()
    }

    /// What errors in the columns at these places cost, by themselves, in the order in which they are rounded.
    pub fn metric(&self, places: std::ops::Range<usize>) -> GroupMetric {
        let columns = || places.clone().rev();
        let carry = columns().flat_map(|c| columns().map(move |j| self.carry[c * self.cols() + j])).collect();
        GroupMetric { pivots: columns().map(|c| self.diagonal[c]).collect(), carry }
    }

    /// What errors in the columns at these places cost if those in all others stay, in the order in which they are rounded; `None` if nothing.
    pub fn metric_alone(&self, places: std::ops::Range<usize>) -> Option<GroupMetric> {
        let n = places.len();
        let entry = |(r, c): (usize, usize)| f64::from(self.moment[r * self.cols() + c]);
        let mut lower: Vec<f64> = places.clone().flat_map(|r| places.clone().map(move |c| (r, c))).map(entry).collect();
        let columns = || (0..n).rev();
        factorize_small(&mut lower, n).then(|| GroupMetric {
            pivots: columns().map(|c| lower[c * n + c] as f32).collect(),
            carry: columns()
                .flat_map(|c| columns().map(move |j| (c, j)))
                .map(|(c, j)| lower[j * n + c] as f32)
                .collect(),
        })
    }

    /// A matrix `(columns, columns)` with rows and columns in this order.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn permuted(&self, of: &[f32]) -> Result<Vec<f32>> {
        let cols = self.cols();
        let mut to = zeros(cols * cols)?;
        to.par_chunks_mut(cols.max(1)).enumerate().for_each(|(r, row)| {
            row.iter_mut().zip(&self.order).for_each(|(to, &c)| *to = of[self.order[r] * cols + c]);
        });
        Ok(to)
    }

    /// Puts the columns of `a (rows, columns)` in this order.
    pub fn permute_columns(&self, a: &mut [f32]) {
        a.par_chunks_mut(self.cols().max(1)).for_each_init(Vec::new, |row, values| {
            row.clear();
            row.extend(self.order.iter().map(|&c| values[c]));
            values.copy_from_slice(row);
        });
    }

    /// `v = v A^-1` for the damped moment `A` and some rows `v (rows, columns)`, all in this order.
    pub fn solve(&self, cpu: &Cpu, v: &mut [f32], scratch: &mut SolveScratch) {
        let cols = self.cols();
        let SolveScratch { x, w, y } = scratch;
        let rows = v.len() / cols;
        // z L D L^T = v: first y = z L D from the front, then z from the back; between blocks by matrix products.
        for first in (0..cols).step_by(BLOCK) {
            let end = (first + BLOCK).min(cols);
            let width = end - first;
            y.clear();
            y.resize(rows * width, 0.0);
            if first > 0 {
                let before = x.reset(rows, first);
                before.par_chunks_mut(first).zip(v.par_chunks(cols)).for_each(|(x, v)| x.copy_from_slice(&v[..first]));
                w.clear();
                w.extend(
                    (first..end).flat_map(|c| (0..first).flat_map(move |k| self.carry[k * cols + c].to_le_bytes())),
                );
                cpu.matmul(Matrix::new(GgmlType::F32, width, first, w).expect("rows of F32"), x, y);
            }
            v.par_chunks_mut(cols).zip(y.par_chunks_mut(width)).for_each(|(v, before)| {
                for c in first..end {
                    v[c] -= before[c - first];
                    let carry = &self.carry[c * cols + c + 1..c * cols + end];
                    before[c - first + 1..].iter_mut().zip(carry).for_each(|(before, carry)| *before += v[c] * carry);
                }
            });
        }
        v.par_chunks_mut(cols).for_each(|v| v.iter_mut().zip(&self.diagonal).for_each(|(v, d)| *v /= d));
        let mut end = cols;
        while end > 0 {
            let first = end.saturating_sub(BLOCK);
            let width = end - first;
            y.clear();
            y.resize(rows * width, 0.0);
            if end < cols {
                let after = x.reset(rows, cols - end);
                after
                    .par_chunks_mut(cols - end)
                    .zip(v.par_chunks(cols))
                    .for_each(|(x, v)| x.copy_from_slice(&v[end..]));
                w.clear();
                let carry = (first..end).flat_map(|c| &self.carry[c * cols + end..(c + 1) * cols]);
                w.extend(carry.flat_map(|carry| carry.to_le_bytes()));
                cpu.matmul(Matrix::new(GgmlType::F32, width, cols - end, w).expect("rows of F32"), x, y);
            }
            v.par_chunks_mut(cols).zip(y.par_chunks(width)).for_each(|(v, after)| {
                for c in (first..end).rev() {
                    let carry = &self.carry[c * cols + c + 1..c * cols + end];
                    let inside: f32 = v[c + 1..end].iter().zip(carry).map(|(v, carry)| v * carry).sum();
                    v[c] -= after[c - first] + inside;
                }
            });
            end = first;
        }
    }
}

/// The columns of `a (n, n)` as rows.
fn transposed(a: &[f32], n: usize) -> Result<Vec<f32>> {
    const TOGETHER: usize = 16; // a cache line of `a`
    let mut to = zeros(n * n)?;
    to.par_chunks_mut(TOGETHER * n).enumerate().for_each(|(i, to)| {
        for (j, row) in a.chunks_exact(n).enumerate() {
            to.chunks_exact_mut(n).zip(&row[i * TOGETHER..]).for_each(|(to, value)| to[j] = *value);
        }
    });
    Ok(to)
}

/// The order of columns with these energies: see [`Factor::order`].
fn order(energy: &[f32]) -> Vec<usize> {
    let peak = |of: &[usize]| of.iter().map(|&c| energy[c]).fold(0.0, f32::max);
    // Of equal ones the first is rounded first: it stands last.
    let ascending = |mut parts: Vec<Vec<usize>>| -> Vec<usize> {
        parts.sort_by(|a, b| peak(a).total_cmp(&peak(b)).then(b[0].cmp(&a[0])));
        parts.concat()
    };
    let columns: Vec<usize> = (0..energy.len()).collect();
    let half = |half: &[usize]| ascending(half.iter().map(|&c| vec![c]).collect());
    let group = |group: &[usize]| ascending(group.chunks(GROUP / 2).map(half).collect());
    ascending(columns.chunks(GROUP).map(group).collect())
}

/// Buffers of [`Factor::solve`].
#[derive(Default)]
pub struct SolveScratch {
    x: Activations,
    w: Vec<u8>,
    y: Vec<f32>,
}

/// `a = l d l^T` for `a (n, n)`, of which the lower triangle is read: `l (n, n)` below its diagonal, zeros elsewhere, and `d (n)`. `None` if `a`
/// is not positive definite, or not by more than the smallest number.
///
/// Single precision is enough for it: the damping bounds the condition of `a` scaled to a diagonal of ones, which is what errors depend on,
/// and they are far below those of the moment, an estimate from some thousands of tokens.
///
/// # Errors
/// If the memory cannot be had.
fn factorize(cpu: &Cpu, a: &[f32], n: usize) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
    let (mut l, mut d) = (zeros(n * n)?, Vec::with_capacity(n));
    let (mut x, mut w, mut y) = (Activations::default(), Vec::new(), Vec::new());
    for first in (0..n).step_by(PANEL) {
        let end = (first + PANEL).min(n);
        let width = end - first;
        // What the columns before have of the panel's: l d l^T.
        y.clear();
        y.resize((n - first) * width, 0.0);
        if first > 0 {
            let rows = x.reset(n - first, first).par_chunks_mut(first);
            rows.zip(l[first * n..].par_chunks(n)).for_each(|(x, l)| x.copy_from_slice(&l[..first]));
            let scaled = |c: usize| l[c * n..c * n + first].iter().zip(&d).map(|(l, d): (&f32, &f32)| l * d);
            w.clear();
            w.extend((first..end).flat_map(scaled).flat_map(f32::to_le_bytes));
            cpu.matmul(Matrix::new(GgmlType::F32, width, first, &w).expect("rows of F32"), &mut x, &mut y);
        }
        y.par_chunks_mut(width).enumerate().for_each(|(r, y)| {
            let row = (first + r) * n;
            y.iter_mut().zip(&a[row + first..row + end]).for_each(|(y, a)| *y = a - *y);
        });
        let mut square: Vec<f64> = y[..width * width].iter().map(|&y| f64::from(y)).collect();
        let positive = factorize_small(&mut square, width);
        d.extend((0..width).map(|c| square[c * width + c] as f32));
        let d = &d[first..];
        if !positive || d.iter().any(|d| *d < f32::MIN_POSITIVE) {
            return Ok(None);
        }
        // Row `k`: what a value of column `k` of `l` takes from those of the columns after it, `d_k` times column `k` of the square.
        let takes = |i: usize| (square[i % width * width + i / width] * square[i / width * (width + 1)]) as f32;
        let takes: Vec<f32> = (0..width * width).map(takes).collect();
        let rows = l[first * n..].par_chunks_mut(n).zip(y.par_chunks_mut(width)).enumerate();
        rows.for_each(|(r, (l, y))| {
            for k in 0..width.min(r) {
                let value = y[k] / d[k];
                l[first + k] = value;
                y[k + 1..]
                    .iter_mut()
                    .zip(&takes[k * width + k + 1..(k + 1) * width])
                    .for_each(|(y, of)| *y -= value * of);
            }
        });
    }
    Ok(Some((l, d)))
}

/// The same for some columns, in double precision and in place of the lower triangle: `l` below the diagonal, `d` on it. `false` if `a (n, n)`
/// is not positive definite.
fn factorize_small(a: &mut [f64], n: usize) -> bool {
    for r in 0..n {
        let (above, row) = a.split_at_mut(r * n);
        for j in 0..r {
            let of = &above[j * n..(j + 1) * n];
            let product = (0..j).map(|k| row[k] * above[k * n + k] * of[k]).sum::<f64>();
            row[j] = (row[j] - product) / of[j];
        }
        row[r] -= (0..r).map(|k| row[k] * row[k] * above[k * n + k]).sum::<f64>();
        if row[r] <= 0.0 || !row[r].is_finite() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x^T x` of `tokens` rows of `cols` values, the columns of growing size.
    fn moment(cols: usize, tokens: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        };
        let x: Vec<f64> = (0..cols * tokens).map(|_| next()).collect();
        let at = |r: usize, c: usize| (0..tokens).map(|t| x[t * cols + r] * x[t * cols + c]).sum::<f64>();
        (0..cols * cols)
            .map(|i| (at(i / cols, i % cols) * (1 + i / cols) as f64 * (1 + i % cols) as f64) as f32)
            .collect()
    }

    #[test]
    fn the_factor_gives_the_moment_back() {
        let cpu = Cpu::new(strata_kernels::Isa::best(), 2);
        for (cols, tokens) in [(1, 4), (PANEL - 1, 400), (PANEL, 400), (PANEL + 1, 400), (2 * PANEL + 30, 800)] {
            let a = moment(cols, tokens);
            let (l, d) = factorize(&cpu, &a, cols).unwrap().unwrap();
            let entry = |r: usize, k: usize| if r == k { 1.0 } else { f64::from(l[r * cols + k]) };
            for (r, c) in (0..cols).map(|r| (r, (r * 31) % (r + 1))) {
                let got: f64 = (0..=c).map(|k| entry(r, k) * f64::from(d[k]) * entry(c, k)).sum();
                let at = |i: usize| f64::from(a[i]);
                let of = (at(r * cols + r) * at(c * cols + c)).sqrt();
                assert!((got - at(r * cols + c)).abs() <= 3e-6 * of, "{cols}: {r}, {c}: {got} {}", at(r * cols + c));
            }
        }
    }

    #[test]
    fn solving_undoes_the_moment() {
        for cols in [1, 64, 150] {
            let cpu = Cpu::new(strata_kernels::Isa::best(), 2);
            let factor = Factor::new(&cpu, &moment(cols, 2 * cols + 3), cols).unwrap();
            let z = |i: usize| ((i * 37 + 5) % 19) as f64 / 9.0 - 1.0;
            let a = |r: usize, c: usize| f64::from(factor.moment[r * cols + c]);
            let product = |i: usize| (0..cols).map(|k| z(i / cols * cols + k) * a(k, i % cols)).sum::<f64>() as f32;
            let mut v: Vec<f32> = (0..3 * cols).map(product).collect();
            factor.solve(&cpu, &mut v, &mut SolveScratch::default());
            for (i, v) in v.iter().enumerate() {
                assert!((f64::from(*v) - z(i)).abs() < 0.02, "{cols}: {i}: {v} {}", z(i));
            }
        }
    }

    #[test]
    fn damping_leaves_columns_of_little_energy_their_share() {
        let (cols, cpu) = (6, Cpu::new(strata_kernels::Isa::best(), 1));
        let a = moment(cols, 40);
        let scale = |place: usize| 2f32.powf(place as f32 / 2.0);
        let plain = Factor::new(&cpu, &a, cols).unwrap();
        let place = |c: usize| plain.order.iter().position(|&of| of == c).unwrap();
        let scaled: Vec<f32> =
            a.iter().enumerate().map(|(i, v)| v * scale(place(i / cols)) * scale(place(i % cols))).collect();
        let scaled = Factor::new(&cpu, &scaled, cols).unwrap();
        assert_eq!(scaled.order, plain.order);
        for (c, j) in (0..cols).flat_map(|c| (c + 1..cols).map(move |j| (c, j))) {
            let expected = plain.carry[c * cols + j] * scale(j) / scale(c);
            let got = scaled.carry[c * cols + j];
            assert!((got - expected).abs() < 0.05 * scale(j) / scale(c), "{c}, {j}: {got} {expected}");
        }
    }

    #[test]
    fn groups_and_their_halves_follow_each_other_by_their_largest_column() {
        let mut energy = vec![1.0; 70];
        for (c, value) in [(3, 5.0), (20, 7.0), (21, 6.0), (40, 9.0), (69, 2.0)] {
            energy[c] = value;
        }
        let order = order(&energy);
        let place = |c: usize| order.iter().position(|&of| of == c).unwrap();
        // From the last to the first: the group of 40, its half of 40; the group of 20, its half of 20; the rest.
        assert_eq!([40, 20, 21, 3, 69].map(place), [69, 37, 36, 21, 5]);
        for part in [&order[..6], &order[6..22], &order[22..38], &order[38..54], &order[54..]] {
            assert!(part.iter().all(|c| c / 16 == part[0] / 16), "{order:?}");
            assert!(part.is_sorted_by(|&a, &b| energy[a] <= energy[b]));
        }
    }

    #[test]
    fn moments_without_full_rank_are_damped_until_they_can_be_factorized() {
        // One token; one whose columns are multiples of each other with energies that differ by 10^12; one of hardly any energy; and nothing
        // at all.
        let (one, cpu) = (moment(40, 1), Cpu::new(strata_kernels::Isa::best(), 1));
        let mut wild = one.clone();
        wild.iter_mut().enumerate().for_each(|(i, v)| *v *= 10f32.powi(-((i / 40 + i % 40) as i32) / 6));
        let faint = one.iter().map(|v| v * 1e-41).collect();
        for of in [one, wild, faint, vec![0.0; 1600]] {
            let factor = Factor::new(&cpu, &of, 40).unwrap();
            assert!(factor.carry.iter().chain(&factor.moment).all(|v| v.is_finite()));
        }
    }
}
