//! Events of a streamed message: each block begins, grows and stops.

use super::messages::{ended, usage};
use crate::serve::choice::{Choice, Reason};
use crate::serve::openai::id;
use crate::serve::refusal::Dialect;
use crate::serve::sse::{Encoder, Events};
use crate::serve::worker::command::{Piece, Said};
use serde_json::{Value, json};
use strata::engine::Finished;
use strata::engine::chat::Delta;

/// The kinds of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    Call(usize),
}

/// A message that is streamed.
pub struct Stream {
    choice: Choice,
    model: String,
    prompt_tokens: usize,
    open: Option<Kind>,
    blocks: usize,
    end: Option<(Reason, Finished)>, // none where it failed
}

impl Stream {
    /// A stream of a choice of this model.
    pub fn new(choice: Choice, model: String, prompt_tokens: usize) -> Stream {
        Stream { choice, model, prompt_tokens, open: None, blocks: 0, end: None }
    }

    fn close(&mut self, out: &mut Events) {
        if self.open.take().is_some() {
            out.named(&json!({"type": "content_block_stop", "index": self.blocks}));
            self.blocks += 1;
        }
    }

    /// Begins a block, unless it is the one that is open.
    fn open(&mut self, kind: Kind, block: Value, out: &mut Events) {
        if self.open == Some(kind) {
            return;
        }
        self.close(out);
        self.open = Some(kind);
        out.named(&json!({"type": "content_block_start", "index": self.blocks, "content_block": block}));
    }

    fn add(&mut self, delta: Delta, out: &mut Events) {
        let delta = match delta {
            Delta::Reasoning(text) => {
                self.open(Kind::Thinking, json!({"type": "thinking", "thinking": "", "signature": ""}), out);
                json!({"type": "thinking_delta", "thinking": text})
            }
            Delta::Content(text) => {
                self.open(Kind::Text, json!({"type": "text", "text": ""}), out);
                json!({"type": "text_delta", "text": text})
            }
            Delta::ToolCall { index, id, name } => {
                return self.open(
                    Kind::Call(index),
                    json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                    out,
                );
            }
            Delta::ToolArguments { index, .. } if self.open != Some(Kind::Call(index)) => return,
            Delta::ToolArguments { text, .. } => json!({"type": "input_json_delta", "partial_json": text}),
        };
        out.named(&json!({"type": "content_block_delta", "index": self.blocks, "delta": delta}));
    }
}

impl Encoder for Stream {
    fn begin(&mut self, out: &mut Events) {
        let message = json!({"id": id("msg_"), "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": self.prompt_tokens, "output_tokens": 0}});
        out.named(&json!({"type": "message_start", "message": message}));
        out.named(&json!({"type": "ping"}));
    }

    fn piece(&mut self, piece: Piece, out: &mut Events) {
        if let Said::Failed(refusal) = piece.said {
            return out.named(&refusal.body(Dialect::Anthropic));
        }
        let news = self.choice.take(piece.said);
        for delta in news.deltas {
            self.add(delta, out);
        }
        self.end = news.end;
    }

    fn end(&mut self, out: &mut Events) {
        let Some((reason, finished)) = self.end.take() else { return };
        self.close(out);
        let (reason, stop) = ended(&reason);
        out.named(&json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": stop}, "usage": usage(&finished)}));
        out.named(&json!({"type": "message_stop"}));
    }
}
