//! Granite 3 (dense): a Llama with four factors, of the embedding, the scores of attention, the residual stream and the logits.

use super::{Architecture, llama};

/// The architecture.
pub(super) static GRANITE: Architecture = Architecture {
    name: "granite",
    hf_classes: &["GraniteForCausalLM"],
    hf_model_types: &["granite"],
    has_scales: true,
    // In such files this one turns RoPE off.
    neutral_flags: &[("rope.scaling.finetuned", true)],
    ..llama::ROW
};
