//! What is asked of a model, and what is told of it while it answers.

use super::grammar::Grammar;
use super::sampling::{Sampling, TokenLogprobs};
use crate::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A prompt and how it is continued.
pub struct Request {
    /// The tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// The most tokens of the answer.
    pub limit: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Goes on where the model would end its text.
    pub ignore_eos: bool,
    /// Whether control tokens appear in the text, as their own.
    pub render_special: bool,
    /// What the answer must be.
    pub grammar: Option<Grammar>,
    /// For each token so many of the most likely ones with their log-probabilities.
    pub logprobs: Option<usize>,
    /// Ends the work for this request within a layer, once it is set.
    pub cancel: Cancel,
}

impl Request {
    /// Continues `prompt` as llama.cpp does by default, until the model ends its text or the context is full.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request {
            prompt,
            limit: usize::MAX,
            sampling: Sampling::default(),
            stop: Vec::new(),
            ignore_eos: false,
            render_special: false,
            grammar: None,
            logprobs: None,
            cancel: Cancel::default(),
        }
    }
}

/// A wish that work ends, which any thread may utter.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once somebody has asked for it.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A token of an answer.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it completes: whole characters, of which it may have none or some of the token before.
    pub text: String,
    /// Its log-probability, and the most likely tokens in its place, if they were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model chose a token that ends a text.
    Stop,
    /// A text of [`Request::stop`] came: which.
    StopText(usize),
    /// The limit of tokens was reached.
    Length,
    /// The context is full.
    Context,
    /// Whoever asked wants no more.
    Cancelled,
}

/// What is known of an answer when it ends.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Why it ended.
    pub end: End,
    /// Text that was held back, because it could have become one of [`Request::stop`].
    pub rest: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were there already.
    pub reused_tokens: usize,
    /// Tokens of the answer.
    pub tokens: usize,
    /// From the request to the first pass with its tokens.
    pub waited: Duration,
    /// From then to the first token.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
    /// Passes after that of the first token.
    pub decoded: usize,
}

impl Finished {
    /// Passes of this answer per second; 0 without any.
    pub fn decode_rate(&self) -> f64 {
        if self.decode.is_zero() { 0.0 } else { self.decoded as f64 / self.decode.as_secs_f64() }
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// So many tokens of the prompt are done.
    Prefill {
        /// Tokens.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next token of the answer.
    Token(&'a Token),
    /// The answer is complete; nothing follows.
    Finished(&'a Finished),
    /// There will be no more of the answer; nothing follows. Requests that were in one pass share its error.
    Failed(Arc<Error>),
}

/// Takes the events of a request; `Break` cancels it.
pub type Listener = Box<dyn FnMut(Event<'_>) -> ControlFlow<()> + Send>;
