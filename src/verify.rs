//! Looking at every weight of a file: each must be a number.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::progress::Progress;
use rayon::prelude::*;
use strata_quant::Format;

/// Values looked at together.
const CHUNK: usize = 1 << 16;

/// Decodes every tensor and looks for values that are no finite numbers. Returns the names of types that Strata cannot decode, whose
/// tensors were not looked at. `progress` counts bytes.
///
/// # Errors
/// Names the first tensor, row and column with such a value; or the user stopped.
pub fn weights(gguf: &Gguf, progress: &dyn Progress) -> Result<Vec<&'static str>> {
    let mut unknown = Vec::new();
    progress.begin("verifying", gguf.tensors().iter().map(|t| t.bytes).sum());
    for tensor in gguf.tensors() {
        match tensor.ty.format() {
            Some(format) => check(gguf, tensor, format, progress)?,
            None if unknown.contains(&tensor.ty.name()) => {}
            None => unknown.push(tensor.ty.name()),
        }
    }
    progress.end();
    Ok(unknown)
}

fn check(gguf: &Gguf, tensor: &TensorInfo, format: &Format, progress: &dyn Progress) -> Result<()> {
    let (len, bytes) = (format.ty.block_len(), format.ty.block_bytes());
    let blocks = (CHUNK / len).max(1);
    let bad = gguf.data(tensor).par_chunks(blocks * bytes).enumerate().find_map_first(|(i, chunk)| {
        if progress.cancelled() {
            return None;
        }
        let mut values = vec![0.0; chunk.len() / bytes * len];
        (format.decode)(chunk, &mut values);
        progress.advance(chunk.len() as u64);
        let at = values.iter().position(|v| !v.is_finite())?;
        Some(((i * blocks * len + at) as u64, values[at]))
    });
    progress.check()?;
    let Some((at, value)) = bad else { return Ok(()) };
    let problem = format!("{value} at row {}, column {}", at / tensor.cols(), at % tensor.cols());
    let place = format!("tensor {:?}", tensor.name);
    Err(Error::invalid(gguf.path(), place, problem, "the file is damaged; get or convert it again"))
}
