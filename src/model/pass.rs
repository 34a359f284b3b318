//! A pass: all layers, once, over any number of tokens of any number of sequences.
//!
//! ```text
//! h = embedding[token]
//! for each layer:  h = layer(h)
//! logits = Wout norm(h)
//! ```
//! A layer's weights are used for all tokens of the pass before the next layer's are touched: a weight that comes from disk is read
//! once a pass.

use super::finite::{Stage, finite};
use super::forward::{Feed, Lane, forward};
use super::layer::{Hook, SUB_BATCH};
use super::sequences::{Sequences, WholeSequences};
use super::states::States;
use super::{CacheTypes, Model, Scratch, Segment};
use crate::arch::MatrixInput;
use crate::error::{Allocation, Error, Result};
use crate::progress::{Progress, Within};
use crate::verify;
use crate::weights::LayerSource;
use std::ops::Range;
use strata_kernels::Rotation;
use strata_quant::Activations;
use strata_quant::float::all_finite;

/// The hidden states that a pass ended with.
pub struct Hidden<'a> {
    model: &'a Model,
    states: &'a [f32], // (tokens, hidden)
    x: &'a mut Activations,
    logits: &'a mut Vec<f32>, // (rows, vocab)
}

impl<'a> Hidden<'a> {
    /// `(tokens, hidden)`: the states after the last layer, before its norm, of all segments in their order.
    pub fn states(&self) -> &[f32] {
        self.states
    }

    /// The logits `(rows, vocab)` after `rows` of the tokens, all segments counted through.
    ///
    /// # Errors
    /// If one is not finite: then the weights are searched for the cause, of which `progress` hears.
    ///
    /// # Panics
    /// If the pass had fewer tokens.
    pub fn logits(&mut self, rows: Range<usize>, progress: &dyn Progress) -> Result<&[f32]> {
        Hidden { model: self.model, states: self.states, x: self.x, logits: self.logits }.into_logits(rows, progress)
    }

    /// The logits `(rows, vocab)` after these tokens, all segments counted through.
    ///
    /// # Errors
    /// As [`Hidden::logits`].
    ///
    /// # Panics
    /// As there.
    pub fn logits_after(self, rows: &[usize], progress: &dyn Progress) -> Result<&'a [f32]> {
        let Hidden { model, states, x, logits } = self;
        let hidden = model.hyperparameters.hidden;
        let h: Vec<f32> = rows.iter().flat_map(|row| &states[row * hidden..(row + 1) * hidden]).copied().collect();
        Hidden { model, states: &h, x, logits: &mut *logits }.into_logits(0..rows.len(), progress)?;
        Ok(logits)
    }

    /// [`Hidden::logits`] of the only rows that are wanted.
    ///
    /// # Errors
    /// As there.
    pub fn into_logits(self, rows: Range<usize>, progress: &dyn Progress) -> Result<&'a [f32]> {
        let Hidden { model, states, x, logits } = self;
        let of = &model.hyperparameters;
        let h = &states[rows.start * of.hidden..rows.end * of.hidden];
        model.output_norm(h, x, progress)?;
        let [logits] = model.linears([model.weights.output()], x, [logits]);
        model.finish_logits(logits, progress)?;
        Ok(logits)
    }
}

impl Model {
    /// Sends the new tokens of all segments through all layers; their caches then hold them. `progress` can stop it between layers, and
    /// hears where it is if it takes long.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, a cache has no room, the memory cannot be had, weights cannot be read, a number is not finite
    /// (then the weights are searched for the cause), or the user stopped.
    pub fn pass<'a>(
        &'a self,
        scratch: &'a mut Scratch,
        segments: &mut [Segment<'_>],
        progress: &dyn Progress,
    ) -> Result<Hidden<'a>> {
        let n = room(segments)?;
        let mut h = std::mem::take(&mut scratch.h);
        self.embed(segments.iter().flat_map(|segment| segment.tokens), n, &mut h)?;
        self.through(h, Sequences::Cached(segments), scratch, progress)?;
        for segment in segments.iter_mut() {
            segment.cache.grow(segment.tokens.len());
        }
        Ok(Hidden { model: self, states: &scratch.h, x: &mut scratch.x, logits: &mut scratch.logits })
    }

    /// Sends sequences that begin and end in it through all layers, as [`Model::pass`] does.
    ///
    /// # Errors
    /// As there.
    pub fn pass_whole<'a>(
        &'a self,
        scratch: &'a mut Scratch,
        sequences: WholeSequences<'_>,
        progress: &dyn Progress,
    ) -> Result<Hidden<'a>> {
        let (mut h, tokens) = (std::mem::take(&mut scratch.h), sequences.tokens());
        self.embed(tokens.iter(), tokens.len(), &mut h)?;
        self.through(h, Sequences::Whole(sequences), scratch, progress)?;
        Ok(Hidden { model: self, states: &scratch.h, x: &mut scratch.x, logits: &mut scratch.logits })
    }

    /// The embeddings `h (tokens, hidden)` through all layers, into `scratch.h`.
    fn through(
        &self,
        h: Vec<f32>,
        sequences: Sequences<'_, '_>,
        scratch: &mut Scratch,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut h = States::in_memory(h, self.hyperparameters.hidden);
        let rotation = std::mem::take(&mut scratch.rotation);
        let mut layers = self.weights.layers();
        let lane = Lane { model: self, derive: None, h: &mut h, sequences, rotation, hook: None };
        let rotation = self.forward(&mut layers, lane, scratch, &Within::uncounted(progress))?;
        drop(layers);
        self.check()?;
        (scratch.h, scratch.rotation) = (h.into_memory(), rotation);
        Ok(())
    }

    /// Sends sequences of so many tokens each, at least 1, whose `tokens` follow each other, through all layers with a hook, which sees
    /// what the matrices of each layer read, in the order of the tokens, a number of tokens at a time; last what the output matrix would
    /// read, as that of layer `layers`. `progress` counts tokens.
    ///
    /// Every weight is read once, however many sequences there are. Memory: `4 * hidden` bytes for each token; keys and values only of the
    /// sequences that go through a layer together, in one layer.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the memory cannot be had, or the user stopped.
    pub fn forward_with_hook(
        &self,
        scratch: &mut Scratch,
        tokens: &[u32],
        lengths: &[usize],
        progress: &dyn Progress,
        hook: &mut Hook<'_>,
    ) -> Result<()> {
        let of = &self.hyperparameters;
        let mut h = Vec::new(); // (tokens, hidden)
        self.embed(tokens.iter(), tokens.len(), &mut h)?;
        let mut h = States::in_memory(h, of.hidden);
        let sequences = Sequences::Whole(WholeSequences::new(of, tokens, lengths, CacheTypes::default())?);
        let mut layers = self.weights.layers();
        let mut see = |i: usize, input: MatrixInput, x: &Activations| hook(i, input, x);
        let rotation = std::mem::take(&mut scratch.rotation);
        let lane = Lane { model: self, derive: None, h: &mut h, sequences, rotation, hook: Some(&mut see) };
        self.forward(&mut layers, lane, scratch, &Within::counted(progress, of.layers as u64))?;
        drop(layers);
        self.check()?;
        for h in h.into_memory().chunks(SUB_BATCH * of.hidden) {
            self.output_norm(h, &mut scratch.x, progress)?;
            // After the last layer there is nothing to leave out.
            let _ = hook(of.layers, MatrixInput::Output, &scratch.x);
        }
        Ok(())
    }

    /// What the output matrix reads, into `x`: the norm of hidden states `(rows, hidden)` after the last layer.
    ///
    /// # Errors
    /// If it is not finite: then the weights are searched for the cause, of which `progress` hears.
    pub(crate) fn output_norm(&self, h: &[f32], x: &mut Activations, progress: &dyn Progress) -> Result<()> {
        let of = &self.hyperparameters;
        let x = x.reset(h.len() / of.hidden, of.hidden);
        let normed = self.cpu.rms_norm(h, self.weights.output_norm(), of.norm_eps, x);
        finite(normed, Stage::OutputNorm).map_err(|stage| self.not_finite(None, stage, progress))
    }

    /// Makes logits of what the output matrix gives, and checks them.
    ///
    /// # Errors
    /// As [`Model::output_norm`].
    pub(crate) fn finish_logits(&self, logits: &mut [f32], progress: &dyn Progress) -> Result<()> {
        self.cpu.scale(logits, 1.0 / self.hyperparameters.scales.logits);
        finite(all_finite(logits), Stage::Output).map_err(|stage| self.not_finite(None, stage, progress))
    }

    /// All layers over one lane, whose rotation it returns.
    fn forward(
        &self,
        layers: &mut dyn LayerSource,
        mut lane: Lane<'_, '_>,
        scratch: &mut Scratch,
        progress: &dyn Progress,
    ) -> Result<Rotation> {
        let feed = Feed { layers, lanes: std::slice::from_mut(&mut lane) };
        forward(&mut [feed], scratch, 0..self.hyperparameters.layers, progress, &mut |_, _| Ok(()))?;
        Ok(lane.rotation)
    }

    /// The hidden states before the first layer, `(n, hidden)`, of `n` tokens.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the memory cannot be had, or a weight cannot be read or is not finite.
    pub fn embed<'t>(&self, tokens: impl Iterator<Item = &'t u32>, n: usize, h: &mut Vec<f32>) -> Result<()> {
        self.embed_with(tokens, n, h, |_| ())
    }

    /// The same of what `transform` makes of the rows of the embedding.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub(crate) fn embed_with<'t>(
        &self,
        tokens: impl Iterator<Item = &'t u32>,
        n: usize,
        h: &mut Vec<f32>,
        transform: impl Fn(&mut [f32]),
    ) -> Result<()> {
        let (d, vocab) = (self.hyperparameters.hidden, self.hyperparameters.vocab);
        h.clear();
        if n.checked_mul(d).and_then(|len| h.try_reserve_exact(len).ok()).is_none() {
            let bytes = (n as u64).saturating_mul(d as u64).saturating_mul(4);
            return Err(Error::OutOfMemory { what: Allocation::Activations { tokens: n }, bytes });
        }
        h.resize(n * d, 0.0);
        for (&token, h) in tokens.zip(h.chunks_exact_mut(d)) {
            if token as usize >= vocab {
                return Err(Error::TokenOutOfVocabulary { token, vocab });
            }
            self.weights.embed(token, h)?;
            self.weights.embedding_low_rank().iter().for_each(|added| added.add_row(&self.cpu, token, h));
            if let Some(column) = h.iter().position(|v| !v.is_finite()) {
                self.check()?;
                return Err(verify::bad_weight(
                    self.gguf(),
                    &self.embedding_name(),
                    (token.into(), column as u64),
                    h[column],
                ));
            }
            transform(h);
        }
        self.cpu.scale(h, self.hyperparameters.scales.embedding);
        Ok(())
    }
}

/// How many tokens the segments have, after checking that their caches have room.
fn room(segments: &[Segment<'_>]) -> Result<usize> {
    for Segment { tokens, cache } in segments {
        if cache.len() + tokens.len() > cache.capacity() {
            let (have, more, room) = (cache.len(), tokens.len(), cache.capacity());
            return Err(Error::ContextFull { have, more, room });
        }
    }
    Ok(segments.iter().map(|segment| segment.tokens.len()).sum())
}
