//! The calibration text on its way through one layer: a group of chunks at a time.

use crate::arch::MatrixInput;
use crate::error::Result;
use crate::eval::compare::Text;
use crate::model::forward::{Feed, Lane, forward};
use crate::model::sequences::groups;
use crate::model::{CacheTypes, Model, Scratch, Sequences, States, WholeSequences};
use crate::progress::Progress;
use crate::weights::{Layer, OneLayer, Transform};
use std::ops::{ControlFlow, Range};
use strata_kernels::Rotation;
use strata_quant::{Activations, GgmlType};

/// About so many tokens go through a layer together; at least a chunk.
const TOKENS: usize = 512;

/// Some chunks that follow each other, and the rows of their tokens.
#[derive(Clone)]
pub struct Group {
    chunks: Range<usize>,
    /// The rows of their tokens.
    pub rows: Range<usize>,
}

/// Sends the text through layers.
pub struct LayerPass<'a> {
    model: &'a Model,
    tokens: Vec<u32>,
    lengths: Vec<usize>,
    scratch: Scratch,
}

impl<'a> LayerPass<'a> {
    /// Of a model and a text.
    pub fn new(model: &'a Model, text: &Text) -> LayerPass<'a> {
        LayerPass { model, tokens: text.tokens(), lengths: text.lengths(), scratch: Scratch::default() }
    }

    /// The groups that the text goes in.
    pub fn groups(&self) -> Vec<Group> {
        let ends: Vec<usize> = std::iter::once(0)
            .chain(self.lengths.iter().scan(0, |end, len| {
                *end += len;
                Some(*end)
            }))
            .collect();
        let rows = |chunks: Range<usize>| Group { rows: ends[chunks.start]..ends[chunks.end], chunks };
        groups(&self.lengths, &[], TOKENS).into_iter().map(rows).collect()
    }

    /// The embeddings of all tokens `(tokens, hidden)`, each after what `transform` makes of it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn embedded(&self, transform: &Transform) -> Result<States> {
        let (model, mut h) = (self.model, Vec::new());
        model.embed(self.tokens.iter(), self.tokens.len(), &mut h)?;
        let name = model.embedding_name();
        let ty = model.gguf().required_tensor(&name)?.ty;
        h.chunks_exact_mut(model.hyperparameters().hidden).for_each(|h| transform.embedding(&name, ty, h));
        Ok(States::in_memory(h, model.hyperparameters().hidden))
    }

    /// Sends a group through layer `i`, whose weights are `w`: its rows of `h` in place. `see` sees what the matrices read. `progress` counts
    /// tokens.
    ///
    /// # Errors
    /// If a number is not finite, or the user stopped.
    pub fn send(
        &mut self,
        i: usize,
        w: &Layer<'_>,
        h: &mut States,
        Group { chunks, rows }: Group,
        progress: &dyn Progress,
        see: &mut dyn FnMut(MatrixInput, &[f32]) -> ControlFlow<()>,
    ) -> Result<()> {
        let (of, hidden) = (self.model.hyperparameters(), self.model.hyperparameters().hidden);
        let (tokens, lengths) = (&self.tokens[rows.clone()], &self.lengths[chunks]);
        let whole = WholeSequences::new(of, tokens, lengths, CacheTypes::both(GgmlType::F32))?;
        let mut own = States::in_memory(h.rows(rows.clone())?.to_vec(), hidden);
        let mut hook = |_: usize, input, x: &Activations| see(input, x.values());
        let lane = Lane {
            model: self.model,
            derive: None,
            h: &mut own,
            sequences: Sequences::Whole(whole),
            rotation: Rotation::default(),
            hook: Some(&mut hook),
        };
        let feed = Feed { layers: &mut OneLayer(w), lanes: &mut [lane] };
        forward(&mut [feed], &mut self.scratch, i..i + 1, progress, &mut |_, _| Ok(()))?;
        let own = own.into_memory();
        h.update(rows, |h| {
            h.copy_from_slice(&own);
            Ok(())
        })
    }
}
