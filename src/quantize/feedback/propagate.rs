//! Propagation: each matrix is quantized on the activations that those quantized before it give.
//!
//! With `x` what a matrix `W` reads in the source, `x~` what it reads behind the quantized ones, and `r`, `r~` the residual streams that its
//! results are added to, the results `W~ x~` are to come near `W x + r - r~` (`r = r~ = 0` where they are added to none):
//! ```text
//! E |W x + r - r~ - W~ x~|^2 = E |(W* - W~) x~|^2 + const,   W* = W + E[(W (x - x~) + r - r~) x~^T] E[x~ x~^T]^-1
//! ```
//! In full strength that fits the calibration text too well. Each matrix takes the strength that is best on what is held out.

use super::layer::LayerPass;
use super::maker::{Maker, wants};
use super::moments::MomentScratch;
use super::output::output;
use super::sums::{self, Sums};
use super::tensor::{Pull, TensorReport};
use super::{INPUTS, Settings, columns, readers};
use crate::arch::{MatrixInput, Role};
use crate::convert::method::Unmade;
use crate::error::Result;
use crate::model::{Model, States};
use crate::progress::{Progress, Within};
use crate::weights::owned::{Owned, OwnedLayer};
use crate::weights::{LayerSource, Transform};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// The source and the quantized model on their way through the layers.
struct Streams<'a> {
    model: &'a Model,
    spans: Vec<sums::Span>,
    pass: LayerPass<'a>,
    ours: States,   // (tokens, hidden)
    theirs: States, // (tokens, hidden)
}

/// A layer of both.
struct Layers {
    ours: OwnedLayer,
    theirs: OwnedLayer, // quantized so far
}

/// Makes the matrices of all layers of one target.
///
/// # Errors
/// As [`super::feedback`].
pub fn propagate(
    model: &Model,
    Settings { text, weights, .. }: Settings<'_>,
    target: usize,
    unmade: &mut Unmade<'_>,
    progress: &dyn Progress,
) -> Result<Vec<TensorReport>> {
    let (pass, embedding) = (LayerPass::new(model, text), model.embedding_name());
    let ty = unmade.ty(target, &embedding).map(|ty| HashMap::from([(embedding.clone(), ty)]));
    let importance = unmade.importance(target, &embedding).map(|weights| (embedding, weights.to_vec()));
    let embedded = Transform::typed(ty.unwrap_or_default(), importance.into_iter().collect());
    let (ours, theirs) = (pass.embedded(&Transform::default())?, pass.embedded(&embedded)?);
    let mut streams = Streams { model, spans: sums::spans(text, weights), pass, ours, theirs };
    let (mut layers, decoded) = (model.weights().layers(), Transform::decoded());
    let mut maker = Maker::new(model, unmade, progress);
    for i in 0..model.hyperparameters().layers {
        let w = layers.next_layer(progress)?;
        let of = || OwnedLayer::of(&w, i, model.architecture(), &decoded);
        let mut both = Layers { ours: of(), theirs: of() };
        for input in INPUTS {
            let name = |role: Role| model.architecture().spec(role).name(Some(i));
            let wanted = |(_, role): (usize, Role)| wants(maker.unmade, target, &name(role)).is_some();
            let mut of_input = None;
            if readers(model, input).any(wanted) {
                let sums = streams.moments(i, &both, input, &mut maker.moments, progress)?;
                of_input = Some(sums.finish(model.cpu(), &mut maker.moments)?);
            }
            let pull = if is_added(input) { Pull::Results } else { Pull::Inputs };
            for (m, role) in readers(model, input) {
                let (name, w) = (name(role), &both.ours.matrices()[m]);
                let Some(ty) = maker.unmade.ty(target, &name) else { continue };
                let there = maker.unmade.wants(target, &name).is_none();
                let made = match &of_input {
                    Some(of_input) => maker.make(target, &name, w.matrix(), (of_input, pull))?,
                    None => None,
                };
                let bytes = match made {
                    Some(bytes) => bytes,
                    None if there => maker.unmade.written(target, &name)?,
                    None => w.encoded(ty),
                };
                both.theirs.set(m, Owned::decoded_from(ty, w, &bytes));
            }
        }
        streams.advance(i, &both, progress)?;
    }
    drop(layers);
    let Streams { spans, pass, theirs, .. } = &mut streams;
    output(&mut maker, pass, spans, theirs, target..target + 1)?;
    Ok(maker.reports)
}

/// Whether the results of the matrices that read this input are added to the residual stream.
fn is_added(input: MatrixInput) -> bool {
    matches!(input, MatrixInput::AttentionOutput | MatrixInput::FfnDown)
}

impl Streams<'_> {
    /// The moments of an input of layer `i` behind what is quantized so far, with what pulls.
    fn moments(
        &mut self,
        i: usize,
        both: &Layers,
        input: MatrixInput,
        scratch: &mut MomentScratch,
        progress: &dyn Progress,
    ) -> Result<Sums<'_>> {
        let Streams { model, spans, pass, ours, theirs } = self;
        let (of, cpu) = (model.hyperparameters(), model.cpu());
        let cols = columns(of, input);
        let pulls = if is_added(input) { of.hidden } else { cols };
        let mut sums = Sums::new(cols, Some(pulls), spans)?;
        // Nothing after the residual stream that this input adds to is of interest.
        let last = if input == MatrixInput::AttentionOutput { MatrixInput::Ffn } else { input };
        let until = |seen: MatrixInput| {
            if seen == last && input != MatrixInput::FfnDown {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let quiet = Within::uncounted(progress);
        for group in pass.groups() {
            let rows = group.rows.clone();
            let (mut x, mut y) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
            for (s, (h, w)) in [(&mut *ours, &both.ours), (&mut *theirs, &both.theirs)].into_iter().enumerate() {
                let before = h.rows(rows.clone())?.to_vec();
                pass.send(i, &w.layer(), h, group.clone(), &quiet, &mut |seen, values| {
                    if seen == input {
                        x[s].extend_from_slice(values);
                    }
                    until(seen)
                })?;
                y[s] = h.rows(rows.clone())?.to_vec();
                h.update(rows.clone(), |h| {
                    h.copy_from_slice(&before);
                    Ok(())
                })?;
            }
            let [ours, theirs] = if is_added(input) { &y } else { &x };
            let pull: Vec<f32> = ours.par_iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect();
            sums.see(&x[1], &pull, cpu, scratch);
        }
        Ok(sums)
    }

    /// Both through layer `i`. `progress` counts tokens.
    fn advance(&mut self, i: usize, both: &Layers, progress: &dyn Progress) -> Result<()> {
        let Streams { pass, ours, theirs, .. } = self;
        for group in pass.groups() {
            pass.send(i, &both.ours.layer(), ours, group.clone(), &Within::uncounted(progress), &mut |_, _| {
                ControlFlow::Continue(())
            })?;
            pass.send(i, &both.theirs.layer(), theirs, group, progress, &mut |_, _| ControlFlow::Continue(()))?;
        }
        Ok(())
    }
}
