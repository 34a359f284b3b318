//! `config.json`: the shape of the model.

use super::read_json;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The numbers of `config.json` that a conversion needs, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub path: PathBuf,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// True if `config.json` names the head dimension itself.
    pub head_dim_is_explicit: bool,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    pub rope_scaling: RopeScaling,
    pub tie_word_embeddings: bool,
    /// True if the projections of attention have biases.
    pub attention_bias: bool,
    /// True if the projections of the feed-forward part have biases.
    pub mlp_bias: bool,
    /// The whole file, for what only some conversions need.
    pub json: Value,
}

/// How positions beyond the original context are reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies are divided by this.
    Linear(f32),
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Positions of the first training.
        original_context: f32,
    },
}

impl Config {
    /// Reads and checks `config.json` of a folder.
    pub(super) fn read(dir: &Path) -> Result<Config> {
        let path = dir.join("config.json");
        let Some(json) = read_json(&path)? else {
            return Err(Error::invalid(&path, "file", "is missing", "name the folder of a Hugging Face checkpoint"));
        };
        let file = File { path: &path, json: &json };
        file.supported()?;
        let (hidden, heads) = (file.count("hidden_size")?, file.count("num_attention_heads")?);
        let kv_heads = file.optional_count("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(file.bad("num_key_value_heads", format!("{kv_heads} heads do not divide {heads} query heads")));
        }
        let explicit = file.optional_count("head_dim")?;
        let head_dim = match explicit {
            Some(d) => d,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(file.bad("num_attention_heads", format!("{heads} heads do not divide {hidden} values"))),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(file.bad("head_dim", format!("{head_dim} is odd: its values cannot be rotated in pairs")));
        }
        let layers = file.count("num_hidden_layers")?;
        if layers > 512 {
            return Err(file.bad("num_hidden_layers", format!("{layers} layers; at most 512 are possible")));
        }
        let context = file.optional_count("max_position_embeddings")?.unwrap_or(2048);
        let eps = file.number("rms_norm_eps")?.unwrap_or(1e-6);
        if !(eps > 0.0 && eps < 1.0) {
            return Err(file.bad("rms_norm_eps", format!("{eps} is no small positive number")));
        }
        let (rope_theta, rope_scaling) = rope(&file, context)?;
        Ok(Config {
            vocab_size: file.count("vocab_size")?,
            hidden_size: hidden,
            intermediate_size: file.count("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            head_dim_is_explicit: explicit.is_some(),
            max_position_embeddings: context,
            rms_norm_eps: eps as f32,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: file.flag("tie_word_embeddings")?,
            attention_bias: file.flag("attention_bias")?,
            mlp_bias: file.flag("mlp_bias")?,
            path,
            json,
        })
    }
}

/// The base of the frequencies and their scaling, in the older form (`rope_theta`, `rope_scaling`) or the newer (`rope_parameters`).
fn rope(file: &File<'_>, context: usize) -> Result<(f32, RopeScaling)> {
    let newer = file.json.get("rope_parameters").filter(|v| v.is_object());
    let older = file.json.get("rope_scaling").filter(|v| v.is_object());
    let theta = match newer.and_then(|v| v.get("rope_theta")).and_then(Value::as_f64) {
        Some(theta) => theta,
        None => file.number("rope_theta")?.unwrap_or(10_000.0),
    };
    if !(theta.is_finite() && theta > 0.0) {
        return Err(file.bad("rope_theta", format!("{theta} is no positive number")));
    }
    let Some(scaling) = older.or(newer) else { return Ok((theta as f32, RopeScaling::None)) };
    let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
    let number = |key: &str, fallback: Option<f64>| -> Result<f32> {
        match scaling.get(key).and_then(Value::as_f64).or(fallback) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x as f32),
            _ => Err(file.bad(&format!("rope_scaling.{key}"), "is no positive number".into())),
        }
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear(number("factor", None)?),
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor", Some(8.0))?,
            low_freq_factor: number("low_freq_factor", Some(1.0))?,
            high_freq_factor: number("high_freq_factor", Some(4.0))?,
            original_context: number("original_max_position_embeddings", Some(context.min(8192) as f64))?,
        },
        other => {
            let problem = format!("rope type \"{other}\" is not supported");
            return Err(Error::invalid(file.path, "rope_scaling", problem, "strata knows linear and llama3"));
        }
    };
    if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
        && low_freq_factor >= high_freq_factor
    {
        return Err(
            file.bad("rope_scaling", format!("low_freq_factor {low_freq_factor} is not below {high_freq_factor}"))
        );
    }
    Ok((theta as f32, scaling))
}

struct File<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl File<'_> {
    fn bad(&self, key: &str, problem: String) -> Error {
        Error::invalid(self.path, format!("\"{key}\""), problem, "get the file again from the model's page")
    }

    /// Refuses models that would convert to something that computes other than the original.
    fn supported(&self) -> Result<()> {
        let refuse = |key: &str, problem: String, remedy: &str| {
            Err(Error::invalid(self.path, format!("\"{key}\""), problem, remedy))
        };
        let architectures = self.json.get("architectures").and_then(Value::as_array);
        let name = architectures.and_then(|a| a.first()).and_then(Value::as_str);
        let model = self.json.get("model_type").and_then(Value::as_str);
        if !matches!(
            (name, model),
            (Some("LlamaForCausalLM" | "MistralForCausalLM"), _) | (None, Some("llama" | "mistral"))
        ) {
            let problem =
                format!("{} is not supported", name.or(model).unwrap_or("a model that does not say what it is"));
            return refuse("architectures", problem, "strata converts LlamaForCausalLM and MistralForCausalLM");
        }
        if let Some(act) = self.json.get("hidden_act").and_then(Value::as_str).filter(|act| *act != "silu") {
            return refuse("hidden_act", format!("\"{act}\" is not supported"), "strata knows silu");
        }
        if self.json.get("quantization_config").is_some_and(|q| !q.is_null()) {
            let problem = "the checkpoint is quantized".into();
            return refuse("quantization_config", problem, "convert the original checkpoint (BF16, F16 or F32)");
        }
        let context = self.optional_count("max_position_embeddings")?.unwrap_or(usize::MAX);
        if let Some(window) = self.optional_count("sliding_window")?.filter(|w| *w < context) {
            let problem = format!("attention over a window of {window} tokens is not supported");
            return refuse("sliding_window", problem, "use a model with full attention");
        }
        Ok(())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.bad(key, format!("{value} is no number"))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.bad(key, format!("{value} is neither true nor false"))),
        }
    }

    /// A count from 1 to 2^31.
    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(n @ 1..=0x8000_0000) => Ok(Some(n as usize)),
                _ => Err(self.bad(key, format!("{value} is no count"))),
            },
        }
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional_count(key)?.ok_or_else(|| self.bad(key, "the key is missing".into()))
    }
}
