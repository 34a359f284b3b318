//! One choice of a chat's answer: tokens as reasoning, text and tool calls.

use super::params::Params;
use super::worker::command::Said;
use super::worker::served::Served;
use serde_json::{Value, json};
use strata::engine::chat::{Delta, OutputParser};
use strata::engine::sampling::TokenLogprobs;
use strata::engine::{End, Finished, Token};

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it.
    Stop,
    /// A text of the request ended it.
    StopText(String),
    /// It may not be longer.
    Length,
    /// Tools are to be called.
    ToolCalls,
}

impl Reason {
    /// OpenAI's word.
    pub fn openai(&self) -> &'static str {
        match self {
            Reason::Stop | Reason::StopText(_) => "stop",
            Reason::Length => "length",
            Reason::ToolCalls => "tool_calls",
        }
    }

    /// Of an answer without tools.
    pub fn of(finished: &Finished, stop: &[String]) -> Reason {
        match finished.end {
            End::Stop => Reason::Stop,
            End::StopText(i) => Reason::StopText(stop.get(i).cloned().unwrap_or_default()),
            End::Length | End::Context | End::Cancelled => Reason::Length,
        }
    }
}

/// A choice while it comes.
pub struct Choice {
    parser: Option<OutputParser>,
    stop: Vec<String>,
    calls: bool,
}

/// What is new of a choice.
#[derive(Default)]
pub struct News {
    /// Its parts in their order.
    pub deltas: Vec<Delta>,
    /// The token that brought them, with its log-probability.
    pub token: Option<Token>,
    /// The end.
    pub end: Option<(Reason, Finished)>,
}

impl Choice {
    /// Nothing yet of an answer that `parser` understands.
    pub fn new(parser: OutputParser, params: &Params) -> Choice {
        Choice { parser: Some(parser), stop: params.stop.clone(), calls: false }
    }

    /// Takes what was said; what is no part of the text brings nothing.
    pub fn take(&mut self, said: Said) -> News {
        match said {
            Said::Token(token) => {
                let deltas = self.parse(&token.text);
                News { deltas, token: Some(token), end: None }
            }
            Said::Finished(finished) => {
                let mut deltas = self.parse(&finished.rest);
                let rest = self.parser.take().map(OutputParser::finish).unwrap_or_default();
                deltas.extend(self.seen(rest));
                let reason = match Reason::of(&finished, &self.stop) {
                    Reason::Stop | Reason::StopText(_) if self.calls => Reason::ToolCalls,
                    other => other,
                };
                News { deltas, token: None, end: Some((reason, finished)) }
            }
            Said::Prefill { .. } | Said::Failed(_) => News::default(),
        }
    }

    fn parse(&mut self, text: &str) -> Vec<Delta> {
        let deltas = match &mut self.parser {
            Some(parser) if !text.is_empty() => parser.push(text),
            _ => Vec::new(),
        };
        self.seen(deltas)
    }

    fn seen(&mut self, deltas: Vec<Delta>) -> Vec<Delta> {
        self.calls |= deltas.iter().any(|delta| matches!(delta, Delta::ToolCall { .. }));
        deltas
    }
}

/// A tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// What its result is named by.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON.
    pub arguments: String,
}

/// A whole choice.
#[derive(Default)]
pub struct Whole {
    /// What the model thought.
    pub reasoning: String,
    /// What it says.
    pub content: String,
    /// What it calls.
    pub calls: Vec<Call>,
    /// Log-probabilities of its tokens, in OpenAI's form.
    pub logprobs: Vec<Value>,
    /// The end.
    pub end: Option<(Reason, Finished)>,
}

impl Whole {
    /// Adds what is new.
    pub fn add(&mut self, news: News, model: &Served) {
        for delta in news.deltas {
            match delta {
                Delta::Reasoning(text) => self.reasoning.push_str(&text),
                Delta::Content(text) => self.content.push_str(&text),
                Delta::ToolCall { index, id, name } => {
                    self.calls.resize_with((index + 1).max(self.calls.len()), Call::default);
                    self.calls[index] = Call { id, name, arguments: String::new() };
                }
                Delta::ToolArguments { index, text } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
        self.logprobs.extend(news.token.and_then(|token| logprobs(&token, model)));
        self.end = news.end.or(self.end.take());
    }
}

/// A token's log-probabilities as OpenAI's chat has them; `None` if they were not asked for.
pub fn logprobs(token: &Token, model: &Served) -> Option<Value> {
    let TokenLogprobs { chosen, top } = token.logprobs.as_ref()?;
    let entry = |id: u32, logprob: f64| {
        let bytes = model.tokenizer.token_bytes(id).unwrap_or_default();
        json!({"id": id, "token": String::from_utf8_lossy(&bytes), "bytes": bytes, "logprob": logprob})
    };
    let mut of = entry(token.id, *chosen);
    of["top_logprobs"] = top.iter().map(|one| entry(one.token, one.logprob)).collect();
    Some(of)
}
