//! What is summed up for a tensor while the gradients pass by, and its share of the divergence.
//!
//! A change `dz` of the logits at a scored token costs `KLD = 1/2 dz' F dz`: `mod.rs` says where `F`, and the gradients, are taken.
//! A probe is a random vector `v` for every scored token, independent of those of the others, with mean 0 and `mean(v v') = F`. With
//! `G` the gradient of the sum of all `v . z` by the tensor's results, and `c_s = G_s . (E x_s)` at token `s` of a chunk,
//! ```text
//! sum_s c_s = sum_t v_t . dz_t      so      mean((sum_s c_s)^2) = sum_t dz_t' F dz_t = 2 sum_t KLD_t
//! ```
//! One more vector is not random: `v = F dz` of the `dz` of the whole candidate. Its sum is `dz_i' F dz` for the `dz_i` of a tensor,
//! exactly.

use super::product;
use rayon::prelude::*;
use std::ops::Range;

/// The sums of one tensor of one candidate.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    chunks: usize,
    /// `sum_s c_s`: `(probes, chunks)`, and after these `(chunks)` of the vector of the whole candidate.
    sums: Vec<f64>,
    /// `sum_s c_s^2` over all tokens, chunks and probes.
    pub squares: f64,
    /// `|E x|^2` over all tokens.
    pub error: f64,
    /// `|V x|^2` over all tokens, where `V` is the tensor halfway.
    pub output: f64,
    /// `|E|^2`
    pub weight_error: f64,
    /// `|W|^2`
    pub weight: f64,
}

impl Tally {
    /// Of so many probes and chunks.
    pub fn new(probes: usize, chunks: usize) -> Tally {
        Tally { chunks, sums: vec![0.0; (probes + 1) * chunks], ..Tally::default() }
    }

    /// All numbers of it.
    pub fn to_list(&self) -> Vec<f64> {
        let facts = [self.squares, self.error, self.output, self.weight_error, self.weight];
        facts.into_iter().chain(self.sums.iter().copied()).collect()
    }

    /// The one of so many probes and chunks whose numbers these are.
    pub fn of_list(probes: usize, chunks: usize, list: &[f64]) -> Option<Tally> {
        let (&[squares, error, output, weight_error, weight], sums) = list.split_first_chunk()?;
        let sums = (sums.len() == (probes + 1) * chunks).then(|| sums.to_vec())?;
        Some(Tally { chunks, sums, squares, error, output, weight_error, weight })
    }

    /// The number of probes.
    pub fn probes(&self) -> usize {
        self.sums.len() / self.chunks - 1
    }

    /// The sums of all random probes.
    pub fn random(&self) -> &[f64] {
        &self.sums[..self.probes() * self.chunks]
    }

    /// The sum of the vector of the whole candidate.
    pub fn whole(&self) -> f64 {
        self.sums[self.probes() * self.chunks..].iter().sum()
    }

    /// The sum of squares of all probes' sums.
    pub fn square(&self) -> f64 {
        self.random().iter().map(|sum| sum * sum).sum()
    }

    /// True if no sum has left the range of single precision.
    pub fn is_finite(&self) -> bool {
        self.sums.iter().chain([&self.squares]).all(|sum| sum.is_finite())
    }

    /// With the sums of the same tensor at another place of the model; the rest is that of this place.
    pub fn and(mut self, other: &Tally) -> Tally {
        assert_eq!(self.sums.len(), other.sums.len(), "the probes are those of one walk");
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        self.squares += other.squares;
        self
    }

    /// Adds what each probe and the last vector give at each scored token, `changes (probes + 1, scored)`. `scored` are those of each chunk.
    pub fn add_changes(&mut self, scored: &[Range<usize>], changes: &[f64]) {
        let (n, probes) = (scored.last().map_or(0, |range| range.end), self.probes());
        for (probe, changes) in changes.chunks_exact(n.max(1)).enumerate() {
            for (chunk, tokens) in scored.iter().enumerate() {
                for change in &changes[tokens.clone()] {
                    self.sums[probe * self.chunks + chunk] += change;
                    self.squares += if probe < probes { change * change } else { 0.0 };
                }
            }
        }
    }

    /// Adds the tokens of chunks, from number `chunk` on, which are `sequences` of the rows, for probes from number `probe` on: their
    /// gradients `g (probes, rows, width)`, and the errors and results `(rows, width)`.
    pub fn add(
        &mut self,
        (probe, chunk): (usize, usize),
        sequences: &[Range<usize>],
        width: usize,
        g: &[f32],
        [e, y]: [&[f32]; 2],
    ) {
        let row = |row: usize| {
            let at = row * width..(row + 1) * width;
            let products = g.chunks_exact(e.len()).map(|g| dot(&g[at.clone()], &e[at.clone()])).collect();
            // Once for all probes.
            let square = |x: &[f32]| if probe == 0 { dot(&x[at.clone()], &x[at.clone()]) } else { 0.0 };
            (square(e), square(y), products)
        };
        let probes = self.probes();
        let rows: Vec<(f64, f64, Vec<f64>)> = (0..e.len() / width).into_par_iter().map(row).collect();
        for (s, tokens) in sequences.iter().enumerate() {
            for (error, output, products) in &rows[tokens.clone()] {
                self.error += error;
                self.output += output;
                for (p, c) in products.iter().enumerate() {
                    self.sums[(probe + p) * self.chunks + chunk + s] += c;
                    self.squares += if probe + p < probes { c * c } else { 0.0 };
                }
            }
        }
    }
}

/// `a . b`: 256 products at a time in single precision, and these sums in double precision.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let blocks = a.chunks(256).zip(b.chunks(256));
    blocks.map(|(a, b)| f64::from(product::dot(a, b))).sum()
}
