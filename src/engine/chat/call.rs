//! The JSON of calls: where it ends, and what is called with what.

use super::{CallStyle, SEPARATOR};
use serde_json::Value as Json;

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// A JSON object, as the model wrote it.
    pub(super) arguments: String,
}

/// Follows a JSON value to its end, a character at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonEnd {
    /// Takes the next character; true if it ends the object or list that began with the first.
    pub(super) fn push(&mut self, c: char) -> bool {
        if self.in_string {
            (self.in_string, self.escaped) = (self.escaped || c != '"', !self.escaped && c == '\\');
            return false;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0 && !self.in_string
    }
}

/// Whether what begins like this may become the JSON of a call: an object whose first key is one of a call's.
pub(super) fn may_be_call(json: &str) -> bool {
    const KEYS: [&str; 6] = ["\"name\"", "\"type\"", "\"function\"", "\"parameters\"", "\"arguments\"", "\"id\""];
    let key = json.trim_start_matches(|c: char| matches!(c, '{' | '[') || c.is_whitespace());
    key.is_empty() || KEYS.iter().any(|known| known.starts_with(key) || key.starts_with(known))
}

/// The calls that a text is: `json`, and what stands before it.
pub(super) fn calls(style: CallStyle, head: &str, json: &str) -> Option<Vec<Call>> {
    // As a value, whose nesting is bounded: what is ignored is not.
    if serde_json::from_str::<Json>(json).is_err() {
        return None;
    }
    if style == CallStyle::DeepSeek {
        let name = head.rsplit_once(SEPARATOR)?.1.split('\n').next()?.trim();
        let is_call = !name.is_empty() && json.starts_with('{');
        return is_call.then(|| vec![Call { name: name.to_owned(), arguments: json.to_owned() }]);
    }
    let all = if json.starts_with('[') { parts(json) } else { vec![json] };
    let calls: Vec<Call> = all.into_iter().map(call).collect::<Option<_>>()?;
    (!calls.is_empty()).then_some(calls)
}

/// The call that a JSON object is.
fn call(json: &str) -> Option<Call> {
    let members = members(json)?;
    let member =
        |names: &[&str]| members.iter().find(|(key, _)| names.contains(&key.as_str())).map(|&(_, value)| value);
    let Some(name) = member(&["name"]) else {
        return member(&["function"]).and_then(call);
    };
    let name: String = serde_json::from_str(name).ok().filter(|name: &String| !name.is_empty())?;
    let arguments = match member(&["arguments", "parameters"]) {
        None | Some("null") => "{}".to_owned(),
        Some(object) if object.starts_with('{') => object.to_owned(),
        // Arguments as text are JSON, as in OpenAI's form.
        Some(text) => {
            let text: String = serde_json::from_str(text).ok()?;
            let is_object = text.trim_start().starts_with('{') && serde_json::from_str::<Json>(&text).is_ok();
            is_object.then_some(text)?
        }
    };
    Some(Call { name, arguments })
}

/// The keys of a valid JSON object with their values as they are written; `None` if it is something else.
fn members(json: &str) -> Option<Vec<(String, &str)>> {
    if !json.starts_with('{') {
        return None;
    }
    let member = |part: &str| {
        // A valid member begins with a string.
        let mut end = JsonEnd::default();
        end.push('"');
        let quote = part.char_indices().skip(1).find(|&(_, c)| end.push(c) || !end.in_string)?.0;
        Some((serde_json::from_str(&part[..=quote]).ok()?, quote + 1))
    };
    parts(json)
        .into_iter()
        .map(|part| {
            let (key, at) = member(part)?;
            Some((key, part[at..].trim_start().strip_prefix(':')?.trim()))
        })
        .collect()
}

/// What stands between the commas of a valid JSON object or list, without whitespace around it.
fn parts(json: &str) -> Vec<&str> {
    let inner = &json[1..json.len() - 1];
    let (mut parts, mut start, mut end) = (Vec::new(), 0, JsonEnd::default());
    for (at, c) in inner.char_indices() {
        end.push(c);
        if c == ',' && end.depth == 0 && !end.in_string {
            parts.push(inner[start..at].trim());
            start = at + 1;
        }
    }
    if !inner[start..].trim().is_empty() {
        parts.push(inner[start..].trim());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Option<(String, String)> {
        let calls = calls(CallStyle::Tagged, "", json)?;
        assert_eq!(calls.len(), 1);
        calls.into_iter().next().map(|call| (call.name, call.arguments))
    }

    #[test]
    fn calls_keep_their_arguments_as_written() {
        for (json, name, arguments) in [
            (
                r#"{"name": "f", "arguments": {"a": [1, 2.50], "b": "},{\"", "c": 99999999999999999999}}"#,
                "f",
                r#"{"a": [1, 2.50], "b": "},{\"", "c": 99999999999999999999}"#,
            ),
            ("{ \"parameters\" : {\"x\":1} ,\n\"name\":\"\\u00e9\" }", "é", "{\"x\":1}"),
            (r#"{"name": "f"}"#, "f", "{}"),
            (r#"{"name": "f", "arguments": null}"#, "f", "{}"),
            (r#"{"name": "f", "arguments": "{\"a\": \"b\"}"}"#, "f", r#"{"a": "b"}"#),
            (r#"[{"type": "function", "function": {"name": "f", "parameters": {}}}]"#, "f", "{}"),
            (r#"{"type": "function", "name": "f", "na\u006de": 3}"#, "f", "{}"),
        ] {
            assert_eq!(one(json), Some((name.to_owned(), arguments.to_owned())), "{json}");
        }
    }

    #[test]
    fn what_is_no_call_is_none() {
        for json in [
            "{}",
            "[]",
            "[1]",
            "{\"name\": 1}",
            "{\"name\": \"\"}",
            "{\"name\": \"f\", \"arguments\": [1]}",
            "{\"name\": \"f\",}",
            "{\"name\": \"f\", \"arguments\": \"x\"}",
            "{'name': 'f'}",
            "{\"function\": \"f\"}",
            "[{\"name\": \"f\"}, 3]",
            "{]",
        ] {
            assert_eq!(one(json), None, "{json}");
        }
        let deep =
            format!("{{\"name\": \"f\", \"arguments\": {{\"a\": {}{}}}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(one(&deep), None);
    }
}
