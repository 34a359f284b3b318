//! A listener that keeps what it hears, for whoever looks when a request is done.

use crate::engine::request::{Event, Finished, Listener, Token};
use crate::error::{Error, Result};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Its text.
    pub text: String,
    /// How it ended.
    pub finished: Finished,
}

/// An answer that is being made.
pub struct Collecting(Receiver<Heard>);

enum Heard {
    Token(Token),
    End(std::result::Result<Finished, Arc<Error>>),
}

impl Collecting {
    /// The answer, when it is complete.
    ///
    /// # Errors
    /// If it failed, or the scheduler is gone before it was complete.
    pub fn take(self) -> Result<Collected> {
        let (mut tokens, mut text) = (Vec::new(), String::new());
        for heard in self.0 {
            match heard {
                Heard::Token(token) => {
                    text.push_str(&token.text);
                    tokens.push(token);
                }
                Heard::End(Ok(finished)) => {
                    text.push_str(&finished.rest);
                    return Ok(Collected { tokens, text, finished });
                }
                Heard::End(Err(error)) => return Err(Error::of_request(error)),
            }
        }
        Err(Error::Cancelled)
    }
}

/// A listener, and what it will have heard.
pub fn collect() -> (Listener, Collecting) {
    let (sender, receiver) = channel();
    let listener: Listener = Box::new(move |event| {
        let heard = match event {
            Event::Prefill { .. } => return ControlFlow::Continue(()),
            Event::Token(token) => Heard::Token(token.clone()),
            Event::Finished(finished) => Heard::End(Ok(finished.clone())),
            Event::Failed(error) => Heard::End(Err(error)),
        };
        if sender.send(heard).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    (listener, Collecting(receiver))
}
