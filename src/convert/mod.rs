//! From a checkpoint to a GGUF file that llama.cpp loads and answers the same.
//!
//! * `metadata.rs`: what the file says of the model; `naming.rs`: what its names tell;
//! * `vocabulary.rs`: the tokenizer;
//! * `plan.rs`: which tensor becomes which, in what order;
//! * `rows.rs`: the weights themselves, in slabs of rows.

mod metadata;
mod naming;
mod plan;
mod rope;
mod rows;
mod vocabulary;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::Layout;
use crate::progress::Progress;
use plan::Tensor;
use std::fs;
use std::path::Path;
use strata_quant::GgmlType;

/// What to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The type of all matrices whose rows it divides; the others become F16.
    pub ty: GgmlType,
    /// The model's name, where the checkpoint's own is not wanted.
    pub name: Option<String>,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Tensors.
    pub tensors: usize,
    /// Weights in all tensors.
    pub weights: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bits of tensor data a weight.
    pub bits_per_weight: f64,
}

/// Converts the checkpoint in `dir` to the file `output`, which appears only when it is complete. Weights are read by memory map and
/// written as they come: the memory it takes is a few slabs of rows. `progress` counts bytes of the checkpoint.
///
/// # Errors
/// If the checkpoint is incomplete, damaged or of a kind that Strata does not know; if the type cannot be written, the folder of
/// `output` is missing, or the disk is full; if the user stopped.
pub fn convert(dir: &Path, output: &Path, options: &Options, progress: &dyn Progress) -> Result<Report> {
    if options.ty.format().is_none() {
        let have: Vec<_> = GgmlType::with_format().map(|format| format.ty.name()).collect();
        return Err(Error::Request(format!(
            "type {} cannot be written; choose one of {}",
            options.ty,
            have.join(", ")
        )));
    }
    let checkpoint = Checkpoint::open(dir)?;
    refuse_source(&checkpoint, output)?;
    let tensors = plan::tensors(&checkpoint, options.ty)?;
    let mut layout = Layout::new();
    metadata::set(&mut layout, &checkpoint, options, &tensors)?;
    for tensor in &tensors {
        layout.tensor(tensor.name.as_str(), &tensor.dims(), tensor.ty);
    }
    let weights: u64 = tensors.iter().map(Tensor::weights).sum();
    let data: u64 = tensors.iter().map(Tensor::bytes).sum();
    let mut writer = layout.create(output)?;
    progress.begin(&format!("converting to {}", options.ty), tensors.iter().map(|t| t.source_bytes()).sum());
    for tensor in &tensors {
        writer.begin(&tensor.name)?;
        rows::write(tensor, &mut writer, progress)?;
    }
    writer.finish()?;
    progress.end();
    let bytes = fs::metadata(output).map_err(Error::io("read", output))?.len();
    Ok(Report { tensors: tensors.len(), weights, bytes, bits_per_weight: data as f64 * 8.0 / weights as f64 })
}

/// An error if `output` is a file of the checkpoint: a finished conversion would replace it.
fn refuse_source(checkpoint: &Checkpoint, output: &Path) -> Result<()> {
    // What does not exist yet replaces nothing.
    let Ok(target) = output.canonicalize() else { return Ok(()) };
    let beside = fs::read_dir(&checkpoint.dir).map_err(Error::io("read", &checkpoint.dir))?.filter_map(|entry| {
        let path = entry.ok()?.path();
        // An earlier conversion may lie there, and may be replaced.
        (path.extension()? != "gguf").then_some(path)
    });
    let mut sources = checkpoint.weights.shards().map(Path::to_owned).chain(beside);
    if sources.any(|source| source.canonicalize().is_ok_and(|source| source == target)) {
        let problem = "is a file of the checkpoint itself";
        return Err(Error::invalid(output, "output", problem, "name another file"));
    }
    Ok(())
}
