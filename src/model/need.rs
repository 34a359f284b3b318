//! What a model needs beside its weights: keys and values, and the buffers between the matrices.

use crate::model::Shape;
use crate::model::pass::SUB_BATCH;

/// Bytes beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Keys and values.
    pub kv: u64,
    /// Everything else.
    pub scratch: u64,
}

impl Need {
    /// One sequence of `context` tokens, of which `prompt` come in one pass.
    pub fn session(shape: &Shape, context: usize, prompt: usize) -> Need {
        Need { kv: kv(shape, shape.layers, context), scratch: scratch(shape, prompt.max(1), 1) }
    }

    /// `sequences` of `context` tokens each in one pass, and `rows` rows of logits at a time.
    pub fn batch(shape: &Shape, sequences: usize, context: usize, rows: usize) -> Need {
        let tokens = sequences.saturating_mul(context);
        Need { kv: kv(shape, shape.layers, tokens), scratch: scratch(shape, tokens, rows) }
    }

    /// What `kv` bytes of keys and values and passes of `tokens` tokens that end in `rows` rows of logits take.
    pub fn passes(shape: &Shape, kv: u64, tokens: usize, rows: usize) -> Need {
        Need { kv, scratch: scratch(shape, tokens, rows) }
    }

    /// All `tokens` in every layer before the next, in sequences of `context` tokens, as [`crate::model::Model::observe`] does.
    pub fn layer_by_layer(shape: &Shape, tokens: usize, context: usize) -> Need {
        let group = (SUB_BATCH / context.max(1)).max(1).saturating_mul(context);
        Need { kv: kv(shape, 1, group), scratch: scratch(shape, tokens, 0) }
    }
}

/// Keys and values of `tokens` tokens in so many layers, in half precision.
fn kv(shape: &Shape, layers: usize, tokens: usize) -> u64 {
    let values = 2 * shape.kv_heads * shape.attention().padded_dim();
    product([values, 2, layers, tokens])
}

/// The hidden states of all `tokens` of a pass, before and after the last norm, the buffers of a sub-batch of them, and rows of logits.
fn scratch(shape: &Shape, tokens: usize, rows: usize) -> u64 {
    let widest = shape.hidden.max(shape.q_width()).max(shape.ffn);
    // A value as it is takes 4 bytes; in either 8-bit form, by rows and by tiles, 1 and its part of scales and sums: below 1.5.
    let x = 10 * widest;
    let others = 4 * (shape.q_width() + 2 * shape.kv_width() + 2 * shape.ffn + shape.hidden);
    let batch = product([x + others, tokens.min(SUB_BATCH)]);
    let states = product([4, 2 * shape.hidden + shape.head_dim, tokens]);
    // The sampler sorts one row.
    let logits = product([4, shape.vocab, rows + 4]);
    batch.saturating_add(states).saturating_add(logits)
}

fn product<const N: usize>(factors: [usize; N]) -> u64 {
    factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor as u64))
}
