//! Conversations as prompts: OpenAI's messages and tools through the model's template to tokens.

use super::object::{Object, wrong};
use super::params::Form;
use super::refusal::{Refusal, Result};
use super::worker::served::{Chat, Served};
use serde_json::{Map, Value, json};
use strata::engine::chat::{ChatFormat, ToolChoice};
use strata::engine::template::ChatInput;

/// The most messages, parts of one, tools, and calls in a message.
pub const MESSAGES: usize = 10_000;
/// See [`MESSAGES`].
pub const PARTS: usize = 1000;
/// See [`MESSAGES`].
pub const TOOLS: usize = 256;
/// The most bytes of a tool's name.
pub const NAME_BYTES: usize = 64;

/// The roles of messages.
pub const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A conversation and how it goes on, in OpenAI's form whatever the API.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its messages.
    pub messages: Vec<Value>,
    /// Tools that the answer may call.
    pub tools: Vec<Value>,
    /// Whether it calls one.
    pub choice: ToolChoice,
    /// Whether it may call several.
    pub parallel: bool,
    /// Other variables of the template.
    pub variables: Map<String, Value>,
}

/// A conversation as a model reads it.
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How the model writes what is not plain text.
    pub format: ChatFormat,
    /// The grammar of tool calls, if the answer has one.
    pub form: Form,
}

impl Conversation {
    /// Reads OpenAI's `messages`, `tools`, `tool_choice`, `parallel_tool_calls` and llama.cpp's `chat_template_kwargs`.
    pub fn read(body: &Object<'_>) -> Result<Conversation> {
        let messages = body.required("messages", body.objects("messages", MESSAGES))?;
        if messages.is_empty() {
            return Err(Refusal::field("messages", "has no message"));
        }
        let tools = body.objects("tools", TOOLS)?.unwrap_or_default();
        let tools = tools.iter().map(tool).collect::<Result<Vec<_>>>()?;
        let choice = choice(body, &tools)?;
        let variables = body.object("chat_template_kwargs")?.map(|object| object.map().clone()).unwrap_or_default();
        let reserved = ["messages", "tools", "documents", "add_generation_prompt"];
        if let Some(name) = reserved.iter().find(|name| variables.contains_key(**name)) {
            return Err(Refusal::field(format!("chat_template_kwargs.{name}"), "cannot be set here"));
        }
        Ok(Conversation {
            messages: messages.iter().map(message).collect::<Result<_>>()?,
            tools,
            choice,
            parallel: body.flag("parallel_tool_calls")?.unwrap_or(true),
            variables,
        })
    }

    /// Whether the answer may call tools.
    pub fn may_call(&self) -> bool {
        !self.tools.is_empty() && self.choice != ToolChoice::None
    }

    /// The prompt for a model. A last message of the assistant is continued.
    pub fn prompt(&self, model: &Served) -> Result<Prompt> {
        let used = self.may_call();
        let text = self.text(model)?;
        let tokens = model.tokenizer.encode_chat(&text)?;
        let format = model.chat(used)?.format.clone().after(&text);
        let grammar = if used { format.tool_grammar(&self.tools, self.choice.clone(), self.parallel)? } else { None };
        Ok(Prompt { tokens, format, form: grammar.map_or(Form::Free, Form::Lark) })
    }

    /// The text that the model's template makes of it.
    pub fn text(&self, model: &Served) -> Result<String> {
        let used = self.may_call();
        let role = |message: &Value| message["role"] == "assistant" && message.get("tool_calls").is_none();
        let (messages, begun) = match self.messages.split_last() {
            Some((last, before)) if role(last) && !before.is_empty() => {
                (before, last["content"].as_str().unwrap_or_default())
            }
            _ => (&self.messages[..], ""),
        };
        let Chat { template, format } = model.chat(used)?;
        let instructed;
        let messages = match used && !format.shows_tools() {
            true => {
                instructed = with_instructions(messages, &format.tool_instructions(&self.tools));
                &instructed[..]
            }
            false => messages,
        };
        let mut variables = model.template.variables();
        variables.extend(self.variables.clone());
        let input = ChatInput {
            messages,
            tools: used.then_some(&self.tools[..]),
            documents: None,
            add_generation_prompt: true,
            variables,
            now: model.template.now(),
        };
        let text = template.render(&input).map_err(|error| Refusal::of(&error).code("chat_template"))?;
        Ok(text + begun)
    }
}

/// The messages with what a template that knows no tools leaves out, in the system prompt.
fn with_instructions(messages: &[Value], instructions: &str) -> Vec<Value> {
    let mut messages = messages.to_vec();
    match messages.first_mut().filter(|first| first["role"] == "system") {
        Some(first) => {
            first["content"] = json!(format!("{}\n\n{instructions}", first["content"].as_str().unwrap_or_default()))
        }
        None => messages.insert(0, json!({"role": "system", "content": instructions})),
    }
    messages
}

/// A message as templates expect it: its text in one piece, the arguments of calls as an object.
fn message(message: &Object<'_>) -> Result<Value> {
    let role = message.required("role", message.word("role", &ROLES))?;
    let mut to = message.map().clone();
    let content = text_of(message, "content")?;
    let calls = message.objects("tool_calls", PARTS)?.unwrap_or_default();
    match content {
        Some(text) => to.insert("content".to_owned(), json!(text)),
        None if role == "assistant" && !calls.is_empty() => to.insert("content".to_owned(), json!("")),
        None => return Err(message.missing("content")),
    };
    if role == "developer" {
        to.insert("role".to_owned(), json!("system"));
    }
    match calls.is_empty() {
        true => to.shift_remove("tool_calls"),
        false => to.insert("tool_calls".to_owned(), calls.iter().map(call).collect::<Result<_>>()?),
    };
    Ok(Value::Object(to))
}

/// The text of a field that is a text or a list of parts.
pub fn text_of(object: &Object<'_>, key: &str) -> Result<Option<String>> {
    let parts = match object.get(key) {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(_)) => object.objects(key, PARTS)?.unwrap_or_default(),
        Some(other) => return Err(wrong(object.name(key), other, "a text or a list of parts")),
    };
    let text = |part: &Object<'_>| match part.required_text("type")? {
        "text" | "input_text" | "output_text" => part.required_text("text").map(str::to_owned),
        "refusal" => part.required_text("refusal").map(str::to_owned),
        kind => Err(Refusal::field(
            part.name("type"),
            format!("{} is not supported; only text is", strata::error::quoted(kind)),
        )),
    };
    Ok(Some(parts.iter().map(text).collect::<Result<Vec<_>>>()?.join("\n")))
}

/// A call of a tool in a message.
fn call(call: &Object<'_>) -> Result<Value> {
    let function = call.required("function", call.object("function"))?;
    let mut to = call.map().clone();
    let mut inner = function.map().clone();
    function.required_text("name")?;
    let arguments = match function.get("arguments") {
        None => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| Refusal::field(function.name("arguments"), format!("is not JSON: {error}")))?,
        Some(Value::Object(arguments)) => json!(arguments),
        Some(other) => return Err(wrong(function.name("arguments"), other, "a text of JSON")),
    };
    inner.insert("arguments".to_owned(), arguments);
    to.insert("function".to_owned(), Value::Object(inner));
    to.entry("type").or_insert(json!("function"));
    Ok(Value::Object(to))
}

/// A tool, which must be a function.
fn tool(tool: &Object<'_>) -> Result<Value> {
    tool.required("type", tool.word("type", &["function"]))?;
    let function = tool.required("function", tool.object("function"))?;
    function_of(&function)
}

/// A function of OpenAI's form: `{"type": "function", "function": {"name", "description", "parameters"}}`.
pub fn function_of(function: &Object<'_>) -> Result<Value> {
    let name = function.required_text("name")?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(valid) {
        let problem = format!("is not made of 1 to {NAME_BYTES} letters, digits, _, - and .");
        return Err(Refusal::field(function.name("name"), problem));
    }
    let parameters = match function.object("parameters")? {
        Some(parameters) => json!(parameters.map()),
        None => json!({"type": "object", "properties": {}}),
    };
    let description = function.text("description")?.unwrap_or_default();
    Ok(json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}))
}

/// `tool_choice`: a word, or the function that must be called.
pub fn choice(body: &Object<'_>, tools: &[Value]) -> Result<ToolChoice> {
    let choice = match body.get("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(_)) => match body.word("tool_choice", &["none", "auto", "required"])? {
            Some("none") => ToolChoice::None,
            Some("required") => ToolChoice::Required,
            _ => ToolChoice::Auto,
        },
        Some(value) => {
            let object = Object::of(value, "tool_choice")?;
            object.required("type", object.word("type", &["function"]))?;
            // The Responses API has the name in the choice itself.
            let function = object.object("function")?.unwrap_or(object);
            ToolChoice::Named(function.required_text("name")?.to_owned())
        }
    };
    check_choice(&choice, tools)?;
    Ok(choice)
}

/// That what must be called is there.
pub fn check_choice(choice: &ToolChoice, tools: &[Value]) -> Result<()> {
    match choice {
        ToolChoice::Required if tools.is_empty() => {
            Err(Refusal::field("tool_choice", "is required, and there are no tools"))
        }
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool["function"]["name"] == **name) => {
            Err(Refusal::field("tool_choice", format!("there is no tool {}", strata::error::quoted(name))))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> Result<Conversation> {
        Conversation::read(&Object::body(&value).unwrap())
    }

    #[test]
    fn messages_become_what_templates_expect() {
        let read = of(json!({"messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ]}));
        let messages = read.unwrap().messages;
        assert_eq!(messages[0], json!({"role": "system", "content": "a\nb"}));
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(messages[1]["content"], "");
    }

    #[test]
    fn hostile_conversations_are_refused_by_field() {
        let user = json!([{"role": "user", "content": "x"}]);
        let tool = json!([{"type": "function", "function": {"name": "f"}}]);
        for (body, name) in [
            (json!({}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [1]}), "messages[0]"),
            (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "boss", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": 7}]}), "messages[0].content"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content[0].type",
            ),
            (json!({"messages": user, "tools": [{}]}), "tools[0].type"),
            (
                json!({"messages": user, "tools": [{"type": "function", "function": {"name": "a b"}}]}),
                "tools[0].function.name",
            ),
            (json!({"messages": user, "tool_choice": "required"}), "tool_choice"),
            (
                json!({"messages": user, "tools": tool, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
                "tool_choice",
            ),
            (json!({"messages": user, "chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
            (
                json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
                "messages[0].tool_calls[0].function.arguments",
            ),
        ] {
            assert_eq!(of(body.clone()).unwrap_err().param.as_deref(), Some(name), "{body}");
        }
    }
}
