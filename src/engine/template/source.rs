//! Where templates and their values come from: a model's metadata, and JSON.

use super::ChatTemplate;
use super::budget::{MAX_DEPTH, too_deep, wrong};
use crate::error::{Error, Result, Setting, quoted};
use crate::gguf::Gguf;
use minijinja::Value;
use serde_json::Value as Json;

const KEY: &str = "tokenizer.chat_template";

impl ChatTemplate {
    /// The template of a model file called `name`, or, as transformers chooses, "tool_use" if there is one and `with_tools`, or the one
    /// without a name.
    ///
    /// # Errors
    /// If there is no such template, or it is none.
    pub fn from_gguf(gguf: &Gguf, name: Option<&str>, with_tools: bool) -> Result<ChatTemplate> {
        let named = |name: &str| format!("{KEY}.{name}");
        let key = match name {
            Some("default") | None if !(name.is_none() && with_tools && gguf.str(&named("tool_use"))?.is_some()) => {
                KEY.to_owned()
            }
            name => named(name.unwrap_or("tool_use")),
        };
        let place = format!("metadata {}", quoted(&key));
        let Some(source) = gguf.str(&key)? else {
            let names = match gguf.array("tokenizer.chat_templates")?.and_then(|names| names.strings()) {
                Some(names) => names.take(20).map(quoted).collect::<Vec<_>>().join(", "),
                None => String::new(),
            };
            let has = if names.is_empty() { "no named ones".to_owned() } else { names };
            let problem = format!("the file has no such chat template; it has {has}");
            let remedy = "take an instruction-tuned model, or give a template";
            return Err(Error::invalid(gguf.path(), place, problem, remedy).with_setting(Setting::ChatTemplate));
        };
        ChatTemplate::new(gguf.path(), &place, source)?.with_special_of(gguf)
    }

    /// The same template with the texts of the special tokens of a model as `bos_token`, `eos_token`, `unk_token` and `pad_token`.
    ///
    /// # Errors
    /// If the metadata of these tokens is of the wrong type.
    pub fn with_special_of(self, gguf: &Gguf) -> Result<ChatTemplate> {
        let mut template = self;
        let tokens = gguf.array("tokenizer.ggml.tokens")?;
        for (name, role) in SPECIAL {
            let id = gguf.u32(&format!("tokenizer.ggml.{role}_token_id"))?;
            let text = id.zip(tokens).and_then(|(id, tokens)| tokens.strings()?.nth(id as usize));
            if let Some(text) = text {
                template = template.with_special(name, text);
            }
        }
        Ok(template)
    }
}

/// Variables with the texts of special tokens, and the roles of these in metadata.
const SPECIAL: [(&str, &str); 4] =
    [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];

/// A value of JSON, and its bytes.
pub(super) fn value(json: &Json, depth: usize, bytes: &mut usize) -> std::result::Result<Value, minijinja::Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    *bytes += 8;
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => Value::from(integer),
            (_, Some(integer), _) => Value::from(integer),
            (_, _, Some(double)) => Value::from(double),
            _ => return Err(wrong(format!("the number {number} is too large"))),
        },
        Json::String(text) => {
            *bytes += text.len();
            Value::from(text.as_str())
        }
        Json::Array(all) => {
            all.iter().map(|item| value(item, depth + 1, bytes)).collect::<std::result::Result<Vec<_>, _>>()?.into()
        }
        Json::Object(all) => {
            let pairs = all.iter().map(|(key, item)| {
                *bytes += key.len();
                Ok((Value::from(key.as_str()), value(item, depth + 1, bytes)?))
            });
            Value::from_pairs(pairs.collect::<std::result::Result<Vec<_>, minijinja::Error>>()?)
        }
    })
}

/// A message as transformers gives it to templates: without keys whose value is null, and with the reasoning under the names that
/// templates know (`reasoning_content`, `thinking`).
pub(super) fn message(json: &Json, bytes: &mut usize) -> std::result::Result<Value, minijinja::Error> {
    let Json::Object(all) = json else { return Err(wrong("a message is no object with a role and a content")) };
    let known = |name: &str| all.get(name).filter(|value| !value.is_null());
    let reasoning = ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(known);
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let (Some(reasoning), None) = (reasoning, known("thinking")) {
        pairs.push((Value::from("thinking"), value(reasoning, 2, bytes)?));
    }
    for (key, item) in all.iter().filter(|(_, item)| !item.is_null()) {
        *bytes += key.len();
        pairs.push((Value::from(key.as_str()), value(item, 2, bytes)?));
    }
    if let Some(reasoning) = reasoning {
        pairs.push((Value::from("reasoning_content"), value(reasoning, 2, bytes)?));
    }
    Ok(Value::from_pairs(pairs))
}
