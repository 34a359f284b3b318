//! What `config.json` says of RoPE: the base of the frequencies and their scaling.

use super::json::Object;
use crate::arch::hyperparameters::keys;
use crate::arch::rope::{BETAS, yarn_magnitude};
use crate::arch::scaling::RopeScaling;
use crate::error::{Result, quoted};

/// The base of the frequencies and their scaling, in the older form (`rope_theta`, `rope_scaling`) or the newer (`rope_parameters`).
/// What both say must be the same. `default_base` and `context` are taken where neither says it.
pub(super) fn rope(file: &Object<'_>, default_base: f32, context: usize) -> Result<(f32, RopeScaling)> {
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
        let this = rope_scaling(&object, context)?;
        if scaling.is_some_and(|other| other != this) {
            return Err(file.wrong("rope_scaling", "contradicts \"rope_parameters\""));
        }
        scaling = Some(this);
        full_rotation(&object)?;
    }
    full_rotation(file)?;
    Ok((theta.unwrap_or(default_base), scaling.unwrap_or(RopeScaling::None)))
}

/// That all values of a head are rotated.
fn full_rotation(object: &Object<'_>) -> Result<()> {
    match object.opt_f32("partial_rotary_factor")? {
        Some(share) if share != 1.0 => {
            let problem = format!("{share}: heads of which only a part is rotated are not supported");
            Err(object.refused("partial_rotary_factor", problem, "use a model that rotates whole heads"))
        }
        _ => Ok(()),
    }
}

const CONTEXT: &str = "original_max_position_embeddings";

/// The keys that YaRN has.
const YARN: &[&str] = &[
    "factor",
    CONTEXT,
    "attention_factor",
    "attn_factor",
    "mscale",
    "mscale_all_dim",
    "beta_fast",
    "beta_slow",
    "extrapolation_factor",
    "truncate",
    "finetuned",
];

/// The scaling that `rope_scaling` or `rope_parameters` describes, of which every key is understood or refused.
fn rope_scaling(object: &Object<'_>, context: usize) -> Result<RopeScaling> {
    const ANY: &[&str] = &["rope_type", "type", keys::ROPE_BASE.config, "partial_rotary_factor"];
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
        "dynamic" => (RopeScaling::Dynamic { factor: object.positive("factor")? }, &["factor"]),
        "yarn" => (yarn(object, context)?, YARN),
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
            let remedy = "strata knows the rope types default, linear, llama3, yarn and dynamic";
            return Err(object.refused("rope_type", problem, remedy));
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

/// YaRN's numbers, with transformers' defaults.
fn yarn(object: &Object<'_>, context: usize) -> Result<RopeScaling> {
    const NEUTRAL: [&str; 2] = ["attn_factor", "extrapolation_factor"];
    const USUAL: &str = "strata would compute something else; use a model with the usual YaRN";
    for key in NEUTRAL {
        if let Some(x) = object.opt_f32(key)?.filter(|x| *x != 1.0) {
            return Err(object.refused(key, format!("{x} is not supported, only 1"), USUAL));
        }
    }
    object.opt_flag("finetuned")?;
    if object.opt_flag("truncate")? == Some(false) {
        return Err(object.refused("truncate", "false is not supported", USUAL));
    }
    let factor = object.positive("factor")?;
    let own = |key: &'static str| object.opt_positive(key);
    let magnitude = |mscale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::logf(factor) + 1.0 };
    let attention_factor = match (own("attention_factor")?, own("mscale")?, own("mscale_all_dim")?) {
        (Some(factor), ..) => factor,
        (None, Some(mscale), Some(all)) => magnitude(mscale) / magnitude(all),
        _ => yarn_magnitude(factor.into()) as f32,
    };
    let (beta_fast, beta_slow) = (own("beta_fast")?.unwrap_or(BETAS[0]), own("beta_slow")?.unwrap_or(BETAS[1]));
    if beta_slow > beta_fast {
        return Err(object.wrong("beta_slow", format!("{beta_slow} is above beta_fast, {beta_fast}")));
    }
    let original_context = object.opt_count(CONTEXT)?.unwrap_or(context);
    Ok(RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor })
}
