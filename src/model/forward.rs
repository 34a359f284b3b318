//! The one loop over layers. A pass, calibration and every evaluation go through it: one model, or several in lock step, each layer of each
//! of them before any next layer, so that only one layer of each must be in memory.

use super::layer::{Hook, Scratch};
use super::sequences::Sequences;
use super::states::States;
use super::{CacheTypes, Model, WholeSequences};
use crate::error::Result;
use crate::progress::{Progress, three_digits};
use crate::weights::{Layer, LayerSource, OneLayer};
use std::ops::Range;
use std::time::{Duration, Instant};
use strata_kernels::Rotation;
use strata_quant::GgmlType;

/// Makes a layer's weights of those that a source hands out: the same matrices in another type.
pub trait Derive {
    /// Layer `i`, of which the source has `w`.
    ///
    /// # Errors
    /// If a matrix cannot be had in the other type.
    fn derive<'a>(&'a mut self, i: usize, w: &'a Layer<'_>) -> Result<Layer<'a>>;
}

/// A batch on its way through the layers of a model.
pub struct Lane<'a, 's> {
    /// The model.
    pub model: &'a Model,
    /// What becomes of the source's layers; `None` if they are taken as they are.
    pub derive: Option<&'a mut dyn Derive>,
    /// `(tokens, hidden)`: the hidden states, at first the embeddings of the tokens.
    pub h: &'a mut States,
    /// The sequences of the tokens.
    pub sequences: Sequences<'a, 's>,
    /// The angles of its positions, computed here; of another batch before.
    pub rotation: Rotation,
    /// Sees what the matrices read.
    pub hook: Option<&'a mut Hook<'a>>,
}

/// A source of layers and the lanes that take them from it: a layer is read once for all of these.
pub struct Feed<'f, 'a, 's> {
    /// Where the layers come from.
    pub layers: &'f mut dyn LayerSource,
    /// The lanes.
    pub lanes: &'f mut [Lane<'a, 's>],
}

impl Lane<'_, '_> {
    /// Layer `i` of this model, of which the source has `w`.
    fn layer(&mut self, i: usize, w: &Layer<'_>, scratch: &mut Scratch, progress: &dyn Progress) -> Result<()> {
        let Lane { model, derive, h, sequences, rotation, hook } = self;
        let derived = derive.as_deref_mut().map(|derive| derive.derive(i, w)).transpose()?;
        let w = derived.as_ref().unwrap_or(w);
        sequences.for_each_group(h, scratch, |h, segments, scratch| {
            progress.check()?;
            let passed = model.layer(i, w, h, segments, (&mut *scratch, &*rotation), hook.as_deref_mut());
            passed.map_err(|stage| model.not_finite(Some(i), stage, progress))?;
            progress.advance((h.len() / model.hyperparameters.hidden) as u64);
            Ok(())
        })
    }
}

/// Sends every lane through the layers `range`, layer by layer in lock step: each layer of every lane before any next layer. The sources
/// stand before the first of them; all lanes share the buffers. `progress` counts tokens times layers, can stop the work between layers, and hears where it is if it
/// takes long. `done` is called after each layer of all lanes.
///
/// # Errors
/// If weights cannot be read, a number is not finite, or the user stopped; or the error of `done`.
pub fn forward(
    feeds: &mut [Feed<'_, '_, '_>],
    scratch: &mut Scratch,
    range: Range<usize>,
    progress: &dyn Progress,
    done: &mut dyn FnMut(usize, &mut [Feed<'_, '_, '_>]) -> Result<()>,
) -> Result<()> {
    let lanes = feeds.iter_mut().flat_map(|feed| &mut *feed.lanes);
    lanes.for_each(|lane| lane.sequences.rotate(&mut lane.rotation, lane.model));
    let mut pace = Pace::new(range.clone());
    for i in range {
        pace.say(i, feeds.iter().map(|feed| feed.layers.streamed_bytes()).sum(), progress);
        for Feed { layers, lanes } in &mut *feeds {
            let w = layers.next_layer(progress)?;
            lanes.iter_mut().try_for_each(|lane| lane.layer(i, &w, scratch, progress))?;
        }
        done(i, feeds)?;
    }
    Ok(())
}

/// Sends sequences of so many tokens each, `(tokens, lengths)`, through layer `i` of a model alone, whose weights are `w`, with keys and values
/// in F32: their hidden states `h` in place. `progress` counts tokens.
///
/// # Errors
/// If the memory for keys and values cannot be had, states cannot be read, a number is not finite, or the user stopped.
pub fn one_layer<'a>(
    model: &'a Model,
    (i, w): (usize, &Layer<'_>),
    (tokens, lengths): (&'a [u32], &'a [usize]),
    h: &'a mut States,
    hook: Option<&'a mut Hook<'a>>,
    scratch: &mut Scratch,
    progress: &dyn Progress,
) -> Result<()> {
    let cache = CacheTypes::both(GgmlType::F32);
    let sequences = Sequences::Whole(WholeSequences::new(&model.hyperparameters, tokens, lengths, cache)?);
    let lane = Lane { model, derive: None, h, sequences, rotation: Rotation::default(), hook };
    let feed = Feed { layers: &mut OneLayer(w), lanes: &mut [lane] };
    forward(&mut [feed], scratch, i..i + 1, progress, &mut |_, _| Ok(()))
}

/// Says where a long walk through the layers is.
struct Pace {
    layers: Range<usize>,
    begin: Instant,
    said: Instant,
}

/// How long a walk may take before it says where it is, and how often it does then.
const SAY_AFTER: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_millis(500);

impl Pace {
    fn new(layers: Range<usize>) -> Pace {
        let now = Instant::now();
        Pace { layers, begin: now, said: now }
    }

    /// Before layer `i`: `layer 17 of 126, 6.93 GB/s from disk`, and how long the walk will still take.
    fn say(&mut self, i: usize, streamed_bytes: u64, progress: &dyn Progress) {
        let taken = self.begin.elapsed();
        if i == self.layers.start || taken < SAY_AFTER || self.said.elapsed() < SAY_EVERY {
            return;
        }
        self.said = Instant::now();
        let (seconds, Range { start, end }) = (taken.as_secs_f64(), self.layers.clone());
        let disk = match streamed_bytes {
            0 => String::new(),
            bytes => format!(", {} GB/s from disk", three_digits(bytes as f64 / 1e9 / seconds)),
        };
        let left = seconds * (end - i) as f64 / (i - start) as f64;
        progress.step_left(&format!("layer {} of {end}{disk}", i + 1), left);
    }
}
