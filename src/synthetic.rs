//! Synthetic models: random weights in the exact shape of a Llama, which run at the speed of the real one.
//!
//! Speed depends on shapes and block formats, not on values, as long as these are sane: weights of about N(0, 1/columns) keep hidden
//! states finite through any number of layers. A few rows are encoded, by the real encoder, and repeated, so that writing is as fast as
//! the disk. The same request gives the same bytes on every machine.

use crate::arch::hyperparameters::keys;
use crate::arch::{Hyperparameters, LLAMA, LayerSet, Presence, Scales, TensorSpec};
use crate::error::{Error, Result};
use crate::gguf::{Layout, Writer};
use crate::io::file::{free_bytes, output_folder};
use crate::progress::Progress;
use crate::random;
use crate::recipe::{Recipe, TensorFacts};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use strata_kernels::Isa;
use strata_quant::GgmlType;

/// A model without a file: a name for its hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// Its name: `8b`.
    pub name: &'static str,
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// True if the embedding is the output matrix, too.
    pub tied: bool,
}

/// The released Llama 3.1 and 3.2 models, by size.
pub const PRESETS: [Preset; 5] = [
    Preset::llama_3("1b", 16, (2048, 8192), (32, 8), true),
    Preset::llama_3("3b", 28, (3072, 8192), (24, 8), true),
    Preset::llama_3("8b", 32, (4096, 14336), (32, 8), false),
    Preset::llama_3("70b", 80, (8192, 28672), (64, 8), false),
    Preset::llama_3("405b", 126, (16384, 53248), (128, 8), false),
];

/// Tokens of Llama 3's vocabulary.
pub const VOCAB: usize = 128_256;

impl Preset {
    /// A model like Llama 3.1 with so many layers, `(hidden, ffn)` values, and `(query, key-value)` heads.
    pub const fn llama_3(
        name: &'static str,
        layers: usize,
        (hidden, ffn): (usize, usize),
        (heads, kv_heads): (usize, usize),
        tied: bool,
    ) -> Preset {
        let (head_dim, context, vocab, norm_eps, rope_base) = (hidden / heads, 131_072, VOCAB, 1e-5, 500_000.0);
        let (no_rope, window, scales) = (LayerSet::EMPTY, None, Scales::NONE);
        let hyperparameters = Hyperparameters {
            layers,
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim,
            context,
            vocab,
            norm_eps,
            rope_base,
            no_rope,
            window,
            scales,
        };
        Preset { name, hyperparameters, tied }
    }

    /// The same with so many tokens in the vocabulary.
    pub const fn with_vocab(mut self, vocab: usize) -> Preset {
        self.hyperparameters.vocab = vocab;
        self
    }

    /// The preset with this name.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn from_name(name: &str) -> Result<Preset> {
        PRESETS.iter().find(|preset| preset.name.eq_ignore_ascii_case(name)).copied().ok_or_else(|| {
            let known = PRESETS.map(|preset| preset.name).to_vec();
            Error::UnknownName { kind: "shape", name: name.to_owned(), known }
        })
    }
}

/// A model to write.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Its name, hyperparameters and whether its output is tied; fewer layers than the real one has are fine.
    pub preset: Preset,
    /// The type of each tensor.
    pub recipe: Recipe,
    /// The start of the random numbers.
    pub seed: u64,
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

    /// The tensors, in file order: those outside of the layers first.
    pub fn tensors(&self) -> Vec<Planned> {
        let Preset { hyperparameters: of, tied, .. } = &self.preset;
        let there = |(spec, _): &(&TensorSpec, _)| match spec.presence {
            Presence::Required => true,
            Presence::TiedToEmbedding => !tied,
            Presence::Optional => false,
        };
        let mut shapes: Vec<_> = LLAMA.all_tensors(of.layers).filter(there).collect();
        shapes.sort_by_key(|(_, layer)| *layer);
        let shapes: Vec<_> = shapes.into_iter().map(|(spec, layer)| (spec.name(layer), spec.dims(of))).collect();
        let facts: Vec<_> = shapes.iter().map(|(name, dims)| TensorFacts { name, dims, kept: GgmlType::F32 }).collect();
        let types = self.recipe.types(of, &facts, false);
        shapes.into_iter().zip(types).map(|((name, dims), ty)| Planned { name, dims, ty }).collect()
    }

    fn layout(&self) -> Layout {
        let of = &self.preset.hyperparameters;
        let mut layout = Layout::new();
        layout.set("general.architecture", LLAMA.name);
        layout.set("general.name", format!("synthetic-llama-{}", self.preset.name));
        layout.set("general.file_type", self.recipe.mix.file_type);
        layout.set("general.quantization_version", 2u32);
        for (key, n) in [
            (keys::LAYERS, of.layers),
            (keys::CONTEXT, of.context),
            (keys::HIDDEN, of.hidden),
            (keys::FFN, of.ffn),
            (keys::HEADS, of.heads),
            (keys::KV_HEADS, of.kv_heads),
            (keys::ROPE_DIMS, of.head_dim),
            (keys::VOCAB, of.vocab),
        ] {
            layout.set(key.of(LLAMA), n as u32);
        }
        layout.set(keys::NORM_EPS.of(LLAMA), of.norm_eps);
        layout.set(keys::ROPE_BASE.of(LLAMA), of.rope_base);
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
