//! Matrices in memory of their own: encoded, decoded to F32, transposed, or the difference of two. Their rows are in the order of GGUF
//! files, whatever the order of the file that they come from: so matrices of a checkpoint and of a GGUF file can be compared.

use super::{Layer, Linear, Transform};
use crate::arch::Architecture;
use crate::arch::tensors::permuted_row;
use rayon::prelude::*;
use strata_kernels::Matrix;
use strata_quant::GgmlType;

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

    /// A matrix of these values in F32.
    #[cfg(test)]
    pub fn of_values(cols: usize, values: &[f32]) -> Owned {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Owned { ty: GgmlType::F32, rows: values.len() / cols, cols, bytes }
    }

    /// A matrix of the shape of `like` in F32, of its rows in blocks of type `ty`.
    pub fn decoded_from(ty: GgmlType, like: &Owned, blocks: &[u8]) -> Owned {
        let matrix = Matrix::new(ty, like.rows, like.cols, blocks).expect("the blocks are those of whole rows");
        let mut bytes = vec![0; 4 * like.rows * like.cols];
        bytes.par_chunks_mut(4 * like.cols).enumerate().for_each_init(Vec::new, |values, (r, to)| {
            values.resize(like.cols, 0.0);
            matrix.decode_row(r, values);
            to.as_chunks_mut().0.iter_mut().zip(&*values).for_each(|(to, value)| *to = value.to_le_bytes());
        });
        Owned { ty: GgmlType::F32, rows: like.rows, cols: like.cols, bytes }
    }

    /// The rows in blocks of type `ty`, each weight rounded by itself.
    pub fn encoded(&self, ty: GgmlType) -> Vec<u8> {
        let (matrix, row_bytes) = (self.matrix(), ty.row_bytes(self.cols).expect("whole blocks"));
        let mut bytes = vec![0; self.rows * row_bytes];
        bytes.par_chunks_mut(row_bytes).enumerate().for_each_init(Vec::new, |values, (r, to)| {
            values.resize(self.cols, 0.0);
            matrix.decode_row(r, values);
            strata_kernels::Isa::best().encode(ty, values, None, to);
        });
        bytes
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

    /// `other - self` in F32 for matrices of any types, into the memory of `to`.
    pub fn difference(&self, other: &Owned, to: &mut Owned) {
        combine([self, other], to, |[ours, theirs]| theirs - ours);
    }

    /// The same in F32.
    pub fn decoded(&self) -> Owned {
        let mut to = Owned::default();
        combine([self], &mut to, |[value]| value);
        to
    }

    /// `self + share (other - self)` in F32 for matrices of any types.
    pub fn towards(&self, other: &Owned, share: f32) -> Owned {
        let mut to = Owned::default();
        combine([self, other], &mut to, |[ours, theirs]| ours + share * (theirs - ours));
        to
    }

    /// The sum of squares, rows added in their order.
    pub fn square(&self) -> f64 {
        let w = self.matrix();
        let row = |values: &mut Vec<f32>, r: usize| -> f64 {
            values.resize(self.cols, 0.0);
            w.decode_row(r, values);
            values.iter().map(|v| f64::from(*v).powi(2)).sum()
        };
        let rows: Vec<f64> = (0..self.rows).into_par_iter().map_init(Vec::new, row).collect();
        rows.into_iter().sum()
    }
}

/// What `f` makes of the values of matrices of one shape, in F32, into the memory of `to`.
fn combine<const N: usize>(of: [&Owned; N], to: &mut Owned, f: impl Fn([f32; N]) -> f32 + Sync) {
    let (rows, cols) = (of[0].rows, of[0].cols);
    (to.ty, to.rows, to.cols) = (GgmlType::F32, rows, cols);
    to.bytes.resize(4 * rows * cols, 0);
    let matrices = of.map(Owned::matrix);
    let none = || [const { Vec::<f32>::new() }; N];
    to.bytes.par_chunks_mut(4 * cols).enumerate().for_each_init(none, |values, (r, to)| {
        for (matrix, values) in matrices.iter().zip(&mut *values) {
            values.resize(cols, 0.0);
            matrix.decode_row(r, values);
        }
        for (c, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = f(std::array::from_fn(|i| values[i][c])).to_le_bytes();
        }
    });
}

/// The weights of a layer in memory of their own.
pub struct OwnedLayer {
    attn_norm: Vec<f32>,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
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
            q_norm: w.q_norm.map(<[f32]>::to_vec),
            k_norm: w.k_norm.map(<[f32]>::to_vec),
            ffn_norm: w.ffn_norm.to_vec(),
            matrices: w.linears().into_iter().map(|(role, linear)| Owned::of(&name(role), linear, transform)).collect(),
            biases: w.linears().into_iter().map(|(_, linear)| bias(linear)).collect(),
        }
    }

    /// Between this layer and another of the same shape: all values in F32, at `share` of the way.
    pub fn towards(&self, other: &OwnedLayer, share: f32) -> OwnedLayer {
        let values = |a: &[f32], b: &[f32]| towards(a, b, share);
        let bias = |(a, b): (&Option<Vec<f32>>, &Option<Vec<f32>>)| match (a, b) {
            (None, None) => None,
            (Some(a), Some(b)) => Some(values(a, b)),
            (Some(a), None) => Some(values(a, &vec![0.0; a.len()])),
            (None, Some(b)) => Some(values(&vec![0.0; b.len()], b)),
        };
        // Both are of one architecture, which has the norms of heads or not.
        let of_heads = |a: &Option<Vec<f32>>, b: &Option<Vec<f32>>| Some(values(a.as_ref()?, b.as_ref()?));
        OwnedLayer {
            attn_norm: values(&self.attn_norm, &other.attn_norm),
            q_norm: of_heads(&self.q_norm, &other.q_norm),
            k_norm: of_heads(&self.k_norm, &other.k_norm),
            ffn_norm: values(&self.ffn_norm, &other.ffn_norm),
            matrices: self.matrices.iter().zip(&other.matrices).map(|(a, b)| a.towards(b, share)).collect(),
            biases: self.biases.iter().zip(&other.biases).map(bias).collect(),
        }
    }

    /// As a pass takes it.
    pub fn layer(&self) -> Layer<'_> {
        self.with(self.matrices.len(), &self.matrices[0])
    }

    /// The layer with another matrix at place `m`.
    pub fn with<'a>(&'a self, m: usize, other: &'a Owned) -> Layer<'a> {
        let linear = |i: usize| Linear {
            weight: if i == m { other.matrix() } else { self.matrices[i].matrix() },
            bias: self.biases[i].as_deref(),
            head_dim: None,
            low_rank: &[],
        };
        let [q, k, v, o, gate, up, down] = std::array::from_fn(linear);
        let (attn_norm, ffn_norm) = (&*self.attn_norm, &*self.ffn_norm);
        let (q_norm, k_norm) = (self.q_norm.as_deref(), self.k_norm.as_deref());
        Layer { attn_norm, q, k, v, q_norm, k_norm, o, ffn_norm, gate, up, down }
    }

    /// Replaces the matrix at place `m`.
    pub fn set(&mut self, m: usize, other: Owned) {
        self.matrices[m] = other;
    }

    /// The matrices, in the order of [`Layer::linears`].
    pub fn matrices(&self) -> &[Owned] {
        &self.matrices
    }
}

/// `a + share (b - a)` of two vectors of the same length.
pub fn towards(a: &[f32], b: &[f32], share: f32) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + share * (b - a)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(rows: usize, cols: usize, of: impl Fn(usize, usize) -> f32) -> Owned {
        Owned::of_values(cols, &(0..rows * cols).map(|i| of(i / cols, i % cols)).collect::<Vec<_>>())
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
