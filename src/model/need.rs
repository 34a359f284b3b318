//! The memory that a model needs beside its weights: the KV cache, and activations.

use super::layer::SUB_BATCH;
use super::{CacheTypes, WholeSequences};
use crate::arch::Hyperparameters;
use crate::error::Result;
use strata_quant::ActivationBits;

/// The memory beside the weights, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// The KV cache.
    pub kv: u64,
    /// Activations and logits.
    pub scratch: u64,
}

impl MemoryNeed {
    /// `kv` bytes of caches ([`KvCache::bytes`](super::KvCache::bytes)), and passes of up to `tokens` tokens that end in `rows` rows of logits.
    pub fn passes(of: &Hyperparameters, kv: u64, tokens: usize, rows: usize) -> MemoryNeed {
        MemoryNeed { kv, scratch: scratch(of, tokens.max(1), rows) }
    }

    /// The same and so many bytes more.
    pub fn and_bytes(self, bytes: u64) -> MemoryNeed {
        MemoryNeed { scratch: self.scratch.saturating_add(bytes), ..self }
    }

    /// The same with activations of this precision; without it, a need is that of 8 bits.
    pub fn with_activations(self, of: &Hyperparameters, bits: ActivationBits) -> MemoryNeed {
        self.and_bytes(product([(bits.planes() - 1) * PLANE, widest(of), SUB_BATCH]))
    }

    /// All tokens of sequences of so many each in every layer before the next, as [`super::Model::forward_with_hook`] does.
    ///
    /// # Errors
    /// If a cache cannot be of these types.
    pub fn layer_by_layer(of: &Hyperparameters, lengths: &[usize], types: CacheTypes) -> Result<MemoryNeed> {
        let kv = WholeSequences::kv_bytes(of, lengths, types)?;
        Ok(MemoryNeed { kv, scratch: scratch(of, lengths.iter().sum(), 0) })
    }

    /// The buffers of a sub-batch of sequences of so many tokens each: what several models in lock step share.
    pub fn sub_batch(of: &Hyperparameters, lengths: &[usize]) -> u64 {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        batch(of, lengths.iter().sum()).saturating_add(product([4, of.head_dim, longest]))
    }

    /// The hidden states of so many tokens.
    pub fn states(of: &Hyperparameters, tokens: usize) -> u64 {
        product([4, of.hidden, tokens])
    }
}

/// The hidden states of all `tokens` of a pass, their angles, the buffers of a sub-batch of them, and rows of logits.
fn scratch(of: &Hyperparameters, tokens: usize, rows: usize) -> u64 {
    let states = product([4, of.hidden + of.head_dim, tokens]);
    // The sampler holds 16 bytes for each token of one row, and sorts 24 in typical sampling.
    let logits = product([4, of.vocab, rows + 12]);
    batch(of, tokens).saturating_add(states).saturating_add(logits)
}

/// The buffers of a sub-batch of so many tokens.
fn batch(of: &Hyperparameters, tokens: usize) -> u64 {
    let x = (4 + PLANE) * widest(of);
    let others = 4 * (of.q_width() + 2 * of.kv_width() + 2 * of.ffn + of.hidden);
    product([x + others, tokens.min(SUB_BATCH)])
}

/// Bytes of a value in all 8-bit forms: either, by rows and by tiles with and without a bias, takes 1 and its part of scales and sums, which
/// is below 1.5 together. As it is a value takes 4.
const PLANE: usize = 9;

/// The values of a token that the widest matrix reads.
fn widest(of: &Hyperparameters) -> usize {
    of.hidden.max(of.q_width()).max(of.ffn)
}

fn product<const N: usize>(factors: [usize; N]) -> u64 {
    factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor as u64))
}
