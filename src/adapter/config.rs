//! `adapter_config.json` of PEFT: rank and scale of each module. What strata cannot merge exactly is refused by name.

use crate::checkpoint::json::{Object, shown};
use crate::checkpoint::read_json;
use crate::error::{Error, Result, quoted};
use regex::Regex;
use serde_json::Value as Json;
use std::path::Path;

/// What decides the scale of `B A`.
pub struct AdapterConfig {
    rank: usize,
    alpha: f64,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    rslora: bool,
}

/// Keys of what is off if they are null.
const NULLABLE: &[&str] = &["base_model_name_or_path", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type"];

/// Keys that decide nothing of a merge: how the adapter was trained, and where it was put, which its tensors say.
const NO_MATTER: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out", // of Conv1D alone; PEFT takes it for false at a linear layer
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Ways to begin that change the base model, to which the adapter then belongs.
const OTHER_BASES: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

impl AdapterConfig {
    /// Reads the file in an adapter's folder.
    ///
    /// # Errors
    /// If it is missing or not valid, or of an adapter that is no plain LoRA.
    pub fn read(dir: &Path) -> Result<AdapterConfig> {
        let path = dir.join("adapter_config.json");
        let Some(json) = read_json(&path)? else {
            let remedy = "name the folder of an adapter that PEFT has saved";
            return Err(Error::invalid(&path, "file", "is missing", remedy));
        };
        let file = Object::of_file(&path, &json, NULLABLE)?;
        check_kind(&file)?;
        let ranks = patterns(&file, "rank_pattern", |object, key| object.count(key))?;
        let alphas = patterns(&file, "alpha_pattern", number)?;
        let rslora = file.opt_flag("use_rslora")?.unwrap_or(false);
        Ok(AdapterConfig { rank: file.count("r")?, alpha: number(&file, "lora_alpha")?, ranks, alphas, rslora })
    }

    /// The rank of a module, as `model.layers.0.mlp.up_proj`.
    pub fn rank(&self, module: &str) -> usize {
        self.ranks.iter().find(|(pattern, _)| pattern.is_match(module)).map_or(self.rank, |(_, rank)| *rank)
    }

    /// What `B A` of a module is multiplied with: `alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA (Kalajdzievski 2023).
    pub fn scale(&self, module: &str) -> f64 {
        let alpha = self.alphas.iter().find(|(pattern, _)| pattern.is_match(module)).map_or(self.alpha, |(_, a)| *a);
        let rank = self.rank(module) as f64;
        alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// Refuses what is no plain LoRA.
fn check_kind(file: &Object<'_>) -> Result<()> {
    const REMEDY: &str = "merge it with PEFT (merge_and_unload, then save_pretrained), and convert what that gives";
    let kind = file.opt_text("peft_type")?.unwrap_or("LORA");
    if !kind.eq_ignore_ascii_case("LORA") {
        return Err(file.refused("peft_type", format!("is {}; strata merges LORA only", quoted(kind)), REMEDY));
    }
    if file.opt_flag("use_dora")?.unwrap_or(false) {
        return Err(file.refused("use_dora", "is true: strata does not merge DoRA", REMEDY));
    }
    if let Some(Json::String(begin)) = file.get("init_lora_weights")
        && OTHER_BASES.iter().any(|kind| begin.to_lowercase().starts_with(kind))
    {
        let problem = format!("is {}, which changes the base model: the adapter belongs to that", quoted(begin));
        return Err(file.refused(
            "init_lora_weights",
            problem,
            "save it with path_initial_model_for_weight_conversion",
        ));
    }
    let own = |key: &str| {
        let known = ["peft_type", "use_dora", "init_lora_weights", "r", "lora_alpha", "use_rslora"].contains(&key);
        known || key.ends_with("_pattern") || NO_MATTER.contains(&key)
    };
    for key in file.keys().filter(|key| !own(key)) {
        let is_off = match file.get(key) {
            None | Some(Json::Null | Json::Bool(false)) => true,
            Some(Json::Array(list)) => list.is_empty(),
            Some(Json::Object(object)) => object.is_empty(),
            _ => false,
        };
        if let (false, Some(value)) = (is_off, file.get(key)) {
            let problem = format!("is {}; strata does not know what that makes of the weights", shown(value));
            return Err(file.refused(key, problem, REMEDY));
        }
    }
    Ok(())
}

/// A finite number.
fn number(object: &Object<'_>, key: &str) -> Result<f64> {
    // Only for its errors: a number of 32 bits would be rounded.
    object.opt_f32(key)?;
    object.get(key).and_then(Json::as_f64).ok_or_else(|| object.wrong(key, "the key is missing"))
}

/// The values of an object whose keys are patterns of modules, in its order: PEFT takes the first that fits the end of a module's name.
fn patterns<T>(
    file: &Object<'_>,
    key: &str,
    value: impl Fn(&Object<'_>, &str) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let Some(object) = file.opt_object(key)? else { return Ok(Vec::new()) };
    let of = |pattern: &str| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{})$", pattern));
        let regex = regex.map_err(|_| object.wrong(pattern, "is no regular expression"))?;
        Ok((regex, value(&object, pattern)?))
    };
    object.keys().map(of).collect()
}
