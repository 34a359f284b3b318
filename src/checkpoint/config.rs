//! `config.json`: the shape of the model.

use super::json::{Object, shown};
use super::quantized::Scheme;
use super::{foreign, layers, read_json, rope};
use crate::arch::hyperparameters::{Key, MAX_LAYERS, keys};
use crate::arch::scaling::RopeScaling;
use crate::arch::{ARCHITECTURES, Architecture, Hyperparameters, Role, Scales, refused};
use crate::error::{Error, Result, quoted};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What `config.json` says of a model, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// The architecture.
    pub architecture: &'static Architecture,
    /// The hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// True if the head dimension is named, or not the share of a head in a hidden state.
    pub head_dim_is_explicit: bool,
    /// How positions beyond the original context are reached.
    pub rope_scaling: RopeScaling,
    /// How the matrices are quantized, if they are.
    pub(crate) quantization: Option<Scheme>,
    /// True if the token embedding is the output matrix, too.
    pub tie_word_embeddings: bool,
    /// True if the projections of attention have biases.
    pub attention_bias: bool,
    /// True if the projections of the feed-forward network have biases.
    pub mlp_bias: bool,
    /// What the file says and is interpreted otherwise, in sentences.
    pub notes: Vec<String>,
    /// The whole file, for what only some conversions need.
    pub json: Value,
}

/// Keys that checkpoints set to `null` to say that the model does not have the thing.
const NULLABLE: &[&str] = &[
    "architectures",
    "model_type",
    "_name_or_path",
    "num_key_value_heads",
    "head_dim",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "sliding_window",
    "layer_types",
    "no_rope_layers",
    "quantization_config",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
];

/// Tokens of a vocabulary, at most: sixty times the largest known one.
pub(crate) const MAX_TOKENS: usize = 1 << 24;

impl Config {
    /// Reads and checks `config.json` of a folder.
    pub(super) fn read(dir: &Path) -> Result<Config> {
        let path = dir.join("config.json");
        let Some(json) = read_json(&path)? else {
            if let Some(error) = foreign::folder(dir)? {
                return Err(error);
            }
            return Err(Error::invalid(&path, "file", "is missing", "name the folder of a Hugging Face checkpoint"));
        };
        Config::of(path, json)
    }

    /// Checks the contents of `config.json`, or what stands for it in another file.
    pub(super) fn of(path: PathBuf, json: Value) -> Result<Config> {
        let file = Object::of_file(&path, &json, NULLABLE)?;
        let architecture = supported(&file)?;
        let mut notes = Vec::new();
        let (hyperparameters, rope_scaling) = hyperparameters(&file, architecture, &mut notes)?;
        notes.extend(rope_scaling.otherwise_in_llama_cpp(hyperparameters.context));
        token_ids(&file, hyperparameters.vocab)?;
        let (head_dim, stated) = (hyperparameters.head_dim, file.opt_count(keys::HEAD_DIM.config)?);
        Ok(Config {
            architecture,
            hyperparameters,
            head_dim_is_explicit: stated.is_some() || head_dim != hyperparameters.hidden / hyperparameters.heads,
            rope_scaling,
            quantization: quantization(&path, &file)?,
            tie_word_embeddings: file.opt_flag("tie_word_embeddings")?.unwrap_or(architecture.defaults.tied),
            attention_bias: file.opt_flag("attention_bias")?.unwrap_or(false),
            mlp_bias: file.opt_flag("mlp_bias")?.unwrap_or(false),
            notes,
            path,
            json,
        })
    }

    /// The model's name or path as `config.json` tells it.
    pub(crate) fn name_or_path(&self) -> Result<Option<&str>> {
        Object::of_file(&self.path, &self.json, NULLABLE)?.opt_text("_name_or_path")
    }
}

/// The hyperparameters and the scaling of RoPE, with transformers' defaults for keys that are absent.
fn hyperparameters(
    file: &Object<'_>,
    architecture: &Architecture,
    notes: &mut Vec<String>,
) -> Result<(Hyperparameters, RopeScaling)> {
    let defaults = architecture.defaults;
    let (hidden, ffn) = (file.count(keys::HIDDEN.config)?, file.count(keys::FFN.config)?);
    let (heads, kv_heads, head_dim) = heads(file, hidden, defaults.head_dim)?;
    let at_most = |key: Key, most: usize, what: &str| match file.count(key.config)? {
        n if n > most => Err(file.wrong(key.config, format!("{n} {what}; at most {most} are possible"))),
        n => Ok(n),
    };
    let layers = at_most(keys::LAYERS, MAX_LAYERS, "layers")?;
    let vocab = at_most(keys::VOCAB, MAX_TOKENS, "tokens")?;
    let context = file.opt_count(keys::CONTEXT.config)?.unwrap_or(defaults.context);
    let (rope_base, rope_scaling) = rope::rope(file, defaults.rope_base, context)?;
    if matches!(rope_scaling, RopeScaling::Llama3 { .. }) && architecture.find_spec(Role::RopeFreqs).is_none() {
        let problem = format!("\"llama3\" cannot be written in a file of the architecture {}", architecture.name);
        return Err(file.refused("rope_scaling", problem, "use a model with another scaling"));
    }
    let no_rope = layers::no_rope(file, architecture, layers)?;
    let window = layers::window(file, architecture, (layers, &no_rope), notes)?;
    let norm_eps = file.opt_positive(keys::NORM_EPS.config)?.unwrap_or(1e-6);
    if norm_eps >= 1.0 {
        return Err(file.wrong(keys::NORM_EPS.config, format!("must be a small number, is {norm_eps}")));
    }
    let of = Hyperparameters {
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
        scales: scales(file, architecture)?,
    };
    Ok((of, rope_scaling))
}

/// The factors between the matrices.
fn scales(file: &Object<'_>, architecture: &Architecture) -> Result<Scales> {
    if !architecture.has_scales {
        return Ok(Scales::NONE);
    }
    let scale = |key: Key| Ok::<_, Error>(file.opt_positive(key.config)?.unwrap_or(1.0));
    Ok(Scales {
        embedding: scale(keys::EMBEDDING_SCALE)?,
        attention: Some(scale(keys::ATTENTION_SCALE)?),
        residual: scale(keys::RESIDUAL_SCALE)?,
        logits: scale(keys::LOGIT_SCALE)?,
    })
}

/// The numbers of query heads and of key and value heads, and the values of a head.
fn heads(file: &Object<'_>, hidden: usize, default: Option<usize>) -> Result<(usize, usize, usize)> {
    let heads = file.count(keys::HEADS.config)?;
    let kv_heads = file.opt_count(keys::KV_HEADS.config)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} heads do not divide {heads} query heads");
        return Err(file.wrong(keys::KV_HEADS.config, problem));
    }
    let head_dim = match file.opt_count(keys::HEAD_DIM.config)?.or(default) {
        Some(d) => d,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(file.wrong(keys::HEADS.config, format!("{heads} heads do not divide {hidden} values")));
        }
    };
    if !head_dim.is_multiple_of(2) {
        let problem = format!("{head_dim} is odd: its values cannot be rotated in pairs");
        return Err(file.wrong(keys::HEAD_DIM.config, problem));
    }
    Ok((heads, kv_heads, head_dim))
}

/// The architecture; refuses models that would convert to something that computes other than the original.
fn supported(file: &Object<'_>) -> Result<&'static Architecture> {
    let class = match file.opt_list("architectures")?.and_then(<[Value]>::first) {
        None => None,
        Some(Value::String(name)) => Some(name.as_str()),
        Some(other) => {
            return Err(file.wrong("architectures", format!("must be a list of texts, has {}", shown(other))));
        }
    };
    let model_type = file.opt_text("model_type")?;
    let Some(architecture) = Architecture::from_hf(class, model_type) else {
        let name = class.or(model_type);
        if let Some((name, kind)) = name.and_then(|name| Some((name, refused::kind_of(name)?))) {
            return Err(file.refused("architectures", format!("{} is {kind}", quoted(name)), refused::REMEDY));
        }
        let what = name.map_or("a model that does not say what it is".to_owned(), quoted);
        let known: Vec<_> = ARCHITECTURES.iter().flat_map(|known| known.hf_classes).copied().collect();
        let remedy = format!("strata converts {}", known.join(", "));
        return Err(file.refused("architectures", format!("{what} is not supported"), &remedy));
    };
    let known = architecture.activation.hf_names();
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(act) = file.opt_text(key)?.filter(|act| !known.contains(act)) {
            let remedy = format!("strata knows {}", known[0]);
            return Err(file.refused(key, format!("{} is not supported", quoted(act)), &remedy));
        }
    }
    Ok(architecture)
}

/// How the matrices are quantized: by `config.json`, or the file that TensorRT Model Optimizer writes beside it.
fn quantization(path: &Path, file: &Object<'_>) -> Result<Option<Scheme>> {
    const BESIDE: &str = "hf_quant_config.json";
    if let Some(config) = file.opt_object("quantization_config")? {
        return Scheme::read(&config).map(Some);
    }
    let path = path.with_file_name(BESIDE);
    let Some(json) = read_json(&path)? else { return Ok(None) };
    match Object::of_file(&path, &json, &[])?.opt_object("quantization")? {
        Some(config) => Scheme::read(&config).map(Some),
        None => Ok(None),
    }
}

/// The numbers of special tokens, which must be in the vocabulary. Some models have several that end a text.
fn token_ids(file: &Object<'_>, vocab_size: usize) -> Result<()> {
    for key in ["bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"] {
        let ids = match file.get(key) {
            None => continue,
            Some(Value::Array(ids)) if key == "eos_token_id" => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        // No cast: the comparison is in 64 bits.
        if let Some(id) = ids.iter().find(|id| id.as_u64().is_none_or(|id| id >= vocab_size as u64)) {
            let problem = format!("must be the number of a token from 0 to {}, is {}", vocab_size - 1, shown(id));
            return Err(file.refused(key, problem, "get the file again, or set null for a token that the model lacks"));
        }
    }
    Ok(())
}
