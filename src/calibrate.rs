//! Making an importance matrix: a text goes through the model, and for every matrix the squares of what it reads are
//! added up by column.
//!
//! As llama-imatrix does it: the text is cut into chunks of the context length, what does not fill the last is left
//! out, the first token of each is replaced by BOS, every token counts, and the sums are `f32`, added in the order of
//! the tokens. Unlike there, all chunks go through a layer before the next layer is touched: a model larger than the
//! memory is read once.

use std::collections::BTreeMap;

use rayon::prelude::*;
use strata_quant::Activations;

use crate::error::{Error, Result};
use crate::imatrix::{Entry, Imatrix};
use crate::model::{Input, Model, Need, Scratch, Shape};
use crate::progress::Progress;

/// Columns that a thread adds up together: sums that stay in the first cache.
const COLUMNS: usize = 1024;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens in a chunk.
    pub context: usize,
    /// At most so many chunks.
    pub max_chunks: Option<usize>,
    /// Also measure the output matrix, where the model has one of its own.
    pub process_output: bool,
    /// What the matrix says it was made from.
    pub dataset: String,
}

/// The memory beside the weights that measuring `tokens` tokens takes.
///
/// # Errors
/// As [`Need::layer_by_layer`].
pub fn need(shape: &Shape, tokens: usize, options: &Options) -> Result<Need> {
    let chunks = tokens.checked_div(options.context).unwrap_or(0).min(options.max_chunks.unwrap_or(usize::MAX));
    Need::layer_by_layer(shape, chunks * options.context, options.context)
}

/// The importance matrix of `tokens`. `bos` replaces the first token of each chunk. The same bits with any number of
/// threads.
///
/// Memory: four bytes for each value of the hidden states of all tokens.
///
/// # Errors
/// If the tokens do not fill one chunk, a number of the pass or a sum is not finite, the memory cannot be had, or the user stopped.
pub fn calibrate(
    model: &Model,
    tokens: &[u32],
    bos: Option<u32>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Imatrix> {
    let context = options.context;
    let chunks = tokens.len().checked_div(context).unwrap_or(0).min(options.max_chunks.unwrap_or(usize::MAX));
    let (Ok(chunk_count), Ok(chunk_size), 1..) = (chunks.try_into(), context.try_into(), chunks) else {
        return Err(Error::TextTooShort { tokens: tokens.len(), chunk: context });
    };
    let mut tokens = tokens[..chunks * context].to_vec();
    if let Some(bos) = bos {
        tokens.iter_mut().step_by(context).for_each(|first| *first = bos);
    }
    let mut sums: BTreeMap<(usize, usize), Vec<f32>> = BTreeMap::new(); // (layer, place in INPUTS): (columns)
    progress.begin("calibrating", tokens.len() as u64);
    model.observe(&mut Scratch::default(), &tokens, context, progress, &mut |layer, input, x| {
        let place = INPUTS.iter().position(|(known, _)| *known == input).expect("every input is in the table");
        add_squares(sums.entry((layer, place)).or_insert_with(|| vec![0.0; x.cols()]), x);
    })?;
    progress.end();

    let mut entries = BTreeMap::new();
    for ((layer, place), in_sum2) in sums {
        let (input, names) = INPUTS[place];
        if let Some(column) = in_sum2.iter().position(|sum| !sum.is_finite()) {
            let place = format!("column {column} of what {} reads", tensor(layer, names[0]));
            let problem = "the sum of its squares is too large for single precision";
            let remedy = "the weights are of no working model; get or convert it again";
            return Err(Error::invalid(model.gguf().path(), place, problem, remedy));
        }
        let wanted = input != Input::Output || options.process_output && model.gguf().tensor(OUTPUT).is_some();
        for name in names.iter().filter(|_| wanted) {
            let name = if input == Input::Output { (*name).to_owned() } else { tensor(layer, name) };
            entries.insert(name, Entry { in_sum2: in_sum2.clone(), counts: vec![tokens.len() as u64] });
        }
    }
    Ok(Imatrix { entries, datasets: vec![options.dataset.clone()], chunk_count, chunk_size: Some(chunk_size) })
}

const OUTPUT: &str = "output.weight";

/// Which tensors read what.
const INPUTS: [(Input, &[&str]); 5] = [
    (Input::Attention, &["attn_q", "attn_k", "attn_v"]),
    (Input::AttentionOutput, &["attn_output"]),
    (Input::Ffn, &["ffn_gate", "ffn_up"]),
    (Input::FfnDown, &["ffn_down"]),
    (Input::Output, &[OUTPUT]),
];

fn tensor(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}.weight")
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
