//! A sequence on a model: a prompt in one pass, then one pass a token.

use super::sampling::Sampler;
use crate::error::{Error, Result};
use crate::model::{KvCache, Model, Scratch, Segment};
use crate::progress::{Progress, Quiet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One sequence on one model, with the memory for its keys and values.
pub struct Session {
    model: Arc<Model>,
    cache: KvCache,
    scratch: Scratch,
}

/// The times of a generation, and why it ended.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// The time from the prompt to the first logits.
    pub prefill: Duration,
    /// The time of all passes of one token.
    pub decode: Duration,
    /// The number of passes of one token.
    pub decoded: usize,
    /// Why the generation ended.
    pub end: End,
}

impl Timings {
    /// Passes of one token per second; 0 without any.
    pub fn decode_rate(&self) -> f64 {
        if self.decode.is_zero() { 0.0 } else { self.decoded as f64 / self.decode.as_secs_f64() }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model chose a token that ends a text.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The context is full.
    Context,
}

impl Session {
    /// An empty sequence with room for `context` tokens.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub fn new(model: Arc<Model>, context: usize) -> Result<Session> {
        let cache = KvCache::new(model.hyperparameters(), context)?;
        Ok(Session::with_cache(model, cache))
    }

    /// Continues the sequence in `cache`.
    pub fn with_cache(model: Arc<Model>, cache: KvCache) -> Session {
        Session { model, cache, scratch: Scratch::default() }
    }

    /// Appends tokens in one pass, and returns the logits `(vocab)` after the last.
    ///
    /// # Errors
    /// If there is no token, one is not in the vocabulary, or the context is full.
    pub fn append(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.watched_append(tokens, &Quiet)
    }

    fn watched_append(&mut self, tokens: &[u32], progress: &dyn Progress) -> Result<&[f32]> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let Session { model, cache, scratch } = self;
        let hidden = model.pass(scratch, &mut [Segment { tokens, cache }], progress)?;
        let logits = hidden.into_logits(tokens.len() - 1..tokens.len(), progress)?;
        model.check()?;
        Ok(logits)
    }

    /// Continues `prompt` by up to `limit` tokens. `on_token` gets each; `is_end` names those that end the text and are not given. The
    /// tokens of the prompt and those given become part of the sampler's history.
    ///
    /// # Errors
    /// As [`Session::append`]; also if the user stopped, a logit is not finite, or `on_token` fails, with its own error.
    pub fn generate<E: From<Error>>(
        &mut self,
        prompt: &[u32],
        limit: usize,
        sampler: &mut Sampler,
        is_end: impl Fn(u32) -> bool,
        mut on_token: impl FnMut(u32) -> std::result::Result<(), E>,
        progress: &dyn Progress,
    ) -> std::result::Result<Timings, E> {
        let start = Instant::now();
        let mut logits = self.watched_append(prompt, progress)?;
        prompt.iter().for_each(|&token| sampler.accept(token));
        let mut timings = Timings { prefill: start.elapsed(), decode: Duration::ZERO, decoded: 0, end: End::Length };
        for i in 0..limit {
            progress.check()?;
            let token = sampler.sample(logits).ok_or(Error::NoCandidate)?;
            if is_end(token) {
                timings.end = End::Stop;
                break;
            }
            sampler.accept(token);
            on_token(token)?;
            if i + 1 == limit {
                break;
            }
            if self.cache.len() == self.cache.capacity() {
                timings.end = End::Context;
                break;
            }
            let start = Instant::now();
            logits = self.watched_append(&[token], progress)?;
            timings.decode += start.elapsed();
            timings.decoded += 1;
        }
        Ok(timings)
    }
}
