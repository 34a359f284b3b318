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
use models::{Active, Loaded, Models};
use status::Status;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use strata::Error;
use strata::engine::Cancel;
use watch::Watch;

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

/// Starts the worker. It ends after [`Command::Stop`].
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
            self.models.loaded.retain_mut(|model| step(model, &self.status));
        }
        self.models.end();
        self.tell();
    }

    /// Takes all commands, up to one that is a pass itself: others get theirs before the next. Waits for one if there is nothing else to do.
    fn take_commands(&mut self) {
        let mut wait = if self.models.is_idle() { IDLE_CHECK } else { Duration::ZERO };
        while let Ok(command) = self.commands.recv_timeout(wait) {
            let pass = matches!(command, Command::Embed { .. });
            self.obey(command);
            if pass {
                break;
            }
            wait = Duration::ZERO;
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Model { name, reply } => self.models.want(&name, reply),
            Command::Loaded(loaded) => self.models.loaded(*loaded),
            Command::Submit { model, requests, events, reply } => {
                let _ = reply.send(self.models.submit(&model, requests, &events));
            }
            Command::Embed { model, texts, cancel, reply } => {
                let vectors = catch_unwind(AssertUnwindSafe(|| self.models.embed(&model, &texts, &cancel)));
                let _ = reply.send(vectors.unwrap_or_else(|_| Err(Refusal::defect())));
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn tell(&self) {
        let (models, loading) = self.models.status();
        let mut status = self.status.lock();
        (status.models, status.loading) = (models, loading);
    }
}

/// One pass of a model. What goes wrong in it is the model's end, not the server's: false, and a new request loads it again.
fn step(model: &mut Loaded, status: &Shared) -> bool {
    if model.scheduler.is_idle() {
        return true;
    }
    let watch = Watch::new(&model.served.name, None, status);
    let done = catch_unwind(AssertUnwindSafe(|| model.scheduler.step(&watch)));
    let problem = match done {
        // Those who had the pass know of its end by their listeners.
        Ok(Ok(()) | Err(Error::Cancelled)) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a pass panicked".to_owned(),
    };
    output::say(&format!("error: {}: {problem}", model.served.name));
    let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the model failed; the server's log says why");
    for Active { events, choice } in model.active.drain(..) {
        let _ = events.send(Piece { choice, said: Said::Failed(refusal.clone()) });
    }
    false
}
