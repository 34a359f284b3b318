//! A slot: one sequence, its keys and values, and the request that it works on.

use crate::engine::answer::{Answer, Next};
use crate::engine::request::{Cancel, End, Event, Finished, Listener};
use crate::error::Error;
use crate::model::KvCache;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// A sequence. Its cache holds the beginning of its tokens: all but those of a prompt that are still to come, and the last of an answer.
pub(super) struct Slot {
    pub tokens: Vec<u32>,
    pub cache: KvCache,
    pub saved: usize, // tokens that the cache on disk has, whole spans
    pub used: u64,    // when, in passes
    pub work: Option<Work>,
}

/// A request in a slot.
pub(super) struct Work {
    pub id: u64,
    pub prompt: usize, // tokens
    pub reused: usize, // tokens of it that were there already
    pub answer: Answer,
    pub listener: Listener,
    pub cancel: Cancel,
    pub clock: Clock,
}

/// The times of a request.
pub(super) struct Clock {
    pub submitted: Instant,
    pub begun: Option<Instant>,
    pub first: Option<Instant>,
    pub decoded: usize, // passes after that of the first token
}

impl Slot {
    pub fn new(cache: KvCache) -> Slot {
        Slot { tokens: Vec::new(), cache, saved: 0, used: 0, work: None }
    }

    /// Tokens that are not in the cache.
    pub fn ahead(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    /// True if a prompt is not complete.
    pub fn is_prefilling(&self) -> bool {
        self.work.as_ref().is_some_and(|work| self.cache.len() < work.prompt)
    }

    /// How many tokens at its beginning, which the cache holds, are those of `tokens`.
    pub fn common(&self, tokens: &[u32]) -> usize {
        common(&self.tokens[..self.cache.len()], tokens)
    }

    /// Tells of a prompt that is under way.
    pub fn tell_prefill(&mut self) {
        if let Some(work) = &mut self.work {
            let (done, total) = (self.cache.len(), work.prompt);
            work.tell(Event::Prefill { done, total });
        }
    }

    /// Takes the logits after its last token: the next token, and perhaps the end.
    pub fn take(&mut self, logits: &[f32]) {
        let Some(work) = &mut self.work else { return };
        match work.clock.first {
            Some(_) => work.clock.decoded += 1,
            None => work.clock.first = Some(Instant::now()),
        }
        let end = match work.answer.next(logits) {
            Err(error) => return self.fail(Arc::new(error)),
            Ok(Next::End(end)) => Some(end),
            Ok(Next::Token(token, end)) => {
                work.tell(Event::Token(&token));
                self.tokens.push(token.id);
                let full = self.cache.len() == self.cache.capacity();
                end.or(full.then_some(End::Context))
            }
        };
        if let Some(end) = end {
            self.finish(end);
        }
    }

    /// Ends its request.
    pub fn finish(&mut self, end: End) {
        if let Some(work) = self.work.take() {
            work.end(end);
        }
        self.tokens.truncate(self.cache.len());
    }

    /// Ends its request with an error.
    pub fn fail(&mut self, error: Arc<Error>) {
        if let Some(mut work) = self.work.take() {
            work.tell(Event::Failed(error));
        }
        self.tokens.truncate(self.cache.len());
    }
}

impl Work {
    /// A request that has just been made.
    pub fn new(id: u64, prompt: usize, answer: Answer, listener: Listener, cancel: Cancel) -> Work {
        let clock = Clock { submitted: Instant::now(), begun: None, first: None, decoded: 0 };
        Work { id, prompt, reused: 0, answer, listener, cancel, clock }
    }

    fn tell(&mut self, event: Event<'_>) {
        if let ControlFlow::Break(()) = (self.listener)(event) {
            self.cancel.cancel();
        }
    }

    /// Tells of its end.
    pub fn end(mut self, end: End) {
        let Clock { submitted, begun, first, decoded } = self.clock;
        let now = Instant::now();
        let (begun, first) = (begun.unwrap_or(now), first.unwrap_or(now));
        let finished = Finished {
            end,
            rest: self.answer.finish(end),
            prompt_tokens: self.prompt,
            reused_tokens: self.reused,
            tokens: self.answer.tokens(),
            waited: begun - submitted,
            prefill: first - begun,
            decode: now - first,
            decoded,
        };
        self.tell(Event::Finished(&finished));
    }
}

/// As many of so many tokens as fill spans.
pub(super) fn whole_spans(tokens: usize) -> usize {
    tokens / KvCache::SPAN * KvCache::SPAN
}

/// How many tokens two texts have in common at their beginnings.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
