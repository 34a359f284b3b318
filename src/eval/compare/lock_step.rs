//! All chunks of the text through layer `i` of every model before layer `i + 1` of any: each layer of each file is read once, and neither
//! model needs to fit in memory. What is kept are the hidden states, which are saved between layers.

use super::derive::Derived;
use super::state::{Saved, StateFile};
use super::text::Text;
use crate::error::Result;
use crate::model::forward::{Derive, Feed, Lane, forward};
use crate::model::{CacheTypes, Model, Scratch, Sequences, States, WholeSequences};
use crate::progress::Progress;
use crate::weights::Transform;
use std::path::Path;

/// The reference or a candidate, in one mode.
pub struct LaneSpec<'t> {
    /// The place of its model among all.
    pub model: usize,
    /// What becomes of the model's matrices.
    pub transform: &'t Transform,
    /// The types of its KV cache.
    pub cache: CacheTypes,
}

/// The hidden states `(tokens, hidden)` after the last layer of every lane; in memory, or in files in the folder `spill`. Lanes are in the
/// order of their models. Starts from `saved`, that is after a layer; what `state` is for. `progress` counts tokens times layers times
/// lanes.
///
/// # Errors
/// If the memory cannot be had, weights or states cannot be read, a number is not finite, or the user stopped.
pub fn hidden_states(
    models: &[&Model],
    lanes: &[LaneSpec<'_>],
    text: &Text,
    spill: Option<&Path>,
    (state, saved): (&StateFile, Option<Saved>),
    progress: &dyn Progress,
) -> Result<Vec<States>> {
    let (layers, tokens, lengths) = (models[0].hyperparameters().layers, text.tokens(), text.lengths());
    let (first, mut states) = match saved {
        Some(saved) => (saved.step as usize + 1, saved.states),
        None => (0, Vec::new()),
    };
    for lane in &lanes[states.len()..] {
        let mut h = States::new(spill, models[lane.model].hyperparameters().hidden)?;
        embed(models[lane.model], lane.transform, &tokens, &mut h)?;
        states.push(h);
    }
    progress.advance((first * tokens.len() * lanes.len()) as u64);
    let mut sources: Vec<_> = models.iter().map(|model| model.weights().layers_from(first)).collect();
    let mut derived: Vec<Derived<'_>> =
        lanes.iter().map(|lane| Derived::new(lane.transform, models[lane.model].architecture())).collect();
    let lane = |((spec, h), derived)| -> Result<Lane<'_, '_>> {
        let (spec, h, model): (&LaneSpec<'_>, &mut States, &Model) = (spec, h, models[spec.model]);
        let derive = (!spec.transform.is_identity()).then_some(derived as &mut dyn Derive);
        let whole = WholeSequences::new(model.hyperparameters(), &tokens, &lengths, spec.cache)?;
        Ok(Lane { model, derive, h, sequences: Sequences::Whole(whole), rotation: Default::default(), hook: None })
    };
    let mut all = lanes.iter().zip(&mut states).zip(&mut derived).map(lane).collect::<Result<Vec<_>>>()?;
    let (mut rest, mut feeds) = (&mut all[..], Vec::new());
    for (m, source) in sources.iter_mut().enumerate() {
        let (own, others) = rest.split_at_mut(lanes.iter().filter(|lane| lane.model == m).count());
        feeds.push(Feed { layers: source, lanes: own });
        rest = others;
    }
    forward(&mut feeds, &mut Scratch::default(), first..layers, progress, &mut |i, feeds| {
        if i + 1 < layers && state.is_due() {
            let lanes = feeds.iter_mut().flat_map(|feed| feed.lanes.iter_mut().map(|lane| &mut *lane.h));
            state.save(i as u64, &[], &mut lanes.collect::<Vec<_>>())?;
        }
        Ok(())
    })?;
    drop(feeds);
    drop(all);
    drop(sources);
    models.iter().try_for_each(|model| model.check())?;
    Ok(states)
}

/// Tokens that are embedded together.
const EMBEDDED: usize = 512;

/// The embeddings `(tokens, hidden)` of a lane into `states`.
pub(crate) fn embed(model: &Model, transform: &Transform, tokens: &[u32], states: &mut States) -> Result<()> {
    let mut h = Vec::new();
    let name = model.embedding_name();
    let ty = model.gguf().required_tensor(&name)?.ty;
    for (i, tokens) in tokens.chunks(EMBEDDED).enumerate() {
        model.embed_with(tokens.iter(), tokens.len(), &mut h, |row| transform.embedding(&name, ty, row))?;
        states.set(i * EMBEDDED, &h)?;
    }
    Ok(())
}
