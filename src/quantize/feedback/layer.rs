//! The calibration text on its way through one layer: a group of chunks at a time.

use crate::arch::MatrixInput;
use crate::error::Result;
use crate::eval::compare::{Text, embed};
use crate::model::forward::one_layer;
use crate::model::sequences::groups_and_rows;
use crate::model::{Model, Scratch, States};
use crate::progress::Progress;
use crate::weights::{Layer, Transform};
use std::ops::{ControlFlow, Range};
use strata_quant::Activations;

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
        groups_and_rows(&self.lengths, TOKENS).into_iter().map(|(chunks, rows)| Group { chunks, rows }).collect()
    }

    /// The embeddings of all tokens `(tokens, hidden)`, each after what `transform` makes of it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn embedded(&self, transform: &Transform) -> Result<States> {
        let mut h = States::in_memory(Vec::new(), self.model.hyperparameters().hidden);
        embed(self.model, transform, &self.tokens, &mut h)?;
        Ok(h)
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
        let mut own = States::in_memory(h.rows(rows.clone())?.to_vec(), self.model.hyperparameters().hidden);
        let mut hook = |_: usize, input, x: &Activations| see(input, x.values());
        let sequences = (&self.tokens[rows.clone()], &self.lengths[chunks]);
        one_layer(self.model, (i, w), sequences, &mut own, Some(&mut hook), &mut self.scratch, progress)?;
        let own = own.into_memory();
        h.update(rows, |h| {
            h.copy_from_slice(&own);
            Ok(())
        })
    }
}
