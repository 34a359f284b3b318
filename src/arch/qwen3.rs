//! Qwen3 (dense): a norm of every query and key head before RoPE, which is as in GPT-NeoX.

use super::rows::{ATTN_NORM, EMBEDDING, FFN_NORM, K_NORM, OUTPUT, OUTPUT_NORM, Q_NORM, down, gate, k, o, q, up, v};
use super::{Architecture, Bias, ConfigDefaults, Rope, TensorSpec, Windows, llama};

/// The architecture.
pub(super) static QWEN3: Architecture = Architecture {
    name: "qwen3",
    hf_classes: &["Qwen3ForCausalLM"],
    hf_model_types: &["qwen3"],
    tensors: &TENSORS,
    rope: Rope::Neox,
    defaults: ConfigDefaults { context: 32_768, head_dim: Some(128), ..llama::ROW.defaults },
    windows: Windows::FromLayer { default: 28 },
    ..llama::ROW
};

/// In the order of a pass.
static TENSORS: [TensorSpec; 14] = [
    EMBEDDING,
    ATTN_NORM,
    q(Rope::Neox, Bias::Announced),
    Q_NORM,
    k(Rope::Neox, Bias::Announced),
    K_NORM,
    v(Bias::Announced),
    o(Bias::Announced),
    FFN_NORM,
    gate(Bias::Never),
    up(Bias::Never),
    down(Bias::Never),
    OUTPUT_NORM,
    OUTPUT,
];
