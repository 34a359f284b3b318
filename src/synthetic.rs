//! Models with the exact shape of a Llama and random weights: they say nothing, at the speed of the real one.
//!
//! Speed depends on shapes and block formats, not on values, as long as these are sane: weights of about N(0, 1/columns) keep hidden
//! states finite through any number of layers. A few rows are encoded, by the real encoder, and repeated, so that writing is as fast as
//! the disk. The same request gives the same bytes on every machine.

use crate::error::{Error, Result};
use crate::gguf::{Layout, Writer};
use crate::io::file::{free_bytes, output_folder};
use crate::progress::Progress;
use crate::random;
use crate::recipe::{ModelFacts, Recipe, TensorFacts};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use strata_kernels::Isa;
use strata_quant::GgmlType;

/// The dimensions of a Llama 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LlamaShape {
    /// Its name: `8b`.
    pub name: &'static str,
    /// Transformer layers.
    pub layers: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Values inside the feed-forward network.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// True if the embedding is the output matrix, too.
    pub tied: bool,
}

/// The released Llama 3.1 and 3.2 models, by size.
pub const SHAPES: [LlamaShape; 5] = [
    LlamaShape { name: "1b", layers: 16, hidden: 2048, ffn: 8192, heads: 32, kv_heads: 8, tied: true },
    LlamaShape { name: "3b", layers: 28, hidden: 3072, ffn: 8192, heads: 24, kv_heads: 8, tied: true },
    LlamaShape { name: "8b", layers: 32, hidden: 4096, ffn: 14336, heads: 32, kv_heads: 8, tied: false },
    LlamaShape { name: "70b", layers: 80, hidden: 8192, ffn: 28672, heads: 64, kv_heads: 8, tied: false },
    LlamaShape { name: "405b", layers: 126, hidden: 16384, ffn: 53248, heads: 128, kv_heads: 8, tied: false },
];

/// Tokens of Llama 3's vocabulary.
pub const VOCAB: usize = 128_256;

/// A model to write.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Its dimensions; fewer layers than the real one has are fine.
    pub shape: LlamaShape,
    /// Rows of the embedding, [`VOCAB`] in all real ones.
    pub vocab: usize,
    /// The type of each tensor.
    pub recipe: Recipe,
    /// The start of the random numbers.
    pub seed: u64,
}

impl LlamaShape {
    /// The shape with this name.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn from_name(name: &str) -> Result<LlamaShape> {
        SHAPES.iter().find(|shape| shape.name.eq_ignore_ascii_case(name)).copied().ok_or_else(|| {
            let known = SHAPES.map(|shape| shape.name).to_vec();
            Error::UnknownName { kind: "shape", name: name.to_owned(), known }
        })
    }
}

/// A tensor of the file.
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its lengths, the fastest dimension first.
    pub dims: Vec<u64>,
    /// The type of its blocks.
    pub ty: GgmlType,
}

impl Synthetic {
    /// Writes the file at `path`, in the order and with the keys of a converted one. `progress` counts bytes.
    ///
    /// # Errors
    /// If the disk has no room for it, cannot be written, or the user stopped: then nothing is left of it.
    pub fn write(&self, path: &Path, progress: &dyn Progress) -> Result<()> {
        let tensors = self.tensors();
        let mut layout = self.layout();
        for tensor in &tensors {
            layout.tensor(&tensor.name, &tensor.dims, tensor.ty);
        }
        let bytes = layout.clone().place()?.file_bytes;
        let folder = output_folder(path)?;
        if let Some(free) = free_bytes(&folder).filter(|&free| free < bytes) {
            return Err(Error::invalid(
                &folder,
                "synthetic model",
                format!("takes {bytes} bytes, {free} are free"),
                "take fewer layers, a smaller type, or another folder",
            ));
        }
        let mut writer = layout.create(path)?;
        progress.begin("writing random weights", bytes);
        let mut pools = HashMap::new();
        for tensor in &tensors {
            let (cols, ty) = (tensor.dims[0] as usize, tensor.ty);
            let rows = tensor.dims.get(1).map_or(1, |&rows| rows as usize);
            writer.begin(&tensor.name)?;
            if tensor.dims.len() == 1 {
                writer.write(&1.0f32.to_le_bytes().repeat(cols))?; // a norm
            } else {
                let pool = pools.entry((cols, ty)).or_insert_with(|| self.pool(cols, ty));
                repeat(&mut writer, pool, rows * pool.len() / POOL, progress)?;
            }
        }
        writer.finish()?;
        progress.end();
        Ok(())
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> Vec<Planned> {
        let LlamaShape { layers, hidden, ffn, heads, kv_heads, tied, .. } = self.shape;
        let (d, ffn, kv) = (hidden as u64, ffn as u64, (hidden / heads * kv_heads) as u64);
        let vocab = self.vocab as u64;
        let mut shapes =
            vec![("token_embd.weight".to_owned(), vec![d, vocab]), ("output_norm.weight".to_owned(), vec![d])];
        shapes.extend((!tied).then(|| ("output.weight".to_owned(), vec![d, vocab])));
        for i in 0..layers {
            for (name, dims) in [
                ("attn_norm", vec![d]),
                ("attn_q", vec![d, d]),
                ("attn_k", vec![d, kv]),
                ("attn_v", vec![d, kv]),
                ("attn_output", vec![d, d]),
                ("ffn_norm", vec![d]),
                ("ffn_gate", vec![d, ffn]),
                ("ffn_up", vec![d, ffn]),
                ("ffn_down", vec![ffn, d]),
            ] {
                shapes.push((format!("blk.{i}.{name}.weight"), dims));
            }
        }
        let facts: Vec<_> = shapes.iter().map(|(name, dims)| TensorFacts { name, dims, kept: GgmlType::F32 }).collect();
        let types = self.recipe.types(ModelFacts { layers, heads, kv_heads }, &facts, false);
        shapes.into_iter().zip(types).map(|((name, dims), ty)| Planned { name, dims, ty }).collect()
    }

    fn layout(&self) -> Layout {
        let shape = self.shape;
        let mut layout = Layout::new();
        layout.set("general.architecture", "llama".to_owned());
        layout.set("general.name", format!("synthetic-llama-{}", shape.name));
        layout.set("general.file_type", self.recipe.mix.file_type);
        layout.set("general.quantization_version", 2u32);
        for (key, n) in [
            ("llama.block_count", shape.layers),
            ("llama.context_length", 131_072),
            ("llama.embedding_length", shape.hidden),
            ("llama.feed_forward_length", shape.ffn),
            ("llama.attention.head_count", shape.heads),
            ("llama.attention.head_count_kv", shape.kv_heads),
            ("llama.rope.dimension_count", shape.hidden / shape.heads),
            ("llama.vocab_size", self.vocab),
        ] {
            layout.set(key, n as u32);
        }
        layout.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        layout.set("llama.rope.freq_base", 500_000.0f32);
        layout.set("tokenizer.ggml.model", "no_vocab".to_owned());
        layout
    }

    /// [`POOL`] encoded rows.
    fn pool(&self, cols: usize, ty: GgmlType) -> Vec<u8> {
        let row_bytes = ty.row_bytes(cols).expect("the recipe gives types whose blocks divide the rows");
        let scale = 1.0 / (cols as f32).sqrt();
        let mut pool = vec![0; POOL * row_bytes];
        pool.par_chunks_mut(row_bytes).enumerate().for_each(|(r, blocks)| {
            // Far apart in the one sequence that all seeds are in.
            let mut state = self.seed ^ (r as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95);
            let values: Vec<f32> = (0..cols).map(|_| random::normal(&mut state) * scale).collect();
            Isa::best().encode(ty, &values, None, blocks);
        });
        pool
    }
}

/// Rows that are encoded for each type and length: a prime, so that no two heads are alike.
const POOL: usize = 61;

/// `bytes` bytes of `pool`, over and over.
fn repeat(writer: &mut Writer<'_>, pool: &[u8], mut bytes: usize, progress: &dyn Progress) -> Result<()> {
    while bytes > 0 {
        progress.check()?;
        let n = bytes.min(pool.len());
        writer.write(&pool[..n])?;
        progress.advance(n as u64);
        bytes -= n;
    }
    Ok(())
}
