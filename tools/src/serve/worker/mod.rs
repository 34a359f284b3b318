//! The worker: one thread that owns the models and their schedulers, and does one pass after the other.
//!
//! * `command.rs`: what handlers ask it; `served.rs`: what they get of a model; `status.rs`: what they may read at any time;
//! * `models.rs`: which models are in memory; `load.rs`: how one gets there;
//! * `watch.rs`: where a pass is, and whether anybody still waits for it.

pub mod command;
pub mod load;
pub mod models;
pub mod served;
pub mod status;
mod watch;

pub use load::most_slots;

use super::catalog::Catalog;
use super::refusal::Refusal;
use super::settings::LoadSettings;
use crate::output;
use axum::http::StatusCode;
use command::{Command, Commands, Piece, Said};
use models::Models;
use status::Status;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use strata::Error;
use strata::engine::Cancel;

/// How often the worker looks for models that nobody uses.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// The status that all may read, and the wish that the pass which goes on ends at once.
#[derive(Clone, Default)]
pub struct Shared {
    status: Arc<Mutex<Status>>,
    halt: Cancel,
}

impl Shared {
    /// Reads or writes it.
    pub fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ends the pass that goes on, and all that follow.
    pub fn halt(&self) {
        self.halt.cancel();
    }

    /// Whether no pass may go on.
    pub fn is_halted(&self) -> bool {
        self.halt.is_cancelled()
    }

    /// As it is now.
    pub fn now(&self) -> Status {
        self.lock().clone()
    }
}

/// The worker's thread.
pub struct Worker {
    models: Models,
    commands: Receiver<Command>,
    status: Shared,
    stopping: bool,
}

/// Starts the worker. It ends after [`Command::Stop`], or when nobody can ask any more.
pub fn start(catalog: Catalog, settings: LoadSettings) -> std::io::Result<(Commands, Shared, JoinHandle<()>)> {
    let (sender, commands) = channel();
    let status = Shared::default();
    let sender = Commands::new(sender);
    let models = Models::new(catalog, settings, sender.clone(), status.clone());
    let mut worker = Worker { models, commands, status: status.clone(), stopping: false };
    let thread = Builder::new().name("worker".to_owned()).spawn(move || worker.run())?;
    Ok((sender, status, thread))
}

impl Worker {
    fn run(&mut self) {
        while !self.stopping && !self.status.is_halted() {
            self.take_commands();
            self.models.tidy();
            self.tell();
            for index in 0..self.models.loaded.len() {
                self.step(index);
            }
            self.models.loaded.retain(|model| !model.failed);
        }
        self.models.end();
        self.tell();
    }

    /// Takes all commands; waits for one if there is nothing else to do.
    fn take_commands(&mut self) {
        if self.models.is_idle() {
            match self.commands.recv_timeout(IDLE_CHECK) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Model { name, reply } => self.models.want(&name, reply),
            Command::Loaded(loaded) => self.models.loaded(*loaded),
            Command::Submit(submission) => self.models.submit(submission),
            Command::Embed { model, texts, cancel, reply } => {
                let _ = reply.send(self.models.embed(&model.name, &texts, &cancel));
            }
            Command::Stop => self.stopping = true,
        }
    }

    /// One pass of a model. What goes wrong in it is the model's end, not the server's.
    fn step(&mut self, index: usize) {
        let model = &mut self.models.loaded[index];
        if model.scheduler.is_idle() {
            return;
        }
        let watch = watch::Watch::new(&model.served.name, Cancel::default(), &self.status);
        let done = catch_unwind(AssertUnwindSafe(|| model.scheduler.step(&watch)));
        drop(watch);
        match done {
            // Those who had the pass know of its end by their listeners.
            Ok(Ok(()) | Err(Error::Cancelled)) => {}
            Ok(Err(error)) => self.fail(index, &error.to_string()),
            Err(_) => self.fail(index, "a pass panicked"),
        }
    }

    /// Takes a model out of memory that has failed; a new request loads it again.
    fn fail(&mut self, index: usize, problem: &str) {
        let model = &mut self.models.loaded[index];
        output::say(&format!("error: {}: {problem}", model.served.name));
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the model failed; the server's log says why");
        for active in model.active.drain(..) {
            let _ = active.events.send(Piece { choice: active.choice, said: Said::Failed(refusal.clone()) });
        }
        model.failed = true;
    }

    fn tell(&self) {
        let (models, loading) = self.models.status();
        let mut status = self.status.lock();
        (status.models, status.loading) = (models, loading);
    }
}
