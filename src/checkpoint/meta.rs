//! Meta's own distribution of Llama, and Mistral's of its first models: `params.json` and `consolidated.NN.pth`, one file for each of the
//! processors that the model was split over. It is read as the Hugging Face checkpoint of the same model.
//!
//! Each file has all tensors. Linear layers are split as fairscale splits them (nn/model_parallel/layers.py): `ColumnParallelLinear` by rows of the
//! matrix, `RowParallelLinear` by its columns. The embedding was split by columns (`ParallelEmbedding`, Llama 1 and 2) and is by rows since
//! Llama 3 (`VocabParallelEmbedding`). Norms are whole in each file. The values that rotate together are neighbours, as in GGUF.

use super::files::numbered;
use super::json::{Object, read_json, shown};
use super::weights::{Entry, Place, Split, Weights};
use super::{Checkpoint, Config};
use crate::error::{Error, Result, quoted};
use crate::io::file::Mapped;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PARAMS: &str = "params.json";

/// The folder inside a Hugging Face repository that has Meta's files.
pub(crate) const ORIGINAL: &str = "original";

/// How a tensor is split over the files.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    By(Split),
    /// By rows or columns, as its shape tells.
    Embedding,
    /// By rows; of fewer heads than files, each head is in several files one after the other.
    KeyValue,
    Whole,
}

/// Meta's names, without `layers.I.` and `.weight`, and those of Hugging Face.
const OF_MODEL: [(&str, &str, Layout); 3] = [
    ("tok_embeddings", "model.embed_tokens", Layout::Embedding),
    ("norm", "model.norm", Layout::Whole),
    ("output", "lm_head", Layout::By(Split::Rows)),
];
const OF_LAYER: [(&str, &str, Layout); 9] = [
    ("attention.wq", "self_attn.q_proj", Layout::By(Split::Rows)),
    ("attention.wk", "self_attn.k_proj", Layout::KeyValue),
    ("attention.wv", "self_attn.v_proj", Layout::KeyValue),
    ("attention.wo", "self_attn.o_proj", Layout::By(Split::Columns)),
    ("feed_forward.w1", "mlp.gate_proj", Layout::By(Split::Rows)),
    ("feed_forward.w2", "mlp.down_proj", Layout::By(Split::Columns)),
    ("feed_forward.w3", "mlp.up_proj", Layout::By(Split::Rows)),
    ("attention_norm", "input_layernorm", Layout::Whole),
    ("ffn_norm", "post_attention_layernorm", Layout::Whole),
];

/// Keys that change nothing of what is computed: limits of Meta's own program.
const OF_THE_PROGRAM: &[&str] = &["max_batch_size", "max_seq_len"];

/// Keys of `params.json` that may be `null`.
const NULLABLE: &[&str] = &[
    "n_kv_heads",
    "ffn_dim_multiplier",
    "quantization_args",
    "lora_args",
    "sliding_window",
    "rope_scaling_factor",
    "moe",
];

/// Opens the checkpoint in a folder with `params.json`, or with a folder `original` that has one; `None` if there is neither.
///
/// # Errors
/// If `params.json` describes another kind of model, or the files do not fit it or each other.
pub(super) fn open(dir: &Path) -> Result<Option<Checkpoint>> {
    let Some(dir) = [dir.to_owned(), dir.join(ORIGINAL)].into_iter().find(|dir| dir.join(PARAMS).is_file()) else {
        return Ok(None);
    };
    let params = Params::read(&dir)?;
    let (weights, tied) = params.weights(&dir)?;
    let mut notes = Vec::new();
    let json = params.config(&weights, tied, &mut notes)?;
    let mut config = Config::of(params.path, json)?;
    config.notes.extend(notes);
    Ok(Some(Checkpoint::of(dir, config, weights)))
}

/// `params.json`.
struct Params {
    path: PathBuf,
    json: Value,
}

impl Params {
    fn read(dir: &Path) -> Result<Params> {
        let path = dir.join(PARAMS);
        let json = read_json(&path)?.ok_or_else(|| Error::invalid(&path, "file", "is missing", "download it"))?;
        let params = Params { path, json };
        let file = params.object()?;
        for (key, what) in [
            ("moe", "a mixture of experts"),
            ("quantization_args", "a quantized model"),
            ("lora_args", "a model with an adapter in it"),
            ("vision_encoder", "a model with images"),
        ] {
            if file.get(key).is_some() {
                return Err(file.refused(key, format!("{what} is not supported"), "use a plain Llama model"));
            }
        }
        if let Some(chunk) = file.get("vision_chunk_size").filter(|chunk| chunk.as_i64().is_none_or(|n| n > 0)) {
            let problem = format!("is {}: a model with images is not supported", shown(chunk));
            return Err(file.refused("vision_chunk_size", problem, "use a plain Llama model"));
        }
        let known = |key: &str| KEYS.contains(&key) || NULLABLE.contains(&key) || OF_THE_PROGRAM.contains(&key);
        if let Some(key) = file.keys().find(|key| !known(key)) {
            let remedy = "strata cannot tell what it changes; get the Hugging Face version of the model";
            return Err(file.refused(key, "is not a key that strata knows", remedy));
        }
        Ok(params)
    }

    fn object(&self) -> Result<Object<'_>> {
        Object::of_file(&self.path, &self.json, NULLABLE)
    }

    /// Values of a head, and the number of key and value heads.
    fn heads(&self) -> Result<(usize, usize)> {
        let file = self.object()?;
        let (dim, heads) = (file.count("dim")?, file.count("n_heads")?);
        let head_dim = match file.opt_count("head_dim")? {
            Some(head_dim) => head_dim,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(file.wrong("n_heads", format!("{heads} heads do not divide {dim} values"))),
        };
        Ok((head_dim, file.opt_count("n_kv_heads")?.unwrap_or(heads)))
    }

    /// The length of the feed-forward network as Meta's `FeedForward` computes it: two thirds of 4 times the hidden state, times a factor,
    /// rounded up to a multiple.
    fn ffn(&self) -> Result<usize> {
        let file = self.object()?;
        if let Some(ffn) = file.opt_count("hidden_dim")? {
            return Ok(ffn);
        }
        let (dim, multiple) = (file.count("dim")?, file.opt_count("multiple_of")?.unwrap_or(256));
        let two_thirds = 8 * dim / 3;
        // In double precision, as Python computes it, and cut off.
        let factor = file.get("ffn_dim_multiplier").and_then(Value::as_f64);
        let ffn = match (file.opt_positive("ffn_dim_multiplier")?, factor) {
            (Some(_), Some(factor)) => (factor * two_thirds as f64) as usize,
            _ => two_thirds,
        };
        Ok(ffn.div_ceil(multiple).saturating_mul(multiple))
    }

    /// What `config.json` says of the same model.
    fn config(&self, weights: &Weights, tied: bool, notes: &mut Vec<String>) -> Result<Value> {
        let file = self.object()?;
        let (head_dim, kv_heads) = self.heads()?;
        let rows = weights.get("model.embed_tokens.weight").and_then(|embedding| embedding.shape.first().copied());
        // -1 stands for that of the tokenizer; the rows of the embedding are as many.
        let vocab = match file.opt_i32("vocab_size")? {
            Some(-1) | None => rows.ok_or_else(|| self.missing("tok_embeddings.weight"))?,
            Some(_) => file.count("vocab_size")?,
        };
        let theta = file.opt_positive("rope_theta")?;
        let scaled = file.opt_flag("use_scaled_rope")?.unwrap_or(false);
        let context = match file.opt_count("max_position_embeddings")? {
            Some(context) => context,
            None => self.context(theta, scaled, notes)?,
        };
        let (dim, heads) = (file.count("dim")?, file.count("n_heads")?);
        let mut json = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": dim,
            "intermediate_size": self.ffn()?,
            "num_hidden_layers": file.count("n_layers")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": file.positive("norm_eps")?,
            "vocab_size": vocab,
            "max_position_embeddings": context,
            "rope_theta": theta.unwrap_or(10_000.0),
            "tie_word_embeddings": tied,
        });
        if dim != head_dim * heads {
            json["head_dim"] = head_dim.into();
        }
        if let Some(window) = file.opt_count("sliding_window")? {
            json["architectures"] = json!(["MistralForCausalLM"]);
            json["sliding_window"] = window.into();
        }
        if scaled {
            // Meta's `apply_scaling`. The models of Llama 3.2, whose output matrix is the embedding, have another factor in their config.json.
            let factor = file.opt_positive("rope_scaling_factor")?.unwrap_or(if tied { 32.0 } else { 8.0 });
            json["rope_scaling"] = json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            });
        }
        Ok(json)
    }

    /// The context of the release that these numbers are of: `params.json` does not say it.
    fn context(&self, theta: Option<f32>, scaled: bool, notes: &mut Vec<String>) -> Result<usize> {
        let eps = self.object()?.positive("norm_eps")?;
        let (context, release) = match theta {
            _ if scaled => (131_072, "Llama 3.1 and later"),
            Some(500_000.0) => (8192, "Llama 3"),
            Some(1_000_000.0) => (16_384, "Code Llama"),
            _ if eps < 5e-6 => (2048, "Llama 1"),
            _ => (4096, "Llama 2"),
        };
        notes.push(format!(
            "{PARAMS} does not say the length of the context: it is taken to be {context}, that of {release}"
        ));
        Ok(context)
    }

    /// The tensors under the names of Hugging Face, and whether the output matrix is the embedding: then it is left out.
    fn weights(&self, dir: &Path) -> Result<(Weights, bool)> {
        let (mut weights, mut files) = (Weights::empty(dir), Vec::new());
        for name in consolidated(dir)? {
            let map = Mapped::open(dir.join(name))?;
            files.push(Entry::all_of(&map)?);
            weights.push(map);
        }
        let mut files: Vec<BTreeMap<String, Entry>> =
            files.into_iter().map(|file| file.into_iter().map(|entry| (entry.name.clone(), entry)).collect()).collect();
        weights.interleaved = true;
        for (name, first) in std::mem::take(&mut files[0]) {
            let mut parts = vec![first];
            for (i, file) in files.iter_mut().enumerate().skip(1) {
                let part = file.remove(&name);
                parts.push(part.ok_or_else(|| self.absent(weights.path(i), &name))?);
            }
            // Follows from the hyperparameters.
            if name == "rope.freqs" {
                continue;
            }
            let Some((hf, layout)) = hf_name(&name) else {
                let problem = "is not part of a Llama model";
                let remedy = "strata would lose it; this checkpoint is of another kind";
                return Err(Error::invalid(weights.path(0), format!("tensor {}", quoted(&name)), problem, remedy));
            };
            self.join(&mut weights, hf, parts, layout)?;
        }
        if let Some((i, name)) = files.iter().enumerate().find_map(|(i, file)| Some((i, file.keys().next()?))) {
            return Err(self.absent(weights.path(0), &format!("{name} of file {i}")));
        }
        let tied = self.tied(&weights)?;
        if tied {
            weights.remove("lm_head.weight");
        }
        Ok((weights, tied))
    }

    /// Adds a tensor of which each file has a part.
    fn join(&self, weights: &mut Weights, name: String, mut parts: Vec<Entry>, layout: Layout) -> Result<()> {
        let n = parts.len();
        let bad = |weights: &Weights, problem: String| {
            let place = format!("tensor {}", quoted(&parts[0].name));
            Error::invalid(weights.path(0), place, problem, "the files belong to different models; get them again")
        };
        if let Some(other) =
            parts.iter().position(|part| (part.dtype, &part.shape) != (parts[0].dtype, &parts[0].shape))
        {
            let (a, b) = (&parts[0], &parts[other]);
            let problem =
                format!("{:?} of {:?} here and {:?} of {:?} in file {other}", a.shape, a.dtype, b.shape, b.dtype);
            return Err(bad(weights, problem));
        }
        let mut shape = parts[0].shape.clone();
        let dims = shape.len();
        if dims != if layout == Layout::Whole { 1 } else { 2 } {
            return Err(bad(weights, format!("has {dims} dimensions")));
        }
        let mut places: Vec<Place> =
            parts.iter().enumerate().map(|(shard, part)| Place { shard, offset: part.range.start as u64 }).collect();
        let split = match layout {
            Layout::By(split) => split,
            Layout::Embedding => match self.object()?.count("dim")? {
                dim if shape[1] == dim => Split::Rows,
                dim if shape[1].checked_mul(n) == Some(dim) => Split::Columns,
                dim => {
                    let problem =
                        format!("shape {shape:?} in each of {n} files: neither rows nor columns of {dim} values");
                    return Err(bad(weights, problem));
                }
            },
            Layout::KeyValue => {
                let (_, kv_heads) = self.heads()?;
                if n > kv_heads && n.is_multiple_of(kv_heads) {
                    places = places.into_iter().step_by(n / kv_heads).collect();
                }
                Split::Rows
            }
            Layout::Whole => {
                let bytes = parts[0].range.len() as u64;
                for (file, place) in places.iter().enumerate().skip(1) {
                    if !weights.same(places[0], *place, bytes)? {
                        return Err(bad(weights, format!("has other values in file {file}")));
                    }
                }
                places.truncate(1);
                Split::Rows
            }
        };
        let dim = &mut shape[if split == Split::Rows { 0 } else { 1 }];
        *dim = dim.checked_mul(places.len()).ok_or_else(|| bad(weights, "is too large".to_owned()))?;
        let first = parts.swap_remove(0);
        weights.insert(0, name, Entry { shape, ..first }, places, split)
    }

    /// Whether the output matrix is missing, or is the embedding once more, as in Llama 3.2.
    fn tied(&self, weights: &Weights) -> Result<bool> {
        let [embedding, output] = ["model.embed_tokens.weight", "lm_head.weight"].map(|name| weights.get(name));
        let (Some(embedding), Some(output)) = (embedding, output) else { return Ok(output.is_none()) };
        let alike = (embedding.shape, embedding.dtype, embedding.split, embedding.parts.len())
            == (output.shape, output.dtype, output.split, output.parts.len());
        if !alike {
            return Ok(false);
        }
        let bytes = embedding.bytes / embedding.parts.len() as u64;
        for (a, b) in embedding.parts.iter().zip(output.parts) {
            if !weights.same(*a, *b, bytes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn missing(&self, tensor: &str) -> Error {
        let dir = self.path.parent().unwrap_or(&self.path);
        Error::invalid(
            dir,
            format!("tensor {}", quoted(tensor)),
            "is missing",
            "download all consolidated.NN.pth files",
        )
    }

    fn absent(&self, file: &Path, tensor: &str) -> Error {
        let problem = "is missing, though another file of the checkpoint has it";
        Error::invalid(file, format!("tensor {}", quoted(tensor)), problem, "get all files again, from one place")
    }
}

/// The keys that are read.
const KEYS: &[&str] = &[
    "dim",
    "n_layers",
    "n_heads",
    "head_dim",
    "hidden_dim",
    "multiple_of",
    "norm_eps",
    "vocab_size",
    "rope_theta",
    "use_scaled_rope",
    "max_position_embeddings",
    "vision_chunk_size",
];

/// The name of Hugging Face for one of Meta's.
fn hf_name(name: &str) -> Option<(String, Layout)> {
    let stem = name.strip_suffix(".weight")?;
    if let Some((_, hf, layout)) = OF_MODEL.iter().find(|(meta, ..)| *meta == stem) {
        return Some((format!("{hf}.weight"), *layout));
    }
    let (layer, stem) = stem.strip_prefix("layers.")?.split_once('.')?;
    let layer = layer.parse().ok().filter(|i: &usize| i.to_string() == layer)?;
    let (_, hf, layout) = OF_LAYER.iter().find(|(meta, ..)| *meta == stem)?;
    Some((format!("model.layers.{layer}.{hf}.weight"), *layout))
}

/// The files of weights: `consolidated.00.pth` and so on, or Mistral's single `consolidated.safetensors`.
fn consolidated(dir: &Path) -> Result<Vec<String>> {
    let single = "consolidated.safetensors";
    let names = numbered(dir, "consolidated.", ".pth")?;
    let missing = |name: &str| {
        let remedy = "download it into the checkpoint's folder";
        Err(Error::invalid(&dir.join(name), "file", "is missing", remedy))
    };
    match names.len() {
        0 if dir.join(single).exists() => Ok(vec![single.to_owned()]),
        0 => missing("consolidated.00.pth"),
        n => match (0..n).map(|i| format!("consolidated.{i:02}.pth")).find(|name| !names.contains(name)) {
            Some(name) => missing(&name),
            None => Ok(names.into_iter().collect()),
        },
    }
}
