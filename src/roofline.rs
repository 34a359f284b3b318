//! The bytes and multiplications of a pass, counted in one place: every limit and every prediction of speed is made of these two.

use crate::arch::{self, Architecture, Group, Role, TensorSpec};
use crate::error::{Error, Result};
use std::collections::HashMap;
use strata_quant::GgmlType;

/// The size of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixSize {
    /// The number of rows.
    pub rows: u64,
    /// The number of values in a row.
    pub cols: u64,
    /// The number of bytes of a row.
    pub row_bytes: u64,
    /// The half of a layer that it belongs to.
    pub group: Group,
}

impl MatrixSize {
    /// The number of bytes.
    pub fn bytes(&self) -> u64 {
        self.rows * self.row_bytes
    }
}

/// The sizes of a model's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The matrices of each layer, in the order of the architecture's table.
    pub layers: Vec<Vec<MatrixSize>>,
    /// The output matrix, which may be the token embedding.
    pub output: MatrixSize,
    /// The bytes of all norms and biases of the layers.
    pub vector_bytes: u64,
    /// The bytes of all files of the model.
    pub file_bytes: u64,
}

impl Sizes {
    /// Of the tensors of a model that may exist only on paper: name, dimensions (the length of a row first) and type of each.
    ///
    /// # Errors
    /// If a matrix is missing, or its rows are not a multiple of its blocks.
    pub fn of<'t>(
        architecture: &Architecture,
        layers: usize,
        tensors: impl Iterator<Item = (&'t str, &'t [u64], GgmlType)>,
    ) -> Result<Sizes> {
        let mut sizes = HashMap::new();
        let (mut file_bytes, mut vector_bytes) = (0, 0);
        for (name, dims, ty) in tensors {
            let cols = dims.first().copied().unwrap_or(0);
            let row_bytes = ty.row_bytes(cols as usize).map(|bytes| bytes as u64);
            let row_bytes = row_bytes.ok_or_else(|| {
                Error::argument(name, format!("rows of {cols} values are not a multiple of the blocks of {ty}"))
            })?;
            let size = (dims.iter().skip(1).product(), cols, row_bytes);
            file_bytes += size.0 * row_bytes;
            if dims.len() < 2 && arch::named(name).is_some_and(|named| named.layer.is_some()) {
                vector_bytes += row_bytes;
            }
            sizes.insert(name, size);
        }
        let find = |spec: &TensorSpec, layer| {
            let name = spec.name(layer);
            let found = sizes.get(name.as_str());
            let of =
                |&(rows, cols, row_bytes): &(u64, u64, u64)| MatrixSize { rows, cols, row_bytes, group: spec.group };
            found.map(of).ok_or_else(|| Error::argument(name, "is missing"))
        };
        let spec = |role| architecture.spec(role);
        let output = find(spec(Role::Output), None).or_else(|_| find(spec(Role::TokenEmbedding), None))?;
        let layer = |i| architecture.layer_matrices().map(|spec| find(spec, Some(i))).collect::<Result<Vec<_>>>();
        Ok(Sizes { layers: (0..layers).map(layer).collect::<Result<_>>()?, output, vector_bytes, file_bytes })
    }

    /// Bytes of weights that a pass reads, from memory or disk.
    pub fn pass_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer_bytes(layer)).sum::<u64>() + self.output.bytes()
    }

    /// What a pass of `tokens` tokens needs that ends in `logits` rows of logits and attends to `kv_bytes` bytes of keys and values. A
    /// weight is read once, whatever the pass carries, and multiplied with every token.
    pub fn pass(&self, tokens: u64, logits: u64, kv_bytes: u64) -> Work {
        let macs = |matrix: &MatrixSize| matrix.rows as f64 * matrix.cols as f64;
        let of_layers: f64 = self.layers.iter().flatten().map(macs).sum();
        Work {
            bytes: (self.pass_bytes() + self.vector_bytes) as f64 + kv_bytes as f64,
            macs: tokens as f64 * of_layers + logits as f64 * macs(&self.output),
        }
    }
}

/// The bytes of a layer's matrices.
pub(crate) fn layer_bytes(layer: &[MatrixSize]) -> u64 {
    layer.iter().map(MatrixSize::bytes).sum()
}

/// What a pass reads from memory and multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes of weights, keys and values.
    pub bytes: f64,
    /// Multiply-adds.
    pub macs: f64,
}

impl Work {
    /// Seconds that it takes at least where `bytes` are read and `macs` done in a second (Williams et al. 2009, "Roofline").
    pub fn seconds(&self, bytes: f64, macs: f64) -> f64 {
        (self.bytes / bytes).max(self.macs / macs)
    }
}
