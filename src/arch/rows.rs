//! The tensors that most architectures share, as their tables list them.

use super::{Bias, Dim, Group, Heads, MatrixInput, Presence, Role, Rope, TensorSpec};

/// The divisors of RoPE's frequencies, one by one.
pub(super) const ROPE_FREQS: TensorSpec = TensorSpec {
    presence: Presence::Optional,
    ..of_model(Role::RopeFreqs, "rope_freqs", None, Dim::One, Dim::RopePairs)
};

/// The token embedding.
pub(super) const EMBEDDING: TensorSpec =
    of_model(Role::TokenEmbedding, "token_embd", Some("model.embed_tokens"), Dim::Vocab, Dim::Hidden);

/// The norm before attention.
pub(super) const ATTN_NORM: TensorSpec =
    norm(Role::AttnNorm, Group::Attention, "attn_norm", "input_layernorm", Dim::Hidden);

/// The norm of every query head.
pub(super) const Q_NORM: TensorSpec =
    norm(Role::AttnQNorm, Group::Attention, "attn_q_norm", "self_attn.q_norm", Dim::Head);

/// The norm of every key head.
pub(super) const K_NORM: TensorSpec =
    norm(Role::AttnKNorm, Group::Attention, "attn_k_norm", "self_attn.k_norm", Dim::Head);

/// The norm before the feed-forward network.
pub(super) const FFN_NORM: TensorSpec =
    norm(Role::FfnNorm, Group::Ffn, "ffn_norm", "post_attention_layernorm", Dim::Hidden);

/// The norm before the output matrix.
pub(super) const OUTPUT_NORM: TensorSpec =
    of_model(Role::OutputNorm, "output_norm", Some("model.norm"), Dim::One, Dim::Hidden);

/// The output matrix.
pub(super) const OUTPUT: TensorSpec = TensorSpec {
    input: Some(MatrixInput::Output),
    presence: Presence::TiedToEmbedding,
    bias: Bias::Announced,
    ..of_model(Role::Output, "output", Some("lm_head"), Dim::Vocab, Dim::Hidden)
};

/// The query matrix. Where neighbours are rotated together, the halves of heads are apart in checkpoints.
pub(super) const fn q(rope: Rope, bias: Bias) -> TensorSpec {
    let permuted = permuted(rope, Heads::Query);
    TensorSpec { permuted, ..linear(Role::AttnQ, MatrixInput::Attention, "attn_q", "self_attn.q_proj", Dim::Q, bias) }
}

/// The key matrix; see [`q`].
pub(super) const fn k(rope: Rope, bias: Bias) -> TensorSpec {
    let permuted = permuted(rope, Heads::KeyValue);
    TensorSpec { permuted, ..linear(Role::AttnK, MatrixInput::Attention, "attn_k", "self_attn.k_proj", Dim::Kv, bias) }
}

/// The value matrix.
pub(super) const fn v(bias: Bias) -> TensorSpec {
    linear(Role::AttnV, MatrixInput::Attention, "attn_v", "self_attn.v_proj", Dim::Kv, bias)
}

/// The matrix behind the heads.
pub(super) const fn o(bias: Bias) -> TensorSpec {
    linear(Role::AttnOutput, MatrixInput::AttentionOutput, "attn_output", "self_attn.o_proj", Dim::Hidden, bias)
}

/// The matrix of the gates.
pub(super) const fn gate(bias: Bias) -> TensorSpec {
    linear(Role::FfnGate, MatrixInput::Ffn, "ffn_gate", "mlp.gate_proj", Dim::Ffn, bias)
}

/// The matrix of what the gates scale.
pub(super) const fn up(bias: Bias) -> TensorSpec {
    linear(Role::FfnUp, MatrixInput::Ffn, "ffn_up", "mlp.up_proj", Dim::Ffn, bias)
}

/// The matrix back to the hidden state.
pub(super) const fn down(bias: Bias) -> TensorSpec {
    linear(Role::FfnDown, MatrixInput::FfnDown, "ffn_down", "mlp.down_proj", Dim::Hidden, bias)
}

const fn permuted(rope: Rope, heads: Heads) -> Option<Heads> {
    match rope {
        Rope::Interleaved => Some(heads),
        Rope::Neox => None,
    }
}

/// A tensor outside of the layers.
const fn of_model(role: Role, gguf: &'static str, hf: Option<&'static str>, rows: Dim, cols: Dim) -> TensorSpec {
    let (input, permuted, presence) = (None, None, Presence::Required);
    let (in_layer, bias, group) = (false, Bias::Never, Group::Model);
    TensorSpec { role, gguf, hf, in_layer, rows, cols, input, permuted, presence, bias, group }
}

/// A norm of every layer.
const fn norm(role: Role, group: Group, gguf: &'static str, hf: &'static str, cols: Dim) -> TensorSpec {
    TensorSpec { in_layer: true, group, ..of_model(role, gguf, Some(hf), Dim::One, cols) }
}

/// A matrix of every layer; its columns are as long as what it reads.
const fn linear(
    role: Role,
    input: MatrixInput,
    gguf: &'static str,
    hf: &'static str,
    rows: Dim,
    bias: Bias,
) -> TensorSpec {
    let (cols, group) = match input {
        MatrixInput::Attention => (Dim::Hidden, Group::Attention),
        MatrixInput::AttentionOutput => (Dim::Q, Group::Attention),
        MatrixInput::Ffn => (Dim::Hidden, Group::Ffn),
        MatrixInput::FfnDown => (Dim::Ffn, Group::Ffn),
        MatrixInput::Output => (Dim::Hidden, Group::Model),
    };
    let input = Some(input);
    TensorSpec { in_layer: true, input, bias, group, ..of_model(role, gguf, Some(hf), rows, cols) }
}
