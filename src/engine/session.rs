//! A sequence on a model, for programs that choose the tokens themselves: tokens in, logits out.

use crate::error::{Error, Result};
use crate::model::{KvCache, Model, Scratch, Segment};
use crate::progress::Quiet;
use std::sync::Arc;

/// One sequence on one model, with the memory for its keys and values. Answers to prompts come from a [`Scheduler`](super::Scheduler).
pub struct Session {
    model: Arc<Model>,
    cache: KvCache,
    scratch: Scratch,
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
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let Session { model, cache, scratch } = self;
        let hidden = model.pass(scratch, &mut [Segment { tokens, cache }], &Quiet)?;
        let logits = hidden.into_logits(tokens.len() - 1..tokens.len(), &Quiet)?;
        model.check()?;
        Ok(logits)
    }
}
