//! One tensor at a time: the divergence of the reference with a single tensor as in the candidate, weights only. Only the layers from that
//! tensor on are run, from the kept states of the reference.

use super::costs::Place;
use super::resume::{Done, Resume};
use super::streams::{Stream, copy, pass, stream};
use super::work::{Variant, Work};
use crate::error::Result;
use crate::eval::compare::derive::Head;
use crate::eval::compare::lock_step::embed;
use crate::eval::compare::scores::CandidateScores;
use crate::eval::compare::{DECODED_LOGIT_ROWS, score};
use crate::model::{Scratch, States};
use crate::progress::Progress;
use crate::weights::owned::{Owned, OwnedLayer};

/// Tensors that are run together: each layer of the reference is read once for all of them, and each has a stream of its own.
pub const TOGETHER: usize = 8;

/// A tensor to be measured.
#[derive(Clone, Copy)]
pub struct Task {
    /// The place of its candidate.
    pub candidate: usize,
    /// Its place in the model.
    pub place: Place,
    /// Its place in the result.
    pub at: usize,
}

impl Task {
    /// The first layer that differs from the reference, or whose input does; the number of layers if there is none.
    fn first_layer(&self, layers: usize) -> usize {
        match self.place {
            Place::Embedding { .. } => 0,
            Place::Matrix { layer, .. } => layer,
            Place::Output => layers,
        }
    }
}

/// The mean divergences of all tasks, in nats per scored token. `progress` counts tokens times layers.
///
/// # Errors
/// If the memory cannot be had, states cannot be read or written, a number is not finite, or the user stopped.
pub fn verify(
    work: &Work<'_>,
    candidates: &[Variant<'_>],
    tasks: &[Task],
    (done, resume): (&mut Done, &Resume),
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let layers = work.reference.hyperparameters().layers;
    let runs: usize = tasks.iter().map(|task| layers - task.first_layer(layers)).sum();
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|&task| tasks[task].first_layer(layers));
    let mut measured = vec![0.0; tasks.len()];
    if tasks.is_empty() {
        return Ok(measured);
    }
    progress.begin("tensors: layer by layer", (layers * work.tokens.len()) as u64);
    let mut reference = stream(work, None, layers, progress)?;
    progress.end();
    progress.begin("tensors: one at a time", (runs * work.tokens.len()) as u64);
    for group in order.chunks(TOGETHER).skip(done.verified.len() / TOGETHER) {
        let these: Vec<Task> = group.iter().map(|&task| tasks[task]).collect();
        let klds = together(work, candidates, &these, (&mut reference, &mut done.ends), progress)?;
        done.verified.extend(klds);
        resume.save(done, None)?;
    }
    progress.end();
    order.iter().zip(&done.verified).for_each(|(&task, kld)| measured[task] = *kld);
    Ok(measured)
}

/// [`verify`] of a few tasks in lock step.
fn together(
    work: &Work<'_>,
    candidates: &[Variant<'_>],
    tasks: &[Task],
    (stream, ends): (&mut Stream, &mut Vec<States>),
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let (reference, n) = (work.reference, work.tokens.len());
    let layers = reference.hyperparameters().layers;
    let mut states: Vec<States> = tasks.iter().map(|_| work.states()).collect::<Result<_>>()?;
    let first = tasks.iter().map(|task| task.first_layer(layers)).min().unwrap_or(layers);
    let mut scratch = Scratch::default();
    for i in first..layers {
        let w = reference.weights().mapped_layer(i);
        let ours = OwnedLayer::of(&w, i, reference.architecture(), &work.decoded);
        reference.weights().release();
        for (task, h) in tasks.iter().zip(&mut states).filter(|(task, _)| task.first_layer(layers) <= i) {
            let (mut layer, candidate, other) = (ours.layer(), &candidates[task.candidate], other(candidates, task, i));
            match task.place {
                Place::Embedding { .. } if i == 0 => embed(candidate.model, &candidate.decoded, &work.tokens, h)?,
                Place::Matrix { layer: own, matrix } if i == own => {
                    copy(&mut stream.kept, i * n..(i + 1) * n, h, 0)?;
                    layer = other.as_ref().map_or(layer, |other| ours.with(matrix, other));
                }
                _ => {}
            }
            pass(work, reference, i, &layer, h, &mut scratch, progress)?;
        }
    }
    let (mut lanes, first) = (vec![(Head::new(reference, &work.decoded), 0)], ends.len());
    for (t, task) in tasks.iter().enumerate() {
        let candidate = &candidates[task.candidate];
        lanes.push(match task.place {
            Place::Output => (Head::new(candidate.model, &candidate.decoded), 0),
            Place::Embedding { tied: true } => (Head::new(candidate.model, &candidate.decoded), first + t),
            _ => (Head::new(reference, &work.decoded), first + t),
        });
    }
    ends.append(&mut states);
    let scored = score(lanes, ends, work.text, DECODED_LOGIT_ROWS, &crate::progress::Within::uncounted(progress));
    ends.truncate(first);
    Ok(scored?.1.iter().map(CandidateScores::mean_kld).collect())
}

/// The matrix of a task that is in layer `i`, decoded.
fn other(candidates: &[Variant<'_>], task: &Task, i: usize) -> Option<Owned> {
    let Place::Matrix { layer, matrix } = task.place else { return None };
    let candidate = &candidates[task.candidate];
    (layer == i).then(|| {
        let w = candidate.model.weights().mapped_layer(i);
        let (_, linear) = w.linears()[matrix];
        let other = Owned::of(&task.place.name(candidate.model.architecture()), linear, &candidate.decoded);
        candidate.model.weights().release();
        other
    })
}
