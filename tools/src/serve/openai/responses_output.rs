//! What `/v1/responses` answers: items (thoughts, a message, calls) in an envelope that repeats what was asked.

use super::{id, now};
use crate::serve::choice::{Call, Reason, Whole};
use crate::serve::object::Object;
use crate::serve::params::Params;
use serde_json::{Map, Value, json};
use strata::engine::Finished;

/// What the envelope repeats of the request.
pub struct Echo {
    id: String,
    created: u64,
    fields: Map<String, Value>,
}

/// Fields that are repeated as they were, and their values where they were not given.
const REPEATED: [(&str, Value); 6] = [
    ("instructions", Value::Null),
    ("max_output_tokens", Value::Null),
    ("metadata", Value::Null),
    ("parallel_tool_calls", Value::Bool(true)),
    ("tool_choice", Value::Null),
    ("tools", Value::Null),
];

impl Echo {
    /// Of a request to this model.
    pub fn new(body: &Object<'_>, params: &Params, model: &str) -> Echo {
        let mut fields = Map::new();
        for (name, missing) in REPEATED {
            fields.insert(name.to_owned(), body.get(name).cloned().unwrap_or(missing));
        }
        for (name, value) in [("tool_choice", json!("auto")), ("tools", json!([])), ("metadata", json!({}))] {
            if fields[name].is_null() {
                fields[name] = value;
            }
        }
        let text = body.get("text").cloned().unwrap_or_else(|| json!({"format": {"type": "text"}}));
        fields.insert("text".to_owned(), text);
        fields.insert("temperature".to_owned(), json!(params.sampling.temperature));
        fields.insert("top_p".to_owned(), json!(params.sampling.top_p));
        fields.insert("model".to_owned(), json!(model));
        Echo { id: id("resp_"), created: now(), fields }
    }
}

/// The envelope of an answer: `in_progress` without an end.
pub fn envelope(echo: &Echo, output: &Value, end: Option<&(Reason, Finished)>) -> Value {
    let status = match end {
        None => "in_progress",
        Some((Reason::Length, _)) => "incomplete",
        Some(_) => "completed",
    };
    let usage = end.map(|(_, finished)| {
        json!({
            "input_tokens": finished.prompt_tokens,
            "input_tokens_details": {"cached_tokens": finished.reused_tokens, "cache_write_tokens": 0},
            "output_tokens": finished.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": finished.prompt_tokens + finished.tokens,
        })
    });
    let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
    let mut told = json!({
        "id": echo.id,
        "object": "response",
        "created_at": echo.created,
        "status": status,
        "error": null,
        "incomplete_details": incomplete,
        "output": output,
        "previous_response_id": null,
        "store": false,
        "truncation": "disabled",
        "usage": usage,
    });
    if let Value::Object(told) = &mut told {
        told.extend(echo.fields.clone());
    }
    told
}

/// The envelope of an answer that failed.
pub fn failed(echo: &Echo, output: &Value, message: &str) -> Value {
    let mut told = envelope(echo, output, None);
    told["status"] = json!("failed");
    told["error"] = json!({"code": "server_error", "message": message});
    told
}

/// An item of the output.
#[derive(Clone, Debug)]
pub enum Item {
    /// What the model thought.
    Reasoning(String),
    /// What it says.
    Message(String),
    /// What it calls.
    Call(Call),
}

/// The items of an answer, each with its id.
#[derive(Default)]
pub struct Items(pub Vec<(String, Item)>);

impl Items {
    /// Of a whole answer.
    pub fn of(whole: &Whole) -> Items {
        let mut items = Items::default();
        if !whole.reasoning.is_empty() {
            items.push(Item::Reasoning(whole.reasoning.clone()));
        }
        if !whole.content.is_empty() || whole.calls.is_empty() {
            items.push(Item::Message(whole.content.clone()));
        }
        whole.calls.iter().for_each(|call| items.push(Item::Call(call.clone())));
        items
    }

    /// Adds one.
    pub fn push(&mut self, item: Item) {
        let prefix = match item {
            Item::Reasoning(_) => "rs_",
            Item::Message(_) => "msg_",
            Item::Call(_) => "fc_",
        };
        self.0.push((id(prefix), item));
    }

    /// All, complete.
    pub fn told(&self) -> Value {
        self.0.iter().map(|(id, item)| told(id, item, true)).collect()
    }
}

/// An item as the output has it; one that has only begun is empty.
pub fn told(id: &str, item: &Item, complete: bool) -> Value {
    let status = if complete { "completed" } else { "in_progress" };
    match item {
        Item::Reasoning(text) => {
            let content: Vec<Value> =
                complete.then(|| json!({"type": "reasoning_text", "text": text})).into_iter().collect();
            json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
        }
        Item::Message(text) => {
            let content: Vec<Value> = complete.then(|| part(text)).into_iter().collect();
            json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
        }
        Item::Call(call) => json!({"id": id, "type": "function_call", "call_id": call.id, "name": call.name,
            "arguments": if complete { call.arguments.as_str() } else { "" }, "status": status}),
    }
}

/// The part of a message that is its text.
pub fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}
