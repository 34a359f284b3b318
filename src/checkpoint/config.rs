//! `config.json`: the shape of the model.

use super::json::{Object, shown};
use super::quantized::Scheme;
use super::{foreign, read_json};
use crate::arch::hyperparameters::{Key, MAX_LAYERS, keys};
use crate::arch::rope::RopeScaling;
use crate::arch::{Architecture, Hyperparameters};
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
    /// True if `config.json` names the head dimension itself.
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
        let file = Object::of_file(&path, &json, NULLABLE)?;
        let architecture = supported(&file)?;
        let (rope_base, rope_scaling) = rope(&file)?;
        let hyperparameters = hyperparameters(&file, rope_base)?;
        token_ids(&file, hyperparameters.vocab)?;
        Ok(Config {
            architecture,
            hyperparameters,
            head_dim_is_explicit: file.opt_count(keys::HEAD_DIM.config)?.is_some(),
            rope_scaling,
            quantization: quantization(dir, &file)?,
            tie_word_embeddings: file.opt_flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: file.opt_flag("attention_bias")?.unwrap_or(false),
            mlp_bias: file.opt_flag("mlp_bias")?.unwrap_or(false),
            path,
            json,
        })
    }

    /// The model's name or path as `config.json` tells it.
    pub(crate) fn name_or_path(&self) -> Result<Option<&str>> {
        Object::of_file(&self.path, &self.json, NULLABLE)?.opt_text("_name_or_path")
    }
}

/// The hyperparameters, with transformers' defaults for keys that are absent.
fn hyperparameters(file: &Object<'_>, rope_base: f32) -> Result<Hyperparameters> {
    let (hidden, ffn) = (file.count(keys::HIDDEN.config)?, file.count(keys::FFN.config)?);
    let (heads, kv_heads, head_dim) = heads(file, hidden)?;
    let at_most = |key: Key, most: usize, what: &str| match file.count(key.config)? {
        n if n > most => Err(file.wrong(key.config, format!("{n} {what}; at most {most} are possible"))),
        n => Ok(n),
    };
    let layers = at_most(keys::LAYERS, MAX_LAYERS, "layers")?;
    let vocab = at_most(keys::VOCAB, MAX_TOKENS, "tokens")?;
    let context = file.opt_count(keys::CONTEXT.config)?.unwrap_or(2048);
    if let Some(window) = file.opt_count("sliding_window")?.filter(|window| *window < context) {
        let problem = format!("attention over a window of {window} tokens is not supported");
        return Err(file.refused("sliding_window", problem, "use a model with full attention"));
    }
    let norm_eps = file.opt_positive(keys::NORM_EPS.config)?.unwrap_or(1e-6);
    if norm_eps >= 1.0 {
        return Err(file.wrong(keys::NORM_EPS.config, format!("must be a small number, is {norm_eps}")));
    }
    Ok(Hyperparameters { layers, hidden, ffn, heads, kv_heads, head_dim, context, vocab, norm_eps, rope_base })
}

/// The numbers of query heads and of key and value heads, and the values of a head.
fn heads(file: &Object<'_>, hidden: usize) -> Result<(usize, usize, usize)> {
    let heads = file.count(keys::HEADS.config)?;
    let kv_heads = file.opt_count(keys::KV_HEADS.config)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} heads do not divide {heads} query heads");
        return Err(file.wrong(keys::KV_HEADS.config, problem));
    }
    let head_dim = match file.opt_count(keys::HEAD_DIM.config)? {
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
        let what = class.or(model_type).map_or("a model that does not say what it is".to_owned(), quoted);
        let remedy = "strata converts LlamaForCausalLM and MistralForCausalLM";
        return Err(file.refused("architectures", format!("{what} is not supported"), remedy));
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
fn quantization(dir: &Path, file: &Object<'_>) -> Result<Option<Scheme>> {
    const BESIDE: &str = "hf_quant_config.json";
    if let Some(config) = file.opt_object("quantization_config")? {
        return Scheme::read(&config).map(Some);
    }
    let path = dir.join(BESIDE);
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

/// The base of the frequencies and their scaling, in the older form (`rope_theta`, `rope_scaling`) or the newer (`rope_parameters`).
/// What both say must be the same.
fn rope(file: &Object<'_>) -> Result<(f32, RopeScaling)> {
    let (newer, older) = (file.opt_object("rope_parameters")?, file.opt_object("rope_scaling")?);
    let mut theta = file.opt_positive(keys::ROPE_BASE.config)?;
    let mut scaling = None;
    for object in [newer, older].into_iter().flatten() {
        if let Some(inner) = object.opt_positive(keys::ROPE_BASE.config)? {
            if theta.is_some_and(|theta| theta != inner) {
                return Err(object.wrong(
                    keys::ROPE_BASE.config,
                    format!("is {inner} here and another number elsewhere in the file"),
                ));
            }
            theta = Some(inner);
        }
        let this = rope_scaling(&object)?;
        if scaling.is_some_and(|other| other != this) {
            return Err(file.wrong("rope_scaling", "contradicts \"rope_parameters\""));
        }
        scaling = Some(this);
        full_rotation(&object)?;
    }
    full_rotation(file)?;
    Ok((theta.unwrap_or(10_000.0), scaling.unwrap_or(RopeScaling::None)))
}

/// That all values of a head are rotated.
fn full_rotation(object: &Object<'_>) -> Result<()> {
    match object.opt_f32("partial_rotary_factor")? {
        Some(share) if share != 1.0 => {
            let problem = format!("{share}: heads of which only a part is rotated are not supported");
            Err(object.refused("partial_rotary_factor", problem, "use a Llama model"))
        }
        _ => Ok(()),
    }
}

/// The scaling that `rope_scaling` or `rope_parameters` describes, of which every key is understood or refused.
fn rope_scaling(object: &Object<'_>) -> Result<RopeScaling> {
    const ANY: &[&str] = &["rope_type", "type", keys::ROPE_BASE.config, "partial_rotary_factor"];
    const CONTEXT: &str = "original_max_position_embeddings";
    let kind = match (object.opt_text("rope_type")?, object.opt_text("type")?) {
        (Some(a), Some(b)) if a != b => {
            return Err(object.wrong("type", format!("{} contradicts \"rope_type\", {}", quoted(b), quoted(a))));
        }
        (a, b) => a.or(b).unwrap_or("default"),
    };
    let (scaling, own): (_, &[&str]) = match kind {
        "default" => (RopeScaling::None, &[]),
        // The original context is where the linear scaling came from; it changes nothing.
        "linear" => (RopeScaling::Linear(object.positive("factor")?), &["factor", CONTEXT]),
        "llama3" => {
            let (low, high) = (object.positive("low_freq_factor")?, object.positive("high_freq_factor")?);
            if low >= high {
                return Err(object.wrong("low_freq_factor", format!("{low} is not below high_freq_factor, {high}")));
            }
            let scaling = RopeScaling::Llama3 {
                factor: object.positive("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: object.positive(CONTEXT)?,
            };
            (scaling, &["factor", "low_freq_factor", "high_freq_factor", CONTEXT])
        }
        other => {
            let problem = format!("{} is not supported", quoted(other));
            return Err(object.refused("rope_type", problem, "strata knows the rope types default, linear and llama3"));
        }
    };
    match object.keys().find(|key| !ANY.contains(key) && !own.contains(key)) {
        Some(key) => {
            let problem = format!("is not a key that the rope type {} has", quoted(kind));
            Err(object.refused(key, problem, "strata cannot tell what it changes; correct config.json"))
        }
        None => Ok(scaling),
    }
}
