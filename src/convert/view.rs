//! A checkpoint as a model to run: the GGUF model that a conversion would make of it, in the types that it has, without making it.
//!
//! Nothing is copied: the tensors stay where they lie in their files. What a conversion permutes, rows of query and key matrices, the forward
//! pass permutes in their results instead, which are the same bits: each row of a matrix gives one result. Only tensors that files share
//! are joined in memory, since a pass takes matrices in one piece.

use super::metadata;
use super::plan::{self, From, Stored, Tensor};
use super::sequential::join;
use super::source::Input;
use crate::checkpoint::Checkpoint;
use crate::error::{Allocation, Error, Result, quoted};
use crate::gguf::{Gguf, TensorInfo};
use crate::progress::Progress;
use crate::recipe::Mix;
use crate::stream::budget;
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
    let (mut infos, mut computed) = (Vec::with_capacity(tensors.len()), memory_to_join(&input, &tensors)?);
    for tensor in tensors {
        let Tensor { name, dims, rows, from, .. } = tensor;
        let info = match from {
            From::Source(stored) if !stored.others.is_empty() => {
                let offset = computed.len() as u64;
                join_parts(&input, &stored, rows, &mut computed, progress)?;
                let (ty, bytes, head_dim) = (stored.ty, stored.bytes, stored.head_dim);
                TensorInfo { name, ty, dims, offset, part: computed_part, bytes, head_dim }
            }
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

/// Memory for the tensors that files share.
fn memory_to_join(input: &Input, tensors: &[Tensor]) -> Result<Vec<u8>> {
    let shared = tensors.iter().filter_map(Tensor::stored).filter(|stored| !stored.others.is_empty());
    let bytes: u64 = shared.map(|stored| stored.bytes).sum();
    let mut memory = Vec::new();
    if bytes == 0 {
        return Ok(memory);
    }
    if let Some(memory) = budget::memory().filter(|memory| memory.available < bytes) {
        let problem = format!(
            "its files share tensors, which take {bytes} bytes of memory to join and run, and {} are free",
            memory.available
        );
        let remedy = "convert it first, to BF16, which takes little memory, and name that file";
        return Err(Error::invalid(input.path(), "weights", problem, remedy));
    }
    let no_memory = |_| Error::OutOfMemory { what: Allocation::Weights, bytes };
    // With room for what is computed, so that nothing is ever moved.
    memory.try_reserve_exact(bytes as usize + (1 << 16)).map_err(no_memory)?;
    Ok(memory)
}

/// Appends a tensor that files share, a few rows at a time.
fn join_parts(input: &Input, stored: &Stored, rows: usize, to: &mut Vec<u8>, progress: &dyn Progress) -> Result<()> {
    const PIECE: u64 = 16 << 20;
    let (files, row_bytes) = (input.files(), stored.bytes / rows as u64);
    let step = (PIECE / row_bytes).max(1);
    for first in (0..rows as u64).step_by(step as usize) {
        progress.check()?;
        let start = to.len();
        to.resize(start + (step.min(rows as u64 - first) * row_bytes) as usize, 0);
        join(stored, row_bytes, first, &mut to[start..], |file, offset, buffer| files[file].read(buffer, offset))?;
    }
    Ok(())
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
