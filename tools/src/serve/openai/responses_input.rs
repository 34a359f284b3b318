//! What `/v1/responses` is asked, as a conversation in the form of chat.

use crate::serve::conversation::{Conversation, MESSAGES, TOOLS, choice, function_of, text_of};
use crate::serve::object::{Object, wrong};
use crate::serve::params::{Form, of_format};
use crate::serve::refusal::{Refusal, Result};
use serde_json::{Map, Value, json};
use strata::error::quoted;

/// Reads `instructions`, `input`, `tools` and `tool_choice`.
pub fn conversation(body: &Object<'_>) -> Result<Conversation> {
    let mut messages = Vec::new();
    if let Some(instructions) = body.text("instructions")? {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    match body.get("input") {
        None => return Err(body.missing("input")),
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(_)) => {
            for item in body.objects("input", MESSAGES)?.unwrap_or_default() {
                add(&item, &mut messages)?;
            }
        }
        Some(other) => return Err(wrong("input", other, "a text or a list of items")),
    }
    if messages.is_empty() {
        return Err(Refusal::field("input", "has no item"));
    }
    let tools = body.objects("tools", TOOLS)?.unwrap_or_default();
    let tools = tools.iter().map(tool).collect::<Result<Vec<_>>>()?;
    let choice = choice(body, &tools)?;
    let parallel = body.flag("parallel_tool_calls")?.unwrap_or(true);
    Ok(Conversation { messages, tools, choice, parallel, variables: Map::new() })
}

/// `text.format`: the form of the answer.
pub fn form(body: &Object<'_>) -> Result<Option<Form>> {
    let Some(text) = body.object("text")? else { return Ok(None) };
    let Some(format) = text.object("format")? else { return Ok(None) };
    of_format(&format, "json_schema")
}

/// Adds an item of the input.
fn add(item: &Object<'_>, messages: &mut Vec<Value>) -> Result<()> {
    let kind = item.text("type")?.unwrap_or("message");
    match kind {
        "message" => {
            let role = item.required("role", item.word("role", &["system", "developer", "user", "assistant"]))?;
            let role = if role == "developer" { "system" } else { role };
            messages.push(json!({"role": role, "content": item.required("content", text_of(item, "content"))?}));
        }
        "function_call" => {
            let (name, arguments) = (item.required_text("name")?, item.required_text("arguments")?);
            let arguments: Value = serde_json::from_str(arguments)
                .map_err(|error| Refusal::field(item.name("arguments"), format!("is not JSON: {error}")))?;
            let call = json!({"id": item.required_text("call_id")?, "type": "function",
                "function": {"name": name, "arguments": arguments}});
            // Calls that follow each other are one message.
            match messages.last_mut().and_then(|last| last.get_mut("tool_calls")).and_then(Value::as_array_mut) {
                Some(calls) => calls.push(call),
                None => messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]})),
            }
        }
        "function_call_output" => {
            let id = item.required_text("call_id")?;
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": item.required("output", text_of(item, "output"))?}));
        }
        // What the model thought is not fed back.
        "reasoning" => {}
        kind => return Err(Refusal::field(item.name("type"), format!("{} is not supported", quoted(kind)))),
    }
    Ok(())
}

fn tool(tool: &Object<'_>) -> Result<Value> {
    tool.required("type", tool.word("type", &["function"]))?;
    function_of(tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let body = json!({"instructions": "be brief", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "7"},
        ]});
        let messages = conversation(&Object::body(&body).unwrap()).unwrap().messages;
        assert_eq!(messages.len(), 4);
        assert_eq!(messages[1], json!({"role": "user", "content": "hi"}));
        assert_eq!(messages[2]["tool_calls"][1]["function"]["name"], "g");
        assert_eq!(messages[3], json!({"role": "tool", "tool_call_id": "1", "content": "7"}));
        for (body, name) in [
            (json!({}), "input"),
            (json!({"input": 3}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].type"),
            (json!({"input": "x", "tools": [{"type": "web_search"}]}), "tools[0].type"),
        ] {
            assert_eq!(conversation(&Object::body(&body).unwrap()).unwrap_err().param.as_deref(), Some(name), "{body}");
        }
    }
}
