//! The special tokens that begin and end texts, from the texts in tokenizer_config.json, the numbers in config.json and
//! generation_config.json, and the template of tokenizer.json.

use super::Files;
use super::json::Node;
use super::parts::Template;
use super::tokens::Tokens;
use crate::error::{Result, quoted};
use crate::gguf::Layout;
use crate::tokenizer::ends_generation;
use serde_json::Value as Json;

/// The roles of special tokens, and how their GGUF keys spell them.
const ROLES: [(&str, &str); 6] =
    [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding"), ("mask", "mask")];

/// Sets the keys of all roles. Where the sources differ, the template takes precedence over the text and the text over the number, as in
/// llama.cpp; contradictions are errors or notes.
pub(super) fn set(
    layout: &mut Layout,
    files: &Files,
    tokens: &Tokens<'_>,
    template: &Template,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut ends = Vec::new();
    for file in [&files.config, &files.generation_config] {
        ends.extend(ids(&file.root().get("eos_token_id"), tokens.texts.len())?);
    }
    for (role, key) in ROLES {
        let by_text = by_text(files, role, tokens, notes)?;
        let of_template = match role {
            "bos" => template.first,
            "eos" => template.last,
            _ => None,
        };
        let node = files.config.root().get(&format!("{role}_token_id"));
        let by_number = match role {
            "eos" => ends.first().copied(),
            "pad" => padding(&node, tokens.texts.len(), notes)?,
            _ if node.is_none() => None,
            _ => Some(node.id(tokens.texts.len())?),
        };
        let id = of_template.or(by_text).or(by_number);
        if let (Some(template), Some(text)) = (of_template, by_text.filter(|_| of_template != by_text)) {
            notes.push(format!(
                "tokenizer.json: \"post_processor\" adds {} where tokenizer_config.json names {} as {role}_token: the first becomes the {role} token",
                quoted(&tokens.texts[template as usize]),
                quoted(&tokens.texts[text as usize])
            ));
        }
        if let Some(id) = id {
            layout.set(format!("tokenizer.ggml.{key}_token_id"), id);
        }
        if role == "eos" {
            ends.extend(by_text);
            ends.retain(|end| Some(*end) != id);
        }
        let stated = files.tokenizer_config.root().get(&format!("add_{role}_token")).opt_flag()?;
        let add = match role {
            "bos" | "eos" => add(role, of_template.is_some(), template.stated, stated, files, notes)?,
            _ => stated,
        };
        if add == Some(true) && id.is_none() && matches!(role, "bos" | "eos") {
            let node = files.tokenizer_config.root().get(&format!("{role}_token"));
            return Err(node.bad(
                format!("texts need the {role} token, and no file names it"),
                "name it in tokenizer_config.json",
            ));
        }
        if let Some(add) = add {
            layout.set(format!("tokenizer.ggml.add_{role}_token"), add);
        }
    }
    other_ends(layout, ends, tokens, notes);
    Ok(())
}

/// Whether texts get the token of `role`. Classes of transformers for Llama build their template from tokenizer_config.json; for all others
/// tokenizer.json is what is run. The key for BOS is always written: without it, its reader goes by the name of the split.
fn add(
    role: &str,
    in_template: bool,
    has_template: bool,
    stated: Option<bool>,
    files: &Files,
    notes: &mut Vec<String>,
) -> Result<Option<bool>> {
    let class = files.tokenizer_config.root().get("tokenizer_class").opt_text()?.unwrap_or_default();
    let rebuilds = class.starts_with("LlamaTokenizer") || class.starts_with("CodeLlamaTokenizer");
    let add = match stated {
        Some(stated) if rebuilds || !has_template => stated,
        None if rebuilds && !has_template => role == "bos",
        _ => in_template,
    };
    if let Some(stated) = stated.filter(|stated| has_template && *stated != in_template) {
        notes.push(format!(
            "tokenizer_config.json: \"add_{role}_token\" is {stated}, and tokenizer.json says otherwise: it is taken to be {add}"
        ));
    }
    Ok((role == "bos" || add || stated.is_some()).then_some(add))
}

/// The token that tokenizer_config.json names by its text: a string, or an object with its content.
fn by_text(files: &Files, role: &str, tokens: &Tokens<'_>, notes: &mut Vec<String>) -> Result<Option<u32>> {
    let node = files.tokenizer_config.root().get(&format!("{role}_token"));
    let Some(text) = node.opt_content()? else { return Ok(None) };
    let id = tokens.id(text);
    if id.is_none() {
        notes.push(format!(
            "tokenizer_config.json: \"{role}_token\" is {}, which tokenizer.json does not have",
            quoted(text)
        ));
    }
    Ok(id)
}

/// One number or a list of them.
fn ids(node: &Node<'_>, n: usize) -> Result<Vec<u32>> {
    match node.value() {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(list)) if list.is_empty() => Err(node.bad("names no token", "name one, or remove the key")),
        Some(Json::Array(_)) => node.list()?.iter().map(|id| id.id(n)).collect(),
        Some(_) => node.id(n).map(|id| vec![id]),
    }
}

/// The number of the padding token, which older checkpoints set to -1 or just behind the vocabulary where they have none.
fn padding(node: &Node<'_>, n: usize, notes: &mut Vec<String>) -> Result<Option<u32>> {
    let number = node.value().and_then(Json::as_i64);
    if node.is_none() || number == Some(-1) {
        return Ok(None);
    }
    if number.is_some_and(|number| number >= n as i64 && number <= i64::from(u32::MAX)) {
        notes.push(format!("config.json: \"pad_token_id\" is none of the {n} tokens: the file names no padding token"));
        return Ok(None);
    }
    node.id(n).map(Some)
}

/// Sets the keys of further end-of-text tokens, as far as GGUF has keys for them and readers do not know them by their texts.
fn other_ends(layout: &mut Layout, mut ends: Vec<u32>, tokens: &Tokens<'_>, notes: &mut Vec<String>) {
    ends.sort_unstable();
    ends.dedup();
    ends.retain(|&end| !ends_generation(&tokens.texts[end as usize]));
    let mut ends = ends.into_iter();
    for key in ["eot", "eom"] {
        if let Some(end) = ends.next() {
            layout.set(format!("tokenizer.ggml.{key}_token_id"), end);
        }
    }
    if let Some(end) = ends.next() {
        notes.push(format!(
            "\"eos_token_id\" names {} more tokens than GGUF has keys for: {} does not end a text",
            ends.len() + 1,
            quoted(&tokens.texts[end as usize])
        ));
    }
}
