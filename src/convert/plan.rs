//! Which tensor of the source becomes which tensor of the GGUF file, in what order and order of rows.

use super::source::Input;
use crate::adapter::Change;
use crate::arch::{Architecture, LLAMA, Presence};
use crate::checkpoint::quantized::Packed;
use crate::checkpoint::{Checkpoint, Place, Split};
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
    /// Its type there; F32 where it is [`Stored::packed`].
    pub ty: GgmlType,
    /// The file, in the order of the source's files; of a tensor that files share, that of its first part.
    pub file: usize,
    /// Where its bytes start in it.
    pub offset: u64,
    /// Its bytes, those of all parts.
    pub bytes: u64,
    /// The further parts of a tensor that files share, all as long as the first.
    pub others: Vec<Place>,
    /// How files share it.
    pub split: Split,
    /// Rows of a head, where the rows of heads are put in another order; see [`crate::arch::tensors::permuted_row`].
    pub head_dim: Option<usize>,
    /// What its values are made of where `bytes` are codes and not numbers of a type of ggml's.
    pub packed: Option<Arc<Packed>>,
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
    /// Bytes of a part.
    pub fn part_bytes(&self) -> u64 {
        self.bytes / (1 + self.others.len() as u64)
    }

    /// All parts in their order; one, unless files share the tensor.
    pub fn parts(&self) -> impl Iterator<Item = Place> {
        std::iter::once(Place { shard: self.file, offset: self.offset }).chain(self.others.iter().copied())
    }

    /// True if its rows lie all over its bytes.
    pub fn is_transposed(&self) -> bool {
        self.packed.as_ref().is_some_and(|packed| packed.is_transposed())
    }

    /// All its bytes, in whatever tensors and files.
    pub fn all_bytes(&self) -> u64 {
        self.packed.as_ref().map_or(self.bytes, |packed| packed.bytes())
    }

    /// What it is stored as, in words.
    pub fn kind(&self) -> &str {
        self.packed.as_ref().map_or(self.ty.name(), |packed| &packed.kind)
    }

    /// True if its rows as `ty` are its bytes.
    pub fn is_as_written(&self, ty: GgmlType) -> bool {
        self.ty == ty && self.packed.is_none() && self.change.is_none()
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
        let permuted = spec.permuted.filter(|_| !checkpoint.weights.interleaved);
        let head_dim = permuted.map(|_| config.hyperparameters.head_dim);
        // The checkpoint was checked when it was opened: what is required is there.
        let matrix = packed(checkpoint, &weight, spec.name(layer), head_dim)
            .or_else(|| stored(checkpoint, &weight, spec.name(layer), head_dim));
        tensors.push(matrix.ok_or_else(|| missing(checkpoint, &weight))?);
        tensors.extend(stored(checkpoint, &bias, spec.bias_name(layer), head_dim));
    }
    Ok(tensors)
}

/// The tensor `hf` of a checkpoint, if it has it.
fn stored(checkpoint: &Checkpoint, hf: &str, name: String, head_dim: Option<usize>) -> Option<Tensor> {
    let source = checkpoint.weights.get(hf)?;
    let ty = source.dtype.ggml()?;
    let (rows, cols) = match *source.shape {
        [rows, cols] => (rows, cols),
        // A vector is a column where its rows are put in order, so that a bias goes with its matrix.
        [n] if head_dim.is_some() => (n, 1),
        _ => (1, source.bytes as usize / ty.block_bytes()), // within files that are mapped
    };
    let dims = source.shape.iter().rev().map(|&d| d as u64).collect();
    let (&Place { shard: file, offset }, others) = source.parts.split_first()?;
    let (name_there, others, split, bytes) = (source.name.to_owned(), others.to_vec(), source.split, source.bytes);
    let (packed, change) = (None, checkpoint.changes.get(hf).cloned());
    let from =
        From::Source(Stored { name: name_there, ty, file, offset, bytes, others, split, head_dim, packed, change });
    Some(Tensor { name, dims, rows, cols, from })
}

/// The matrix `hf` of a checkpoint, if it has it in quantized form.
fn packed(checkpoint: &Checkpoint, hf: &str, name: String, head_dim: Option<usize>) -> Option<Tensor> {
    let packed = checkpoint.weights.packed(hf)?.clone();
    let (rows, cols) = packed.shape;
    let (file, offset, bytes) = (packed.codes.shard, packed.codes.offset, packed.codes.bytes);
    let (name_there, ty, others, split) = (hf.to_owned(), GgmlType::F32, Vec::new(), Split::Rows);
    let (packed, change) = (Some(packed), checkpoint.changes.get(hf).cloned());
    let from =
        From::Source(Stored { name: name_there, ty, file, offset, bytes, others, split, head_dim, packed, change });
    Some(Tensor { name, dims: vec![cols as u64, rows as u64], rows, cols, from })
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
        let (offset, bytes, others, split) = (info.offset, info.bytes, Vec::new(), Split::Rows);
        let (head_dim, packed, change) = (None, None, None);
        let from = From::Source(Stored { name, ty, file, offset, bytes, others, split, head_dim, packed, change });
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
