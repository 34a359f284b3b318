//! The schemas of requests.

use crate::serve::conversation::{MESSAGES, NAME_BYTES, PARTS, ROLES, TOOLS};
use crate::serve::params::{LOGPROBS, STOP_BYTES, STOPS};
use crate::serve::sampling::{COUNTS, NUMBERS};
use serde_json::{Map, Value, json};

/// All.
pub fn schemas() -> Map<String, Value> {
    let mut to = Map::new();
    let mut add = |name: &str, required: &[&str], properties: Vec<Map<String, Value>>| {
        let properties: Map<String, Value> = properties.into_iter().flatten().collect();
        to.insert(name.to_owned(), json!({"type": "object", "required": required, "properties": properties}));
    };
    let model = || {
        object(
            json!({"model": {"type": ["string", "null"], "description": "The name of a model; the first one if not given"}}),
        )
    };
    add(
        "Tokenize",
        &["content"],
        vec![
            model(),
            object(json!({
        "content": {"type": "string"}, "add_special": flag(), "parse_special": flag(), "with_pieces": flag()})),
        ],
    );
    add(
        "Detokenize",
        &["tokens"],
        vec![model(), object(json!({"tokens": {"type": "array", "items": token(), "maxItems": 1 << 20}}))],
    );
    add("Conversation", &["messages"], vec![model(), conversation()]);
    add(
        "Chat",
        &["messages"],
        vec![
            model(),
            conversation(),
            chat(),
            answers(),
            forms(),
            limits(&["max_tokens", "max_completion_tokens", "n_predict"]),
            sampling(),
        ],
    );
    add(
        "Completion",
        &["prompt"],
        vec![model(), completion(), answers(), forms(), limits(&["max_tokens", "n_predict"]), sampling()],
    );
    add(
        "Embedding",
        &["input"],
        vec![
            model(),
            object(json!({
        "input": inputs(), "encoding_format": {"enum": ["float", "base64", null]}, "dimensions": {"type": ["integer", "null"], "minimum": 1}})),
        ],
    );
    add("Response", &["input"], vec![model(), response(), limits(&["max_output_tokens"]), sampling()]);
    add(
        "Message",
        &["messages", "max_tokens"],
        vec![
            model(),
            message(),
            object(json!({
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": i32::MAX}, "stop_sequences": stop(), "stream": flag()})),
            sampling(),
        ],
    );
    add("CountTokens", &["messages"], vec![model(), message()]);
    to
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn flag() -> Value {
    json!({"type": ["boolean", "null"]})
}

fn text() -> Value {
    json!({"type": ["string", "null"]})
}

fn token() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
}

fn stop() -> Value {
    json!({"anyOf": [{"type": "string", "maxLength": STOP_BYTES / 4},
        {"type": "array", "maxItems": STOPS, "items": {"type": "string", "maxLength": STOP_BYTES / 4}}, {"type": "null"}]})
}

/// A text, tokens, or a list of either.
fn inputs() -> Value {
    json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": token(), "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": token(), "minItems": 1}, "minItems": 1},
    ]})
}

fn parts(kinds: &[&str]) -> Value {
    json!({"type": "array", "maxItems": PARTS, "items": {"type": "object", "required": ["type", "text"],
        "properties": {"type": {"enum": kinds}, "text": {"type": "string"}}}})
}

fn content() -> Value {
    json!({"anyOf": [{"type": "string"}, parts(&["text"])]})
}

fn function() -> Value {
    json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "pattern": format!("^[A-Za-z0-9_.-]{{1,{NAME_BYTES}}}$")},
        "description": text(), "parameters": {"type": ["object", "null"]}}})
}

fn conversation() -> Map<String, Value> {
    let call = json!({"type": "object", "required": ["function"], "properties": {"id": {"type": "string"}, "function": {
        "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "object", "null"]}}}}});
    object(json!({
        "messages": {"type": "array", "minItems": 1, "maxItems": MESSAGES, "items": {"type": "object", "required": ["role"], "properties": {
            "role": {"enum": ROLES},
            "content": {"anyOf": [content(), {"type": "null"}]},
            "tool_calls": {"anyOf": [{"type": "array", "maxItems": PARTS, "items": call}, {"type": "null"}]},
        }}},
        "tools": {"anyOf": [{"type": "array", "maxItems": TOOLS, "items": {"type": "object", "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": function()}}}, {"type": "null"}]},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required", null]}, {"type": "object", "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}}]},
        "parallel_tool_calls": flag(),
        "chat_template_kwargs": {"type": ["object", "null"]},
    }))
}

fn chat() -> Map<String, Value> {
    object(json!({
        "logprobs": flag(),
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": LOGPROBS},
        "return_progress": flag(),
    }))
}

fn completion() -> Map<String, Value> {
    object(json!({
        "prompt": inputs(),
        "echo": flag(),
        "suffix": {"enum": ["", null]},
        "best_of": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
        "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": LOGPROBS},
    }))
}

fn answers() -> Map<String, Value> {
    object(json!({
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
        "stream": flag(),
        "stream_options": {"anyOf": [{"type": "object", "properties": {"include_usage": flag()}}, {"type": "null"}]},
        "stop": stop(),
        "ignore_eos": flag(),
    }))
}

fn forms() -> Map<String, Value> {
    let schema = json!({"type": ["object", "boolean"]});
    object(json!({
        "response_format": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["type"], "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "schema": {"type": ["object", "boolean", "null"]},
            "json_schema": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["schema"], "properties": {"schema": schema}}]}}}]},
        "json_schema": {"type": ["object", "boolean", "null"]},
        "grammar": text(),
    }))
}

fn limits(names: &[&str]) -> Map<String, Value> {
    let limit = json!({"type": ["integer", "null"], "minimum": -1, "maximum": i32::MAX, "not": {"const": 0}});
    names.iter().map(|name| ((*name).to_owned(), limit.clone())).collect()
}

fn sampling() -> Map<String, Value> {
    let mut to = Map::new();
    for (name, range, _) in NUMBERS {
        let (least, most) = (f64::from(*range.start()), f64::from(*range.end()));
        to.insert(name.to_owned(), json!({"type": ["number", "null"], "minimum": least, "maximum": most}));
    }
    for (name, _) in COUNTS {
        to.insert(name.to_owned(), json!({"type": ["integer", "null"], "minimum": -1, "maximum": i32::MAX}));
    }
    to.extend(object(json!({
        "seed": {"type": ["integer", "null"], "minimum": -1, "maximum": u64::MAX, "description": "-1 is random"},
        "mirostat": {"type": ["integer", "null"], "minimum": 0, "maximum": 2},
        "samplers": {"anyOf": [{"type": "array", "maxItems": 16, "items": {"type": "string"}}, {"type": "string"}, {"type": "null"}]},
        "dry_sequence_breakers": {"anyOf": [{"type": "array", "maxItems": 100, "items": {"type": "string", "minLength": 1, "maxLength": 25}}, {"type": "string"}, {"type": "null"}]},
        "logit_bias": {"anyOf": [{"type": "object", "additionalProperties": {"type": ["number", "boolean"]}}, {"type": "array"}, {"type": "null"}]},
    })));
    to
}

fn response() -> Map<String, Value> {
    let kinds = ["input_text", "output_text", "text"];
    object(json!({
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "maxItems": MESSAGES, "items": {"type": "object", "properties": {
            "type": {"enum": ["message", "function_call", "function_call_output", "reasoning", null]},
            "role": {"enum": ["system", "developer", "user", "assistant", null]},
            "content": {"anyOf": [{"type": "string"}, parts(&kinds), {"type": "null"}]}}}}]},
        "instructions": text(),
        "stream": flag(),
        "parallel_tool_calls": flag(),
        "tools": {"anyOf": [{"type": "array", "maxItems": TOOLS, "items": {"allOf": [function(),
            {"type": "object", "required": ["type"], "properties": {"type": {"const": "function"}}}]}}, {"type": "null"}]},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required", null]}, {"type": "object", "required": ["type", "name"],
            "properties": {"type": {"const": "function"}, "name": {"type": "string"}}}]},
        "text": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"format": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}, "schema": {"type": ["object", "boolean", "null"]}}}]}}}]},
        "background": {"enum": [false, null]},
        "previous_response_id": {"type": "null"},
    }))
}

fn message() -> Map<String, Value> {
    object(json!({
        "system": {"anyOf": [content(), {"type": "null"}]},
        "messages": {"type": "array", "minItems": 1, "maxItems": MESSAGES, "items": {"type": "object", "required": ["role", "content"], "properties": {
            "role": {"enum": ["user", "assistant", "system"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "maxItems": PARTS, "items": {"type": "object", "required": ["type"],
                "properties": {"type": {"enum": ["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]}}}}]}}}},
        "tools": {"anyOf": [{"type": "array", "maxItems": TOOLS, "items": {"type": "object", "required": ["name", "input_schema"], "properties": {
            "name": {"type": "string", "pattern": format!("^[A-Za-z0-9_.-]{{1,{NAME_BYTES}}}$")}, "description": text(), "input_schema": {"type": "object"}}}}, {"type": "null"}]},
        "tool_choice": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["type"], "properties": {
            "type": {"enum": ["auto", "any", "tool", "none"]}, "name": text(), "disable_parallel_tool_use": flag()}}]},
    }))
}
