//! Events of a streamed response: each item begins, grows and is done.

use super::responses_output::{Echo, Item, Items, envelope, failed, part, told};
use crate::serve::choice::{Call, Choice, Reason};
use crate::serve::sse::{Encoder, Events};
use crate::serve::worker::command::{Piece, Said};
use serde_json::{Value, json};
use strata::engine::Finished;
use strata::engine::chat::Delta;

/// A response that is streamed.
pub struct Stream {
    choice: Choice,
    echo: Echo,
    items: Items,
    open: bool,
    number: u64,
    end: Option<(Reason, Finished)>, // none where it failed
}

impl Stream {
    /// A stream of a choice.
    pub fn new(choice: Choice, echo: Echo) -> Stream {
        Stream { choice, echo, items: Items::default(), open: false, number: 0, end: None }
    }

    /// Sends an event with its number.
    fn say(&mut self, out: &mut Events, mut event: Value) {
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        out.named(&event);
    }

    /// The place of the last item.
    fn last(&self) -> usize {
        self.items.0.len().saturating_sub(1)
    }

    /// Begins an item, and ends the one before.
    fn open(&mut self, item: Item, out: &mut Events) {
        self.close(out);
        self.items.push(item);
        self.open = true;
        let index = self.last();
        let (id, item) = self.items.0[index].clone();
        self.say(
            out,
            json!({"type": "response.output_item.added", "output_index": index, "item": told(&id, &item, false)}),
        );
        let part = match item {
            Item::Message(_) => part(""),
            Item::Reasoning(_) => json!({"type": "reasoning_text", "text": ""}),
            Item::Call(_) => return,
        };
        self.say(out, json!({"type": "response.content_part.added", "item_id": id, "output_index": index, "content_index": 0, "part": part}));
    }

    /// Ends the item that is open.
    fn close(&mut self, out: &mut Events) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let index = self.last();
        let (id, item) = self.items.0[index].clone();
        let (kind, key, text) = match &item {
            Item::Message(text) => ("response.output_text.done", "text", text),
            Item::Reasoning(text) => ("response.reasoning_text.done", "text", text),
            Item::Call(call) => ("response.function_call_arguments.done", "arguments", &call.arguments),
        };
        let mut done = json!({"type": kind, "item_id": id, "output_index": index, key: text});
        match &item {
            Item::Call(call) => done["name"] = json!(call.name),
            _ => done["content_index"] = json!(0),
        }
        if matches!(item, Item::Message(_)) {
            done["logprobs"] = json!([]);
        }
        self.say(out, done);
        let part = match &item {
            Item::Message(text) => Some(part(text)),
            Item::Reasoning(text) => Some(json!({"type": "reasoning_text", "text": text})),
            Item::Call(_) => None,
        };
        if let Some(part) = part {
            self.say(out, json!({"type": "response.content_part.done", "item_id": id, "output_index": index, "content_index": 0, "part": part}));
        }
        self.say(
            out,
            json!({"type": "response.output_item.done", "output_index": index, "item": told(&id, &item, true)}),
        );
    }

    /// Adds to the item of a delta, which begins if another is open.
    fn add(&mut self, delta: Delta, out: &mut Events) {
        let last = self.items.0.last().filter(|_| self.open).map(|(_, item)| item);
        let fits = matches!(
            (&delta, last),
            (Delta::Reasoning(_), Some(Item::Reasoning(_)))
                | (Delta::Content(_), Some(Item::Message(_)))
                | (Delta::ToolArguments { .. }, Some(Item::Call(_)))
        );
        let (kind, text) = match delta {
            Delta::ToolCall { id, name, .. } => {
                return self.open(Item::Call(Call { id, name, arguments: String::new() }), out);
            }
            // Arguments without a call: nothing to add them to.
            Delta::ToolArguments { .. } if !fits => return,
            Delta::ToolArguments { text, .. } => ("response.function_call_arguments.delta", text),
            Delta::Reasoning(text) => {
                if !fits {
                    self.open(Item::Reasoning(String::new()), out);
                }
                ("response.reasoning_text.delta", text)
            }
            Delta::Content(text) => {
                if !fits {
                    self.open(Item::Message(String::new()), out);
                }
                ("response.output_text.delta", text)
            }
        };
        let index = self.last();
        let Some((id, item)) = self.items.0.last_mut() else { return };
        let mut event = json!({"type": kind, "item_id": id, "output_index": index, "delta": text});
        match item {
            Item::Call(call) => call.arguments.push_str(&text),
            Item::Message(whole) => {
                whole.push_str(&text);
                (event["content_index"], event["logprobs"]) = (json!(0), json!([]));
            }
            Item::Reasoning(whole) => {
                whole.push_str(&text);
                event["content_index"] = json!(0);
            }
        }
        self.say(out, event);
    }
}

impl Encoder for Stream {
    fn begin(&mut self, out: &mut Events) {
        for kind in ["response.created", "response.in_progress"] {
            let response = envelope(&self.echo, &json!([]), None);
            self.say(out, json!({"type": kind, "response": response}));
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut Events) {
        if let Said::Failed(refusal) = piece.said {
            let response = failed(&self.echo, &self.items.told(), &refusal.message);
            return self.say(out, json!({"type": "response.failed", "response": response}));
        }
        let news = self.choice.take(piece.said);
        for delta in news.deltas {
            self.add(delta, out);
        }
        self.end = news.end;
    }

    fn end(&mut self, out: &mut Events) {
        let Some(end) = self.end.take() else { return };
        if self.items.0.is_empty() {
            self.open(Item::Message(String::new()), out);
        }
        self.close(out);
        let kind = match end.0 {
            Reason::Length => "response.incomplete",
            _ => "response.completed",
        };
        let response = envelope(&self.echo, &self.items.told(), Some(&end));
        self.say(out, json!({"type": kind, "response": response}));
    }
}
