//! The endpoints without a network: requests of this program itself, many at a time.

use super::app::{App, router};
use super::settings::Settings;
use super::worker::command::{Command, Commands};
use super::worker::{self, Shared};
use crate::progress;
use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tower::ServiceExt;

/// How often it is looked whether the user has stopped the work.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// The time that work gets to end that nobody waits for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A server that only this program asks.
pub struct Local {
    runtime: Option<Runtime>,
    router: Router,
    commands: Commands,
    status: Shared,
    worker: Option<JoinHandle<()>>,
    host: String,
}

/// A request to an endpoint.
pub struct Question {
    /// What the caller knows it by.
    pub index: usize,
    /// The path of the endpoint.
    pub path: String,
    /// The body.
    pub body: Value,
}

impl Local {
    /// Starts the worker of such a server.
    pub fn start(settings: Settings) -> Result<Local> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtime = runtime.context("the system starts no threads")?;
        let (commands, status, worker) =
            worker::start(settings.catalog.clone(), settings.load.clone()).context("the system starts no thread")?;
        let host = settings.host.clone();
        let router = router(Arc::new(App::new(settings, true, commands.clone(), status.clone())));
        Ok(Local { runtime: Some(runtime), router, commands, status, worker: Some(worker), host })
    }

    /// Asks all questions, up to `at_once` at a time, and hands each answer, its HTTP status and body, to `done` as it comes.
    ///
    /// # Errors
    /// If `done` fails, an answer is no JSON, or the user stops the work.
    pub fn ask(
        &self,
        questions: impl IntoIterator<Item = Question>,
        at_once: usize,
        mut done: impl FnMut(usize, u16, Value) -> Result<()>,
    ) -> Result<()> {
        let Some(runtime) = &self.runtime else { bail!("the server has ended") };
        runtime.block_on(async {
            let (mut questions, mut asked) = (questions.into_iter(), FuturesUnordered::new());
            loop {
                while asked.len() < at_once
                    && let Some(question) = questions.next()
                {
                    asked.push(self.one(question));
                }
                if asked.is_empty() {
                    return Ok(());
                }
                if let Ok(Some(answer)) = timeout(SIGNAL_CHECK, asked.next()).await {
                    let (index, status, body) = answer?;
                    done(index, status, body)?;
                }
                if progress::stopped() {
                    return Err(strata::Error::Cancelled.into());
                }
            }
        })
    }

    async fn one(&self, Question { index, path, body }: Question) -> Result<(usize, u16, Value)> {
        let request = Request::post(path).header(header::HOST, &self.host);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string()))?;
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.context("an answer ended early")?;
        Ok((index, status, serde_json::from_slice(&bytes).context("an answer is not JSON")?))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // A pass of a streamed model takes long: what it computes is not wanted any more.
        self.status.halt();
        let _ = self.commands.send(Command::Stop);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LAST_WORDS);
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
