//! A checkpoint as a model to run: the GGUF model that a conversion would make of it, in the types that it has, without making it.
//!
//! Nothing is copied: the tensors stay where they lie in the safetensors files. What a conversion permutes, rows of query and key
//! matrices, the forward pass permutes in their results instead, which are the same bits: each row of a matrix gives one result.

use super::metadata;
use super::plan::{self, From, Tensor};
use super::source::Input;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, quoted};
use crate::gguf::{Gguf, TensorInfo};
use crate::progress::Progress;
use crate::recipe::Mix;
use std::collections::BTreeMap;
use std::path::Path;
use strata_quant::GgmlType;

/// Opens a model to run it: a GGUF file, or the folder of a checkpoint. `progress` is warned of what a checkpoint says and is taken
/// otherwise.
///
/// # Errors
/// As [`Gguf::open`] and [`Checkpoint::open`]; also if the checkpoint's tokenizer is of a kind that cannot be converted, or its matrices are
/// quantized: no kernel reads their codes.
pub fn open_model(path: &Path, progress: &dyn Progress) -> Result<Gguf> {
    match Input::open(path)? {
        Input::Gguf(gguf) => Ok(*gguf),
        Input::Checkpoint(checkpoint) => of_checkpoint(checkpoint, progress),
    }
}

fn of_checkpoint(checkpoint: Box<Checkpoint>, progress: &dyn Progress) -> Result<Gguf> {
    let input = Input::Checkpoint(checkpoint);
    let tensors = plan::tensors(&input)?;
    if let Some(stored) = tensors.iter().filter_map(Tensor::stored).find(|stored| stored.packed.is_some()) {
        let problem = format!("is {} and cannot be run or measured as it is", stored.kind());
        let remedy = "convert the checkpoint first, to BF16 to have its weights as they are, and name that file";
        return Err(Error::invalid(input.path(), format!("tensor {}", quoted(&stored.name)), problem, remedy));
    }
    let (mut header, notes) = metadata::of(&input, None, &tensors)?;
    notes.iter().for_each(|note| progress.warn(note));
    header.set(metadata::FILE_TYPE, file_type(&tensors));
    let computed_part = input.files().len();
    let (mut infos, mut computed) = (Vec::with_capacity(tensors.len()), Vec::new());
    for tensor in tensors {
        let Tensor { name, dims, from, .. } = tensor;
        let info = match from {
            From::Source(stored) => TensorInfo {
                name,
                ty: stored.ty,
                dims,
                offset: stored.offset,
                part: stored.file,
                bytes: stored.bytes,
                head_dim: stored.head_dim,
            },
            From::Computed(values) => {
                let offset = computed.len() as u64;
                computed.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                let bytes = computed.len() as u64 - offset;
                TensorInfo { name, ty: GgmlType::F32, dims, offset, part: computed_part, bytes, head_dim: None }
            }
        };
        header.tensor(info.name.as_str(), &info.dims, info.ty);
        infos.push(info);
    }
    let Input::Checkpoint(checkpoint) = input else {
        return Err(Error::Internal("a checkpoint has become another model"));
    };
    Gguf::over(&checkpoint.dir, header, infos, checkpoint.weights.into_shards(), computed)
}

/// What llama.cpp calls files whose weights are mostly of the type that most of these are.
fn file_type(tensors: &[Tensor]) -> u32 {
    let mut weights: BTreeMap<GgmlType, u64> = BTreeMap::new();
    for (tensor, stored) in tensors.iter().filter_map(|tensor| Some((tensor, tensor.stored()?))) {
        *weights.entry(stored.ty).or_default() += tensor.weights();
    }
    let most = weights.into_iter().max_by_key(|(_, weights)| *weights).map_or(GgmlType::F32, |(ty, _)| ty);
    Mix::ALL.iter().find(|mix| mix.base == most).map_or(0, |mix| mix.file_type)
}
