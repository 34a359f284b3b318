//! What the file says of the model: its names, its shape, its sampling defaults, in the keys and the order of llama.cpp's converter.

use super::naming::{self, Name};
use super::plan::Tensor;
use super::source::Input;
use super::vocabulary;
use crate::checkpoint::{Checkpoint, Config, RopeScaling};
use crate::error::Result;
use crate::gguf::{ALIGNMENT_KEY, Gguf, Layout};
use crate::recipe::Mix;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::path::Path;

/// Sets every key. `name` goes before what the source says.
pub fn set(layout: &mut Layout, input: &Input, name: Option<&str>, mix: Mix, tensors: &[Tensor]) -> Result<()> {
    match input {
        Input::Checkpoint(checkpoint) => of_checkpoint(layout, checkpoint, name, mix, tensors)?,
        Input::Gguf(gguf) => of_gguf(layout, gguf, name, mix),
    }
    layout.set("general.quantization_version", 2u32);
    Ok(())
}

fn of_checkpoint(
    layout: &mut Layout,
    checkpoint: &Checkpoint,
    name: Option<&str>,
    mix: Mix,
    tensors: &[Tensor],
) -> Result<()> {
    let weights = tensors.iter().map(Tensor::weights).sum();
    layout.set("general.architecture", "llama");
    layout.set("general.type", "model");
    sampling(layout, checkpoint)?;
    names(layout, checkpoint, name, weights);
    shape(layout, &checkpoint.config, mix);
    vocabulary::set(layout, checkpoint).map(drop)
}

/// The keys of another file, in its order, except those that are about that file and not about the model.
fn of_gguf(layout: &mut Layout, gguf: &Gguf, name: Option<&str>, mix: Mix) {
    for (key, value) in gguf.metadata().iter() {
        let of_the_file = ["split.", "strata.", "quantize."].iter().any(|prefix| key.starts_with(prefix));
        if !of_the_file && key != ALIGNMENT_KEY {
            layout.metadata.push((key.to_owned(), value.to_owned()));
        }
    }
    if let Some(name) = name {
        layout.set("general.name", name);
    }
    layout.set("general.file_type", mix.file_type);
}

/// Sampling defaults of `generation_config.json`.
fn sampling(layout: &mut Layout, checkpoint: &Checkpoint) -> Result<()> {
    let Some(json) = checkpoint.json("generation_config.json")? else { return Ok(()) };
    let number = |key: &str| json.get(key).and_then(Json::as_f64);
    if let Some(k) = number("top_k") {
        layout.set("general.sampling.top_k", k as i32);
    }
    for (from, to) in [("top_p", "top_p"), ("min_p", "min_p"), ("temperature", "temp")] {
        if let Some(x) = number(from) {
            layout.set(format!("general.sampling.{to}"), x as f32);
        }
    }
    Ok(())
}

fn names(layout: &mut Layout, checkpoint: &Checkpoint, name: Option<&str>, weights: u64) {
    let card = card(&checkpoint.dir.join("README.md"));
    let first = |key: &str| card.get(key).and_then(|v| v.first()).cloned();
    // A name in config.json counts only if it is a model's and not a path on somebody's disk.
    let path_name = checkpoint.config.json.get("_name_or_path").and_then(Json::as_str);
    let from_config = path_name.filter(|n| !n.is_empty() && n.matches('/').count() <= 1);
    let dir = checkpoint.dir.canonicalize().unwrap_or_else(|_| checkpoint.dir.clone());
    let folder = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let [a, b] = [from_config.unwrap_or_default(), &folder].map(|id| naming::parse(id, weights));
    let either = |f: fn(&Name) -> &Option<String>| f(&a).clone().filter(|s| !s.is_empty()).or_else(|| f(&b).clone());
    let name = name.map(str::to_owned).or_else(|| first("name").or_else(|| first("model_name")));
    let name = name.or_else(|| either(|n| &n.full).map(|n| naming::title(&n))).unwrap_or_else(|| "Llama".to_owned());
    layout.set("general.name", name);
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            layout.set(format!("general.{key}"), value);
        }
    };
    set("author", first("author").or_else(|| first("model_creator")));
    set("version", either(|n| &n.version));
    set("organization", either(|n| &n.organization).map(|o| naming::title(&o)));
    set("finetune", either(|n| &n.finetune));
    set("basename", either(|n| &n.basename));
    set("size_label", either(|n| &n.size_label).or_else(|| Some(naming::size_label(weights))));
    set("license", card.get("license").map(|v| v.join(",")).filter(|s| !s.is_empty()));
    set("license.name", first("license_name"));
    set("license.link", first("license_link"));
    if let Some(models) = card.get("base_model").filter(|m| !m.is_empty()) {
        layout.set("general.base_model.count", models.len() as u32);
        for (i, id) in models.iter().enumerate() {
            let base = naming::parse(id, weights);
            let mut set = |key: &str, value: Option<String>| {
                if let Some(value) = value {
                    layout.set(format!("general.base_model.{i}.{key}"), value);
                }
            };
            set("name", base.full.as_deref().map(naming::title));
            set("version", base.version);
            set("organization", base.organization.as_deref().map(naming::title));
            set("repo_url", base.organization.is_some().then(|| format!("https://huggingface.co/{id}")));
        }
    }
    for (key, from) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let values: Vec<String> = from.iter().filter_map(|k| card.get(*k)).flatten().cloned().collect();
        if !values.is_empty() {
            layout.set(format!("general.{key}"), values);
        }
    }
}

fn shape(layout: &mut Layout, config: &Config, mix: Mix) {
    let mut set = |key: &str, n: usize| layout.set(format!("llama.{key}"), n as u32);
    set("block_count", config.num_hidden_layers);
    set("context_length", config.max_position_embeddings);
    set("embedding_length", config.hidden_size);
    set("feed_forward_length", config.intermediate_size);
    set("attention.head_count", config.num_attention_heads);
    set("attention.head_count_kv", config.num_key_value_heads);
    layout.set("llama.rope.freq_base", config.rope_theta);
    layout.set("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps);
    if config.head_dim_is_explicit {
        layout.set("llama.attention.key_length", config.head_dim as u32);
        layout.set("llama.attention.value_length", config.head_dim as u32);
    }
    layout.set("general.file_type", mix.file_type);
    layout.set("llama.vocab_size", config.vocab_size as u32);
    layout.set("llama.rope.dimension_count", config.head_dim as u32);
    // Llama 3.1's scaling is the tensor rope_freqs.weight instead.
    if let RopeScaling::Linear(factor) = config.rope_scaling {
        layout.set("llama.rope.scaling.type", "linear");
        layout.set("llama.rope.scaling.factor", factor);
    }
}

/// The front matter of a model card, as far as it is names and lists of names; a card that cannot be read tells nothing.
fn card(path: &Path) -> HashMap<String, Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    let mut card: HashMap<String, Vec<String>> = HashMap::new();
    if lines.next() != Some("---") {
        return card;
    }
    let clean = |s: &str| s.trim().trim_matches(['"', '\'']).to_owned();
    let mut key = String::new();
    for line in lines.take_while(|line| line.trim_end() != "---") {
        if let Some(item) = line.trim_start().strip_prefix("- ") {
            // An item of the list under the last key; an item that is itself a mapping tells nothing here.
            if !key.is_empty() && !item.contains(": ") {
                card.entry(key.clone()).or_default().push(clean(item));
            }
        } else if let Some((k, value)) = line.split_once(':').filter(|_| !line.starts_with([' ', '#'])) {
            key = k.trim().to_owned();
            let value = value.trim();
            let values: Vec<String> = match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
                Some(list) => list.split(',').map(clean).collect(),
                None => vec![clean(value)],
            };
            card.insert(key.clone(), values.into_iter().filter(|v| !v.is_empty() && *v != "|" && *v != ">-").collect());
        }
    }
    card
}
