//! The two sources of layers: a map of the file, and a ring of slots that is filled from disk.

use super::streamed::{PassState, Streamed};
use super::{Layer, LayerSource, Weights};
use crate::error::Result;
use crate::progress::Progress;
use crate::stream::ring::FilledSlot;
use std::sync::MutexGuard;

/// The layers of a model whose weights are mapped, or pinned and streamed.
pub struct Layers<'w> {
    weights: &'w Weights,
    next: usize,
    streamed: Option<Streaming<'w>>, // unless the map serves
}

/// What a source has of the streamed weights, for itself alone.
struct Streaming<'w> {
    weights: &'w Streamed,
    state: MutexGuard<'w, PassState>,
    slot: Option<FilledSlot>, // that of the layer handed out last
    bytes: u64,               // of all slots so far
}

impl<'w> Layers<'w> {
    pub(super) fn new(weights: &'w Weights, first: usize) -> Layers<'w> {
        let streaming = |streamed: &'w Streamed| {
            let mut state = streamed.pass_state();
            if state.next != first {
                state.start_over(first);
            }
            Streaming { weights: streamed, state, slot: None, bytes: 0 }
        };
        Layers { weights, next: first, streamed: weights.streamed.as_ref().map(streaming) }
    }
}

impl LayerSource for Layers<'_> {
    fn layers(&self) -> usize {
        self.weights.tensors.layers.len()
    }

    fn next_layer(&mut self, progress: &dyn Progress) -> Result<Layer<'_>> {
        progress.check()?;
        let (i, Weights { gguf, tensors, .. }) = (self.next, self.weights);
        let Some(streaming) = &mut self.streamed else {
            self.next += 1;
            return Ok(tensors.layer(i, |_, tensor| tensors.mapped(gguf, tensor)));
        };
        let Streaming { weights, state, slot, bytes } = streaming;
        if let Some(used) = slot.take() {
            state.give_back(used);
        }
        *slot = weights.take(i, state, progress)?;
        *bytes += weights.streamed_bytes(i);
        self.next += 1;
        // What was released is read through the map of the file: now, while this layer is computed.
        for (m, tensor) in tensors.layers.get(i + 1).into_iter().flat_map(|layer| layer.matrices()).enumerate() {
            gguf.prefetch(tensor, weights.mapped_bytes(i + 1, m, state));
        }
        let (state, slot) = (&**state, slot.as_ref().map_or(&[][..], |slot| slot.buffer.bytes()));
        Ok(tensors.layer(i, |m, tensor| weights.matrix((i, m), tensor, state, slot, gguf.data(tensor))))
    }

    fn streamed_bytes(&self) -> u64 {
        self.streamed.as_ref().map_or(0, |streaming| streaming.bytes)
    }
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        let (next, layers) = (self.next, self.layers());
        if let Some(Streaming { weights, state, slot, .. }) = &mut self.streamed {
            if let Some(used) = slot.take() {
                state.give_back(used);
            }
            match next {
                // Where a pass has ended before the last layer, the next one should not wait for the first.
                _ if next < layers => state.start_over(0),
                _ if weights.is_single_pass() => state.next = layers,
                _ => state.next = 0,
            }
        }
    }
}

/// Hands out a layer that is there already, once.
pub(crate) struct OneLayer<'a>(pub &'a Layer<'a>);

impl LayerSource for OneLayer<'_> {
    fn layers(&self) -> usize {
        1
    }

    fn next_layer(&mut self, _: &dyn Progress) -> Result<Layer<'_>> {
        Ok(self.0.with_matrices(|_, linear| linear.weight))
    }
}
