//! Error feedback: the codes of a matrix are chosen one column after the other, each with regard to the errors of those before it, so that
//! what the matrix makes of real activations changes as little as its format allows.
//!
//! All tokens of a calibration text go through a layer before the next one. Of what the layer's matrices read, second moments are summed
//! (`sums.rs`, `moments.rs`), factorized (`factor.rs`), and the rows of each matrix rounded with them (`round.rs`, `columns.rs`). Scales are
//! searched about those that llama-quantize finds, group by group and together with the codes; the importance that it takes for that is the
//! diagonal of the moment, unless a matrix of importance is given. A tenth of every text is held out: a matrix whose loss on the held-out tenth
//! of any of the texts is larger than with plain rounding keeps plain rounding (`tensor.rs`).
//!
//! With *propagation* (`propagate.rs`) a second stream of activations goes through the layers as they are quantized so far, and each matrix
//! is moved towards what undoes the errors that it reads, before it is rounded (QEP, arXiv 2504.09629; GPTAQ, arXiv 2504.02692).

mod columns;
mod factor;
mod layer;
mod maker;
mod moments;
mod output;
mod propagate;
mod round;
mod sums;
mod tensor;

pub use tensor::TensorReport;

use crate::arch::{Hyperparameters, MatrixInput, Role};
use crate::convert::method::Unmade;
use crate::error::Result;
use crate::eval::compare::Text;
use crate::model::{CacheTypes, MemoryNeed, Model, WholeSequences};
use crate::progress::Progress;
use crate::weights::owned::OwnedLayer;
use crate::weights::{LayerSource, MATRICES, Transform};
use layer::LayerPass;
use maker::{Maker, wants};
use moments::Moments;
use std::ops::ControlFlow;
use strata_quant::GgmlType;
use sums::Sums;
use tensor::{Pull, ROWS};

/// The inputs of a layer's matrices, in the order of a pass.
const INPUTS: [MatrixInput; 4] =
    [MatrixInput::Attention, MatrixInput::AttentionOutput, MatrixInput::Ffn, MatrixInput::FfnDown];

/// What is learned from, and how.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// The calibration texts.
    pub text: &'a Text,
    /// How much each of the texts counts, whatever its length; more than 0.
    pub weights: &'a [f64],
    /// Whether each matrix is quantized on the activations that those before it give.
    pub propagate: bool,
}

/// Makes the matrices of all layers in their types with error feedback; with `propagate` each with regard to what is quantized before it.
/// `progress` counts tokens times layers, and that for every target with `propagate`.
///
/// # Errors
/// If the memory cannot be had, weights cannot be read, a number is not finite, a tensor cannot be written, or the user stopped.
pub fn feedback(
    model: &Model,
    settings: Settings<'_>,
    unmade: &mut Unmade<'_>,
    progress: &dyn Progress,
) -> Result<Vec<TensorReport>> {
    let targets: Vec<usize> = (0..unmade.targets()).filter(|&target| wants_any(model, unmade, target)).collect();
    let Settings { text, propagate, .. } = settings;
    let walks = if propagate { targets.len() } else { targets.len().min(1) };
    let total = walks * model.hyperparameters().layers * text.lengths().iter().sum::<usize>();
    progress.begin("error feedback", total as u64);
    let mut reports = Vec::new();
    if propagate {
        for target in targets {
            reports.extend(propagate::propagate(model, settings, target, unmade, progress)?);
        }
    } else if walks > 0 {
        reports = walk(model, settings, unmade, progress)?;
    }
    model.check()?;
    progress.end();
    Ok(reports)
}

/// The memory beside the weights that error feedback takes.
///
/// # Errors
/// None: the caches are of a usual type.
pub fn need(of: &Hyperparameters, text: &Text, propagate: bool) -> Result<MemoryNeed> {
    let (lengths, widest) = (text.lengths(), of.hidden.max(of.q_width()).max(of.ffn));
    let kv = WholeSequences::kv_bytes(of, &lengths, CacheTypes::both(GgmlType::F32))?;
    let parts = 1 + text.texts.len() as u64; // of every moment
    let inputs = INPUTS.map(|input| Moments::bytes(columns(of, input)));
    // With propagation one input at a time, with its pull.
    let moments = if propagate { 2 * inputs.iter().max().unwrap_or(&0) } else { inputs.iter().sum::<u64>() };
    let square = (widest as u64).saturating_mul(widest as u64);
    // The damped moment, its factor as it is computed and as it is kept, and what they are multiplied with.
    let factor = square.saturating_mul(4 * (1 + 1 + 1 + 1));
    let rows = (ROWS as u64).saturating_mul(widest as u64).saturating_mul(4 * (6 + parts));
    let matrices = (2 * of.q_width() + 2 * of.kv_width() + 3 * of.ffn) as u64;
    let streams = if propagate { 2 } else { 1 };
    let layer = matrices.saturating_mul(of.hidden as u64).saturating_mul(4 * streams);
    // The output matrix, counted as if every model had its own, is there twice: rounded plainly, and with feedback.
    let output =
        2 * (of.vocab as u64).saturating_mul(GgmlType::Q8_0.row_bytes(of.hidden).unwrap_or(4 * of.hidden) as u64);
    let layer = layer.max(output);
    let states = MemoryNeed::states(of, lengths.iter().sum()).saturating_mul(streams);
    let all = [moments.saturating_mul(parts), factor, rows, layer, states, MemoryNeed::sub_batch(of, &lengths)];
    Ok(MemoryNeed { kv, scratch: all.into_iter().fold(0, u64::saturating_add) })
}

/// Error feedback for all targets in one walk over the layers of the source.
fn walk(
    model: &Model,
    Settings { text, weights, .. }: Settings<'_>,
    unmade: &mut Unmade<'_>,
    progress: &dyn Progress,
) -> Result<Vec<TensorReport>> {
    let (of, spans, cpu) = (model.hyperparameters(), sums::spans(text, weights), model.cpu());
    let mut pass = LayerPass::new(model, text);
    let mut h = pass.embedded(&Transform::default())?;
    let (mut layers, decoded) = (model.weights().layers(), Transform::decoded());
    let mut maker = Maker::new(model, unmade, progress);
    for i in 0..of.layers {
        let w = layers.next_layer(progress)?;
        let ours = OwnedLayer::of(&w, i, model.architecture(), &decoded);
        let sums = |input: MatrixInput| {
            let wanted = readers(model, input).any(|(_, role)| wants_one(model, maker.unmade, i, role));
            wanted.then(|| Sums::new(columns(of, input), None, &spans)).transpose()
        };
        let mut sums = INPUTS.into_iter().map(sums).collect::<Result<Vec<_>>>()?;
        for group in pass.groups() {
            pass.send(i, &ours.layer(), &mut h, group, progress, &mut |input, x| {
                let sums = INPUTS.iter().position(|of| *of == input).and_then(|place| sums[place].as_mut());
                sums.into_iter().for_each(|sums| sums.see(x, &[], cpu, &mut maker.moments));
                ControlFlow::Continue(())
            })?;
        }
        for (input, sums) in INPUTS.into_iter().zip(sums) {
            let Some(sums) = sums else { continue };
            let of_input = sums.finish(cpu, &mut maker.moments)?;
            for (m, role) in readers(model, input) {
                let name = model.architecture().spec(role).name(Some(i));
                for target in 0..maker.unmade.targets() {
                    maker.make(target, &name, ours.matrices()[m].matrix(), (&of_input, Pull::Inputs))?;
                }
            }
        }
    }
    drop(layers);
    let targets = 0..maker.unmade.targets();
    output::output(&mut maker, &pass, &spans, &mut h, targets)?;
    Ok(maker.reports)
}

/// The matrices that read an input, with their places in a layer.
fn readers(model: &Model, input: MatrixInput) -> impl Iterator<Item = (usize, Role)> {
    let reads = move |(_, role): &(usize, Role)| model.architecture().spec(*role).input == Some(input);
    MATRICES.into_iter().enumerate().filter(reads)
}

/// The columns of an input.
fn columns(of: &Hyperparameters, input: MatrixInput) -> usize {
    match input {
        MatrixInput::AttentionOutput => of.q_width(),
        MatrixInput::FfnDown => of.ffn,
        _ => of.hidden,
    }
}

/// Whether any target still wants the matrix of this role in layer `i`, in a type with codes.
fn wants_one(model: &Model, unmade: &Unmade<'_>, i: usize, role: Role) -> bool {
    let name = model.architecture().spec(role).name(Some(i));
    (0..unmade.targets()).any(|target| wants(unmade, target, &name).is_some())
}

/// Whether a target still wants any matrix in a type with codes.
fn wants_any(model: &Model, unmade: &Unmade<'_>, target: usize) -> bool {
    output::wanted(model, unmade, target..target + 1).is_some()
        || (0..model.hyperparameters().layers).any(|i| {
            let names = MATRICES.into_iter().map(|role| model.architecture().spec(role).name(Some(i)));
            names.into_iter().any(|name| wants(unmade, target, &name).is_some())
        })
}
