//! What a chat model writes beside plain text: reasoning and calls of tools.
//!
//! Each family has its own form, which its template shows: [`ChatFormat::of`] finds it there. [`OutputParser`] takes an answer apart as it
//! comes (`output.rs`, with `call.rs` for the JSON of calls). [`ChatFormat::tool_grammar`] makes the grammar of well-formed calls
//! (`tool_grammar.rs`). Everything here is a function of texts; an answer is as hostile as the file that it comes from, and only ever text.

mod call;
mod output;
mod tool_grammar;

pub use output::{Delta, OutputParser};
pub use tool_grammar::ToolChoice;

use crate::tokenizer::{TokenKind, Tokenizer};
use serde_json::Value as Json;

/// What opens and closes reasoning.
const THINK: [&str; 2] = ["<think>", "</think>"];

/// How a model writes reasoning and calls of tools.
#[derive(Clone, Debug)]
pub struct ChatFormat {
    calls: CallStyle,
    /// Whether the template shows tools to the model.
    shows_tools: bool,
    /// Whether the model may reason between [`THINK`].
    reasons: bool,
    /// Whether the prompt has opened the reasoning already.
    opened: bool,
    /// Texts of markers that are control tokens, with these.
    tokens: Vec<(&'static str, u32)>,
}

/// The form of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallStyle {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number: Hermes, Qwen, SmolLM.
    Tagged,
    /// `{"name": ..., "parameters": {...}}` as the whole answer, perhaps behind `<|python_tag|>`: Llama 3.1 and later.
    Bare,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`: Mistral.
    Mistral,
    /// `<|tool_call|>[{"name": ..., "arguments": {...}}, ...]`: Granite.
    Granite,
    /// `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, the arguments in a block of Markdown: DeepSeek.
    DeepSeek,
}

impl CallStyle {
    /// Texts that open a call. None is the beginning of another.
    pub(crate) fn openers(self) -> &'static [&'static str] {
        match self {
            CallStyle::Tagged => &["<tool_call>"],
            CallStyle::Bare => &["<|python_tag|>"],
            CallStyle::Mistral => &["[TOOL_CALLS]"],
            CallStyle::Granite => &["<|tool_call|>"],
            CallStyle::DeepSeek => &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
        }
    }

    /// Texts that may stand behind a call and belong to it.
    pub(crate) fn closers(self) -> &'static [&'static str] {
        match self {
            CallStyle::Tagged => &["</tool_call>"],
            CallStyle::Bare => &[";"],
            CallStyle::Mistral | CallStyle::Granite => &[],
            CallStyle::DeepSeek => &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        }
    }
}

impl ChatFormat {
    /// The format that a template is for, by the markers in its source. A template that shows none has the calls of Hermes, which models
    /// follow that are told to (see [`tool_instructions`](ChatFormat::tool_instructions)).
    pub fn of(template_source: &str) -> ChatFormat {
        let has = |text: &str| template_source.contains(text);
        let calls = match () {
            () if has("<｜tool▁calls▁begin｜>") => CallStyle::DeepSeek,
            () if has("<tool_call>") => CallStyle::Tagged,
            () if has("[TOOL_CALLS]") => CallStyle::Mistral,
            () if has("<|tool_call|>") => CallStyle::Granite,
            () if has("<|python_tag|>") || (has("\"parameters\"") && has("<|start_header_id|>")) => CallStyle::Bare,
            () => CallStyle::Tagged,
        };
        ChatFormat {
            calls,
            shows_tools: has("tools"),
            reasons: THINK.iter().any(|text| has(text)),
            opened: false,
            tokens: Vec::new(),
        }
    }

    /// The same format for a vocabulary, in which markers may be control tokens. A grammar has to name these, and an answer shows them only
    /// if they are rendered.
    pub fn with_tokens(mut self, tokenizer: &Tokenizer) -> ChatFormat {
        let markers = self.calls.openers().iter().chain(self.calls.closers()).chain(&THINK).chain(&[SEPARATOR]);
        let control = |&marker: &&'static str| {
            let id = tokenizer.find(marker)?;
            (tokenizer.vocab().kind(id) == TokenKind::Control).then_some((marker, id))
        };
        self.tokens = markers.filter_map(control).collect();
        self
    }

    /// Whether markers of reasoning, or `with_tools` any, are control tokens: then the answer has to be rendered with these
    /// ([`Request::render_special`](crate::engine::Request::render_special)).
    pub fn needs_special(&self, with_tools: bool) -> bool {
        self.tokens.iter().any(|(marker, _)| with_tools || THINK.contains(marker))
    }

    /// The same format for an answer behind this prompt, which may have opened the reasoning.
    pub fn after(mut self, prompt: &str) -> ChatFormat {
        self.opened = self.prompt_opens_reasoning(prompt);
        self
    }

    /// Whether an answer behind this prompt begins within the reasoning.
    pub fn prompt_opens_reasoning(&self, prompt: &str) -> bool {
        self.reasons && prompt.trim_end().ends_with(THINK[0])
    }

    /// Whether the template shows tools to the model. If not, the system prompt has to: [`tool_instructions`](ChatFormat::tool_instructions).
    pub fn shows_tools(&self) -> bool {
        self.shows_tools
    }

    /// A parser of one answer; with `tools` of calls too, else these are content.
    pub fn parser(&self, tools: bool) -> OutputParser {
        OutputParser::new(tools.then_some(self.calls), self.reasons, self.opened)
    }

    /// What the system prompt says of tools where the template shows none, in the words of Hermes's prompt.
    pub fn tool_instructions(&self, tools: &[Json]) -> String {
        let list: Vec<String> = tools.iter().map(Json::to_string).collect();
        format!(
            "You may call one or more of these functions:\n<tools>\n{}\n</tools>\nTo call a function, answer with its name and arguments as \
             JSON:\n<tool_call>\n{{\"name\": \"...\", \"arguments\": {{...}}}}\n</tool_call>",
            list.join("\n")
        )
    }
}

/// What stands between the type and the name of a function in calls of DeepSeek.
const SEPARATOR: &str = "<｜tool▁sep｜>";
