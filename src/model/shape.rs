//! The numbers that describe a Llama model, read from GGUF metadata and checked against each other.

use crate::checkpoint::MAX_TOKENS;
use crate::error::{Error, Result, quoted};
use crate::gguf::Gguf;
use strata_kernels::AttentionShape;

/// Layers that a file may have; llama.cpp's own limit.
const MAX_LAYERS: u32 = 512;

/// The shape of a model with the `llama` architecture.
#[derive(Clone, Debug)]
pub struct Shape {
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
    /// Radians a position for each rotated pair of a head: `(pairs)`.
    pub frequencies: Vec<f64>,
}

/// Keys that llama.cpp knows and that change what is computed, each with the values that change nothing. Others are refused: Strata
/// computes none of it.
const NEUTRAL: &[(&str, &[f32])] = &[
    ("llama.attention.clamp_kqv", &[0.0]),
    ("llama.attention.max_alibi_bias", &[0.0]),
    ("llama.attention.output_scale", &[0.0, 1.0]),
    ("llama.attn_logit_softcapping", &[0.0]),
    ("llama.final_logit_softcapping", &[0.0]),
    ("llama.router_logit_softcapping", &[0.0]),
    ("llama.logit_scale", &[0.0, 1.0]),
    ("llama.embedding_scale", &[0.0, 1.0]),
    ("llama.residual_scale", &[0.0, 1.0]),
    ("llama.rope.scaling.attn_factor", &[1.0]),
];

/// As [`NEUTRAL`], for flags.
const NEUTRAL_FLAGS: &[(&str, bool)] = &[("llama.attention.causal", true), ("llama.use_parallel_residual", false)];

impl Shape {
    /// Reads the shape.
    ///
    /// # Errors
    /// Names the key that is missing, out of range, or asks for what Strata does not have.
    pub fn read(gguf: &Gguf) -> Result<Shape> {
        gguf.unless_changed(Shape::checked(gguf))
    }

    fn checked(gguf: &Gguf) -> Result<Shape> {
        let bad = |key: &str, problem: String| {
            Error::invalid(gguf.path(), key, problem, "convert the model again from its checkpoint")
        };
        let architecture = gguf.required_str("general.architecture")?;
        if architecture != "llama" {
            return Err(Error::invalid(
                gguf.path(),
                "general.architecture",
                format!("{} is not supported", quoted(architecture)),
                "strata runs models of the llama architecture (Llama 2 and 3, Mistral, TinyLlama, SmolLM)",
            ));
        }
        let count = |key: &str| -> Result<usize> {
            match gguf.required_u32(key)? {
                0 => Err(bad(key, "is zero".into())),
                n => Ok(n as usize), // a usize has 32 bits or more
            }
        };
        let (layers, hidden) = (count("llama.block_count")?, count("llama.embedding_length")?);
        if layers > MAX_LAYERS as usize {
            return Err(bad("llama.block_count", format!("{layers} layers; at most {MAX_LAYERS} are possible")));
        }
        let heads = count("llama.attention.head_count")?;
        let kv_heads = match gguf.u32("llama.attention.head_count_kv")? {
            Some(n) => n as usize,
            None => heads,
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(bad(
                "llama.attention.head_count_kv",
                format!("{kv_heads} heads do not divide {heads} query heads"),
            ));
        }
        let head_dim = match gguf.u32("llama.attention.key_length")? {
            Some(n) => n as usize,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(bad("llama.attention.head_count", format!("{heads} heads do not divide {hidden} values")));
            }
        };
        if head_dim == 0 || head_dim > 4096 {
            return Err(bad("llama.attention.key_length", format!("heads of {head_dim} values")));
        }
        // Where the file does not say, llama.cpp takes the share of a head in a hidden state for values too.
        let value_dim = gguf.u32("llama.attention.value_length")?.map_or(hidden / heads, |n| n as usize);
        let says = |key: &str| gguf.metadata().get(key).is_some();
        if value_dim != head_dim && (says("llama.attention.value_length") || says("llama.attention.key_length")) {
            return Err(bad(
                "llama.attention.value_length",
                format!("{value_dim} differs from llama.attention.key_length, {head_dim}"),
            ));
        }
        let norm_eps = gguf.required_f32("llama.attention.layer_norm_rms_epsilon")?;
        if !(norm_eps > 0.0 && norm_eps < 1.0) {
            return Err(bad(
                "llama.attention.layer_norm_rms_epsilon",
                format!("{norm_eps} is no small positive number"),
            ));
        }
        let context = count("llama.context_length")?;
        check_neutral(gguf, head_dim, context)?;
        Ok(Shape {
            layers,
            hidden,
            ffn: count("llama.feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            context,
            vocab: vocabulary(gguf)?,
            norm_eps,
            frequencies: frequencies(gguf, head_dim)?,
        })
    }

    /// The shape of the attention.
    pub fn attention(&self) -> AttentionShape {
        AttentionShape { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
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

/// The rows of the embedding, which all that the metadata says of the vocabulary must agree with.
fn vocabulary(gguf: &Gguf) -> Result<usize> {
    let rows = gguf.required_tensor("token_embd.weight")?.rows();
    let refuse = |problem: String| {
        let remedy = "the file contradicts itself; convert the model again from its checkpoint";
        Err(Error::invalid(gguf.path(), "token_embd.weight", problem, remedy))
    };
    let tokens = gguf.array("tokenizer.ggml.tokens")?.map(|tokens| tokens.len() as u64);
    let said = gguf.u32("llama.vocab_size")?.map(u64::from);
    for (count, what) in [(tokens, "the vocabulary has"), (said, "llama.vocab_size is")] {
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
fn check_neutral(gguf: &Gguf, head_dim: usize, context: usize) -> Result<()> {
    let refuse = |key: &str, problem: String| {
        let remedy = "strata would compute something else; use a plain Llama model";
        Err(Error::invalid(gguf.path(), format!("key {}", quoted(key)), problem, remedy))
    };
    for (key, neutral) in NEUTRAL {
        if let Some(x) = gguf.f32(key)?.filter(|x| !neutral.contains(x)) {
            return refuse(key, format!("{x} is not supported"));
        }
    }
    for (key, neutral) in NEUTRAL_FLAGS {
        if gguf.bool(key)?.is_some_and(|flag| flag != *neutral) {
            return refuse(key, format!("{} is not supported", !neutral));
        }
    }
    // Scores are divided by the root of the length of a head; 0 says the same.
    let usual = 1.0 / (head_dim as f64).sqrt();
    let key = "llama.attention.scale";
    let is_usual = |x: f32| x == 0.0 || (x as f64 - usual).abs() < 1e-6 * usual;
    if let Some(x) = gguf.f32(key)?.filter(|&x| !is_usual(x)) {
        return refuse(key, format!("{x} is not supported, only 1/sqrt({head_dim})"));
    }
    if let Some(n) = gguf.u32("llama.expert_count")?.filter(|&n| n > 0) {
        return refuse("llama.expert_count", format!("{n}: mixtures of experts are not supported"));
    }
    let key = "llama.attention.sliding_window";
    if let Some(n) = gguf.u32(key)?.filter(|&n| n > 0 && (n as usize) < context) {
        return refuse(key, format!("attention over a window of {n} tokens is not supported"));
    }
    Ok(())
}

/// `base^(-2i / dims)`, divided by the factors of `rope_freqs.weight` (Llama 3.1) and by the linear scaling, if the file has them.
fn frequencies(gguf: &Gguf, head_dim: usize) -> Result<Vec<f64>> {
    let bad = |key: &str, problem: String, remedy: &str| Err(Error::invalid(gguf.path(), key, problem, remedy));
    let again = "convert the model again from its checkpoint";
    let dims = gguf.u32("llama.rope.dimension_count")?.map_or(head_dim, |n| n as usize);
    if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
        return bad("llama.rope.dimension_count", format!("{dims} of {head_dim} values cannot be rotated"), again);
    }
    let base = gguf.f32("llama.rope.freq_base")?.unwrap_or(10_000.0) as f64;
    if !(base.is_finite() && base > 0.0) {
        return bad("llama.rope.freq_base", format!("{base} is no positive number"), again);
    }
    let scaling = gguf.str("llama.rope.scaling.type")?.unwrap_or("none");
    let factor = match gguf.f32("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => gguf.f32("llama.rope.scale_linear")?,
    };
    let factor = match (scaling, factor) {
        ("linear", Some(factor)) => factor as f64,
        ("linear", None) => {
            return bad("llama.rope.scaling.factor", "is missing, though the scaling is linear".into(), again);
        }
        // Old files carry a factor and no type: it was linear then.
        ("none", factor) if gguf.str("llama.rope.scaling.type")?.is_none() => factor.unwrap_or(1.0) as f64,
        ("none", _) => 1.0,
        (other, _) => {
            let problem = format!("{} is not supported", quoted(other));
            return bad(
                "llama.rope.scaling.type",
                problem,
                "strata knows linear scaling and Llama 3.1's frequency factors",
            );
        }
    };
    if !(factor.is_finite() && factor > 0.0) {
        return bad("llama.rope.scaling.factor", format!("{factor} is no positive number"), again);
    }
    let mut divisors = vec![1.0f32; dims / 2];
    if let Some(tensor) = gguf.tensor("rope_freqs.weight") {
        let (cols, format) = (tensor.cols() as usize, tensor.ty.format());
        let (Some(format), true) = (format, cols == dims / 2 && tensor.rows() == 1) else {
            return bad(
                "rope_freqs.weight",
                format!("{cols} factors of type {} for {} pairs", tensor.ty, dims / 2),
                again,
            );
        };
        (format.decode)(gguf.data(tensor), &mut divisors);
        if let Some(d) = divisors.iter().find(|d| !(d.is_finite() && **d > 0.0)) {
            return bad("rope_freqs.weight", format!("{d} is no positive number"), again);
        }
    }
    let pairs = (0..dims / 2).zip(divisors);
    Ok(pairs.map(|(i, d)| libm::pow(base, -2.0 * i as f64 / dims as f64) / d as f64 / factor).collect())
}
