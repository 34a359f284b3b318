//! The schemas of answers.

use serde_json::{Map, Value, json};

/// All.
pub fn schemas() -> Map<String, Value> {
    let all = json!({
        "Any": {"type": "object"},
        "Error": shape(&[("error", shape(&[("message", text()), ("type", text()), ("param", maybe("string")), ("code", maybe("string"))]))]),
        "AnthropicError": shape(&[("type", json!({"const": "error"})), ("error", shape(&[("type", text()), ("message", text())]))]),
        "Health": shape(&[("status", json!({"const": "ok"}))]),
        "Models": shape(&[("object", json!({"const": "list"})), ("data", list(model()))]),
        "Model": model(),
        "Props": shape(&[("build_info", text()), ("total_slots", integer()), ("model", maybe("string")), ("properties", maybe("object")),
            ("models", list(shape(&[("name", text()), ("status", text()), ("memory_bytes", maybe("integer"))]))), ("memory", json!({"type": "object"}))]),
        "Slots": list(shape(&[("id", integer()), ("model", text()), ("n_ctx", integer()), ("is_processing", json!({"type": "boolean"})),
            ("prompt_tokens", integer()), ("cached_tokens", integer()), ("answer_tokens", integer()), ("step", maybe("string"))])),
        "Tokens": shape(&[("tokens", json!({"type": "array"}))]),
        "Detokenized": shape(&[("content", text())]),
        "Templated": shape(&[("prompt", text())]),
        "CountedTokens": shape(&[("input_tokens", integer())]),
        "Embeddings": shape(&[("object", json!({"const": "list"})), ("model", text()), ("usage", usage(&["prompt_tokens", "total_tokens"])),
            ("data", list(shape(&[("object", json!({"const": "embedding"})), ("index", integer()), ("embedding", json!({"type": ["array", "string"]}))])))]),
        "ChatAnswer": shape(&[("id", text()), ("object", json!({"const": "chat.completion"})), ("created", integer()), ("model", text()),
            ("system_fingerprint", text()), ("timings", json!({"type": "object"})),
            ("usage", usage(&["prompt_tokens", "completion_tokens", "total_tokens"])),
            ("choices", list(shape(&[("index", integer()), ("finish_reason", json!({"enum": ["stop", "length", "tool_calls"]})), ("logprobs", maybe("object")),
                ("message", shape(&[("role", json!({"const": "assistant"})), ("content", maybe("string")), ("refusal", maybe("string"))]))])))]),
        "CompletionAnswer": shape(&[("id", text()), ("object", json!({"const": "text_completion"})), ("created", integer()), ("model", text()),
            ("system_fingerprint", text()), ("timings", json!({"type": "object"})),
            ("usage", usage(&["prompt_tokens", "completion_tokens", "total_tokens"])),
            ("choices", list(shape(&[("index", integer()), ("text", text()), ("finish_reason", json!({"enum": ["stop", "length"]})), ("logprobs", maybe("object"))])))]),
        "ResponseAnswer": shape(&[("id", text()), ("object", json!({"const": "response"})), ("created_at", integer()), ("model", text()),
            ("status", json!({"enum": ["completed", "incomplete"]})), ("output", list(shape(&[("id", text()), ("type", text())]))),
            ("usage", usage(&["input_tokens", "output_tokens", "total_tokens"]))]),
        "MessageAnswer": shape(&[("id", text()), ("type", json!({"const": "message"})), ("role", json!({"const": "assistant"})), ("model", text()),
            ("content", list(shape(&[("type", json!({"enum": ["text", "thinking", "tool_use"]}))]))),
            ("stop_reason", json!({"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]})), ("stop_sequence", maybe("string")),
            ("usage", usage(&["input_tokens", "output_tokens"]))]),
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

/// An object that has these properties.
fn shape(properties: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

fn maybe(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn usage(names: &[&str]) -> Value {
    shape(&names.iter().map(|name| (*name, integer())).collect::<Vec<_>>())
}

fn model() -> Value {
    shape(&[
        ("id", text()),
        ("object", json!({"const": "model"})),
        ("created", integer()),
        ("owned_by", text()),
        ("status", shape(&[("value", json!({"enum": ["loaded", "loading", "unloaded"]}))])),
    ])
}
