//! The grammar of calls, in llguidance's variant of Lark.
//!
//! Calls are written exactly as templates show them to models, with free whitespace only in the arguments. A marker that is a control token
//! is named by its number, since no text of a grammar matches it; any other is text.

use super::{CallStyle, ChatFormat, SEPARATOR, THINK};
use crate::engine::grammar::checked_schema;
use crate::error::{Error, Result, quoted};
use serde_json::{Map, Value as Json};
use std::fmt::Write;

/// Whether an answer calls tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// It calls none.
    None,
    /// The model chooses between text and calls.
    Auto,
    /// It is a call of some tool.
    Required,
    /// It is a call of the tool with this name.
    Named(String),
}

/// Text of any kind.
const TEXT: &str = "TEXT: /(.|\\n)*/\n";

impl ChatFormat {
    /// The source of a grammar of answers, in Lark for [llguidance](https://github.com/guidance-ai/llguidance): with [`ToolChoice::Auto`]
    /// plain text or a call, else a call; `parallel` calls may be several. Reasoning may stand before it. `None` if no tool may be called.
    ///
    /// `tools` are in OpenAI's form: `{"type": "function", "function": {"name": ..., "parameters": SCHEMA}}`.
    ///
    /// # Errors
    /// If a tool has no name, two have the same, the schema of its parameters is none, or the tool to be called is not among them.
    pub fn tool_grammar(&self, tools: &[Json], choice: ToolChoice, parallel: bool) -> Result<Option<String>> {
        let mut functions: Vec<(&str, Json)> = Vec::new();
        for (i, tool) in tools.iter().enumerate() {
            let function = Function::of(tool).map_err(|problem| Error::argument(format!("tool {}", i + 1), problem))?;
            if functions.iter().any(|(other, _)| *other == function.name) {
                return Err(Error::argument(
                    format!("tool {}", i + 1),
                    format!("has the name {} of another", quoted(function.name)),
                ));
            }
            functions.push((function.name, checked_schema(&function.parameters())?));
        }
        match &choice {
            ToolChoice::None => return Ok(None),
            ToolChoice::Auto if functions.is_empty() => return Ok(None),
            ToolChoice::Named(name) => functions.retain(|(other, _)| other == name),
            _ => {}
        }
        if functions.is_empty() {
            return Err(Error::argument("tool choice", "names no tool that was given"));
        }
        Ok(Some(self.grammar(&functions, choice == ToolChoice::Auto, parallel)))
    }

    fn grammar(&self, functions: &[(&str, Json)], may_be_text: bool, parallel: bool) -> String {
        let mut lark = String::from(TEXT);
        let think = self.think(&mut lark);
        let opener = self.marker(self.calls.openers()[0]);
        let call = match (may_be_text, self.calls) {
            (false, CallStyle::Bare) => "calls".to_owned(),
            (false, _) => format!("{opener} calls"),
            (true, CallStyle::Bare) => {
                // A text that begins with a brace would be taken for a call.
                lark += "PLAIN: /(\\s*[^\\s{](.|\\n)*)?/\n";
                "(PLAIN | calls)".to_owned()
            }
            (true, _) => {
                // Text up to the first marker, where the call begins.
                let lazy = if opener.starts_with('<') { "" } else { "[lazy]" };
                let _ = writeln!(lark, "head{lazy}: TEXT {opener}");
                "(TEXT | head calls)".to_owned()
            }
        };
        let _ = writeln!(lark, "start: {think}{call}");
        self.calls(&mut lark, parallel);
        for (i, (name, arguments)) in functions.iter().enumerate() {
            let _ = writeln!(lark, "call_{i}: {}\nargs_{i}: %json {arguments}", self.call(i, name));
        }
        let all: Vec<String> = (0..functions.len()).map(|i| format!("call_{i}")).collect();
        let _ = writeln!(lark, "call: {}", all.join(" | "));
        lark
    }

    /// The rule of reasoning, and how an answer begins with it.
    fn think(&self, lark: &mut String) -> &'static str {
        if !self.reasons {
            return "";
        }
        let [open, close] = THINK.map(|marker| self.marker(marker));
        let lazy = if close.starts_with('<') { "" } else { "[lazy]" };
        *lark += "WS: /[ \\n]{0,3}/\n";
        if self.opened {
            let _ = writeln!(lark, "think{lazy}: TEXT {close}");
            return "think WS ";
        }
        let _ = match open.starts_with('<') {
            true => writeln!(lark, "think: {open} thought\nthought{lazy}: TEXT {close}"),
            false => writeln!(lark, "think{lazy}: {open} TEXT {close}"),
        };
        "(think WS)? "
    }

    /// The rule of all calls, behind what opens the first.
    fn calls(&self, lark: &mut String, parallel: bool) {
        let [open, close] =
            [self.calls.openers()[0], self.calls.closers().last().unwrap_or(&"")].map(|text| self.marker(text));
        let more = |text: String| if parallel { format!(" ({text})*") } else { String::new() };
        let _ = match self.calls {
            CallStyle::Tagged => {
                writeln!(
                    lark,
                    "calls: \"\\n\" call \"\\n\" {close}{}",
                    more(format!("\"\\n\" {open} \"\\n\" call \"\\n\" {close}"))
                )
            }
            // Their templates take one call an answer.
            CallStyle::Bare => writeln!(lark, "calls: call"),
            CallStyle::Mistral | CallStyle::Granite => {
                writeln!(lark, "calls: \"[\" call{} \"]\"", more("\", \" call".to_owned()))
            }
            CallStyle::DeepSeek => writeln!(lark, "calls: call{} {close}", more("\"\\n\" call".to_owned())),
        };
    }

    /// The body of the rule of one call.
    fn call(&self, i: usize, name: &str) -> String {
        if self.calls == CallStyle::DeepSeek {
            let [begin, separator, end] =
                [self.calls.openers()[1], SEPARATOR, self.calls.closers()[1]].map(|text| self.marker(text));
            let head = literal(&format!("{name}\n```json\n"));
            return format!("{begin} \"function\" {separator} {head} args_{i} \"\\n```\" {end}");
        }
        let key = if self.calls == CallStyle::Bare { "parameters" } else { "arguments" };
        let head = format!("{{\"name\": {}, \"{key}\": ", Json::from(name));
        format!("{} args_{i} \"}}\"", literal(&head))
    }

    /// A marker: its number if it is a control token, else its text.
    fn marker(&self, text: &str) -> String {
        match self.tokens.iter().find(|(marker, _)| *marker == text) {
            Some((_, id)) => format!("<[{id}]>"),
            None => literal(text),
        }
    }
}

/// A string of Lark, whose escapes are those of JSON; more characters are escaped than in JSON, since a line ends it.
fn literal(text: &str) -> String {
    let mut escaped = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            '\n' => escaped += "\\n",
            c if c.is_control() => {
                let _ = write!(escaped, "\\u{:04x}", c as u32);
            }
            c => escaped.push(c),
        }
    }
    escaped + "\""
}

/// A tool.
struct Function<'t> {
    name: &'t str,
    parameters: Option<&'t Map<String, Json>>,
}

impl Function<'_> {
    fn of(tool: &Json) -> std::result::Result<Function<'_>, String> {
        let function = if tool["function"].is_object() { &tool["function"] } else { tool };
        let name = function["name"].as_str().filter(|name| !name.is_empty()).ok_or("has no name")?;
        if name.len() > 256 || name.contains(['\n', '\r']) {
            return Err(format!("has the name {}; a name is one line of at most 256 bytes", quoted(name)));
        }
        let parameters = match &function["parameters"] {
            Json::Null => None,
            Json::Object(schema) => Some(schema),
            _ => return Err(format!("{}: its \"parameters\" are no schema, which is an object", quoted(name))),
        };
        Ok(Function { name, parameters })
    }

    /// The schema of the arguments, which are an object.
    fn parameters(&self) -> Json {
        let mut schema = self.parameters.cloned().unwrap_or_default();
        if schema.is_empty() {
            schema.insert("additionalProperties".to_owned(), false.into());
        }
        if !schema.contains_key("$ref") {
            schema.insert("type".to_owned(), "object".into());
        }
        Json::Object(schema)
    }
}
