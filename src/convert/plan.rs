//! Which tensor of the source becomes which tensor of the GGUF file, in what order and order of rows.

use super::source::Input;
use crate::adapter::Change;
use crate::arch::{Architecture, LLAMA, Presence};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, quoted};
use crate::gguf::Gguf;
use std::sync::Arc;
use strata_quant::GgmlType;

/// A tensor to write. Its place among the others is the order of the files.
pub struct Tensor {
    /// Its name in the GGUF file.
    pub name: String,
    /// Its dimensions in GGUF's order: the length of a row first.
    pub dims: Vec<u64>,
    /// Rows that are read and encoded; the product with `cols` is that of the dimensions.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
    /// Where its values come from.
    pub from: From,
}

/// Where values come from.
pub enum From {
    /// A file of the source.
    Source(Stored),
    /// A computation.
    Computed(Vec<f32>),
}

/// A tensor of the source.
pub struct Stored {
    /// Its name there.
    pub name: String,
    /// Its type there.
    pub ty: GgmlType,
    /// The file, in the order of the source's files.
    pub file: usize,
    /// Where its bytes start in it.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Rows of a head, where the rows of heads are put in another order; see [`crate::arch::tensors::permuted_row`].
    pub head_dim: Option<usize>,
    /// What adapters make of its rows.
    pub change: Option<Arc<Change>>,
}

impl Tensor {
    /// Its values.
    pub fn weights(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Its bytes as `ty`, whose blocks divide its rows.
    pub fn bytes(&self, ty: GgmlType) -> u64 {
        self.weights() / ty.block_len() as u64 * ty.block_bytes() as u64
    }

    /// Where it is stored, unless it is computed.
    pub fn stored(&self) -> Option<&Stored> {
        match &self.from {
            From::Source(stored) => Some(stored),
            From::Computed(_) => None,
        }
    }
}

impl Stored {
    /// Where its bytes end in its file.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    /// True if its rows as `ty` are its bytes.
    pub fn is_as_written(&self, ty: GgmlType) -> bool {
        self.ty == ty && self.change.is_none()
    }
}

/// All tensors of the file, in the order in which a forward pass reads them: a streamed pass is then one sweep over the file.
pub fn tensors(input: &Input) -> Result<Vec<Tensor>> {
    match input {
        Input::Checkpoint(checkpoint) => of_checkpoint(checkpoint),
        Input::Gguf(gguf) => of_gguf(gguf),
    }
}

fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Vec<Tensor>> {
    let config = &checkpoint.config;
    let mut tensors = Vec::new();
    for (spec, layer) in config.architecture.all_tensors(config.hyperparameters.layers) {
        let Some([weight, bias]) = spec.hf_names(layer) else {
            if let Some(divisors) = config.rope_scaling.frequency_divisors(&config.hyperparameters) {
                let (name, cols) = (spec.name(layer), divisors.len());
                tensors.push(Tensor { name, dims: vec![cols as u64], rows: 1, cols, from: From::Computed(divisors) });
            }
            continue;
        };
        // A tied output is left out: readers then use the embedding.
        if spec.presence == Presence::TiedToEmbedding && config.tie_word_embeddings {
            continue;
        }
        let head_dim = spec.permuted.map(|_| config.hyperparameters.head_dim);
        // The checkpoint was checked when it was opened: what is required is there.
        let matrix = stored(checkpoint, &weight, spec.name(layer), head_dim);
        tensors.push(matrix.ok_or_else(|| missing(checkpoint, &weight))?);
        tensors.extend(stored(checkpoint, &bias, spec.bias_name(layer), head_dim));
    }
    Ok(tensors)
}

/// The tensor `hf` of a checkpoint, if it has it.
fn stored(checkpoint: &Checkpoint, hf: &str, name: String, head_dim: Option<usize>) -> Option<Tensor> {
    let source = checkpoint.weights.get(hf)?;
    let ty = source.dtype.ggml();
    let (rows, cols) = match *source.shape {
        [rows, cols] => (rows, cols),
        // A vector is a column where its rows are put in order, so that a bias goes with its matrix.
        [n] if head_dim.is_some() => (n, 1),
        _ => (1, source.data.len() / ty.block_bytes()),
    };
    let dims = source.shape.iter().rev().map(|&d| d as u64).collect();
    let (file, offset, bytes) = (source.shard, source.offset, source.data.len() as u64);
    let change = checkpoint.changes.get(hf).cloned();
    let from = From::Source(Stored { name: hf.to_owned(), ty, file, offset, bytes, head_dim, change });
    Some(Tensor { name, dims, rows, cols, from })
}

fn missing(checkpoint: &Checkpoint, name: &str) -> Error {
    Error::invalid(&checkpoint.dir, format!("tensor {}", quoted(name)), "is missing", "download the checkpoint again")
}

fn of_gguf(gguf: &Gguf) -> Result<Vec<Tensor>> {
    if gguf.files().next().is_none() {
        return Err(Error::InMemory { doing: "converted" });
    }
    // A file of an architecture that is not in the table is refused later, with its reason.
    let architecture = Architecture::of(gguf).unwrap_or(LLAMA);
    let mut order: Vec<_> = gguf.tensors().iter().collect();
    order.sort_by_key(|tensor| architecture.place_in_pass(&tensor.name));
    let tensors = order.into_iter().map(|info| {
        let whole = |n: u64| usize::try_from(n).map_err(|_| too_large(gguf, &info.name));
        let (name, file, ty) = (info.name.clone(), info.part, info.ty);
        let (offset, bytes, head_dim, change) = (info.offset, info.bytes, None, None);
        let from = From::Source(Stored { name, ty, file, offset, bytes, head_dim, change });
        let (rows, cols) = (whole(info.rows())?, whole(info.cols())?);
        Ok(Tensor { name: info.name.clone(), dims: info.dims.clone(), rows, cols, from })
    });
    tensors.collect()
}

fn too_large(gguf: &Gguf, name: &str) -> Error {
    Error::invalid(
        gguf.path(),
        format!("tensor {}", quoted(name)),
        "is too large for this machine",
        "use a 64-bit machine",
    )
}
