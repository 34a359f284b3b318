//! Calibration: a text goes through the model, and for every matrix the squares of its input are summed by column. The sums are an
//! importance matrix.
//!
//! As llama-imatrix does it: the text is cut into chunks of the context length, what does not fill the last is left
//! out, the first token of each is replaced by BOS, every token counts, and the sums are `f32`, added in the order of
//! the tokens. Unlike there, all chunks go through a layer before the next layer is touched: a model larger than the
//! memory is read once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rayon::prelude::*;
use strata_quant::Activations;

use crate::arch::{Hyperparameters, MatrixInput};
use crate::error::{Error, Result};
use crate::eval::compare::Text;
use crate::imatrix::{Entry, Imatrix};
use crate::model::{CacheTypes, MemoryNeed, Model, Scratch};
use crate::progress::Progress;

/// The columns that a thread sums together: their sums stay in the first cache.
const COLUMNS: usize = 1024;

/// The memory beside the weights that a calibration takes.
///
/// # Errors
/// As [`MemoryNeed::layer_by_layer`].
pub fn need(of: &Hyperparameters, text: &Text) -> Result<MemoryNeed> {
    MemoryNeed::layer_by_layer(of, &text.lengths(), CacheTypes::default())
}

/// The importance matrix of texts, which name the matrix's datasets and whose longest chunk is its chunk size; also of the output matrix,
/// where the model has one of its own and `process_output` is set. The same bits with any number of threads.
///
/// Memory: four bytes for each value of the hidden states of all tokens.
///
/// # Errors
/// If there are more chunks than the matrix can record, a number of the pass or a sum is not finite, the memory cannot be had, or the user
/// stopped.
pub fn calibrate(model: &Model, text: &Text, process_output: bool, progress: &dyn Progress) -> Result<Imatrix> {
    let (tokens, lengths) = (text.tokens(), text.lengths());
    let context = lengths.iter().copied().max().unwrap_or(0);
    let (Ok(chunk_count), Ok(chunk_size)) = (lengths.len().try_into(), context.try_into()) else {
        return Err(Error::TextTooShort { tokens: tokens.len(), chunk: context });
    };
    let mut sums: BTreeMap<(usize, MatrixInput), Vec<f32>> = BTreeMap::new(); // (columns)
    progress.begin("calibrating", tokens.len() as u64);
    let mut scratch = Scratch::default();
    model.forward_with_hook(&mut scratch, &tokens, &lengths, progress, &mut |layer, input, x| {
        add_squares(sums.entry((layer, input)).or_insert_with(|| vec![0.0; x.cols()]), x);
        ControlFlow::Continue(())
    })?;
    progress.end();
    let mut entries = BTreeMap::new();
    for ((layer, input), in_sum2) in sums {
        let names = readers(model, layer, input);
        if let Some(column) = in_sum2.iter().position(|sum| !sum.is_finite()) {
            let place = format!("column {column} of what {} reads", names.join(", "));
            let problem = "the sum of its squares is too large for single precision";
            let remedy = "the weights are of no working model; get or convert it again";
            return Err(Error::invalid(model.gguf().path(), place, problem, remedy));
        }
        for name in names.into_iter().filter(|name| model.gguf().tensor(name).is_some()) {
            if input != MatrixInput::Output || process_output {
                entries.insert(name, Entry { in_sum2: in_sum2.clone(), counts: vec![tokens.len() as u64] });
            }
        }
    }
    Ok(Imatrix {
        entries,
        datasets: text.texts.iter().map(|text| text.name.clone()).collect(),
        chunk_count,
        chunk_size: Some(chunk_size),
    })
}

/// The names of the matrices that read this input: those of layer `layer`, or the output matrix.
fn readers(model: &Model, layer: usize, input: MatrixInput) -> Vec<String> {
    let specs = model.architecture().tensors.iter().filter(|spec| spec.input == Some(input));
    specs.map(|spec| spec.name(spec.in_layer.then_some(layer))).collect()
}

/// `sums += x * x` over the rows of `x (tokens, columns)`, each column in the order of the rows.
fn add_squares(sums: &mut [f32], x: &Activations) {
    let cols = x.cols();
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(block, sums)| {
        for row in x.values().chunks_exact(cols) {
            sums.iter_mut().zip(&row[block * COLUMNS..]).for_each(|(sum, x)| *sum += x * x);
        }
    });
}
