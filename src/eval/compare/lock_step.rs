//! All chunks of the text through layer `i` of every model before layer `i + 1` of any: each layer of each file is read once, and neither
//! model needs to fit in memory. What is kept are the hidden states, which are saved between layers.

use super::derive::{Derived, Transform};
use super::state::StateFile;
use crate::arch::Role;
use crate::error::Result;
use crate::model::forward::{Derive, Feed, Lane, Sequences, WholeSequences, forward};
use crate::model::{CacheTypes, Model, Scratch};
use crate::progress::Progress;
use std::time::{Duration, Instant};

/// The reference or a candidate, in one mode.
pub struct LaneSpec<'t> {
    /// The place of its model among all.
    pub model: usize,
    /// What becomes of the model's matrices.
    pub transform: &'t Transform,
    /// The types of its KV cache.
    pub cache: CacheTypes,
}

/// A state is saved when the work since the last took so many times as long as saving: an interruption costs little, and saving less than a
/// tenth.
const WORK_PER_SAVE: u32 = 10;

/// The hidden states `(tokens, hidden)` after the last layer of every lane. `tokens (sequences, context)`; lanes are in the order of their
/// models. Starts after the layer that `state` was saved after. `progress` counts tokens times layers times lanes.
///
/// # Errors
/// If the memory cannot be had, weights cannot be read, a number is not finite, or the user stopped.
pub fn hidden_states(
    models: &[&Model],
    lanes: &[LaneSpec<'_>],
    tokens: &[u32],
    context: usize,
    state: &StateFile,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f32>>> {
    let layers = models[0].hyperparameters().layers;
    let (first, mut states) = match state.load(lanes.len())? {
        Some((layer, states)) => (layer + 1, states),
        None => (0, lanes.iter().map(|lane| embed(models[lane.model], lane.transform, tokens)).collect::<Result<_>>()?),
    };
    progress.advance((first * tokens.len() * lanes.len()) as u64);
    let mut sources: Vec<_> = models.iter().map(|model| model.weights().layers_from(first)).collect();
    let mut scratch: Vec<Scratch> = lanes.iter().map(|_| Scratch::default()).collect();
    let mut derived: Vec<Derived<'_>> =
        lanes.iter().map(|lane| Derived::new(lane.transform, models[lane.model].architecture())).collect();
    let parts = lanes.iter().zip(&mut states).zip(&mut scratch).zip(&mut derived);
    let lane = |(((spec, h), scratch), derived)| -> Result<Lane<'_, '_>> {
        let (spec, h, model): (&LaneSpec<'_>, &mut Vec<f32>, &Model) = (spec, h, models[spec.model]);
        let derive = (!spec.transform.is_identity()).then_some(derived as &mut dyn Derive);
        let whole = WholeSequences::new(model.hyperparameters(), tokens, context, spec.cache)?;
        Ok(Lane { model, derive, h, sequences: Sequences::Whole(whole), scratch, hook: None })
    };
    let mut all = parts.map(lane).collect::<Result<Vec<_>>>()?;
    let (mut rest, mut feeds) = (&mut all[..], Vec::new());
    for (m, source) in sources.iter_mut().enumerate() {
        let (own, others) = rest.split_at_mut(lanes.iter().filter(|lane| lane.model == m).count());
        feeds.push(Feed { layers: source, lanes: own });
        rest = others;
    }
    let (mut saved, mut took) = (Instant::now(), Duration::ZERO);
    forward(&mut feeds, first..layers, progress, &mut |i, feeds| {
        if i + 1 < layers && saved.elapsed() >= WORK_PER_SAVE * took {
            let begin = Instant::now();
            state.save(i, feeds.iter().flat_map(|feed| feed.lanes.iter().map(|lane| &*lane.h)))?;
            (saved, took) = (Instant::now(), begin.elapsed());
        }
        Ok(())
    })?;
    drop(feeds);
    drop(all);
    drop(sources);
    models.iter().try_for_each(|model| model.check())?;
    Ok(states)
}

/// The embeddings `(tokens, hidden)` of a lane.
fn embed(model: &Model, transform: &Transform, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut h = Vec::new();
    model.embed(tokens.iter(), tokens.len(), &mut h)?;
    let name = model.architecture().spec(Role::TokenEmbedding).name(None);
    let ty = model.gguf().required_tensor(&name)?.ty;
    h.chunks_exact_mut(model.hyperparameters().hidden).for_each(|h| transform.embedding(&name, ty, h));
    Ok(h)
}
