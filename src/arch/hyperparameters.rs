//! The numbers of one model, and the keys under which GGUF files and `config.json` store them.

use super::{Architecture, Dim, LayerSet};
use crate::checkpoint::MAX_TOKENS;
use crate::error::{Error, Result, quoted};
use crate::gguf::{Gguf, ValueRef};
use strata_kernels::AttentionShape;

/// Layers of a model, at most; llama.cpp's own limit.
pub(crate) const MAX_LAYERS: usize = 512;

/// Values of a head, at most: eight times those of any known model.
pub(crate) const MAX_HEAD_DIM: usize = 4096;

/// The hyperparameters of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Transformer layers.
    pub layers: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Values inside the feed-forward network.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Tokens of the vocabulary: rows of the embedding.
    pub vocab: usize,
    /// Added to the mean square in norms.
    pub norm_eps: f32,
    /// The base of RoPE's frequencies, `base^(-2i / head_dim)`.
    pub rope_base: f32,
    /// Layers whose queries and keys are not rotated.
    pub no_rope: LayerSet,
    /// The layers that attend to the last tokens only.
    pub window: Option<Window>,
    /// Factors between the matrices.
    pub scales: Scales,
}

/// Layers with a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens that a token attends to at most, itself the last of them.
    pub tokens: usize,
    /// The layers.
    pub layers: LayerSet,
}

/// Factors between the matrices, as Granite has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Of the token embeddings.
    pub embedding: f32,
    /// Of the scores of attention; `None` for `1 / sqrt(head_dim)`.
    pub attention: Option<f32>,
    /// Of what attention and the feed-forward network add to the hidden state.
    pub residual: f32,
    /// The divisor of the logits.
    pub logits: f32,
}

impl Scales {
    /// Those of a model that has none.
    pub const NONE: Scales = Scales { embedding: 1.0, attention: None, residual: 1.0, logits: 1.0 };
}

/// The keys of a hyperparameter.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// In GGUF files, after the name of the architecture and a point.
    pub gguf: &'static str,
    /// In `config.json`.
    pub config: &'static str,
}

/// The keys of [`Hyperparameters`], which are the same for all architectures of the table.
#[allow(missing_docs)]
pub mod keys {
    use super::Key;

    pub const LAYERS: Key = Key { gguf: "block_count", config: "num_hidden_layers" };
    pub const CONTEXT: Key = Key { gguf: "context_length", config: "max_position_embeddings" };
    pub const HIDDEN: Key = Key { gguf: "embedding_length", config: "hidden_size" };
    pub const FFN: Key = Key { gguf: "feed_forward_length", config: "intermediate_size" };
    pub const HEADS: Key = Key { gguf: "attention.head_count", config: "num_attention_heads" };
    pub const KV_HEADS: Key = Key { gguf: "attention.head_count_kv", config: "num_key_value_heads" };
    pub const HEAD_DIM: Key = Key { gguf: "attention.key_length", config: "head_dim" };
    /// Of values; equals that of keys.
    pub const VALUE_DIM: Key = Key { gguf: "attention.value_length", config: "head_dim" };
    pub const NORM_EPS: Key = Key { gguf: "attention.layer_norm_rms_epsilon", config: "rms_norm_eps" };
    pub const VOCAB: Key = Key { gguf: "vocab_size", config: "vocab_size" };
    pub const ROPE_BASE: Key = Key { gguf: "rope.freq_base", config: "rope_theta" };
    /// Rotated values of a head.
    pub const ROPE_DIMS: Key = Key { gguf: "rope.dimension_count", config: "head_dim" };
    pub const WINDOW: Key = Key { gguf: "attention.sliding_window", config: "sliding_window" };
    /// For each layer whether it has the window; in files of llama.cpp also a number: of so many layers the last has none.
    pub const WINDOW_LAYERS: Key = Key { gguf: "attention.sliding_window_pattern", config: "layer_types" };
    /// For each layer whether it has RoPE, 0 or 1.
    pub const ROPE_LAYERS: Key = Key { gguf: "attention.rope_pattern", config: "no_rope_layers" };
    pub const EMBEDDING_SCALE: Key = Key { gguf: "embedding_scale", config: "embedding_multiplier" };
    pub const ATTENTION_SCALE: Key = Key { gguf: "attention.scale", config: "attention_multiplier" };
    pub const RESIDUAL_SCALE: Key = Key { gguf: "residual_scale", config: "residual_multiplier" };
    pub const LOGIT_SCALE: Key = Key { gguf: "logit_scale", config: "logits_scaling" };
}

impl Key {
    /// In a GGUF file of this architecture: `llama.block_count`.
    pub fn of(&self, architecture: &Architecture) -> String {
        format!("{}.{}", architecture.name, self.gguf)
    }
}

/// Keys that llama.cpp knows and that change what is computed, each with the values that change nothing. Others are refused: Strata
/// computes none of it.
const NEUTRAL: &[(&str, &[f32])] = &[
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
];

/// As [`NEUTRAL`], of architectures that have no such factors.
const NEUTRAL_SCALES: &[(Key, &[f32])] =
    &[(keys::LOGIT_SCALE, &[0.0, 1.0]), (keys::EMBEDDING_SCALE, &[0.0, 1.0]), (keys::RESIDUAL_SCALE, &[0.0, 1.0])];

/// As [`NEUTRAL`], for flags.
const NEUTRAL_FLAGS: &[(&str, bool)] = &[("attention.causal", true), ("use_parallel_residual", false)];

impl Hyperparameters {
    /// Reads the hyperparameters of a GGUF model and checks them against each other.
    ///
    /// # Errors
    /// Names the key that is missing, out of range, or asks for what Strata does not compute.
    pub fn read(gguf: &Gguf) -> Result<Hyperparameters> {
        let architecture = Architecture::of(gguf)?;
        let key = |key: Key| key.of(architecture);
        let bad = |name: &str, problem: String| wrong(gguf, name, problem);
        let count = |key: Key| -> Result<usize> {
            match gguf.required_u32(&key.of(architecture))? {
                0 => Err(bad(&key.of(architecture), "is zero".into())),
                n => Ok(n as usize), // a usize has 32 bits or more
            }
        };
        let (layers, hidden) = (count(keys::LAYERS)?, count(keys::HIDDEN)?);
        if layers > MAX_LAYERS {
            return Err(bad(&key(keys::LAYERS), format!("{layers} layers; at most {MAX_LAYERS} are possible")));
        }
        let heads = count(keys::HEADS)?;
        let kv_heads = gguf.u32(&key(keys::KV_HEADS))?.map_or(heads, |n| n as usize);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let problem = format!("{kv_heads} heads do not divide {heads} query heads");
            return Err(bad(&key(keys::KV_HEADS), problem));
        }
        let head_dim = head_dim(gguf, architecture, hidden, heads)?;
        let norm_eps = gguf.required_f32(&key(keys::NORM_EPS))?;
        if !(norm_eps > 0.0 && norm_eps < 1.0) {
            return Err(bad(&key(keys::NORM_EPS), format!("{norm_eps} is not a small positive number")));
        }
        let rope_base = gguf.f32(&key(keys::ROPE_BASE))?.unwrap_or(10_000.0);
        if !(rope_base.is_finite() && rope_base > 0.0) {
            return Err(bad(&key(keys::ROPE_BASE), format!("{rope_base} is not a positive number")));
        }
        let context = count(keys::CONTEXT)?;
        check_neutral(gguf, architecture, head_dim)?;
        let (ffn, vocab) = (count(keys::FFN)?, vocabulary(gguf, architecture)?);
        let no_rope = no_rope(gguf, architecture, layers)?;
        let (window, scales) = (window(gguf, architecture, layers)?, scales(gguf, architecture)?);
        Ok(Hyperparameters {
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
        })
    }

    /// The length that a dimension of a tensor has.
    pub fn len(&self, dim: Dim) -> usize {
        match dim {
            Dim::One => 1,
            Dim::Vocab => self.vocab,
            Dim::Hidden => self.hidden,
            Dim::Q => self.q_width(),
            Dim::Kv => self.kv_width(),
            Dim::Ffn => self.ffn,
            Dim::Head => self.head_dim,
            Dim::RopePairs => self.head_dim / 2,
        }
    }

    /// The shape of the attention of a layer.
    pub fn attention(&self, layer: usize) -> AttentionShape {
        let usual = AttentionShape::new(self.heads, self.kv_heads, self.head_dim);
        AttentionShape {
            scale: self.scales.attention.unwrap_or(usual.scale),
            window: self.window.filter(|window| window.layers.contains(layer)).map_or(usual.window, |w| w.tokens),
            ..usual
        }
    }

    /// Values of all key heads, and of all value heads, of one token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Values of all query heads of one token.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
}

fn wrong(gguf: &Gguf, key: &str, problem: String) -> Error {
    Error::invalid(gguf.path(), key, problem, "convert the model again from its checkpoint")
}

/// Values of a head, which keys and values have alike.
fn head_dim(gguf: &Gguf, architecture: &Architecture, hidden: usize, heads: usize) -> Result<usize> {
    let [of_keys, of_values] = [keys::HEAD_DIM, keys::VALUE_DIM].map(|key| key.of(architecture));
    let head_dim = match gguf.u32(&of_keys)? {
        Some(n) => n as usize,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let problem = format!("{heads} heads do not divide {hidden} values");
            return Err(wrong(gguf, &keys::HEADS.of(architecture), problem));
        }
    };
    if head_dim == 0 || head_dim > MAX_HEAD_DIM {
        return Err(wrong(gguf, &of_keys, format!("heads of {head_dim} values")));
    }
    // Where the file does not say, llama.cpp takes the share of a head in a hidden state for values too.
    let value_dim = gguf.u32(&of_values)?.map_or(hidden / heads, |n| n as usize);
    let says = |key: &str| gguf.metadata().get(key).is_some();
    if value_dim != head_dim && (says(&of_values) || says(&of_keys)) {
        return Err(wrong(gguf, &of_values, format!("{value_dim} differs from {of_keys}, {head_dim}")));
    }
    Ok(head_dim)
}

/// The rows of the embedding, which all that the metadata says of the vocabulary must agree with.
fn vocabulary(gguf: &Gguf, architecture: &Architecture) -> Result<usize> {
    let embedding = architecture.spec(super::Role::TokenEmbedding).name(None);
    let rows = gguf.required_tensor(&embedding)?.rows();
    let refuse = |problem: String| {
        let remedy = "the file contradicts itself; convert the model again from its checkpoint";
        Err(Error::invalid(gguf.path(), embedding.as_str(), problem, remedy))
    };
    let key = keys::VOCAB.of(architecture);
    let tokens = gguf.array("tokenizer.ggml.tokens")?.map(|tokens| tokens.len() as u64);
    let said = gguf.u32(&key)?.map(u64::from);
    for (count, what) in [(tokens, "the vocabulary has"), (said, &format!("{key} is"))] {
        if let Some(count) = count.filter(|count| *count != rows) {
            return refuse(format!("has {rows} rows where {what} {count}"));
        }
    }
    match usize::try_from(rows) {
        Ok(rows) if rows <= MAX_TOKENS => Ok(rows),
        _ => refuse(format!("has {rows} rows, one for each token; at most {MAX_TOKENS} are possible")),
    }
}

/// That no key asks for a computation that Strata does not have.
fn check_neutral(gguf: &Gguf, architecture: &Architecture, head_dim: usize) -> Result<()> {
    let name = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let refuse = |key: &str, problem: String| {
        let remedy = "strata would compute something else; use a plain Llama model";
        Err(Error::invalid(gguf.path(), format!("key {}", quoted(key)), problem, remedy))
    };
    let scales = NEUTRAL_SCALES.iter().filter(|_| !architecture.has_scales).map(|(key, neutral)| (key.gguf, *neutral));
    for (suffix, neutral) in NEUTRAL.iter().copied().chain(scales) {
        let key = name(suffix);
        if let Some(x) = gguf.f32(&key)?.filter(|x| !neutral.contains(x)) {
            return refuse(&key, format!("{x} is not supported"));
        }
    }
    for (suffix, neutral) in NEUTRAL_FLAGS.iter().chain(architecture.neutral_flags) {
        let key = name(suffix);
        if gguf.bool(&key)?.is_some_and(|flag| flag != *neutral) {
            return refuse(&key, format!("{} is not supported", !neutral));
        }
    }
    // Scores are divided by the root of the length of a head; 0 says the same.
    let usual = 1.0 / (head_dim as f64).sqrt();
    let key = keys::ATTENTION_SCALE.of(architecture);
    let is_usual = |x: f32| x == 0.0 || (x as f64 - usual).abs() < 1e-6 * usual;
    if let Some(x) = gguf.f32(&key)?.filter(|&x| !architecture.has_scales && !is_usual(x)) {
        return refuse(&key, format!("{x} is not supported, only 1/sqrt({head_dim})"));
    }
    let key = name("expert_count");
    if let Some(n) = gguf.u32(&key)?.filter(|&n| n > 0) {
        let problem = format!("{n}: the model is a mixture of experts");
        return Err(Error::invalid(gguf.path(), format!("key {}", quoted(&key)), problem, super::refused::REMEDY));
    }
    Ok(())
}

/// The factors of an architecture that has some. In its files 0 says that there is none.
fn scales(gguf: &Gguf, architecture: &Architecture) -> Result<Scales> {
    if !architecture.has_scales {
        return Ok(Scales::NONE);
    }
    let scale = |key: Key| -> Result<Option<f32>> {
        let key = key.of(architecture);
        match gguf.f32(&key)?.filter(|x| *x != 0.0) {
            Some(x) if !(x.is_finite() && x > 0.0) => Err(wrong(gguf, &key, format!("{x} is not a positive number"))),
            x => Ok(x),
        }
    };
    Ok(Scales {
        embedding: scale(keys::EMBEDDING_SCALE)?.unwrap_or(1.0),
        attention: scale(keys::ATTENTION_SCALE)?,
        residual: scale(keys::RESIDUAL_SCALE)?.unwrap_or(1.0),
        logits: scale(keys::LOGIT_SCALE)?.unwrap_or(1.0),
    })
}

/// The layers without RoPE.
fn no_rope(gguf: &Gguf, architecture: &Architecture, layers: usize) -> Result<LayerSet> {
    let key = keys::ROPE_LAYERS.of(architecture);
    match gguf.array(&key)? {
        Some(_) => layer_set(gguf, &key, layers, false),
        None => Ok(LayerSet::of(layers, |i| architecture.no_rope_interval.is_some_and(|n| (i + 1).is_multiple_of(n)))),
    }
}

/// The sliding window and its layers: all, unless the file says which.
fn window(gguf: &Gguf, architecture: &Architecture, layers: usize) -> Result<Option<Window>> {
    let Some(tokens) = gguf.u32(&keys::WINDOW.of(architecture))?.filter(|n| *n > 0) else { return Ok(None) };
    let key = keys::WINDOW_LAYERS.of(architecture);
    let set = match gguf.metadata().get(&key) {
        None => LayerSet::of(layers, |_| true),
        Some(ValueRef::Array(_)) => layer_set(gguf, &key, layers, true)?,
        Some(_) => match gguf.u32(&key)? {
            Some(n) if n > 0 => LayerSet::of(layers, |i| i % n as usize != n as usize - 1),
            _ => LayerSet::of(layers, |_| true),
        },
    };
    Ok((set != LayerSet::EMPTY).then_some(Window { tokens: tokens as usize, layers: set }))
}

/// The layers for which a list of flags, or of 0 and 1, says `wanted`.
fn layer_set(gguf: &Gguf, key: &str, layers: usize, wanted: bool) -> Result<LayerSet> {
    let flag = |value: ValueRef<'_>| value.as_bool().or_else(|| value.as_i64().map(|n| n != 0));
    let flags: Option<Vec<bool>> = gguf.array(key)?.and_then(|array| array.iter().map(flag).collect());
    match flags {
        Some(flags) if flags.len() == layers => Ok(LayerSet::of(layers, |i| flags[i] == wanted)),
        Some(flags) => Err(wrong(gguf, key, format!("has {} values for {layers} layers", flags.len()))),
        None => Err(wrong(gguf, key, "is not a list of flags".into())),
    }
}
