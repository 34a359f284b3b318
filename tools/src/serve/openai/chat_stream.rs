//! Chunks of a streamed chat.

use super::chat::Begun;
use super::{Usage, fingerprint, id, now, timings};
use crate::serve::answer::Answer;
use crate::serve::choice::{Choice, logprobs};
use crate::serve::refusal::Dialect;
use crate::serve::sse::{Encoder, Events};
use crate::serve::worker::command::{Piece, Said};
use crate::serve::worker::served::Served;
use serde_json::{Value, json};
use std::sync::Arc;
use strata::engine::chat::Delta;

/// A chat that is streamed.
pub struct Stream {
    model: Arc<Served>,
    id: String,
    created: u64,
    choices: Vec<Choice>,
    seed: u64,
    logprobs: bool,
    progress: bool,
    usage: Option<Usage>,
}

impl Stream {
    /// A stream of what has begun.
    pub fn new(begun: Begun) -> (Answer, Stream) {
        let Begun { answer, choices, params, .. } = begun;
        let stream = Stream {
            model: answer.model.clone(),
            id: id("chatcmpl-"),
            created: now(),
            choices,
            seed: params.sampling.seed,
            logprobs: params.logprobs.is_some(),
            progress: params.progress,
            usage: params.usage.then(Usage::default),
        };
        (answer, stream)
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": fingerprint(),
            "choices": choices,
        });
        if self.usage.is_some() {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&self, index: usize, delta: &Value, logprobs: Value, reason: Option<&str>) -> Value {
        self.chunk(json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]))
    }
}

/// A part of a message as a chunk has it.
fn told(delta: Delta) -> Value {
    match delta {
        Delta::Reasoning(text) => json!({"reasoning_content": text}),
        Delta::Content(text) => json!({"content": text}),
        Delta::ToolCall { index, id, name } => {
            json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]})
        }
        Delta::ToolArguments { index, text } => {
            json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
        }
    }
}

impl Encoder for Stream {
    fn begin(&mut self, out: &mut Events) {
        for index in 0..self.choices.len() {
            out.data(&self.delta(index, &json!({"role": "assistant", "content": ""}), Value::Null, None));
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut Events) {
        let index = piece.choice;
        match piece.said {
            Said::Failed(refusal) => out.data(&refusal.body(Dialect::OpenAi)),
            Said::Prefill { done, total } => {
                if self.progress {
                    let mut chunk = self.chunk(json!([]));
                    chunk["prompt_progress"] = json!({"processed": done, "total": total});
                    out.data(&chunk);
                }
            }
            said => {
                let news = self.choices[index].take(said);
                let of = news.token.as_ref().and_then(|token| logprobs(token, &self.model));
                let mut of = of.map_or(Value::Null, |of| json!({"content": [of], "refusal": null}));
                for delta in news.deltas {
                    out.data(&self.delta(index, &told(delta), of.take(), None));
                }
                // A token of which nothing is to be seen yet has a log-probability all the same.
                if self.logprobs && !of.is_null() {
                    out.data(&self.delta(index, &json!({"content": ""}), of, None));
                }
                if let Some((reason, finished)) = news.end {
                    let mut chunk = self.delta(index, &json!({}), Value::Null, Some(reason.openai()));
                    chunk["timings"] = timings(&finished, self.seed);
                    out.data(&chunk);
                    if let Some(usage) = &mut self.usage {
                        usage.add(&finished, index > 0);
                    }
                }
            }
        }
    }

    fn end(&mut self, out: &mut Events) {
        if let Some(usage) = &self.usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage.told();
            out.data(&chunk);
        }
        out.text("[DONE]");
    }
}
