//! The table's columns for a tensor: what it is for, its names in GGUF files and checkpoints, its dimensions, what it reads.

use super::Hyperparameters;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Role {
    RopeFreqs,
    TokenEmbedding,
    AttnNorm,
    AttnQ,
    AttnK,
    AttnV,
    AttnQNorm,
    AttnKNorm,
    AttnOutput,
    FfnNorm,
    FfnGate,
    FfnUp,
    FfnDown,
    OutputNorm,
    Output,
}

impl Role {
    /// Those that every architecture has; of the others some have none.
    pub const REQUIRED: [Role; 12] = [
        Role::TokenEmbedding,
        Role::AttnNorm,
        Role::AttnQ,
        Role::AttnK,
        Role::AttnV,
        Role::AttnOutput,
        Role::FfnNorm,
        Role::FfnGate,
        Role::FfnUp,
        Role::FfnDown,
        Role::OutputNorm,
        Role::Output,
    ];
}

/// A length, in terms of the hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// 1: a vector is a matrix of one row.
    One,
    /// Tokens of the vocabulary.
    Vocab,
    /// Values of a hidden state.
    Hidden,
    /// Values of all query heads.
    Q,
    /// Values of all key heads, and of all value heads.
    Kv,
    /// Values inside the feed-forward network.
    Ffn,
    /// Values of a head.
    Head,
    /// Rotated pairs of a head.
    RopePairs,
}

/// What a matrix reads. Tensors with the same input have the same importance matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatrixInput {
    /// `(tokens, hidden)`: the normed hidden state, for queries, keys and values.
    Attention,
    /// `(tokens, heads * head_dim)`: the results of all heads.
    AttentionOutput,
    /// `(tokens, hidden)`: the normed hidden state, for gate and up.
    Ffn,
    /// `(tokens, ffn)`: gate times up.
    FfnDown,
    /// `(tokens, hidden)`: the normed hidden state after the last layer, for the logits.
    Output,
}

/// The heads that the rows of a matrix belong to. Hugging Face checkpoints keep the two halves of a rotated head apart, GGUF files keep
/// pairs together: rows of such matrices are permuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Query heads.
    Query,
    /// Key heads.
    KeyValue,
}

/// Whether a tensor may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No.
    Required,
    /// Yes: the token embedding takes its place.
    TiedToEmbedding,
    /// Yes: it is there only where the frequencies of RoPE are scaled one by one.
    Optional,
}

/// Whether a bias is added to the results of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// No.
    Never,
    /// If `config.json` says so (`attention_bias`, `mlp_bias`), or a GGUF file has it.
    Announced,
    /// Yes, in every checkpoint.
    Always,
}

/// The half of a layer that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Attention: what is kept in memory first.
    Attention,
    /// The feed-forward network.
    Ffn,
    /// Neither: a tensor outside of the layers.
    Model,
}

/// A matrix or vector itself, or the bias that is added to its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorPart {
    /// `NAME.weight`
    Weight,
    /// `NAME.bias`
    Bias,
}

/// A tensor of an architecture: a row of its table.
#[derive(Debug)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its name in GGUF files, without `blk.I.` before and `.weight` after.
    pub gguf: &'static str,
    /// Its name in Hugging Face checkpoints, without `model.layers.I.` before and `.weight` after; `None` if it is computed.
    pub hf: Option<&'static str>,
    /// True if every layer has one.
    pub in_layer: bool,
    /// Rows, 1 for a vector.
    pub rows: Dim,
    /// Values of a row.
    pub cols: Dim,
    /// What it multiplies, if it is a matrix of the pass.
    pub input: Option<MatrixInput>,
    /// The heads whose rows checkpoints have in another order.
    pub permuted: Option<Heads>,
    /// Whether it may be absent.
    pub presence: Presence,
    /// Whether a bias is added to its results.
    pub bias: Bias,
    /// The half of a layer that it belongs to.
    pub group: Group,
}

impl TensorSpec {
    /// Its name in GGUF files: `blk.7.attn_q.weight`.
    pub fn name(&self, layer: Option<usize>) -> String {
        self.part_name(layer, "weight")
    }

    /// The name of its bias in GGUF files: `blk.7.attn_q.bias`.
    pub fn bias_name(&self, layer: Option<usize>) -> String {
        self.part_name(layer, "bias")
    }

    fn part_name(&self, layer: Option<usize>, part: &str) -> String {
        match layer {
            Some(i) => format!("{}{}.{part}", layer_prefix(i), self.gguf),
            None => format!("{}.{part}", self.gguf),
        }
    }

    /// Its name and that of its bias in Hugging Face checkpoints: `model.layers.7.self_attn.q_proj.weight`; `None` if it is computed.
    pub fn hf_names(&self, layer: Option<usize>) -> Option<[String; 2]> {
        let stem = match (self.hf?, layer) {
            (hf, Some(i)) => format!("model.layers.{i}.{hf}"),
            (hf, None) => hf.to_owned(),
        };
        Some(["weight", "bias"].map(|part| format!("{stem}.{part}")))
    }

    /// True for what is multiplied or looked up, false for norms and frequencies.
    pub fn is_matrix(&self) -> bool {
        self.rows != Dim::One
    }

    /// `(rows, cols)` in a model with these hyperparameters.
    pub fn shape(&self, of: &Hyperparameters) -> (usize, usize) {
        (of.len(self.rows), of.len(self.cols))
    }

    /// Its dimensions in GGUF's order, the length of a row first; a vector has one.
    pub fn dims(&self, of: &Hyperparameters) -> Vec<u64> {
        let (rows, cols) = self.shape(of);
        if self.is_matrix() { vec![cols as u64, rows as u64] } else { vec![cols as u64] }
    }
}

/// What the names of the tensors of layer `i` start with in GGUF files: `blk.7.`.
pub fn layer_prefix(i: usize) -> String {
    format!("blk.{i}.")
}

/// The row of a checkpoint's matrix that is row `r` of the GGUF file's, where a head has `head_dim` rows: row `2i + h` of a head comes
/// from row `h * head_dim / 2 + i`.
pub fn permuted_row(r: usize, head_dim: usize) -> usize {
    let (head, within) = (r / head_dim, r % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_interleaved() {
        let rows: Vec<usize> = (0..16).map(|r| permuted_row(r, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
