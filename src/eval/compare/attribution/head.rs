//! The end of the model: probes, their gradient by the hidden states after the last layer, and what the output matrix costs.
//!
//! A probe of a scored token with the probabilities `p` is, with random signs `s`,
//! ```text
//! v_j = sqrt(p_j) s_j - p_j sum_i sqrt(p_i) s_i          mean(v v') = diag(p) - p p'
//! ```
//! The probabilities are those at a third of the way from the reference's logits to the candidate's (see `mod.rs`). With `dz` from the former
//! to the latter, the vector of the whole candidate is
//! ```text
//! F dz = p_j (dz_j - sum_i p_i dz_i)
//! ```
//! A probe has the mean and covariance of a sampled label's, `v = onehot(label) - p`, and less noise: no token is rare. The vocabulary
//! is walked in parts, twice: first for the sums over all of it, then for the probes. So neither logits nor a decoded output matrix are
//! ever whole in memory.

use super::backward::add_norm_gradient;
use super::tally::{Tally, dot};
use super::work::{HALFWAY, Variant, Work};
use crate::error::Result;
use crate::eval::compare::ranges::blocks;
use crate::eval::compare::text::Chunk;
use crate::model::States;
use crate::progress::Progress;
use crate::random;
use crate::weights::Linear;
use crate::weights::owned::{Owned, towards};
use rayon::prelude::*;
use std::ops::Range;
use strata_quant::Activations;

/// Where the random numbers begin.
const SEED: u64 = 1;

/// Where the covariance of probes is taken: at this share of the way from the reference's logits to the candidate's.
const THIRD: f32 = 1.0 / 3.0;

/// Tokens of the vocabulary in a part.
pub const PART: usize = 2048;

/// Scored tokens that are multiplied together.
pub const ROWS: usize = 512;

/// The sums over the vocabulary of a scored token.
#[derive(Clone)]
struct Sums {
    max: f32,         // of the logits so far
    total: f64,       // of exp(z - max)
    signed: Vec<f64>, // of sqrt(exp(z - max)) s, for each probe
    change: f64,      // of exp(z - max) dz
}

/// Some logits `(rows, width)`, and their changes from the reference to the candidate.
struct Logits {
    z: Vec<f32>,
    dz: Vec<f32>,
}

/// What the end of the model gives.
pub struct HeadResult {
    /// The gradient of each probe and of the vector of the whole candidate by the hidden states after the last layer: `(tokens, hidden)`.
    pub dh: Vec<States>,
    /// Of the output matrix of every variant.
    pub tallies: Vec<Tally>,
}

/// Walks through the vocabulary. The first of the variants is the candidate; the hidden states `(tokens, hidden)` are those after the last
/// layer of the reference, of the candidate, and halfway. `progress` counts scored tokens times parts, twice.
///
/// # Errors
/// If the states cannot be read or written, or the user stopped.
pub fn head(
    work: &Work<'_>,
    variants: &[Variant<'_>],
    ends: [&mut States; 3],
    probes: usize,
    progress: &dyn Progress,
) -> Result<HeadResult> {
    let walk = Walk::new(work, &variants[0], ends)?;
    let (n, of, reference) = (work.rows.len(), work.reference.hyperparameters(), work.reference);
    let sums = walk.sums(probes, progress)?;
    let mut tallies = vec![Tally::new(probes, work.lengths.len()); variants.len()];
    let vectors = probes + 1;
    let mut changes = vec![vec![0.0; vectors * n]; variants.len()]; // `v . dz`: (vectors, scored)
    let mut dx = vec![0.0; vectors * n * of.hidden]; // (vectors, scored, hidden)
    let mut randoms = walk.random();
    let (mut back, mut v) = (Owned::default(), Activations::default());
    let mut errors: Vec<Owned> = variants.iter().map(|_| Owned::default()).collect();
    for part in walk.parts() {
        let both = walk.both(part.clone());
        let [w, candidate] = &both;
        let halfway = w.towards(candidate, HALFWAY);
        halfway.transpose(&mut back);
        w.difference(candidate, &mut errors[0]);
        for (variant, e) in variants.iter().zip(&mut errors).skip(1) {
            w.difference(&output(variant, part.clone()), e);
        }
        for (e, tally) in errors.iter().zip(&mut tallies) {
            tally.weight_error += e.square();
            tally.weight += w.square();
        }
        for rows in walk.blocks() {
            progress.check()?;
            let (z, width) = (walk.logits(&both, part.clone(), rows.clone()), part.len());
            let values = v.reset(vectors * rows.len(), width);
            probe(&sums[rows.clone()], &mut randoms[rows.clone()], &z, width, values);
            // From the gradient by the logits to that by what the matrix gives.
            reference.cpu().scale(values, 1.0 / of.scales.logits);
            let y = walk.product(&halfway, &walk.x, rows.clone());
            let square: f64 = y.chunks_exact(width).map(|y| dot(y, y)).sum();
            for ((e, tally), changes) in errors.iter().zip(&mut tallies).zip(&mut changes) {
                let dz = walk.product(e, &walk.x, rows.clone());
                tally.error += dz.chunks_exact(width).map(|dz| dot(dz, dz)).sum::<f64>();
                tally.output += square;
                for (probe, v) in v.values().chunks_exact(dz.len()).enumerate() {
                    let changes = &mut changes[probe * n..][rows.clone()];
                    let products = v.par_chunks_exact(width).zip(dz.par_chunks_exact(width));
                    changes.par_iter_mut().zip(products).for_each(|(c, (v, dz))| *c += dot(v, dz));
                }
            }
            let mut y = vec![0.0; v.rows() * of.hidden];
            reference.cpu().matmul(back.matrix(), &mut v, &mut y);
            for (probe, y) in y.chunks_exact(rows.len() * of.hidden).enumerate() {
                let to = &mut dx[(probe * n + rows.start) * of.hidden..][..y.len()];
                to.iter_mut().zip(y).for_each(|(to, y)| *to += y);
            }
            progress.advance(rows.len() as u64);
        }
    }
    tallies.iter_mut().zip(&changes).for_each(|(tally, changes)| tally.add_changes(&work.scored(), changes));
    let dh = dx.chunks_exact(n * of.hidden).map(|dx| walk.before_norm(dx)).collect::<Result<_>>()?;
    Ok(HeadResult { dh, tallies })
}

/// A part of the output matrix of a variant, in its type.
fn output(variant: &Variant<'_>, part: Range<usize>) -> Owned {
    let weight = variant.model.weights().output().weight.rows_in(part);
    Owned::of(&variant.output, &Linear { weight, bias: None, head_dim: None, low_rank: &[] }, &variant.encoded)
}

/// The scored tokens of a text, and what the output matrix reads there.
struct Walk<'a> {
    work: &'a Work<'a>,
    candidate: &'a Variant<'a>,
    both: [Vec<f32>; 2], // (scored, hidden): normed, of the reference and of the candidate
    norm: Vec<f32>,      // (hidden): halfway
    h: Vec<f32>,         // (scored, hidden): halfway
    x: Vec<f32>,         // (scored, hidden): the same, normed
}

impl<'a> Walk<'a> {
    fn new(work: &'a Work<'a>, candidate: &'a Variant<'a>, ends: [&mut States; 3]) -> Result<Walk<'a>> {
        let of_scored = |end: &mut States| -> Result<Vec<f32>> {
            let mut h = Vec::new();
            work.rows.iter().try_for_each(|&row| end.rows(row..row + 1).map(|row| h.extend_from_slice(row)))?;
            Ok(h)
        };
        let normed = |h: &[f32], norm: &[f32]| {
            let mut x = vec![0.0; h.len()];
            // The divergence was measured before, from finite logits.
            let _ = work.reference.cpu().rms_norm(h, norm, work.reference.hyperparameters().norm_eps, &mut x);
            x
        };
        let [ours, theirs, halfway] = ends;
        let norms = [work.reference, candidate.model].map(|model| model.weights().output_norm());
        let (norm, h) = (towards(norms[0], norms[1], HALFWAY), of_scored(halfway)?);
        let both = [normed(&of_scored(ours)?, norms[0]), normed(&of_scored(theirs)?, norms[1])];
        Ok(Walk { work, candidate, both, x: normed(&h, &norm), norm, h })
    }

    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        blocks(self.work.reference.hyperparameters().vocab, PART)
    }

    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        blocks(self.work.rows.len(), ROWS)
    }

    /// Where the random signs of each scored token begin: at the same numbers whichever chunks are computed.
    fn random(&self) -> Vec<u64> {
        let chunk = |chunk: &Chunk| {
            let mut state = SEED ^ ((chunk.number as u64) << 32);
            (0..chunk.scores()).map(|_| random::bits(&mut state)).collect::<Vec<u64>>()
        };
        self.work.text.chunks.iter().flat_map(chunk).collect()
    }

    /// The sums of all scored tokens over the vocabulary.
    fn sums(&self, probes: usize, progress: &dyn Progress) -> Result<Vec<Sums>> {
        let none = Sums { max: f32::NEG_INFINITY, total: 0.0, signed: vec![0.0; probes], change: 0.0 };
        let (mut sums, mut randoms) = (vec![none; self.work.rows.len()], self.random());
        for part in self.parts() {
            let both = self.both(part.clone());
            for rows in self.blocks() {
                progress.check()?;
                let z = self.logits(&both, part.clone(), rows.clone());
                let tokens = sums[rows.clone()].par_iter_mut().zip(&mut randoms[rows.clone()]);
                let z = z.z.par_chunks_exact(part.len()).zip(z.dz.par_chunks_exact(part.len()));
                tokens.zip(z).for_each(|((sums, random), (z, dz))| sums.add((z, dz), random));
                progress.advance(rows.len() as u64);
            }
        }
        Ok(sums)
    }

    /// A part of the output matrices of the reference and of the candidate in F32.
    fn both(&self, part: Range<usize>) -> [Owned; 2] {
        let weight = self.work.reference.weights().output().weight.rows_in(part.clone());
        let ours = Owned::of("", &Linear { weight, bias: None, head_dim: None, low_rank: &[] }, &self.work.decoded);
        [ours, output(self.candidate, part).decoded()]
    }

    /// The products of a part of an output matrix with some scored tokens of `x (scored, hidden)`.
    fn product(&self, w: &Owned, x: &[f32], rows: Range<usize>) -> Vec<f32> {
        let (reference, mut some) = (self.work.reference, Activations::default());
        let hidden = reference.hyperparameters().hidden;
        some.reset(rows.len(), hidden).copy_from_slice(&x[rows.start * hidden..rows.end * hidden]);
        let mut y = vec![0.0; rows.len() * w.matrix().rows()];
        reference.cpu().matmul(w.matrix(), &mut some, &mut y);
        y
    }

    /// The logits a third of the way from the reference's to the candidate's.
    fn logits(&self, both: &[Owned; 2], part: Range<usize>, rows: Range<usize>) -> Logits {
        let models = [self.work.reference, self.candidate.model];
        let [ours, mut dz] = [0, 1].map(|i| {
            let mut z = self.product(&both[i], &self.both[i], rows.clone());
            if let Some(bias) = models[i].weights().output().bias {
                let _ = models[i].cpu().add_bias(&mut z, &bias[part.clone()]);
            }
            models[i].cpu().scale(&mut z, 1.0 / models[i].hyperparameters().scales.logits);
            z
        });
        let z = towards(&ours, &dz, THIRD);
        dz.iter_mut().zip(&ours).for_each(|(dz, ours)| *dz -= ours);
        Logits { z, dz }
    }

    /// From the gradient of a probe by what the output matrix reads, `dx (scored, hidden)`, to that by the hidden states of all tokens.
    fn before_norm(&self, dx: &[f32]) -> Result<States> {
        let of = self.work.reference.hyperparameters();
        let mut scored = vec![0.0; dx.len()];
        add_norm_gradient(&self.h, &self.norm, of.norm_eps, dx, &mut scored);
        let mut dh = self.work.states()?;
        let mut rows = self.work.rows.iter().copied().zip(scored.chunks_exact(of.hidden)).peekable();
        for block in blocks(self.work.tokens.len(), ROWS) {
            let mut values = vec![0.0; block.len() * of.hidden];
            while let Some((row, scored)) = rows.next_if(|(row, _)| *row < block.end) {
                values[(row - block.start) * of.hidden..][..of.hidden].copy_from_slice(scored);
            }
            dh.set(block.start, &values)?;
        }
        Ok(dh)
    }
}

impl Sums {
    /// Adds the logits of a part.
    fn add(&mut self, (z, dz): (&[f32], &[f32]), random: &mut u64) {
        let max = z.iter().copied().fold(self.max, f32::max);
        let shrink = f64::from(libm::expf((self.max - max) * 0.5));
        self.total *= shrink * shrink;
        self.change *= shrink * shrink;
        self.signed.iter_mut().for_each(|signed| *signed *= shrink);
        self.max = max;
        for (&z, &dz) in z.iter().zip(dz) {
            let root = f64::from(libm::expf((z - max) * 0.5));
            self.total += root * root;
            self.change += root * root * f64::from(dz);
            let bits = random::bits(random);
            for (probe, signed) in self.signed.iter_mut().enumerate() {
                *signed += if bits >> probe & 1 == 0 { root } else { -root };
            }
        }
    }
}

/// The probes of some scored tokens for a part of the vocabulary, and the vector of the whole candidate: `v (probes + 1, rows, width)`.
fn probe(sums: &[Sums], randoms: &mut [u64], logits: &Logits, width: usize, v: &mut [f32]) {
    let n = sums.len();
    let row = |sums: &Sums, random: &mut u64, z: &[f32], dz: &[f32]| {
        let norm = sums.total.sqrt();
        let of = |z: &f32| {
            let root = f64::from(libm::expf((z - sums.max) * 0.5)) / norm;
            let bits = random::bits(random);
            (root, bits)
        };
        let roots: Vec<(f64, u64)> = z.iter().map(of).collect();
        let probe = |probe: usize| {
            let mean = sums.signed[probe] / norm;
            let value = move |&(root, bits): &(f64, u64)| {
                (root * (if bits >> probe & 1 == 0 { 1.0 } else { -1.0 } - root * mean)) as f32
            };
            roots.iter().map(value).collect::<Vec<f32>>()
        };
        let mean = sums.change / sums.total;
        let whole = roots.iter().zip(dz).map(|((root, _), dz)| (root * root * (f64::from(*dz) - mean)) as f32);
        (0..sums.signed.len()).map(probe).chain([whole.collect()]).collect::<Vec<_>>()
    };
    let rows = sums.par_iter().zip(randoms).zip(logits.z.par_chunks_exact(width));
    let rows: Vec<Vec<Vec<f32>>> =
        rows.zip(logits.dz.par_chunks_exact(width)).map(|(((sums, random), z), dz)| row(sums, random, z, dz)).collect();
    for (row, vectors) in rows.iter().enumerate() {
        for (vector, values) in vectors.iter().enumerate() {
            v[(vector * n + row) * width..][..width].copy_from_slice(values);
        }
    }
}
