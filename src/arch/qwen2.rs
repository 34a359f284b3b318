//! Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen: biases of queries, keys and values, and RoPE as in GPT-NeoX.

use super::rows::{ATTN_NORM, EMBEDDING, FFN_NORM, OUTPUT, OUTPUT_NORM, down, gate, k, o, q, up, v};
use super::{Architecture, Bias, ConfigDefaults, Rope, TensorSpec, Windows, llama};

/// The architecture.
pub(super) static QWEN2: Architecture = Architecture {
    name: "qwen2",
    hf_classes: &["Qwen2ForCausalLM"],
    hf_model_types: &["qwen2"],
    tensors: &TENSORS,
    rope: Rope::Neox,
    defaults: ConfigDefaults { context: 32_768, ..llama::ROW.defaults },
    windows: Windows::FromLayer { default: 28 },
    ..llama::ROW
};

/// In the order of a pass.
static TENSORS: [TensorSpec; 12] = [
    EMBEDDING,
    ATTN_NORM,
    q(Rope::Neox, Bias::Always),
    k(Rope::Neox, Bias::Always),
    v(Bias::Always),
    o(Bias::Never),
    FFN_NORM,
    gate(Bias::Never),
    up(Bias::Never),
    down(Bias::Never),
    OUTPUT_NORM,
    OUTPUT,
];
