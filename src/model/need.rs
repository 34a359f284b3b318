//! What a model needs beside its weights: keys and values, and the buffers between the matrices.

use crate::error::Result;
use crate::model::pass::SUB_BATCH;
use crate::model::{CacheTypes, KvCache, Shape};

/// Bytes beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Keys and values.
    pub kv: u64,
    /// Everything else.
    pub scratch: u64,
}

impl Need {
    /// `kv` bytes of caches ([`KvCache::bytes`]), and passes of up to `tokens` tokens that end in `rows` rows of logits.
    pub fn passes(shape: &Shape, kv: u64, tokens: usize, rows: usize) -> Need {
        Need { kv, scratch: scratch(shape, tokens.max(1), rows) }
    }

    /// All `tokens` in every layer before the next, in sequences of `context` tokens, as [`crate::model::Model::observe`] does.
    ///
    /// # Errors
    /// None: the caches are of the usual types.
    pub fn layer_by_layer(shape: &Shape, tokens: usize, context: usize) -> Result<Need> {
        let sequences = (SUB_BATCH / context.max(1)).max(1) as u64;
        let one = KvCache::bytes(shape, context, CacheTypes::default())? / shape.layers as u64;
        Ok(Need { kv: one.saturating_mul(sequences), scratch: scratch(shape, tokens, 0) })
    }
}

/// The hidden states of all `tokens` of a pass, their angles, the buffers of a sub-batch of them, and rows of logits.
fn scratch(shape: &Shape, tokens: usize, rows: usize) -> u64 {
    let widest = shape.hidden.max(shape.q_width()).max(shape.ffn);
    // A value as it is takes 4 bytes; in either 8-bit form, by rows and by tiles with and without a bias, 1 and its part of scales and
    // sums: below 1.5.
    let x = 13 * widest;
    let others = 4 * (shape.q_width() + 2 * shape.kv_width() + 2 * shape.ffn + shape.hidden);
    let batch = product([x + others, tokens.min(SUB_BATCH)]);
    let states = product([4, shape.hidden + shape.head_dim, tokens]);
    // The sampler sorts one row.
    let logits = product([4, shape.vocab, rows + 4]);
    batch.saturating_add(states).saturating_add(logits)
}

fn product<const N: usize>(factors: [usize; N]) -> u64 {
    factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor as u64))
}
