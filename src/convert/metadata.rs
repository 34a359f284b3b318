//! The metadata of the file: the model's names, shape and sampling defaults, in the keys and the order of llama.cpp's converter.

use super::naming::{self, Name};
use super::plan::Tensor;
use super::source::Input;
use super::vocabulary;
use crate::arch::hyperparameters::{Key, keys};
use crate::arch::rope;
use crate::arch::scaling::Number;
use crate::arch::{LayerSet, Scales};
use crate::checkpoint::json::{Object, read_optional};
use crate::checkpoint::{Checkpoint, Config};
use crate::engine::sampling::{MULTIPLIERS, NumberRange, PROBABILITIES, Sequence, TEMPERATURES, wanted};
use crate::error::{Result, quoted};
use crate::gguf::keys::ALIGNMENT_KEY;
use crate::gguf::{Array, Gguf, Layout};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;

/// Every key, with a placeholder for [`FILE_TYPE`], and a sentence about each value of the source that is interpreted otherwise than it
/// says. `name` takes precedence over the source's.
pub fn of(input: &Input, name: Option<&str>, tensors: &[Tensor]) -> Result<(Layout, Vec<String>)> {
    let (mut layout, mut notes) = (Layout::new(), Vec::new());
    match input {
        Input::Checkpoint(checkpoint) => of_checkpoint(&mut layout, checkpoint, name, tensors, &mut notes)?,
        Input::Gguf(gguf) => of_gguf(&mut layout, gguf, name),
    }
    layout.set("general.quantization_version", 2u32);
    Ok((layout, notes))
}

/// The key of the file type, a number for each mix.
pub const FILE_TYPE: &str = "general.file_type";

fn of_checkpoint(
    layout: &mut Layout,
    checkpoint: &Checkpoint,
    name: Option<&str>,
    tensors: &[Tensor],
    notes: &mut Vec<String>,
) -> Result<()> {
    let weights = tensors.iter().map(Tensor::weights).sum();
    layout.set("general.architecture", checkpoint.config.architecture.name);
    layout.set("general.type", "model");
    sampling(layout, checkpoint, notes)?;
    names(layout, checkpoint, name, weights)?;
    shape(layout, &checkpoint.config);
    layers(layout, &checkpoint.config, notes);
    notes.extend(checkpoint.config.notes.iter().cloned());
    notes.extend(vocabulary::set(layout, checkpoint)?);
    Ok(())
}

/// The keys of a GGUF source, in its order, except those that describe the file and not the model.
fn of_gguf(layout: &mut Layout, gguf: &Gguf, name: Option<&str>) {
    for (key, value) in gguf.metadata().iter() {
        let of_the_file = ["split.", "strata.", "quantize."].iter().any(|prefix| key.starts_with(prefix));
        if !of_the_file && key != ALIGNMENT_KEY {
            layout.metadata.push((key.to_owned(), value.to_owned()));
        }
    }
    if let Some(name) = name {
        layout.set("general.name", name);
    }
    // It keeps its place; a target sets its own unless it copies.
    if gguf.metadata().get(FILE_TYPE).is_none() {
        layout.set(FILE_TYPE, 0u32);
    }
}

/// A sampling default: its key in `generation_config.json`, its key in the file, and its valid range.
enum Default {
    Text(&'static str, &'static str),
    Integer(&'static str, &'static str, RangeInclusive<i32>),
    Number(&'static str, &'static str, NumberRange),
}

/// The defaults that llama.cpp's converter copies, in its order.
const SAMPLING: &[Default] = &[
    Default::Text("sequence", "sequence"),
    Default::Integer("top_k", "top_k", 0..=i32::MAX),
    Default::Number("top_p", "top_p", PROBABILITIES),
    Default::Number("min_p", "min_p", PROBABILITIES),
    Default::Number("xtc_probability", "xtc_probability", PROBABILITIES),
    Default::Number("xtc_threshold", "xtc_threshold", PROBABILITIES),
    Default::Number("temperature", "temp", TEMPERATURES),
    Default::Integer("penalty_last_n", "penalty_last_n", -1..=i32::MAX),
    Default::Number("penalty_repeat", "penalty_repeat", MULTIPLIERS),
    Default::Integer("mirostat", "mirostat", 0..=2),
    Default::Number("mirostat_tau", "mirostat_tau", TEMPERATURES),
    Default::Number("mirostat_eta", "mirostat_eta", TEMPERATURES),
];

/// A flag and a number of transformers for which llama.cpp's converter has no keys: they are checked and not written.
const OF_TRANSFORMERS: [&str; 2] = ["do_sample", "repetition_penalty"];

/// The keys that may be `null`, which means no default.
const NULLABLE: &[&str] = &[
    "do_sample",
    "repetition_penalty",
    "sequence",
    "top_k",
    "top_p",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "temperature",
    "penalty_last_n",
    "penalty_repeat",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

/// Sets the sampling defaults of `generation_config.json`.
fn sampling(layout: &mut Layout, checkpoint: &Checkpoint, notes: &mut Vec<String>) -> Result<()> {
    const NAME: &str = "generation_config.json";
    const CORRECT: &str = "correct it in generation_config.json, or remove the key";
    let path = checkpoint.dir.join(NAME);
    let Some(json) = checkpoint.json(NAME)? else { return Ok(()) };
    let file = Object::of_file(&path, &json, NULLABLE)?;
    let [samples, penalty] = OF_TRANSFORMERS;
    file.opt_flag(samples)?;
    if let Some(x) = file.opt_f32(penalty)?.filter(|&x| x != 1.0) {
        notes.push(format!("{NAME}: \"{penalty}\" is {x}, and the file has no key for it: give it when you run it"));
    }
    let unusable = |key: &str, value: String, least: String| {
        let problem = format!("no sampler can use {value}; it must be {least}");
        Err(file.refused(key, problem, CORRECT))
    };
    for default in SAMPLING {
        match default {
            Default::Text(key, to) => {
                if let Some(text) = file.opt_text(key)? {
                    if let Err(error) = text.parse::<Sequence>() {
                        let problem = format!("no sampler can use {}: {error}", quoted(text));
                        return Err(file.refused(key, problem, CORRECT));
                    }
                    layout.set(format!("general.sampling.{to}"), text);
                }
            }
            Default::Integer(key, to, usable) => {
                let Some(n) = file.opt_i32(key)? else { continue };
                if !usable.contains(&n) {
                    // `MAX` is not worth a mention.
                    let (least, most) = (usable.start(), usable.end());
                    let range =
                        if *most == i32::MAX { format!("at least {least}") } else { format!("from {least} to {most}") };
                    return unusable(key, n.to_string(), range);
                }
                layout.set(format!("general.sampling.{to}"), n);
            }
            Default::Number(key, to, usable) => {
                let Some(x) = file.opt_f32(key)? else { continue };
                if !usable.contains(&x) {
                    return unusable(key, x.to_string(), wanted(usable));
                }
                layout.set(format!("general.sampling.{to}"), x);
            }
        }
    }
    Ok(())
}

fn names(layout: &mut Layout, checkpoint: &Checkpoint, name: Option<&str>, weights: u64) -> Result<()> {
    let card = card(&checkpoint.dir.join("README.md"))?;
    let first = |keys: &[&str]| -> Option<String> {
        let value = keys.iter().find_map(|key| card.get(*key)?.first())?;
        Some(naming::cut(value).to_owned())
    };
    // A name in config.json counts only if it is a model's and not a path on somebody's disk.
    let from_config = checkpoint.config.name_or_path()?.filter(|name| name.matches('/').count() <= 1);
    let folder = naming::of_folder(&checkpoint.dir);
    let [a, b] = [from_config.unwrap_or_default(), &folder].map(|id| naming::parse(id, weights));
    let either = |f: fn(&Name) -> &Option<String>| f(&a).clone().filter(|s| !s.is_empty()).or_else(|| f(&b).clone());
    let name = name.map(str::to_owned).or_else(|| first(&["name", "model_name"]));
    let name = name.or_else(|| either(|n| &n.full).map(|n| naming::title(&n))).unwrap_or_else(|| "Llama".to_owned());
    layout.set("general.name", name);
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            layout.set(format!("general.{key}"), value);
        }
    };
    let organization = || either(|n| &n.organization).map(|o| naming::title(&o));
    set("author", first(&["author", "model_author", "model_creator"]));
    set("version", first(&["version", "model_version"]).or_else(|| either(|n| &n.version)));
    set("organization", first(&["organization", "model_organization"]).or_else(organization));
    set("finetune", first(&["finetune", "model_finetune"]).or_else(|| either(|n| &n.finetune)));
    set("basename", first(&["basename", "model_basename", "model_type"]).or_else(|| either(|n| &n.basename)));
    let size = either(|n| &n.size_label).or_else(|| Some(naming::size_label(weights)));
    set("size_label", first(&["size_label", "model_size_label"]).or(size));
    set("license", card.get("license").map(|v| v.join(",")).filter(|s| !s.is_empty()));
    set("license.name", first(&["license_name"]));
    set("license.link", first(&["license_link"]));
    base_models(layout, &card, weights);
    for (key, from) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let values: Vec<String> = from.iter().filter_map(|k| card.get(*k)).flatten().cloned().collect();
        if !values.is_empty() {
            layout.set(format!("general.{key}"), values);
        }
    }
    Ok(())
}

/// Sets the base models that the model card names: repositories of Hugging Face, or addresses.
fn base_models(layout: &mut Layout, card: &HashMap<String, Vec<String>>, weights: u64) {
    let models = ["base_model", "base_models", "base_model_sources"].iter().find_map(|key| card.get(*key));
    let Some(models) = models.filter(|models| !models.is_empty()) else { return };
    // A card has at most as many lines as bytes, which are limited to far fewer than 2^32.
    layout.set("general.base_model.count", models.len() as u32);
    for (i, id) in models.iter().enumerate() {
        let is_address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
        let page = ["https://huggingface.co/", "http://huggingface.co/"].iter().find_map(|site| id.strip_prefix(site));
        // Of an address only ORG/NAME of Hugging Face tells a name.
        let name = if is_address { page.filter(|page| page.matches('/').count() == 1) } else { Some(id.as_str()) };
        let base = name.map_or_else(Name::default, |name| naming::parse(name, weights));
        let address = match (is_address, &base.organization, &base.full) {
            (true, ..) => Some(id.clone()),
            (false, Some(organization), Some(full)) => Some(format!("https://huggingface.co/{organization}/{full}")),
            _ => None,
        };
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                layout.set(format!("general.base_model.{i}.{key}"), value);
            }
        };
        set("name", base.full.as_deref().map(naming::title));
        set("version", base.version);
        set("organization", base.organization.as_deref().map(naming::title));
        set("repo_url", address);
    }
}

fn shape(layout: &mut Layout, config: &Config) {
    let (architecture, of) = (config.architecture, &config.hyperparameters);
    // `Object::opt_count` lets no count beyond 2^31 pass.
    let mut set = |key: Key, n: usize| layout.set(key.of(architecture), n as u32);
    set(keys::LAYERS, of.layers);
    set(keys::CONTEXT, of.context);
    set(keys::HIDDEN, of.hidden);
    set(keys::FFN, of.ffn);
    set(keys::HEADS, of.heads);
    set(keys::KV_HEADS, of.kv_heads);
    layout.set(keys::ROPE_BASE.of(architecture), of.rope_base);
    layout.set(keys::NORM_EPS.of(architecture), of.norm_eps);
    if config.head_dim_is_explicit {
        layout.set(keys::HEAD_DIM.of(architecture), of.head_dim as u32);
        layout.set(keys::VALUE_DIM.of(architecture), of.head_dim as u32);
    }
    layout.set(FILE_TYPE, 0u32);
    layout.set(keys::VOCAB.of(architecture), of.vocab as u32);
    layout.set(keys::ROPE_DIMS.of(architecture), of.head_dim as u32);
    let name = |suffix: &str| format!("{}.{suffix}", architecture.name);
    // Llama 3.1's scaling is the tensor rope_freqs.weight instead.
    if let Some(kind) = config.rope_scaling.gguf_type() {
        layout.set(name(rope::SCALING_TYPE), kind);
    }
    for (key, number) in config.rope_scaling.gguf_numbers() {
        match number {
            Number::U32(n) => layout.set(name(key), n),
            Number::F32(x) => layout.set(name(key), x),
        }
    }
    if architecture.has_scales {
        let Scales { embedding, attention, residual, logits } = of.scales;
        layout.set(keys::EMBEDDING_SCALE.of(architecture), embedding);
        layout.set(keys::ATTENTION_SCALE.of(architecture), attention.unwrap_or(0.0));
        layout.set(keys::RESIDUAL_SCALE.of(architecture), residual);
        layout.set(keys::LOGIT_SCALE.of(architecture), logits);
    }
}

/// What differs from layer to layer. llama.cpp knows neither of it in files of these architectures, which is noted.
fn layers(layout: &mut Layout, config: &Config, notes: &mut Vec<String>) {
    let (architecture, of) = (config.architecture, &config.hyperparameters);
    if let Some(window) = of.window {
        layout.set(keys::WINDOW.of(architecture), window.tokens as u32);
        let flags: Vec<bool> = (0..of.layers).map(|i| window.layers.contains(i)).collect();
        if flags.contains(&false) {
            layout.set(keys::WINDOW_LAYERS.of(architecture), Array::Bool(flags));
        }
        if window.tokens < of.context {
            notes.push(format!(
                "config.json: attention has a window of {0} tokens, which llama.cpp leaves out of account: up to {0} tokens it computes the same",
                window.tokens
            ));
        }
    }
    let every = architecture.no_rope_interval;
    if of.no_rope != LayerSet::of(of.layers, |i| every.is_some_and(|n| (i + 1).is_multiple_of(n))) {
        let flags: Vec<u32> = (0..of.layers).map(|i| u32::from(!of.no_rope.contains(i))).collect();
        layout.set(keys::ROPE_LAYERS.of(architecture), Array::U32(flags));
        notes.push(
            "config.json: other layers than usual have no RoPE: llama.cpp leaves that out of account and computes something else".to_owned(),
        );
    }
}

/// The most bytes of a model card that are read.
const LONGEST_CARD: u64 = 16 << 20;

/// The front matter of a model card, as far as it has names and lists of names; empty without a card or front matter.
///
/// # Errors
/// If there is one and it is not a regular file, or longer than any card.
fn card(path: &Path) -> Result<HashMap<String, Vec<String>>> {
    let text = read_optional(path, LONGEST_CARD)?.unwrap_or_default();
    Ok(front_matter(&String::from_utf8_lossy(&text)))
}

fn front_matter(text: &str) -> HashMap<String, Vec<String>> {
    let mut lines = text.lines();
    let mut card: HashMap<String, Vec<String>> = HashMap::new();
    if lines.next().map(str::trim_end) != Some("---") {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampling_default_may_be_null() {
        let keys = SAMPLING.iter().map(|default| match default {
            Default::Text(key, _) | Default::Integer(key, ..) | Default::Number(key, ..) => *key,
        });
        assert_eq!(OF_TRANSFORMERS.into_iter().chain(keys).collect::<Vec<_>>(), NULLABLE);
    }

    #[test]
    fn base_models_are_names_or_addresses() {
        let text = "---\nbase_model:\n- meta-llama/Llama-3.1-8B\n- https://huggingface.co/a/b-v2\n- https://example.com/a/b/c\n- 'plain'\n---\n";
        let mut layout = Layout::new();
        base_models(&mut layout, &front_matter(text), 8_000_000_000);
        let texts: Vec<(&str, String)> = layout
            .metadata
            .iter()
            .skip(1)
            .map(|(key, value)| (key.strip_prefix("general.base_model.").unwrap(), format!("{value:?}")))
            .collect();
        let expected = [
            ("0.name", "Llama 3.1 8B"),
            ("0.organization", "Meta Llama"),
            ("0.repo_url", "https://huggingface.co/meta-llama/Llama-3.1-8B"),
            ("1.name", "B v2"),
            ("1.version", "v2"),
            ("1.organization", "A"),
            ("1.repo_url", "https://huggingface.co/a/b-v2"),
            ("2.repo_url", "https://example.com/a/b/c"),
            ("3.name", "Plain"),
        ];
        assert_eq!(texts, expected.map(|(key, text)| (key, format!("String({text:?})"))));
    }

    #[test]
    fn many_base_models_take_linear_time() {
        // With a search for each of them this would not end.
        let text = format!("---\nbase_model:\n{}---\n", "- a/b-8B-chat\n".repeat(100_000));
        let mut layout = Layout::new();
        base_models(&mut layout, &front_matter(&text), 8_000_000_000);
        assert_eq!(layout.metadata.len(), 1 + 3 * 100_000);
    }
}
