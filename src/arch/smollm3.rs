//! SmolLM3: a Llama without RoPE in every fourth layer.

use super::rows::{ATTN_NORM, EMBEDDING, FFN_NORM, OUTPUT, OUTPUT_NORM, down, gate, k, o, q, up, v};
use super::{Architecture, Bias, ConfigDefaults, Rope, TensorSpec, Windows, llama};

/// The architecture.
pub(super) static SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    hf_classes: &["SmolLM3ForCausalLM"],
    hf_model_types: &["smollm3"],
    tensors: &TENSORS,
    defaults: ConfigDefaults { context: 32_768, head_dim: None, rope_base: 2_000_000.0, tied: true },
    windows: Windows::WithoutRope,
    no_rope_interval: Some(4),
    ..llama::ROW
};

/// In the order of a pass.
static TENSORS: [TensorSpec; 12] = [
    EMBEDDING,
    ATTN_NORM,
    q(Rope::Interleaved, Bias::Announced),
    k(Rope::Interleaved, Bias::Announced),
    v(Bias::Announced),
    o(Bias::Announced),
    FFN_NORM,
    gate(Bias::Announced),
    up(Bias::Announced),
    down(Bias::Announced),
    OUTPUT_NORM,
    OUTPUT,
];
