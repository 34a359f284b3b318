//! What Anthropic's API is asked, as a conversation in the form of chat.

use crate::serve::conversation::{Conversation, MESSAGES, PARTS, TOOLS, check_choice, function_of};
use crate::serve::object::{Object, wrong};
use crate::serve::refusal::{Refusal, Result};
use serde_json::{Map, Value, json};
use strata::engine::chat::ToolChoice;
use strata::error::quoted;

/// Reads `system`, `messages`, `tools` and `tool_choice`.
pub fn conversation(body: &Object<'_>) -> Result<Conversation> {
    let mut to = Vec::new();
    if body.get("system").is_some() {
        to.push(json!({"role": "system", "content": text_of(body, "system")?}));
    }
    let messages = body.required("messages", body.objects("messages", MESSAGES))?;
    if messages.is_empty() {
        return Err(Refusal::field("messages", "has no message"));
    }
    for message in &messages {
        add(message, &mut to)?;
    }
    let tools = body.objects("tools", TOOLS)?.unwrap_or_default();
    let tools = tools.iter().map(tool).collect::<Result<Vec<_>>>()?;
    let (choice, parallel) = choice(body)?;
    check_choice(&choice, &tools)?;
    Ok(Conversation { messages: to, tools, choice, parallel, variables: Map::new() })
}

/// The text of a field that is a text or a list of text blocks.
fn text_of(object: &Object<'_>, key: &str) -> Result<String> {
    match object.get(key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(_)) => {
            let blocks = object.objects(key, PARTS)?.unwrap_or_default();
            let text = |block: &Object<'_>| match block.required_text("type")? {
                "text" => block.required_text("text").map(str::to_owned),
                kind => Err(unsupported(block, kind)),
            };
            Ok(blocks.iter().map(text).collect::<Result<Vec<_>>>()?.join("\n"))
        }
        Some(other) => Err(wrong(object.name(key), other, "a text or a list of blocks")),
    }
}

fn unsupported(block: &Object<'_>, kind: &str) -> Refusal {
    Refusal::field(block.name("type"), format!("{} is not supported", quoted(kind)))
}

/// Adds a message: results of tools become messages of their own, before the text beside them.
fn add(message: &Object<'_>, to: &mut Vec<Value>) -> Result<()> {
    let role = message.required("role", message.word("role", &["user", "assistant", "system"]))?;
    if let Some(Value::String(text)) = message.get("content") {
        to.push(json!({"role": role, "content": text}));
        return Ok(());
    }
    let blocks = message.required("content", message.objects("content", PARTS))?;
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for block in &blocks {
        match block.required_text("type")? {
            "text" => texts.push(block.required_text("text")?),
            "tool_use" => {
                let input = block.required("input", block.object("input"))?;
                calls.push(json!({"id": block.required_text("id")?, "type": "function",
                    "function": {"name": block.required_text("name")?, "arguments": input.map()}}));
            }
            "tool_result" => {
                let id = block.required_text("tool_use_id")?;
                to.push(json!({"role": "tool", "tool_call_id": id, "content": text_of(block, "content")?}));
            }
            // What the model thought is not fed back.
            "thinking" | "redacted_thinking" => {}
            kind => return Err(unsupported(block, kind)),
        }
    }
    if !calls.is_empty() {
        to.push(json!({"role": role, "content": texts.join("\n"), "tool_calls": calls}));
    } else if !texts.is_empty() || blocks.is_empty() {
        to.push(json!({"role": role, "content": texts.join("\n")}));
    }
    Ok(())
}

fn tool(tool: &Object<'_>) -> Result<Value> {
    match tool.text("type")? {
        None | Some("custom") => {}
        Some(kind) => return Err(unsupported(tool, kind)),
    }
    let schema = tool.required("input_schema", tool.object("input_schema"))?;
    let mut function = Map::new();
    function.insert("name".to_owned(), json!(tool.required_text("name")?));
    function.insert("description".to_owned(), json!(tool.text("description")?));
    function.insert("parameters".to_owned(), json!(schema.map()));
    let function = Value::Object(function);
    function_of(&Object::of(&function, tool.name("").trim_end_matches('.'))?)
}

/// Whether a tool is called, and whether several may be.
fn choice(body: &Object<'_>) -> Result<(ToolChoice, bool)> {
    let Some(choice) = body.object("tool_choice")? else { return Ok((ToolChoice::Auto, true)) };
    let kind = choice.required("type", choice.word("type", &["auto", "any", "tool", "none"]))?;
    let parallel = !choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    let choice = match kind {
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.required_text("name")?.to_owned()),
        _ => ToolChoice::Auto,
    };
    Ok((choice, parallel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_messages() {
        let body = json!({"system": [{"type": "text", "text": "be brief"}], "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": ""}, {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "7"}]},
                {"type": "text", "text": "so?"}]},
        ], "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true}});
        let read = conversation(&Object::body(&body).unwrap()).unwrap();
        let roles: Vec<_> = read.messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!(read.messages[2]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(read.tools[0]["function"]["parameters"], json!({"type": "object"}));
        assert_eq!((read.choice, read.parallel), (ToolChoice::Named("f".to_owned()), false));
        for (body, name) in [
            (json!({}), "messages"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "messages[0].content[0].type"),
            (
                json!({"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "f"}]}),
                "tools[0].input_schema",
            ),
            (json!({"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "any"}}), "tool_choice"),
        ] {
            assert_eq!(conversation(&Object::body(&body).unwrap()).unwrap_err().param.as_deref(), Some(name), "{body}");
        }
    }
}
