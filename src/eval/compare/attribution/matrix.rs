//! Matrices in memory of their own: encoded, decoded to F32, transposed, or the difference of two. Their rows are in the order of GGUF
//! files, whatever the order of the file that they come from: so matrices of a checkpoint and of a GGUF file can be compared.

use super::super::derive::Transform;
use crate::arch::Architecture;
use crate::arch::tensors::permuted_row;
use crate::weights::{self, Layer, Linear};
use rayon::prelude::*;
use strata_kernels::Matrix;
use strata_quant::GgmlType;

/// The number of matrices of a layer.
pub const MATRICES: usize = weights::MATRICES.len();

/// A matrix and its memory.
pub struct Owned {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Default for Owned {
    fn default() -> Owned {
        Owned { ty: GgmlType::F32, rows: 0, cols: 0, bytes: Vec::new() }
    }
}

impl Owned {
    /// What `transform` makes of a matrix of this name.
    pub fn of(name: &str, source: &Linear<'_>, transform: &Transform) -> Owned {
        let (rows, cols) = (source.weight.rows(), source.weight.cols());
        let mut bytes = Vec::new();
        let ty = transform.matrix(name, &source.weight, &mut bytes);
        if let Some(head_dim) = source.head_dim {
            let row = bytes.len() / rows;
            let mut ordered = vec![0; bytes.len()];
            ordered.par_chunks_mut(row).enumerate().for_each(|(r, to)| {
                let from = permuted_row(r, head_dim);
                to.copy_from_slice(&bytes[from * row..(from + 1) * row]);
            });
            bytes = ordered;
        }
        Owned { ty, rows, cols, bytes }
    }

    /// As kernels take it.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.ty, self.rows, self.cols, &self.bytes).expect("the bytes are those of whole rows")
    }

    /// The transposed matrix of one in F32, into the memory of `to`.
    pub fn transpose(&self, to: &mut Owned) {
        const BLOCK: usize = 16; // columns: a line of the cache
        (to.rows, to.cols) = (self.cols, self.rows);
        to.bytes.resize(self.bytes.len(), 0);
        let values = self.bytes.as_chunks::<4>().0;
        to.bytes.par_chunks_mut(4 * self.rows * BLOCK).enumerate().for_each(|(block, to)| {
            let (to, first) = (to.as_chunks_mut::<4>().0, block * BLOCK);
            for (r, row) in values.chunks_exact(self.cols).enumerate() {
                for (c, value) in row[first..].iter().take(BLOCK).enumerate() {
                    if let Some(to) = to.get_mut(c * self.rows + r) {
                        *to = *value;
                    }
                }
            }
        });
    }

    /// `other - self` for this matrix in F32 and another of any type, into the memory of `to`.
    pub fn difference(&self, other: &Owned, to: &mut Owned) {
        (to.rows, to.cols) = (self.rows, self.cols);
        to.bytes.resize(self.bytes.len(), 0);
        let (row, theirs) = (4 * self.cols, other.matrix());
        to.bytes.par_chunks_mut(row).enumerate().for_each_init(Vec::new, |values, (r, to)| {
            values.resize(self.cols, 0.0);
            theirs.decode_row(r, values);
            let ours = self.bytes[r * row..(r + 1) * row].as_chunks::<4>().0;
            for ((to, ours), theirs) in to.as_chunks_mut::<4>().0.iter_mut().zip(ours).zip(&*values) {
                *to = (theirs - f32::from_le_bytes(*ours)).to_le_bytes();
            }
        });
    }

    /// `self + share (other - self)` for this matrix in F32.
    #[cfg(test)]
    pub fn towards(&self, other: &Owned, share: f32) -> Owned {
        let mut e = Owned::default();
        self.difference(other, &mut e);
        for (e, w) in e.bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.bytes.as_chunks::<4>().0) {
            *e = (f32::from_le_bytes(*w) + share * f32::from_le_bytes(*e)).to_le_bytes();
        }
        e
    }

    /// The sum of squares of a matrix in F32, rows added in their order.
    pub fn square(&self) -> f64 {
        let rows = self.bytes.par_chunks(4 * self.cols.max(1));
        let rows =
            rows.map(|row| row.as_chunks::<4>().0.iter().map(|v| f64::from(f32::from_le_bytes(*v)).powi(2)).sum());
        rows.collect::<Vec<f64>>().into_iter().sum()
    }
}

/// The weights of a layer in memory of their own.
pub struct OwnedLayer {
    attn_norm: Vec<f32>,
    ffn_norm: Vec<f32>,
    matrices: Vec<Owned>,
    biases: Vec<Option<Vec<f32>>>,
}

impl OwnedLayer {
    /// What `transform` makes of layer `i`.
    pub fn of(w: &Layer<'_>, i: usize, architecture: &Architecture, transform: &Transform) -> OwnedLayer {
        let name = |role| architecture.spec(role).name(Some(i));
        let bias = |linear: &Linear<'_>| {
            let (bias, head_dim) = (linear.bias?, linear.head_dim);
            let place = |r: usize| head_dim.map_or(r, |head_dim| permuted_row(r, head_dim));
            Some((0..bias.len()).map(|r| bias[place(r)]).collect())
        };
        OwnedLayer {
            attn_norm: w.attn_norm.to_vec(),
            ffn_norm: w.ffn_norm.to_vec(),
            matrices: w.linears().into_iter().map(|(role, linear)| Owned::of(&name(role), linear, transform)).collect(),
            biases: w.linears().into_iter().map(|(_, linear)| bias(linear)).collect(),
        }
    }

    /// As a pass takes it.
    pub fn layer(&self) -> Layer<'_> {
        self.with(MATRICES, &self.matrices[0])
    }

    /// The layer with another matrix at place `m`.
    pub fn with<'a>(&'a self, m: usize, other: &'a Owned) -> Layer<'a> {
        let linear = |i: usize| Linear {
            weight: if i == m { other.matrix() } else { self.matrices[i].matrix() },
            bias: self.biases[i].as_deref(),
            head_dim: None,
        };
        let [q, k, v, o, gate, up, down] = std::array::from_fn(linear);
        Layer { attn_norm: &self.attn_norm, q, k, v, o, ffn_norm: &self.ffn_norm, gate, up, down }
    }

    /// The matrices, in the order of [`Layer::linears`].
    pub fn matrices(&self) -> &[Owned] {
        &self.matrices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(rows: usize, cols: usize, of: impl Fn(usize, usize) -> f32) -> Owned {
        let values = (0..rows * cols).flat_map(|i| of(i / cols, i % cols).to_le_bytes());
        Owned { ty: GgmlType::F32, rows, cols, bytes: values.collect() }
    }

    #[test]
    fn transposed_twice_is_the_same() {
        for (rows, cols) in [(1, 1), (3, 40), (37, 16), (64, 33)] {
            let (w, mut t, mut again) =
                (f32s(rows, cols, |r, c| (r * 100 + c) as f32), Owned::default(), Owned::default());
            w.transpose(&mut t);
            let mut column = vec![0.0; rows];
            t.matrix().decode_row(cols - 1, &mut column);
            assert!(column.iter().enumerate().all(|(r, v)| *v == (r * 100 + cols - 1) as f32));
            t.transpose(&mut again);
            assert!(again.bytes == w.bytes && (again.rows, again.cols) == (rows, cols));
        }
    }

    #[test]
    fn a_difference_has_the_square_that_it_should() {
        let (a, b) = (f32s(5, 8, |r, c| (r + c) as f32), f32s(5, 8, |r, c| (r + c) as f32 + r as f32));
        let mut e = Owned::default();
        a.difference(&b, &mut e);
        assert_eq!(e.square(), 8.0 * (1.0 + 4.0 + 9.0 + 16.0));
    }
}
