//! Calibration: a text goes through the model, and for every matrix the squares of its input are summed by column. The sums are an
//! importance matrix.
//!
//! As llama-imatrix does it: the text is cut into chunks of the context length, what does not fill the last is left
//! out, the first token of each is replaced by BOS, every token counts, and the sums are `f32`, added in the order of
//! the tokens. Unlike there, all chunks go through a layer before the next layer is touched: a model larger than the
//! memory is read once.

use std::collections::BTreeMap;

use rayon::prelude::*;
use strata_quant::Activations;

use crate::arch::{Hyperparameters, MatrixInput};
use crate::error::{Error, Result};
use crate::eval::compare::Text;
use crate::eval::compare::text::Cut;
use crate::imatrix::{Entry, Imatrix};
use crate::model::{CacheTypes, MemoryNeed, Model, Scratch};
use crate::progress::Progress;

/// The columns that a thread sums together: their sums stay in the first cache.
const COLUMNS: usize = 1024;

/// Settings of a calibration.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of tokens in a chunk.
    pub context: usize,
    /// The most chunks to take.
    pub max_chunks: Option<usize>,
    /// Also measure the output matrix, where the model has one of its own.
    pub process_output: bool,
    /// The name of the text, which the matrix records.
    pub dataset: String,
}

/// The memory beside the weights that a calibration with `tokens` tokens takes.
///
/// # Errors
/// As [`MemoryNeed::layer_by_layer`].
pub fn need(of: &Hyperparameters, tokens: usize, options: &Options) -> Result<MemoryNeed> {
    let chunks = tokens.checked_div(options.context).unwrap_or(0).min(options.max_chunks.unwrap_or(usize::MAX));
    MemoryNeed::layer_by_layer(of, &vec![options.context; chunks], CacheTypes::default())
}

/// The importance matrix of `tokens`. `bos` replaces the first token of each chunk. The same bits with any number of
/// threads.
///
/// Memory: four bytes for each value of the hidden states of all tokens.
///
/// # Errors
/// If the tokens do not fill one chunk, a chunk has fewer than 4, a number of the pass or a sum is not finite, the memory cannot be had, or
/// the user stopped.
pub fn calibrate(
    model: &Model,
    tokens: &[u32],
    bos: Option<u32>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Imatrix> {
    let Options { context, max_chunks, .. } = *options;
    let text = Text::raw(&*options.dataset, tokens, Cut { context, stride: None, max_chunks }, bos)?;
    let (tokens, lengths) = (text.tokens(), text.lengths());
    let (Ok(chunk_count), Ok(chunk_size)) = (lengths.len().try_into(), context.try_into()) else {
        return Err(Error::TextTooShort { tokens: tokens.len(), chunk: context });
    };
    let mut sums: BTreeMap<(usize, MatrixInput), Vec<f32>> = BTreeMap::new(); // (columns)
    progress.begin("calibrating", tokens.len() as u64);
    let mut scratch = Scratch::default();
    model.forward_with_hook(&mut scratch, &tokens, &lengths, progress, &mut |layer, input, x| {
        add_squares(sums.entry((layer, input)).or_insert_with(|| vec![0.0; x.cols()]), x);
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
            if input != MatrixInput::Output || options.process_output {
                entries.insert(name, Entry { in_sum2: in_sum2.clone(), counts: vec![tokens.len() as u64] });
            }
        }
    }
    Ok(Imatrix { entries, datasets: vec![options.dataset.clone()], chunk_count, chunk_size: Some(chunk_size) })
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
