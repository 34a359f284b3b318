//! Which tensor of the source becomes which tensor of the GGUF file, in what order and order of rows.

use super::rope::frequency_divisors;
use super::source::Input;
use crate::checkpoint::{Checkpoint, RopeScaling};
use crate::error::{Error, Result, quoted};
use crate::gguf::Gguf;
use strata_quant::GgmlType;

/// A tensor to write. Its place among the others is the order of the files.
pub struct Tensor {
    /// Its name in the GGUF file.
    pub name: String,
    /// Its dimensions in GGUF's order: the length of a row first.
    pub dims: Vec<u64>,
    /// Rows that are read and encoded; the product with `cols` is that of the dimensions.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
    /// Where its values come from.
    pub from: From,
}

/// Where values come from.
pub enum From {
    /// A file of the source.
    Source(Stored),
    /// A computation.
    Computed(Vec<f32>),
}

/// A tensor of the source.
pub struct Stored {
    /// Its name there.
    pub name: String,
    /// Its type there.
    pub ty: GgmlType,
    /// The file, in the order of the source's files.
    pub file: usize,
    /// Where its bytes start in it.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// For query and key projections, the heads whose rows are put in another order; see [`source_row`].
    pub heads: Option<usize>,
}

impl Tensor {
    /// Its values.
    pub fn weights(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Its bytes as `ty`, whose blocks divide its rows.
    pub fn bytes(&self, ty: GgmlType) -> u64 {
        self.weights() / ty.block_len() as u64 * ty.block_bytes() as u64
    }

    /// Where it is stored, unless it is computed.
    pub fn stored(&self) -> Option<&Stored> {
        match &self.from {
            From::Source(stored) => Some(stored),
            From::Computed(_) => None,
        }
    }
}

impl Stored {
    /// Where its bytes end in its file.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// Hugging Face keeps the two halves of a rotated head apart, GGUF keeps pairs together: row `2i + h` of a head comes from row
/// `h * head_dim / 2 + i`. The row of the checkpoint for row `r` of the file, where a head has `dim` rows.
pub fn source_row(r: usize, dim: usize) -> usize {
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
pub fn tensors(input: &Input) -> Result<Vec<Tensor>> {
    match input {
        Input::Checkpoint(checkpoint) => of_checkpoint(checkpoint),
        Input::Gguf(gguf) => of_gguf(gguf),
    }
}

fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Vec<Tensor>> {
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
        let (name, cols) = ("rope_freqs.weight".to_owned(), divisors.len());
        tensors.push(Tensor { name, dims: vec![cols as u64], rows: 1, cols, from: From::Computed(divisors) });
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
        let ty = source.dtype.ggml();
        let (rows, cols) = match *source.shape {
            [rows, cols] => (rows, cols),
            // A vector is a column where its rows are put in order, so that a bias goes with its matrix.
            [n] if heads.is_some() => (n, 1),
            _ => (1, source.data.len() / ty.block_bytes()),
        };
        let dims = source.shape.iter().rev().map(|&d| d as u64).collect();
        let (file, offset, bytes) = (source.shard, source.offset, source.data.len() as u64);
        let from = From::Source(Stored { name: hf, ty, file, offset, bytes, heads });
        tensors.push(Tensor { name, dims, rows, cols, from });
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

fn missing(checkpoint: &Checkpoint, name: &str) -> Error {
    Error::invalid(&checkpoint.dir, format!("tensor {}", quoted(name)), "is missing", "download the checkpoint again")
}

fn of_gguf(gguf: &Gguf) -> Result<Vec<Tensor>> {
    if gguf.files().next().is_none() {
        return Err(Error::InMemory { doing: "converted" });
    }
    let mut order: Vec<_> = gguf.tensors().iter().collect();
    order.sort_by_key(|tensor| place_in_pass(&tensor.name));
    let tensors = order.into_iter().map(|info| {
        let whole = |n: u64| usize::try_from(n).map_err(|_| too_large(gguf, &info.name));
        let (name, file, ty) = (info.name.clone(), info.part, info.ty);
        let from = From::Source(Stored { name, ty, file, offset: info.offset, bytes: info.bytes, heads: None });
        let (rows, cols) = (whole(info.rows())?, whole(info.cols())?);
        Ok(Tensor { name: info.name.clone(), dims: info.dims.clone(), rows, cols, from })
    });
    tensors.collect()
}

fn too_large(gguf: &Gguf, name: &str) -> Error {
    Error::invalid(
        gguf.path(),
        format!("tensor {}", quoted(name)),
        "is too large for this machine",
        "use a 64-bit machine",
    )
}

/// Where a forward pass reads the tensor of that name, as a key to sort by; what it does not know comes last.
fn place_in_pass(name: &str) -> (usize, usize, usize, bool) {
    let (stem, bias) = name.strip_suffix(".bias").map_or((name, false), |stem| (stem, true));
    let stem = stem.strip_suffix(".weight").unwrap_or(stem);
    let in_layer = |rest: &str| {
        let (layer, part) = rest.split_once('.')?;
        Some((2, layer.parse().ok()?, LAYER.iter().position(|(_, name)| *name == part)?, bias))
    };
    match stem {
        "rope_freqs" => (0, 0, 0, bias),
        "token_embd" => (1, 0, 0, bias),
        "output_norm" => (3, 0, 0, bias),
        "output" => (4, 0, 0, bias),
        _ => stem.strip_prefix("blk.").and_then(in_layer).unwrap_or((5, 0, 0, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_interleaved() {
        let rows: Vec<usize> = (0..16).map(|r| source_row(r, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }

    #[test]
    fn names_are_put_in_the_order_of_a_pass() {
        let ordered = [
            "rope_freqs.weight",
            "token_embd.weight",
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.weight",
            "blk.0.attn_q.bias",
            "blk.0.ffn_down.weight",
            "blk.2.attn_q.weight",
            "blk.10.attn_q.weight",
            "output_norm.weight",
            "output.weight",
            "blk.x.attn_q.weight",
            "blk.0.other.weight",
        ];
        assert!(ordered.is_sorted_by_key(|name| place_in_pass(name)));
        assert_eq!(place_in_pass(ordered[10]), place_in_pass(ordered[11]));
    }
}
