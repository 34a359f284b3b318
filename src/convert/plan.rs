//! Which tensor of the checkpoint becomes which tensor of the GGUF file, in what type, order and order of rows.

use super::rope::frequency_divisors;
use crate::checkpoint::{Checkpoint, RopeScaling, Source};
use crate::error::{Error, Result};
use strata_quant::GgmlType;

/// A tensor to write.
pub struct Tensor<'a> {
    /// Its name in the GGUF file.
    pub name: String,
    /// Its type there.
    pub ty: GgmlType,
    /// Where its values come from.
    pub from: From<'a>,
}

/// Where values come from.
pub enum From<'a> {
    /// The checkpoint.
    Source {
        /// The tensor.
        source: Source<'a>,
        /// Its name there.
        name: String,
        /// For query and key projections, the heads whose rows are put in another order; see [`source_row`].
        heads: Option<usize>,
    },
    /// A computation.
    Computed(Vec<f32>),
}

impl Tensor<'_> {
    /// The dimensions in GGUF's order: the length of a row first.
    pub fn dims(&self) -> Vec<u64> {
        match &self.from {
            From::Source { source, .. } => source.shape.iter().rev().map(|&d| d as u64).collect(),
            From::Computed(values) => vec![values.len() as u64],
        }
    }

    /// Its values.
    pub fn weights(&self) -> u64 {
        self.dims().iter().product()
    }

    /// Bytes of its data in the file.
    pub fn bytes(&self) -> u64 {
        self.weights() / self.ty.block_len() as u64 * self.ty.block_bytes() as u64
    }

    /// Bytes that are read for it.
    pub fn source_bytes(&self) -> u64 {
        match &self.from {
            From::Source { source, .. } => source.data.len() as u64,
            From::Computed(_) => 0,
        }
    }
}

/// Hugging Face keeps the two halves of a rotated head apart, GGUF keeps pairs together: row `2i + h` of a head comes from row
/// `h * head_dim / 2 + i`. The row of the checkpoint for row `r` of the file, with `heads` heads in `rows` rows.
pub fn source_row(r: usize, rows: usize, heads: usize) -> usize {
    let dim = rows / heads;
    let (head, within) = (r / dim, r % dim);
    head * dim + within % 2 * (dim / 2) + within / 2
}

/// The parts of a layer: name in the checkpoint, name in the file.
const LAYER: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// All tensors of the file, in the order in which a forward pass reads them: a streamed pass is then one sweep over the file.
pub fn tensors(checkpoint: &Checkpoint, ty: GgmlType) -> Result<Vec<Tensor<'_>>> {
    let config = &checkpoint.config;
    let mut tensors = Vec::new();
    if let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = config.rope_scaling {
        let divisors = frequency_divisors(
            config.head_dim,
            config.rope_theta,
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        );
        let (name, from) = ("rope_freqs.weight".to_owned(), From::Computed(divisors));
        tensors.push(Tensor { name, ty: GgmlType::F32, from });
    }
    let mut add = |hf: String, name: String, optional: bool| -> Result<()> {
        let Some(source) = checkpoint.weights.get(&hf) else {
            // The checkpoint was checked when it was opened: what is required is there.
            return if optional { Ok(()) } else { Err(missing(checkpoint, &hf)) };
        };
        let heads = match () {
            _ if hf.contains("q_proj") => Some(config.num_attention_heads),
            _ if hf.contains("k_proj") => Some(config.num_key_value_heads),
            _ => None,
        };
        let ty = stored_type(source.shape, ty);
        tensors.push(Tensor { name, ty, from: From::Source { source, name: hf, heads } });
        Ok(())
    };
    add("model.embed_tokens.weight".into(), "token_embd.weight".into(), false)?;
    for i in 0..config.num_hidden_layers {
        for (hf, name) in LAYER {
            add(format!("model.layers.{i}.{hf}.weight"), format!("blk.{i}.{name}.weight"), false)?;
            add(format!("model.layers.{i}.{hf}.bias"), format!("blk.{i}.{name}.bias"), true)?;
        }
    }
    add("model.norm.weight".into(), "output_norm.weight".into(), false)?;
    // A tied output is left out: readers then use the embedding.
    if !config.tie_word_embeddings {
        add("lm_head.weight".into(), "output.weight".into(), false)?;
    }
    Ok(tensors)
}

/// Vectors stay F32; a matrix whose rows are no whole blocks becomes F16, as with the reference converter.
fn stored_type(shape: &[usize], ty: GgmlType) -> GgmlType {
    match shape {
        [_, cols] if ty.row_bytes(*cols).is_some() => ty,
        [_, _] => GgmlType::F16,
        _ => GgmlType::F32,
    }
}

fn missing(checkpoint: &Checkpoint, name: &str) -> Error {
    Error::invalid(&checkpoint.dir, format!("tensor {name:?}"), "is missing", "download the checkpoint again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_interleaved() {
        let rows: Vec<usize> = (0..16).map(|r| source_row(r, 16, 2)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
