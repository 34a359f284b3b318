//! Models at work: what a program, a chat or a server owns.
//!
//! * [`Engine`]: a model with its tokenizer, shared by any number of sessions;
//! * [`Request`] and [`Scheduler`]: prompts and their answers, many in a pass, with what they have in common from the [`prefix_cache`];
//! * [`Session`]: one sequence, whose tokens the caller chooses; [`embed`]: texts as vectors;
//! * [`sampling`]: from logits to the next token;
//! * [`grammar`]: what an answer may be, as the tokens that may come next;
//! * [`template`]: conversations as the text that a model was trained on;
//! * [`chat`]: answers taken apart into reasoning, text and calls of tools.

mod answer;
pub mod chat;
mod embedding;
pub mod grammar;
pub mod prefix_cache;
pub mod request;
pub mod sampling;
mod scheduler;
mod session;
mod stops;
pub mod template;

pub use embedding::embed;
pub use prefix_cache::PrefixCache;
pub use request::{Cancel, End, Event, Finished, Listener, Request, Token};
pub use scheduler::{Collected, Collecting, Scheduler, SchedulerOptions, SlotStatus, collect};
pub use session::Session;

use crate::convert::open_model;
use crate::error::Result;
use crate::eval::perplexity::{self, Perplexity};
use crate::model::{CacheTypes, Model};
use crate::progress::Quiet;
use crate::threads;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use sampling::Sampling;
use std::path::Path;
use std::sync::Arc;
use strata_kernels::{Cpu, Isa};

/// A model and its tokenizer; cheap to clone, safe from many threads.
#[derive(Clone)]
pub struct Engine {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
}

impl Engine {
    /// Opens a GGUF file, or the folder of a Hugging Face checkpoint, as [`Model::open`] does.
    ///
    /// # Errors
    /// If it is not a complete model that Strata can run, or has no vocabulary.
    pub fn open(path: impl AsRef<Path>) -> Result<Engine> {
        let gguf = open_model(path.as_ref(), &Quiet)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let model = Model::new(gguf, Cpu::new(Isa::best(), threads::physical_cores()))?;
        Ok(Engine::new(Arc::new(model), Arc::new(tokenizer)))
    }

    /// Puts a model and its tokenizer together.
    pub fn new(model: Arc<Model>, tokenizer: Arc<Tokenizer>) -> Engine {
        Engine { model, tokenizer }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// An empty sequence with room for `context` tokens.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub fn session(&self, context: usize) -> Result<Session> {
        Session::new(self.model.clone(), context)
    }

    /// A scheduler of requests to this model.
    ///
    /// # Errors
    /// If the memory for keys and values cannot be had.
    pub fn scheduler(&self, options: SchedulerOptions) -> Result<Scheduler> {
        Scheduler::new(self.model.clone(), Some(self.tokenizer.clone()), options)
    }

    /// Continues `prompt` by up to `limit` tokens, until the model ends its text.
    ///
    /// # Errors
    /// As [`Sampling::check`]; also if the memory for the sequence cannot be had, or a number of the pass is not finite.
    pub fn generate(&self, prompt: &str, limit: usize, sampling: &Sampling) -> Result<String> {
        let prompt = self.tokenizer.encode(prompt, EncodeOptions { add_special: true, parse_special: true })?;
        let context = prompt.len().saturating_add(limit);
        let mut scheduler = self.scheduler(SchedulerOptions::single(context))?;
        let (listener, collected) = collect();
        scheduler.submit(Request { limit, sampling: sampling.clone(), ..Request::new(prompt) }, listener)?;
        scheduler.run(&Quiet)?;
        Ok(collected.take()?.text)
    }

    /// How well the model predicts `text`, in chunks of `context` tokens; see [`crate::eval::perplexity`].
    ///
    /// # Errors
    /// If the text does not fill one chunk.
    pub fn perplexity(&self, text: &str, context: usize) -> Result<Perplexity> {
        let tokens = self.tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })?;
        let (bos, types) = (self.tokenizer.bos(), CacheTypes::default());
        perplexity::perplexity(&self.model, &tokens, context, None, bos, types, &Quiet)
    }
}
