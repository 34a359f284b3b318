//! The memory that a model needs beside its weights: the KV cache, and activations.

use super::forward::WholeSequences;
use super::layer::SUB_BATCH;
use super::{CacheTypes, KvCache};
use crate::arch::Hyperparameters;
use crate::error::Result;

/// The memory beside the weights, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// The KV cache.
    pub kv: u64,
    /// Activations and logits.
    pub scratch: u64,
}

impl MemoryNeed {
    /// `kv` bytes of caches ([`KvCache::bytes`]), and passes of up to `tokens` tokens that end in `rows` rows of logits.
    pub fn passes(of: &Hyperparameters, kv: u64, tokens: usize, rows: usize) -> MemoryNeed {
        MemoryNeed { kv, scratch: scratch(of, tokens.max(1), rows) }
    }

    /// All `tokens` in every layer before the next, in sequences of `context` tokens, as [`super::Model::forward_with_hook`] does.
    ///
    /// # Errors
    /// None: the caches are of the usual types.
    pub fn layer_by_layer(of: &Hyperparameters, tokens: usize, context: usize) -> Result<MemoryNeed> {
        let sequences = WholeSequences::group(context) as u64;
        let one = KvCache::bytes(of, context, CacheTypes::default())? / of.layers as u64;
        Ok(MemoryNeed { kv: one.saturating_mul(sequences), scratch: scratch(of, tokens, 0) })
    }
}

/// The hidden states of all `tokens` of a pass, their angles, the buffers of a sub-batch of them, and rows of logits.
fn scratch(of: &Hyperparameters, tokens: usize, rows: usize) -> u64 {
    let widest = of.hidden.max(of.q_width()).max(of.ffn);
    // A value as it is takes 4 bytes; in either 8-bit form, by rows and by tiles with and without a bias, 1 and its part of scales and
    // sums: below 1.5.
    let x = 13 * widest;
    let others = 4 * (of.q_width() + 2 * of.kv_width() + 2 * of.ffn + of.hidden);
    let batch = product([x + others, tokens.min(SUB_BATCH)]);
    let states = product([4, of.hidden + of.head_dim, tokens]);
    // The sampler sorts one row.
    let logits = product([4, of.vocab, rows + 4]);
    batch.saturating_add(states).saturating_add(logits)
}

fn product<const N: usize>(factors: [usize; N]) -> u64 {
    factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor as u64))
}
