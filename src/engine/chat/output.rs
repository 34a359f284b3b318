//! An answer taken apart as it comes: reasoning, content, calls.
//!
//! The parser takes a character at a time, so that what it gives does not depend on how the text was cut. It holds back what may become a
//! marker, whitespace that may end before one, and calls until they are whole: what turns out to be no call is content. Every character is
//! held at most once and looked at a bounded number of times.

use super::call::{Call, JsonEnd, calls, may_be_call};
use super::{CallStyle, THINK};
use sha2::{Digest, Sha256};
use std::mem::take;

/// A piece of what an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Text of the reasoning.
    Reasoning(String),
    /// Text of the answer.
    Content(String),
    /// The start of a call.
    ToolCall {
        /// Its place among the calls of the answer, from 0.
        index: usize,
        /// A name for the call, the same for the same answer and [seed](OutputParser::with_seed).
        id: String,
        /// The name of the tool.
        name: String,
    },
    /// Text of a call's arguments, a JSON object when all are joined.
    ToolArguments {
        /// The place of the call.
        index: usize,
        /// The text.
        text: String,
    },
}

/// The longest text between the opening of a call and its JSON.
const LONGEST_HEAD: usize = 1000;

/// The bytes of JSON by which it is told whether it may be a call.
const TELLING: usize = 100;

/// A parser of one answer.
#[derive(Clone, Debug)]
pub struct OutputParser {
    style: Option<CallStyle>, // none: calls are content
    reasons: bool,
    seed: u64,
    at: At,
    /// Whitespace that belongs to what comes next, or to nothing.
    space: String,
    /// The beginning of a marker.
    held: String,
    /// Calls so far.
    count: usize,
    /// True directly behind a call, where its closing markers are expected.
    behind_call: bool,
    out: Vec<Delta>,
}

/// Where in the answer the next character stands.
#[derive(Clone, Debug)]
enum At {
    /// Before anything but whitespace; the reasoning may open.
    Start,
    /// In the reasoning; true once it has text.
    Reasoning(bool),
    /// Behind the reasoning, before anything but whitespace.
    Reasoned,
    Content,
    Call(Pending),
}

/// A call that is not whole.
#[derive(Clone, Debug)]
struct Pending {
    raw: String,                    // from its marker on
    json: Option<(usize, JsonEnd)>, // where its JSON begins
}

impl OutputParser {
    pub(super) fn new(style: Option<CallStyle>, reasons: bool, opened: bool) -> OutputParser {
        OutputParser {
            style,
            reasons,
            seed: 0,
            at: if opened { At::Reasoning(false) } else { At::Start },
            space: String::new(),
            held: String::new(),
            count: 0,
            behind_call: false,
            out: Vec::new(),
        }
    }

    /// The same parser, whose calls have ids made from `seed`, which should be another for each answer of a conversation.
    pub fn with_seed(mut self, seed: u64) -> OutputParser {
        self.seed = seed;
        self
    }

    /// Takes a piece of the answer; gives what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        text.chars().for_each(|c| self.step(c));
        take(&mut self.out)
    }

    /// Takes the end of the answer; gives what was held back.
    pub fn finish(mut self) -> Vec<Delta> {
        if let At::Call(pending) = &mut self.at {
            let raw = take(&mut pending.raw);
            self.content(&raw);
        }
        let held = take(&mut self.held);
        match self.at {
            At::Reasoning(_) if !held.is_empty() => self.reasoning(&held),
            At::Reasoning(_) => {}
            _ if !held.is_empty() => self.content(&held),
            // Whitespace is part of an answer that is nothing but text.
            _ if self.count == 0 && !matches!(self.at, At::Reasoned) => self.content(""),
            _ => {}
        }
        self.out
    }

    fn step(&mut self, c: char) {
        match &self.at {
            At::Call(_) => self.step_call(c),
            At::Content if self.style.is_none() => self.push_text(c),
            _ if c.is_whitespace() && self.held.is_empty() => self.space.push(c),
            _ => {
                self.held.push(c);
                self.settle();
            }
        }
    }

    /// Acts on a marker that is whole, and lets go of what cannot become one.
    fn settle(&mut self) {
        if let Some(first) = self.held.chars().next() {
            let markers = self.markers();
            if let Some(&marker) = markers.iter().find(|&&marker| marker == self.held) {
                self.held.clear();
                return self.marker(marker);
            }
            if markers.iter().any(|marker| marker.starts_with(&self.held)) {
                return;
            }
            let rest = self.held.split_off(first.len_utf8());
            take(&mut self.held);
            self.push_text(first);
            // What follows begins anew: whitespace in it is whitespace again.
            rest.chars().for_each(|c| self.step(c));
        }
    }

    /// The markers that mean something here.
    fn markers(&self) -> Vec<&'static str> {
        let mut markers = Vec::new();
        let reasoning = |markers: &mut Vec<_>| markers.extend(self.reasons.then_some(THINK[0]));
        match self.at {
            At::Reasoning(false) => markers.extend(THINK),
            At::Reasoning(true) => markers.push(THINK[1]),
            At::Start => reasoning(&mut markers),
            _ => {}
        }
        let Some(style) = self.style.filter(|_| !matches!(self.at, At::Reasoning(_))) else { return markers };
        let is_begin = matches!(self.at, At::Start | At::Reasoned);
        if style != CallStyle::Bare || is_begin || self.behind_call {
            markers.extend(style.openers());
            markers.extend((style == CallStyle::Bare).then_some("{"));
        }
        if self.behind_call {
            markers.extend(style.closers());
        }
        markers
    }

    fn marker(&mut self, marker: &'static str) {
        let Some(style) = self.style.filter(|style| style.openers().contains(&marker) || marker == "{") else {
            // Whitespace around reasoning, and in front of what closes a call, belongs to the marker.
            self.space.clear();
            match marker {
                _ if marker == THINK[0] => self.at = At::Reasoning(false),
                _ if marker == THINK[1] => self.at = At::Reasoned,
                _ => {}
            }
            return;
        };
        let mut pending = Pending { raw: marker.to_owned(), json: None };
        if style == CallStyle::Bare && marker == "{" {
            let mut end = JsonEnd::default();
            end.push('{');
            pending.json = Some((0, end));
        }
        self.at = At::Call(pending);
    }

    fn step_call(&mut self, c: char) {
        let (At::Call(pending), Some(style)) = (&mut self.at, self.style) else { return };
        let Some((start, end)) = &mut pending.json else {
            let head = pending.raw.len();
            let begins = c == '{' || (c == '[' && style != CallStyle::DeepSeek);
            if begins {
                let mut end = JsonEnd::default();
                end.push(c);
                pending.json = Some((head, end));
            } else if head > LONGEST_HEAD || (style != CallStyle::DeepSeek && !c.is_whitespace()) {
                let raw = take(&mut pending.raw);
                self.no_call(&raw);
                return self.step(c);
            }
            pending.raw.push(c);
            return;
        };
        pending.raw.push(c);
        let whole = end.push(c);
        let json = &pending.raw[*start..];
        if whole {
            let found = calls(style, &pending.raw[..*start], json);
            let raw = take(&mut pending.raw);
            return match found {
                Some(found) => self.calls(found),
                None => self.no_call(&raw),
            };
        }
        if style == CallStyle::Bare && json.len() <= TELLING && !may_be_call(json) {
            let raw = take(&mut pending.raw);
            self.no_call(&raw);
        }
    }

    /// What looked like a call is content.
    fn no_call(&mut self, raw: &str) {
        self.at = At::Content;
        self.content(raw);
    }

    fn calls(&mut self, found: Vec<Call>) {
        self.space.clear();
        self.at = At::Content;
        self.behind_call = true;
        for Call { name, arguments } in found {
            let index = self.count;
            self.count += 1;
            self.out.push(Delta::ToolCall { index, id: self.id(index), name });
            self.out.push(Delta::ToolArguments { index, text: arguments });
        }
    }

    /// `call_` and 24 letters and digits; for Mistral's templates, which insist on it, nine of these alone.
    fn id(&self, index: usize) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let hash =
            Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update((index as u64).to_le_bytes()).finalize();
        let letters = hash.iter().map(|&byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
        match self.style {
            Some(CallStyle::Mistral) => letters.take(9).collect(),
            _ => "call_".chars().chain(letters.take(24)).collect(),
        }
    }

    /// A character that belongs to no marker.
    fn push_text(&mut self, c: char) {
        let mut bytes = [0; 4];
        let text = c.encode_utf8(&mut bytes);
        match self.at {
            At::Reasoning(_) => self.reasoning(text),
            _ => self.content(text),
        }
    }

    fn reasoning(&mut self, text: &str) {
        let space = take(&mut self.space);
        let text = if matches!(self.at, At::Reasoning(false)) { text.to_owned() } else { space + text };
        self.at = At::Reasoning(true);
        match self.out.last_mut() {
            Some(Delta::Reasoning(all)) => all.push_str(&text),
            _ => self.out.push(Delta::Reasoning(text)),
        }
    }

    fn content(&mut self, text: &str) {
        let space = take(&mut self.space);
        let space = if matches!(self.at, At::Reasoned) { "" } else { &space };
        (self.at, self.behind_call) = (At::Content, false);
        match self.out.last_mut() {
            Some(Delta::Content(all)) => all.extend([space, text]),
            _ if space.is_empty() && text.is_empty() => {}
            _ => self.out.push(Delta::Content([space, text].concat())),
        }
    }
}
