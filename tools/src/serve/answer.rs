//! Answers as handlers see them: what the worker says of all choices, within a time limit. Dropped early, the work for it stops.

use super::app::{App, late};
use super::params::Params;
use super::refusal::{Refusal, Result};
use super::worker::command::{Command, Piece, Said};
use super::worker::served::Served;
use std::sync::Arc;
use strata::engine::grammar::Grammar;
use strata::engine::{Cancel, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

/// The answer to a request: a number of choices that come at the same time.
pub struct Answer {
    /// The model that answers.
    pub model: Arc<Served>,
    pieces: UnboundedReceiver<Piece>,
    cancel: Cancel,
    unfinished: usize,
    deadline: Instant,
    app: Arc<App>,
    _place: OwnedSemaphorePermit,
}

/// What is to be continued, and where.
pub struct Task {
    /// The model.
    pub model: Arc<Served>,
    /// The tokens of each prompt; each is continued `choices` times.
    pub prompts: Vec<Vec<u32>>,
    /// How.
    pub params: Params,
    /// The form of the answers, compiled.
    pub grammar: Option<Grammar>,
    /// Whether control tokens are text.
    pub render_special: bool,
    /// The places of the answers.
    pub place: OwnedSemaphorePermit,
}

impl Answer {
    /// Puts a task to the worker.
    ///
    /// # Errors
    /// If it cannot be done: a prompt is longer than the context, or a setting is wrong.
    pub async fn begin(app: &Arc<App>, task: Task) -> Result<Answer> {
        let Task { model, prompts, params, grammar, render_special, place } = task;
        let deadline = Instant::now() + app.settings.timeout;
        let cancel = Cancel::default();
        let request = |prompt: &Vec<u32>, choice: usize| {
            let mut request = Request::new(prompt.clone());
            request.limit = params.limit.unwrap_or(usize::MAX);
            request.sampling = params.sampling.clone();
            // Answers to one prompt differ; the first is that of the seed itself.
            request.sampling.seed = params.sampling.seed.wrapping_add(choice as u64);
            request.stop.clone_from(&params.stop);
            request.ignore_eos = params.ignore_eos;
            request.render_special = render_special;
            request.logprobs = params.logprobs;
            request.grammar.clone_from(&grammar);
            request.cancel = cancel.clone();
            request
        };
        let requests: Vec<Request> = prompts
            .iter()
            .flat_map(|prompt| (0..params.choices).map(move |i| (prompt, i)))
            .map(|(prompt, i)| request(prompt, i))
            .collect();
        let (events, pieces) = unbounded_channel();
        let unfinished = requests.len();
        let mut answer =
            Answer { model: model.clone(), pieces, cancel, unfinished, deadline, app: app.clone(), _place: place };
        match app.commands.ask(|reply| Command::Submit { model, requests, events, reply }).await {
            Ok(()) => Ok(answer),
            Err(refusal) => {
                answer.fail();
                Err(refusal)
            }
        }
    }

    /// Ends the work for it: nothing follows, and no client has gone.
    fn fail(&mut self) {
        self.unfinished = 0;
        self.cancel.cancel();
    }

    /// The next thing that is said; `None` after the last. Nothing follows a failure.
    pub async fn next(&mut self) -> Option<Piece> {
        if self.unfinished == 0 {
            return None;
        }
        let failed = |refusal| Piece { choice: 0, said: Said::Failed(refusal) };
        let piece = match timeout_at(self.deadline, self.pieces.recv()).await {
            Ok(Some(piece)) => piece,
            Ok(None) => failed(Refusal::stopping()),
            Err(_) => failed(late()),
        };
        match &piece.said {
            Said::Finished(finished) => {
                self.unfinished -= 1;
                self.app.metrics.finished(finished);
            }
            Said::Failed(_) => self.fail(),
            _ => {}
        }
        Some(piece)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.unfinished > 0 {
            self.cancel.cancel();
            self.app.metrics.cancelled();
        }
    }
}
