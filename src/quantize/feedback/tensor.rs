//! A whole matrix: rounded plainly and with error feedback, and which of these is taken.

use super::factor::SolveScratch;
use super::round::Rows;
use super::sums::InputMoments;
use rayon::prelude::*;
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, Codec, GgmlType};

/// Rows of a matrix that are rounded together: what memory is taken for.
pub const ROWS: usize = 4096;

/// How far a matrix follows what pulls, of which the held-out parts choose.
const STRENGTHS: [f32; 3] = [0.0, 0.5, 1.0];

/// What the pulls of an input's moments are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// The moments are of what the matrix reads: `W d` pulls its results.
    Inputs,
    /// The moments are of its results.
    Results,
}

/// What became of a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorReport {
    /// The target.
    pub target: usize,
    /// Its name.
    pub name: String,
    /// How far its weights were moved towards what undoes the errors before it, from 0 to 1, before they were rounded with feedback; `None`
    /// if it keeps plain rounding.
    pub strength: Option<f32>,
    /// By held-out part of a text, the loss of plain rounding and that of what was taken. Where something pulls, both less the same constant.
    pub held_out: Vec<[f64; 2]>,
}

/// Buffers that all tensors share.
#[derive(Default)]
pub struct TensorScratch {
    rows: Rows,
    solve: SolveScratch,
    w: Vec<f32>,          // (ROWS, columns)
    shift: Vec<f32>,      // (ROWS, columns)
    pulls: Vec<Vec<f32>>, // (held-out parts, ROWS, columns)
    x: Activations,
    bytes: Vec<u8>,
}

/// What a matrix is rounded with.
pub struct Setting<'a> {
    /// The processor.
    pub cpu: &'a Cpu,
    /// The moments of what it reads.
    pub moments: &'a InputMoments,
    /// What the pulls of the moments are of.
    pub pull: Pull,
    /// Its type, which has codes.
    pub ty: GgmlType,
    /// The codec of the type.
    pub codec: &'a Codec,
    /// What the errors in each column weigh where scales are searched.
    pub importance: Option<&'a [f32]>,
}

impl Setting<'_> {
    /// The blocks of a matrix: with feedback, or as they are without if that is better on any held-out part.
    pub fn round(&self, matrix: Matrix<'_>, scratch: &mut TensorScratch) -> (Vec<u8>, TensorReport) {
        let Setting { cpu, moments: InputMoments { factor, pull, held_out, .. }, ty, codec, importance, .. } = *self;
        let cols = factor.cols();
        let row_bytes = ty.row_bytes(cols).expect("a recipe gives types whose blocks divide the rows");
        let strengths = if pull.is_some() { &STRENGTHS[..] } else { &STRENGTHS[..1] };
        let mut plain = vec![0; matrix.rows() * row_bytes];
        let mut fed_back = vec![plain.clone(); strengths.len()];
        let mut losses = vec![vec![0.0; 1 + strengths.len()]; held_out.len()]; // of plain rounding, then of each strength
        let mut scales = vec![0.0; held_out.len()];
        for first in (0..matrix.rows()).step_by(ROWS) {
            let n = ROWS.min(matrix.rows() - first);
            let (part, of) = (first * row_bytes..(first + n) * row_bytes, first..first + n);
            let TensorScratch { rows, solve, w, shift, pulls, x, bytes } = &mut *scratch;
            w.resize(n * cols, 0.0);
            let encode = |(r, (values, blocks)): (usize, (&mut [f32], &mut [u8]))| {
                matrix.decode_row(first + r, values);
                cpu.isa().encode(ty, values, importance, blocks);
            };
            let blocks = plain[part.clone()].par_chunks_mut(row_bytes);
            w.par_chunks_mut(cols).zip(blocks).enumerate().for_each(encode);
            pulls.resize_with(held_out.len(), Vec::new);
            for ((_, pull), pulled) in held_out.iter().zip(&mut *pulls) {
                self.pulled(pull.as_deref(), w, of.clone(), pulled, (x, bytes));
            }
            self.pulled(pull.as_deref(), w, of.clone(), shift, (x, bytes));
            if pull.is_some() {
                factor.solve(cpu, shift, solve);
            }
            // The loss on a held-out part, less what does not depend on the codes.
            let loss = |rows: &mut Rows, d: usize| {
                let own = rows.loss(cpu, &held_out[d].0);
                let along = if pulls[d].is_empty() { 0.0 } else { 2.0 * rows.along(&pulls[d]) };
                (own, own + along)
            };
            rows.take(factor, (ty, codec), w, &plain[part.clone()]);
            for d in 0..held_out.len() {
                let (own, whole) = loss(rows, d);
                scales[d] += own;
                losses[d][0] += whole;
            }
            for (s, &strength) in strengths.iter().enumerate() {
                if s > 0 {
                    rows.take(factor, (ty, codec), w, &plain[part.clone()]);
                    rows.shift(shift, strength);
                }
                rows.feed_back(cpu, factor, (ty, codec));
                rows.descend(cpu, factor, (ty, codec));
                rows.put((ty, codec), &mut fed_back[s][part.clone()]);
                if s > 0 {
                    rows.shift(shift, -strength);
                }
                (0..held_out.len()).for_each(|d| losses[d][1 + s] += loss(rows, d).1);
            }
        }
        let best = best(&losses, &scales, strengths.len());
        let held_out = losses.iter().map(|losses| [losses[0], losses[best.map_or(0, |s| 1 + s)]]).collect();
        let strength = best.map(|s| strengths[s]);
        (
            best.map_or(plain, |s| fed_back.swap_remove(s)),
            TensorReport { strength, held_out, ..TensorReport::default() },
        )
    }

    /// What the results of the rows `of`, which are `w`, should change by, `(rows, columns)`; nothing if nothing pulls.
    fn pulled(
        &self,
        pull: Option<&[f32]>,
        w: &[f32],
        of: std::ops::Range<usize>,
        to: &mut Vec<f32>,
        (x, bytes): (&mut Activations, &mut Vec<u8>),
    ) {
        let cols = self.moments.factor.cols();
        to.clear();
        match (pull, self.pull) {
            (None, _) => {}
            (Some(pull), Pull::Results) => to.extend_from_slice(&pull[of.start * cols..of.end * cols]),
            (Some(pull), Pull::Inputs) => {
                // `w d`, of which the kernels want the columns of `d` as rows.
                bytes.resize(4 * cols * cols, 0);
                bytes.par_chunks_mut(4 * cols).enumerate().for_each(|(c, column)| {
                    for (r, value) in column.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                        *value = pull[r * cols + c].to_le_bytes();
                    }
                });
                x.reset(of.len(), cols).copy_from_slice(w);
                to.resize(w.len(), 0.0);
                self.cpu.matmul(Matrix::new(GgmlType::F32, cols, cols, bytes).expect("rows of F32"), x, to);
            }
        }
    }
}

/// Which strength has the least losses on the held-out parts, each beside that of plain rounding, `losses (parts, 1 + strengths)`, of those
/// that are worse than that on none; without parts the first. `None` if all are worse on some.
fn best(losses: &[Vec<f64>], scales: &[f64], strengths: usize) -> Option<usize> {
    let better = |s: &usize| losses.iter().all(|losses| losses[1 + s] <= losses[0]);
    let gain = |s: &usize| -> f64 {
        let of =
            |(losses, scale): (&Vec<f64>, &f64)| if *scale > 0.0 { (losses[1 + s] - losses[0]) / scale } else { 0.0 };
        losses.iter().zip(scales).map(of).sum()
    };
    (0..strengths).filter(better).min_by(|a, b| gain(a).total_cmp(&gain(b)))
}

#[cfg(test)]
mod tests {
    use super::super::factor::Factor;
    use super::*;
    use crate::weights::owned::Owned;
    use strata_kernels::Isa;

    /// A moment whose neighbouring columns go together, or against each other.
    fn moment(cols: usize, together: f32) -> Vec<f32> {
        (0..cols * cols).map(|i| together.powi((i / cols).abs_diff(i % cols) as i32)).collect()
    }

    #[test]
    fn a_tensor_that_loses_on_what_is_held_out_keeps_plain_rounding() {
        let (cols, ty, cpu) = (128, GgmlType::Q4_0, Cpu::new(Isa::best(), 2));
        let codec = ty.format().unwrap().codec.unwrap();
        let values: Vec<f32> = (0..8 * cols).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0).powi(3)).collect();
        let (w, importance) = (Owned::of_values(cols, &values), Some(&[1.0; 128][..]));
        let mut plain = vec![0; 8 * ty.row_bytes(cols).unwrap()];
        for (values, blocks) in values.chunks(cols).zip(plain.chunks_mut(ty.row_bytes(cols).unwrap())) {
            cpu.isa().encode(ty, values, importance, blocks);
        }
        let factor = Factor::new(&cpu, &moment(cols, 0.9), cols).unwrap();
        let [like, unlike] = [0.9, -0.9].map(|together| factor.permuted(&moment(cols, together)).unwrap());
        for (held_out, kept) in [(vec![&like], false), (vec![&unlike], true), (vec![&like, &unlike], true)] {
            let held_out: Vec<_> = held_out.into_iter().map(|of| (of.clone(), None)).collect();
            let factor = Factor::new(&cpu, &moment(cols, 0.9), cols).unwrap();
            let moments = InputMoments { factor, importance: vec![1.0; 128], pull: None, held_out };
            let setting = Setting { cpu: &cpu, moments: &moments, pull: Pull::Inputs, ty, codec: &codec, importance };
            let (bytes, report) = setting.round(w.matrix(), &mut TensorScratch::default());
            assert_eq!(report.strength.is_none(), kept);
            assert_eq!(bytes == plain, kept);
            assert!(report.held_out.iter().all(|[plain, taken]| taken <= plain));
        }
    }

    #[test]
    fn what_is_worse_on_any_part_is_not_taken() {
        assert_eq!(best(&[vec![4.0, 3.0, 1.0], vec![4.0, 3.0, 5.0]], &[4.0, 4.0], 2), Some(0));
        assert_eq!(best(&[vec![4.0, 3.0, 1.0], vec![4.0, 3.0, 3.5]], &[4.0, 4.0], 2), Some(1));
        assert_eq!(best(&[vec![4.0, 5.0, 1.0], vec![4.0, 3.0, 5.0]], &[4.0, 4.0], 2), None);
        // Parts count alike, however large their losses.
        assert_eq!(best(&[vec![400.0, 300.0, 290.0], vec![1.0, 0.5, 0.9]], &[400.0, 1.0], 2), Some(0));
        assert_eq!(best(&[], &[], 3), Some(0));
    }
}
