//! Llama: Llama 1 to 3.3, Mistral, TinyLlama, SmolLM and everything else whose files say `llama`.

use super::{Activation, Architecture, Dim, Group, Heads, MatrixInput, Norm, Presence, Role, Rope, TensorSpec};

/// The architecture.
pub(super) static LLAMA: Architecture = Architecture {
    name: "llama",
    hf_classes: &["LlamaForCausalLM", "MistralForCausalLM"],
    hf_model_types: &["llama", "mistral"],
    tensors: &TENSORS,
    derived: &["attn_rot_embd", "attn_rot_embd.weight"],
    hf_derived: &["rotary_emb.inv_freq"],
    rope: Rope::Interleaved,
    norm: Norm::Rms,
    activation: Activation::Silu,
};

/// A tensor outside of the layers.
const fn of_model(role: Role, gguf: &'static str, hf: Option<&'static str>, rows: Dim, cols: Dim) -> TensorSpec {
    let (input, permuted, presence) = (None, None, Presence::Required);
    let (in_layer, may_have_bias, group) = (false, false, Group::Model);
    TensorSpec { role, gguf, hf, in_layer, rows, cols, input, permuted, presence, may_have_bias, group }
}

/// A norm of every layer.
const fn norm(role: Role, group: Group, gguf: &'static str, hf: &'static str) -> TensorSpec {
    TensorSpec { in_layer: true, group, ..of_model(role, gguf, Some(hf), Dim::One, Dim::Hidden) }
}

/// A matrix of every layer; its columns are as long as what it reads.
const fn linear(role: Role, input: MatrixInput, gguf: &'static str, hf: &'static str, rows: Dim) -> TensorSpec {
    let (cols, group) = match input {
        MatrixInput::Attention => (Dim::Hidden, Group::Attention),
        MatrixInput::AttentionOutput => (Dim::Q, Group::Attention),
        MatrixInput::Ffn => (Dim::Hidden, Group::Ffn),
        MatrixInput::FfnDown => (Dim::Ffn, Group::Ffn),
        MatrixInput::Output => (Dim::Hidden, Group::Model),
    };
    let input = Some(input);
    TensorSpec { in_layer: true, input, may_have_bias: true, group, ..of_model(role, gguf, Some(hf), rows, cols) }
}

/// In the order of a pass. The halves of heads are apart in the query and key matrices of checkpoints.
static TENSORS: [TensorSpec; 13] = [
    TensorSpec {
        presence: Presence::Optional,
        ..of_model(Role::RopeFreqs, "rope_freqs", None, Dim::One, Dim::RopePairs)
    },
    of_model(Role::TokenEmbedding, "token_embd", Some("model.embed_tokens"), Dim::Vocab, Dim::Hidden),
    norm(Role::AttnNorm, Group::Attention, "attn_norm", "input_layernorm"),
    TensorSpec {
        permuted: Some(Heads::Query),
        ..linear(Role::AttnQ, MatrixInput::Attention, "attn_q", "self_attn.q_proj", Dim::Q)
    },
    TensorSpec {
        permuted: Some(Heads::KeyValue),
        ..linear(Role::AttnK, MatrixInput::Attention, "attn_k", "self_attn.k_proj", Dim::Kv)
    },
    linear(Role::AttnV, MatrixInput::Attention, "attn_v", "self_attn.v_proj", Dim::Kv),
    linear(Role::AttnOutput, MatrixInput::AttentionOutput, "attn_output", "self_attn.o_proj", Dim::Hidden),
    norm(Role::FfnNorm, Group::Ffn, "ffn_norm", "post_attention_layernorm"),
    linear(Role::FfnGate, MatrixInput::Ffn, "ffn_gate", "mlp.gate_proj", Dim::Ffn),
    linear(Role::FfnUp, MatrixInput::Ffn, "ffn_up", "mlp.up_proj", Dim::Ffn),
    linear(Role::FfnDown, MatrixInput::FfnDown, "ffn_down", "mlp.down_proj", Dim::Hidden),
    of_model(Role::OutputNorm, "output_norm", Some("model.norm"), Dim::One, Dim::Hidden),
    TensorSpec {
        input: Some(MatrixInput::Output),
        presence: Presence::TiedToEmbedding,
        may_have_bias: true,
        ..of_model(Role::Output, "output", Some("lm_head"), Dim::Vocab, Dim::Hidden)
    },
];
