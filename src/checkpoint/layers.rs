//! What `config.json` says of single layers: which attend to a sliding window, and which have no RoPE.

use super::json::{Object, shown};
use crate::arch::hyperparameters::keys;
use crate::arch::{Architecture, LayerSet, Window, Windows};
use crate::error::{Result, quoted};
use serde_json::Value;

/// The layers without RoPE: those that `no_rope_layers` lists as 0, else every so many-th.
pub(super) fn no_rope(file: &Object<'_>, architecture: &Architecture, layers: usize) -> Result<LayerSet> {
    let Some(interval) = architecture.no_rope_interval else { return Ok(LayerSet::EMPTY) };
    let key = keys::ROPE_LAYERS.config;
    let Some(list) = file.opt_list(key)? else {
        let interval = file.opt_count("no_rope_layer_interval")?.unwrap_or(interval);
        return Ok(LayerSet::of(layers, |i| (i + 1).is_multiple_of(interval)));
    };
    check_length(file, key, list, layers)?;
    let rotated = |value: &Value| value.as_bool().or_else(|| value.as_i64().map(|n| n != 0));
    if let Some(other) = list.iter().find(|value| rotated(value).is_none()) {
        return Err(file.wrong(key, format!("must be a list of 0 and 1, has {}", shown(other))));
    }
    Ok(LayerSet::of(layers, |i| rotated(&list[i]) == Some(false)))
}

/// The sliding window and its layers, as transformers finds them, and what to say of a window that it leaves out of account.
pub(super) fn window(
    file: &Object<'_>,
    architecture: &Architecture,
    (layers, no_rope): (usize, &LayerSet),
    notes: &mut Vec<String>,
) -> Result<Option<Window>> {
    let key = keys::WINDOW.config;
    let stated = file.opt_count(key)?;
    let listed = layer_types(file, layers)?;
    let (tokens, set) = match architecture.windows {
        Windows::None => {
            if let Some(tokens) = stated {
                notes.push(format!(
                    "config.json: \"{key}\" is {tokens}, which transformers leaves out of account for this class: the file has no window"
                ));
            }
            return Ok(None);
        }
        Windows::All { default } => {
            let absent = !file.keys().any(|other| other == key);
            (if absent { Some(default) } else { stated }, LayerSet::of(layers, |_| true))
        }
        Windows::FromLayer { .. } | Windows::WithoutRope if !file.opt_flag("use_sliding_window")?.unwrap_or(false) => {
            return Ok(None);
        }
        Windows::FromLayer { default } => {
            let first = file.opt_i32("max_window_layers")?.map_or(default, |n| n.max(0) as usize);
            (stated, listed.unwrap_or(LayerSet::of(layers, |i| i >= first)))
        }
        Windows::WithoutRope => (stated, listed.unwrap_or(*no_rope)),
    };
    Ok(tokens.filter(|_| set != LayerSet::EMPTY).map(|tokens| Window { tokens, layers: set }))
}

/// The layers that `layer_types` says have a sliding window. Types that are no attention are refused.
fn layer_types(file: &Object<'_>, layers: usize) -> Result<Option<LayerSet>> {
    let key = keys::WINDOW_LAYERS.config;
    let Some(list) = file.opt_list(key)? else { return Ok(None) };
    check_length(file, key, list, layers)?;
    for value in list {
        match value.as_str() {
            Some("full_attention" | "sliding_attention") => {}
            Some(other) => {
                let problem = format!("a layer is of type {}, which is not supported", quoted(other));
                return Err(file.refused(key, problem, "strata knows layers of full and of sliding attention"));
            }
            None => return Err(file.wrong(key, format!("must be a list of texts, has {}", shown(value)))),
        }
    }
    Ok(Some(LayerSet::of(layers, |i| list[i] == "sliding_attention")))
}

fn check_length(file: &Object<'_>, key: &str, list: &[Value], layers: usize) -> Result<()> {
    match list.len() == layers {
        true => Ok(()),
        false => Err(file.wrong(key, format!("has {} values for {layers} layers", list.len()))),
    }
}
