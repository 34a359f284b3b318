//! Llama: Llama 1 to 3.3, Falcon3, Yi, TinyLlama, SmolLM, DeepSeek-R1-Distill-Llama and everything else whose files say `llama`.

use super::rows::{ATTN_NORM, EMBEDDING, FFN_NORM, OUTPUT, OUTPUT_NORM, ROPE_FREQS, down, gate, k, o, q, up, v};
use super::{Activation, Architecture, Bias, ConfigDefaults, Norm, Rope, TensorSpec, Windows};

/// The row, from which others differ in little.
pub(super) const ROW: Architecture = Architecture {
    name: "llama",
    hf_classes: &["LlamaForCausalLM"],
    hf_model_types: &["llama"],
    tensors: &TENSORS,
    derived: &["attn_rot_embd", "attn_rot_embd.weight"],
    hf_derived: &["rotary_emb.inv_freq"],
    rope: Rope::Interleaved,
    norm: Norm::Rms,
    activation: Activation::Silu,
    defaults: ConfigDefaults { context: 2048, head_dim: None, rope_base: 10_000.0, tied: false },
    windows: Windows::None,
    no_rope_interval: None,
    has_scales: false,
    neutral_flags: &[],
};

/// The architecture.
pub(super) static LLAMA: Architecture = ROW;

/// In the order of a pass.
static TENSORS: [TensorSpec; 13] = [
    ROPE_FREQS,
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
