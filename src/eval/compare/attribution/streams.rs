//! The residual stream: what becomes of it in the candidates, layer by layer, and that of one model, kept before every layer.

use super::result::LayerError;
use super::resume::{Done, Resume};
use super::work::{HALFWAY, Layers, Variant, Work};
use crate::error::Result;
use crate::eval::compare::lock_step::embed;
use crate::eval::compare::ranges::blocks;
use crate::model::forward::one_layer;
use crate::model::{Model, Scratch, States};
use crate::progress::Progress;
use crate::weights::owned::{OwnedLayer, towards};
use crate::weights::{Layer, LayerSource};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are copied and compared together.
const ROWS: usize = 512;

/// Sends the text through the reference and all candidates, from where they are done. `progress` counts tokens times layers, and that
/// twice for each candidate.
///
/// # Errors
/// If the memory cannot be had, weights or states cannot be read, a number is not finite, or the user stopped.
pub fn streams(
    work: &Work<'_>,
    candidates: &[Variant<'_>],
    (done, resume): (&mut Done, &Resume),
    progress: &dyn Progress,
) -> Result<()> {
    let (reference, n, first) = (work.reference, work.tokens.len(), done.errors.first().map_or(0, Vec::len));
    if done.ends.is_empty() {
        let of_candidates = candidates.iter().map(|candidate| (candidate.model, &candidate.decoded));
        for (model, transform) in [(reference, &work.decoded)].into_iter().chain(of_candidates) {
            let mut end = work.states()?;
            embed(model, transform, &work.tokens, &mut end)?;
            done.ends.push(end);
        }
    }
    progress.advance((n * first * (1 + 2 * candidates.len())) as u64);
    let (mut before, mut local, mut scratch) = (work.states()?, work.states()?, Scratch::default());
    let mut sources: Vec<_> = candidates.iter().map(|c| c.own.then(|| c.model.weights().layers_from(first))).collect();
    let mut layers = reference.weights().layers_from(first);
    for i in first..reference.hyperparameters().layers {
        let Done { ends, errors, .. } = &mut *done;
        let Some((h, ends)) = ends.split_first_mut() else { break };
        let w = layers.next_layer(progress)?;
        copy(h, 0..n, &mut before, 0)?;
        let ours = OwnedLayer::of(&w, i, reference.architecture(), &work.decoded);
        pass(work, reference, i, &ours.layer(), h, &mut scratch, progress)?;
        let candidates = candidates.iter().zip(&mut sources).zip(ends).zip(errors);
        for (((candidate, source), end), errors) in candidates {
            let of = |w: &Layer<'_>| OwnedLayer::of(w, i, candidate.model.architecture(), &candidate.decoded);
            let theirs = match source {
                Some(source) => of(&source.next_layer(progress)?),
                None => of(&w),
            };
            copy(&mut before, 0..n, &mut local, 0)?;
            let mut through =
                |h: &mut States| pass(work, candidate.model, i, &theirs.layer(), h, &mut scratch, progress);
            through(&mut local)?;
            through(end)?;
            let (local, accumulated) = (relative(&mut local, h, n)?, relative(end, h, n)?);
            errors.push(LayerError { layer: i, local, accumulated });
        }
        resume.save(done, None)?;
    }
    Ok(())
}

/// The stream of all tokens in the first layers of one model.
pub struct Stream {
    /// Before every layer, one after the other: `(layers, tokens, hidden)`.
    pub kept: States,
    /// After the last of them: `(tokens, hidden)`.
    pub end: States,
}

/// Sends the text through the first `layers` of the reference, or of the model halfway from it to a candidate. `progress` counts tokens
/// times layers.
///
/// # Errors
/// As [`streams`].
pub fn stream(
    work: &Work<'_>,
    candidate: Option<&Variant<'_>>,
    layers: usize,
    progress: &dyn Progress,
) -> Result<Stream> {
    let (reference, n) = (work.reference, work.tokens.len());
    let (mut h, mut kept) = (work.states()?, work.states()?);
    embed(reference, &work.decoded, &work.tokens, &mut h)?;
    if let Some(candidate) = candidate {
        let mut theirs = work.states()?;
        embed(candidate.model, &candidate.decoded, &work.tokens, &mut theirs)?;
        for block in blocks(n, ROWS) {
            let theirs = theirs.rows(block.clone())?;
            h.update(block, |h| {
                h.copy_from_slice(&towards(h, theirs, HALFWAY));
                Ok(())
            })?;
        }
    }
    let mut scratch = Scratch::default();
    for i in 0..layers {
        copy(&mut h, 0..n, &mut kept, i * n)?;
        let layer = Layers::read(work, candidate, i).halfway();
        pass(work, reference, i, &layer.layer(), &mut h, &mut scratch, progress)?;
    }
    Ok(Stream { kept, end: h })
}

/// Copies some rows to those from `first` on.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy(from: &mut States, rows: Range<usize>, to: &mut States, first: usize) -> Result<()> {
    for start in rows.clone().step_by(ROWS) {
        let block = start..(start + ROWS).min(rows.end);
        to.set(first + start - rows.start, from.rows(block)?)?;
    }
    Ok(())
}

/// The mean over `n` tokens of `|theirs - ours|^2 / |ours|^2`.
fn relative(theirs: &mut States, ours: &mut States, n: usize) -> Result<f64> {
    let mut sum = 0.0;
    for block in blocks(n, ROWS) {
        let (theirs, ours) = (theirs.rows(block.clone())?, ours.rows(block.clone())?);
        let d = ours.len() / block.len();
        let of = |(theirs, ours): (&[f32], &[f32])| {
            let (mut error, mut all) = (0.0, 0.0);
            for (theirs, ours) in theirs.iter().zip(ours) {
                error += (f64::from(*theirs) - f64::from(*ours)).powi(2);
                all += f64::from(*ours).powi(2);
            }
            if all > 0.0 { error / all } else { 0.0 }
        };
        let rows: Vec<f64> = theirs.par_chunks_exact(d).zip(ours.par_chunks_exact(d)).map(of).collect();
        sum += rows.iter().sum::<f64>();
    }
    Ok(sum / n as f64)
}

/// Sends all chunks through layer `i` of a model, whose weights are `w`, with keys and values in F32.
///
/// # Errors
/// If the memory for keys and values cannot be had, states cannot be read, a number is not finite, or the user stopped.
pub fn pass(
    work: &Work<'_>,
    model: &Model,
    i: usize,
    w: &Layer<'_>,
    h: &mut States,
    scratch: &mut Scratch,
    progress: &dyn Progress,
) -> Result<()> {
    one_layer(model, (i, w), (&work.tokens, &work.lengths), h, None, scratch, progress)
}
