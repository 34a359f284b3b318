//! Conversations in files: JSON in OpenAI's form.

use crate::text;
use anyhow::Result;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use strata::Error;

/// The most bytes of a conversation.
const LARGEST: u64 = 64 << 20;

/// Messages, and what stands beside them.
#[derive(Debug, Default, PartialEq)]
pub struct Conversation {
    /// Objects with `role` and `content`.
    pub messages: Vec<Json>,
    /// Tools that the model may call.
    pub tools: Option<Vec<Json>>,
    /// Documents that answers are to be drawn from.
    pub documents: Option<Vec<Json>>,
}

impl Conversation {
    /// Reads a list of messages, or an object with `messages` and perhaps `tools` and `documents`.
    pub fn read(path: &Path) -> Result<Conversation> {
        parse(&name(path), &text::read_at_most(path, LARGEST)?)
    }

    /// Reads tools in place of those of the conversation: a list, or an object with `tools`.
    pub fn read_tools(&mut self, path: &Path) -> Result<()> {
        let (text, path) = (text::read_at_most(path, LARGEST)?, &name(path));
        let json = json(path, &text)?;
        let list = if json.is_object() { list(path, &json, "tools")? } else { json.as_array().cloned() };
        let Some(tools) = list else {
            let remedy = "write [{\"type\": \"function\", \"function\": {\"name\": \"...\", ...}}, ...]";
            return Err(Error::invalid(path, "JSON", "has no list of tools", remedy).into());
        };
        self.tools = Some(tools);
        Ok(())
    }
}

/// A file as errors name it.
fn name(path: &Path) -> PathBuf {
    if path == Path::new("-") { "standard input".into() } else { path.to_owned() }
}

fn parse(path: &Path, text: &str) -> Result<Conversation> {
    let json = json(path, text)?;
    let remedy = "write [{\"role\": \"user\", \"content\": \"...\"}, ...], or an object with this list as \"messages\"";
    let bad = |place: &str, problem: String| Error::invalid(path, place, problem, remedy);
    let conversation = match json {
        Json::Array(messages) => Conversation { messages, ..Conversation::default() },
        Json::Object(_) => Conversation {
            messages: list(path, &json, "messages")?
                .ok_or_else(|| bad("JSON", "has no list of \"messages\"".to_owned()))?,
            tools: list(path, &json, "tools")?,
            documents: list(path, &json, "documents")?,
        },
        _ => return Err(bad("JSON", "is no conversation but a single value".to_owned()).into()),
    };
    for (i, message) in conversation.messages.iter().enumerate() {
        let problem = match message {
            Json::Object(all) if all.get("role").is_some_and(Json::is_string) => continue,
            Json::Object(_) => "has no text as its \"role\"",
            _ => "is no object with a role and a content",
        };
        return Err(bad(&format!("message {}", i + 1), problem.to_owned()).into());
    }
    Ok(conversation)
}

/// A list under a name; `None` if it is absent or null.
fn list(path: &Path, json: &Json, name: &str) -> Result<Option<Vec<Json>>> {
    match &json[name] {
        Json::Null => Ok(None),
        Json::Array(all) => Ok(Some(all.clone())),
        _ => Err(Error::invalid(path, format!("{name:?}"), "is no list", "write it between [ and ]").into()),
    }
}

/// The JSON of a file, with every integer as it is written.
fn json(path: &Path, text: &str) -> Result<Json> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json = serde_json::from_str(text)
        .map_err(|error| Error::invalid(path, "JSON", format!("is not valid: {error}"), "correct it there"))?;
    if let Some(line) = too_large(text) {
        let problem = "an integer is beyond 64 bits and would be rounded";
        return Err(Error::invalid(path, format!("line {line}"), problem, "write it as text, between quotes").into());
    }
    Ok(json)
}

/// The line of the first integer that does not fit into 64 bits, in valid JSON.
fn too_large(json: &str) -> Option<usize> {
    let (bytes, mut at, mut line) = (json.as_bytes(), 0, 1);
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => line += 1,
            b'"' => {
                at += 1;
                while bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..].iter().position(|b| !b"+-.0123456789Ee".contains(b));
                let number = &json[at..length.map_or(json.len(), |length| at + length)];
                let fits = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
                if !fits && !number.contains(['.', 'e', 'E']) {
                    return Some(line);
                }
                at += number.len() - 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(text: &str) -> std::result::Result<Conversation, String> {
        parse(Path::new("c.json"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_and_an_object_are_conversations() {
        let messages = vec![json!({"role": "user", "content": "\"9\\", "n": [-1, 2.5e3, u64::MAX]})];
        let text = serde_json::to_string(&messages).unwrap();
        let plain = Conversation { messages: messages.clone(), ..Conversation::default() };
        assert_eq!(of(&text), Ok(plain));
        assert_eq!(of("\u{feff}[ ]"), Ok(Conversation::default()));
        let whole = of(&format!("{{\"messages\": {text}, \"tools\": [], \"documents\": null}}"));
        assert_eq!(whole, Ok(Conversation { messages, tools: Some(Vec::new()), documents: None }));
    }

    #[test]
    fn what_is_none_is_refused_with_its_place() {
        for (text, words) in [
            ("", "JSON: is not valid"),
            ("[{\"role\": \"user\"},\n 5]", "message 2: is no object"),
            ("[{\"content\": \"x\"}]", "message 1: has no text as its \"role\""),
            ("{\"tools\": []}", "has no list of \"messages\""),
            ("{\"messages\": {}}", "\"messages\": is no list"),
            ("7", "single value"),
            ("[{\"role\": \"\\\"\",\n \"n\": 18446744073709551616}]", "line 2: an integer"),
            ("[{\"role\": \"x\", \"n\": [-9223372036854775809]}]", "line 1: an integer"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.starts_with("c.json: ") && error.contains(words), "{text}: {error}");
        }
        assert!(of(&"[".repeat(100_000)).unwrap_err().contains("recursion limit"));
    }
}
