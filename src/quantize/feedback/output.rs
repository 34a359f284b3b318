//! The output matrix, where the model has one of its own: rounded on what it reads after the last layer. Where the token embedding gives the
//! logits, it keeps plain rounding: what is best for the logits is not for the embeddings.

use super::layer::LayerPass;
use super::moments::MomentScratch;
use super::sums::{Span, Sums};
use super::tensor::{Pull, Setting, TensorReport, TensorScratch};
use super::with_codes;
use crate::convert::method::Unmade;
use crate::error::Result;
use crate::model::{Model, States};
use crate::progress::Progress;
use std::ops::Range;
use strata_quant::Activations;

/// What stays the same for all layers: the text and the buffers.
pub struct Buffers<'a> {
    /// The text on its way.
    pub pass: &'a LayerPass<'a>,
    /// The use of its tokens.
    pub spans: &'a [Span],
    /// For moments.
    pub moments: &'a mut MomentScratch,
    /// For tensors.
    pub tensors: &'a mut TensorScratch,
}

/// Makes the output matrix of those of `targets` that want it, on the hidden states `h` after the last layer.
///
/// # Errors
/// If the memory cannot be had, a number is not finite, the tensor cannot be written, or the user stopped.
pub fn output(
    model: &Model,
    h: &mut States,
    targets: Range<usize>,
    unmade: &mut Unmade<'_>,
    buffers: Buffers<'_>,
    progress: &dyn Progress,
) -> Result<Vec<TensorReport>> {
    let (name, cpu) = (model.output_name(), model.cpu());
    let wants = |unmade: &Unmade<'_>, target: usize| unmade.wants(target, &name).and_then(with_codes);
    if name == model.embedding_name() || !targets.clone().any(|target| wants(unmade, target).is_some()) {
        return Ok(Vec::new());
    }
    let mut sums = Sums::new(model.hyperparameters().hidden, None, buffers.spans)?;
    let mut x = Activations::default();
    for group in buffers.pass.groups() {
        progress.check()?;
        model.output_norm(h.rows(group.rows)?, &mut x, progress)?;
        sums.see(x.values(), &[], cpu, buffers.moments);
    }
    let (moments, matrix) = (sums.finish(cpu, buffers.moments)?, model.weights().output().weight);
    let mut reports = Vec::new();
    for target in targets {
        let Some((ty, codec)) = wants(unmade, target) else { continue };
        progress.check()?;
        progress.step(&name);
        let importance = unmade.importance(target, &name);
        let setting = Setting { cpu, moments: &moments, pull: Pull::Inputs, ty, codec: &codec, importance };
        let (bytes, report) = setting.round(matrix, buffers.tensors);
        unmade.write(target, &name, &bytes)?;
        reports.push(TensorReport { target, name: name.clone(), ..report });
    }
    Ok(reports)
}
