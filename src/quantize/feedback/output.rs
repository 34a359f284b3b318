//! The output matrix, where the model has one of its own: rounded on what it reads after the last layer. Where the token embedding gives the
//! logits, it keeps plain rounding: what is best for the logits is not for the embeddings.

use super::layer::LayerPass;
use super::maker::{Maker, wants};
use super::sums::{Span, Sums};
use super::tensor::Pull;
use crate::convert::method::Unmade;
use crate::error::Result;
use crate::model::{Model, States};
use std::ops::Range;
use strata_quant::Activations;

/// The name of the output matrix, if it is not the token embedding and some target still wants it.
pub fn wanted(model: &Model, unmade: &Unmade<'_>, mut targets: Range<usize>) -> Option<String> {
    let name = model.output_name();
    let own = name != model.embedding_name();
    (own && targets.any(|target| wants(unmade, target, &name).is_some())).then_some(name)
}

/// Makes the output matrix of those of `targets` that want it, on the hidden states `h` after the last layer.
///
/// # Errors
/// If the memory cannot be had, a number is not finite, the tensor cannot be written, or the user stopped.
pub fn output(
    maker: &mut Maker<'_, '_, '_>,
    pass: &LayerPass<'_>,
    spans: &[Span],
    h: &mut States,
    targets: Range<usize>,
) -> Result<()> {
    let (model, progress) = (maker.model, maker.progress);
    let Some(name) = wanted(model, maker.unmade, targets.clone()) else { return Ok(()) };
    let mut sums = Sums::new(model.hyperparameters().hidden, None, spans)?;
    let mut x = Activations::default();
    for group in pass.groups() {
        progress.check()?;
        model.output_norm(h.rows(group.rows)?, &mut x, progress)?;
        sums.see(x.values(), &[], model.cpu(), &mut maker.moments);
    }
    let moments = sums.finish(model.cpu(), &mut maker.moments)?;
    let matrix = model.weights().output().weight;
    for target in targets {
        maker.make(target, &name, matrix, (&moments, Pull::Inputs))?;
    }
    Ok(())
}
