//! What handlers ask of the worker, and what they hear.

use super::load::LoadedModel;
use super::served::Served;
use crate::serve::refusal::{Refusal, Result};
use axum::http::StatusCode;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use strata::engine::{Cancel, Event, Finished, Listener, Request, Token};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// A wish to the worker.
pub enum Command {
    /// A model, loaded first if need be.
    Model {
        /// Its name.
        name: String,
        /// Where it goes.
        reply: oneshot::Sender<Result<Arc<Served>>>,
    },
    /// A loading thread is done.
    Loaded(Box<LoadedModel>),
    /// The prompts of one HTTP request.
    Submit {
        /// The model.
        model: Arc<Served>,
        /// The choices of the answer.
        requests: Vec<Request>,
        /// Where all that is said goes.
        events: UnboundedSender<Piece>,
        /// Whether they were taken.
        reply: oneshot::Sender<Result<()>>,
    },
    /// Texts to embed.
    Embed {
        /// The model.
        model: Arc<Served>,
        /// Their tokens.
        texts: Vec<Vec<u32>>,
        /// Whether anybody still waits.
        cancel: Cancel,
        /// Where the vectors go.
        reply: oneshot::Sender<Result<Vec<Vec<f32>>>>,
    },
    /// The end of the server.
    Stop,
}

/// Something of an answer.
#[derive(Debug)]
pub struct Piece {
    /// Of which choice.
    pub choice: usize,
    /// What.
    pub said: Said,
}

/// What the engine says, kept for another thread.
#[derive(Debug)]
pub enum Said {
    /// So many tokens of the prompt are done.
    Prefill {
        /// Tokens.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next token.
    Token(Token),
    /// The end.
    Finished(Finished),
    /// The end by an error.
    Failed(Refusal),
}

/// A listener that hands everything to a channel, and ends the work when nobody reads it.
pub fn listener(choice: usize, events: UnboundedSender<Piece>) -> Listener {
    Box::new(move |event| {
        let said = match event {
            Event::Prefill { done, total } => Said::Prefill { done, total },
            Event::Token(token) => Said::Token(token.clone()),
            Event::Finished(finished) => Said::Finished(finished.clone()),
            Event::Failed(error) => Said::Failed(failure(&error)),
        };
        match events.send(Piece { choice, said }) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
}

/// What a client hears of an error; the log hears the rest.
fn failure(error: &strata::Error) -> Refusal {
    let refusal = match error {
        // In the middle of an answer that is a file of the model, and nothing of the request.
        strata::Error::Invalid { .. } => Refusal::of(&strata::Error::Internal("")),
        error => Refusal::of(error),
    };
    if refusal.status == StatusCode::INTERNAL_SERVER_ERROR {
        crate::output::say(&format!("error: {error}"));
    }
    refusal
}

/// Where wishes go.
#[derive(Clone)]
pub struct Commands(Sender<Command>);

impl Commands {
    /// Wishes through `sender`.
    pub fn new(sender: Sender<Command>) -> Commands {
        Commands(sender)
    }

    /// Sends one.
    ///
    /// # Errors
    /// If the worker has ended.
    pub fn send(&self, command: Command) -> Result<()> {
        self.0.send(command).map_err(|_| Refusal::stopping())
    }

    /// Sends one that has a reply, and waits for it.
    ///
    /// # Errors
    /// As the worker says; also if it has ended.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }
}
