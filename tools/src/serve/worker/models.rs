//! Which models are in memory: loaded when somebody asks, unloaded when nobody has for a while or another needs the memory.
//!
//! One is loaded at a time. Before, idle ones go, the one that was used longest ago first, until the new one fits with all its weights;
//! then it is loaded within what is left, streamed if that is less. One that answers is never unloaded. If what is left is not even enough
//! to stream it, those who want it wait until another model becomes idle.

use super::Shared;
use super::command::{Commands, Piece, listener};
use super::load::{self, Failed, LoadedModel, Ready};
use super::served::Served;
use super::status::ModelStatus;
use super::watch::Watch;
use crate::output;
use crate::serve::catalog::{Catalog, Entry};
use crate::serve::refusal::{Refusal, Result};
use crate::serve::settings::LoadSettings;
use axum::http::StatusCode;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use strata::engine::{Cancel, Request, Scheduler, embed};
use strata::error::quoted;
use strata::stream::Budget;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

type Reply = oneshot::Sender<Result<Arc<Served>>>;

/// A model in memory.
pub struct Loaded {
    /// Its slots.
    pub scheduler: Scheduler,
    /// What handlers see of it.
    pub served: Arc<Served>,
    /// The requests that it answers or that wait.
    pub active: Vec<Active>,
    bytes: u64,
    used: Instant,
}

/// A request of a model.
pub struct Active {
    /// Where it is told of; closed at its end.
    pub events: UnboundedSender<Piece>,
    /// Which choice of the HTTP request it is.
    pub choice: usize,
}

impl Loaded {
    /// Whether nobody has asked anything of it, and no handler is about to.
    fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && Arc::strong_count(&self.served) == 1
    }
}

/// A model that is wanted and not in memory.
struct Wanted {
    entry: Entry,
    waiting: Vec<Reply>,
    loading: bool,
    starved: bool, // the last try found too little memory
}

/// The models of the worker.
pub struct Models {
    /// Those in memory.
    pub loaded: Vec<Loaded>,
    wanted: VecDeque<Wanted>,
    catalog: Catalog,
    settings: LoadSettings,
    tell: Commands,
    shared: Shared,
}

impl Models {
    /// None yet.
    pub fn new(catalog: Catalog, settings: LoadSettings, tell: Commands, shared: Shared) -> Models {
        Models { loaded: Vec::new(), wanted: VecDeque::new(), catalog, settings, tell, shared }
    }

    /// Whether there is nothing to do but wait.
    pub fn is_idle(&self) -> bool {
        self.loaded.iter().all(|model| model.scheduler.is_idle())
    }

    /// Gives the model of this name to `reply`, as soon as it is there.
    pub fn want(&mut self, name: &str, reply: Reply) {
        if let Some(model) = self.loaded.iter_mut().find(|model| model.served.name == name) {
            model.used = Instant::now();
            let _ = reply.send(Ok(model.served.clone()));
        } else if let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.entry.name == name) {
            wanted.waiting.push(reply);
        } else if let Some(entry) = self.catalog.find(name).cloned() {
            self.wanted.push_back(Wanted { entry, waiting: vec![reply], loading: false, starved: false });
        } else {
            let _ = reply.send(Err(unknown(name)));
        }
    }

    /// Forgets requests that nobody waits for, unloads and loads models.
    pub fn tidy(&mut self) {
        let mut ended = Vec::new();
        for model in &mut self.loaded {
            let Loaded { scheduler, active, used, .. } = model;
            let before = active.len();
            active.retain(|one| !one.events.is_closed());
            if scheduler.is_idle() {
                active.clear();
            }
            if active.len() != before {
                *used = Instant::now();
            }
            if let Some(idle) = self.settings.idle
                && model.is_idle()
                && model.used.elapsed() >= idle
            {
                ended.push(model.served.name.clone());
            }
        }
        ended.iter().for_each(|name| self.unload(name, "idle"));
        self.wanted.iter_mut().for_each(|wanted| wanted.waiting.retain(|reply| !reply.is_closed()));
        self.wanted.retain(|wanted| wanted.loading || !wanted.waiting.is_empty());
        self.load_next();
    }

    fn unload(&mut self, name: &str, why: &str) {
        output::say(&format!("unloaded {name} ({why})"));
        self.loaded.retain(|model| model.served.name != name);
    }

    /// Starts to load the model that has waited longest.
    fn load_next(&mut self) {
        let Some(first) = self.wanted.front().filter(|first| !first.loading) else { return };
        let (entry, starved) = (first.entry.clone(), first.starved);
        if starved && !self.loaded.is_empty() && !self.evict(&entry.name) {
            return;
        }
        // Its header is read here only if a model may have to go for it: others may be answering.
        if self.loaded.iter().any(Loaded::is_idle) {
            let wish = load::wish(&entry, &self.settings);
            while self.left().is_some_and(|left| left.bytes.saturating_sub(left.fixed) < wish)
                && self.evict(&entry.name)
            {}
        }
        let budget = self.left();
        if let Some(first) = self.wanted.front_mut() {
            first.loading = true;
        }
        load::start(entry, self.settings.clone(), budget, self.tell.clone());
    }

    /// Unloads the idle model that was used longest ago, for the memory of another; false if all answer.
    fn evict(&mut self, other: &str) -> bool {
        let idle = self.loaded.iter().filter(|model| model.is_idle()).min_by_key(|model| model.used);
        let Some(name) = idle.map(|model| model.served.name.clone()) else { return false };
        self.unload(&name, &format!("for {other}"));
        true
    }

    /// What the models in memory leave of the budget.
    fn left(&self) -> Option<Budget> {
        let Budget { bytes, fixed } = self.settings.budget?;
        let taken = self.loaded.iter().fold(0u64, |sum, model| sum.saturating_add(model.bytes));
        Some(Budget { bytes: bytes.saturating_sub(taken), fixed })
    }

    /// A loading thread is done.
    pub fn loaded(&mut self, loaded: LoadedModel) {
        let Some(place) = self.wanted.iter().position(|wanted| wanted.entry.name == loaded.name) else { return };
        match loaded.result {
            Ok(Ready { scheduler, served, bytes }) => {
                output::say(&format!("loaded {} ({})", loaded.name, output::bytes(bytes)));
                for reply in self.wanted.remove(place).into_iter().flat_map(|wanted| wanted.waiting) {
                    let _ = reply.send(Ok(served.clone()));
                }
                self.loaded.push(Loaded { scheduler, served, active: Vec::new(), bytes, used: Instant::now() });
            }
            // Others answer now and will be idle.
            Err(Failed::Memory(_)) if !self.loaded.is_empty() => {
                (self.wanted[place].loading, self.wanted[place].starved) = (false, true);
            }
            Err(Failed::Memory(refusal) | Failed::Model(refusal)) => {
                for reply in self.wanted.remove(place).into_iter().flat_map(|wanted| wanted.waiting) {
                    let _ = reply.send(Err(refusal.clone()));
                }
            }
        }
    }

    /// The model that a handler holds, unless it has failed meanwhile.
    fn held(&mut self, served: &Arc<Served>) -> Result<&mut Loaded> {
        let model = self.loaded.iter_mut().find(|model| Arc::ptr_eq(&model.served, served));
        let problem = "the model was unloaded; try again";
        let model = model.ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, problem).retry_after(1))?;
        model.used = Instant::now();
        Ok(model)
    }

    /// Puts prompts to a model. Where one is refused, whoever asked cancels those before it.
    pub fn submit(
        &mut self,
        served: &Arc<Served>,
        requests: Vec<Request>,
        events: &UnboundedSender<Piece>,
    ) -> Result<()> {
        let model = self.held(served)?;
        for (choice, request) in requests.into_iter().enumerate() {
            model.scheduler.submit(request, listener(choice, events.clone()))?;
            model.active.push(Active { events: events.clone(), choice });
        }
        Ok(())
    }

    /// The vectors of texts.
    pub fn embed(&mut self, served: &Arc<Served>, texts: &[Vec<u32>], cancel: &Cancel) -> Result<Vec<Vec<f32>>> {
        let shared = self.shared.clone();
        let model = self.held(served)?;
        let watch = Watch::new(&served.name, Some(cancel), &shared);
        Ok(embed(model.scheduler.model(), texts, &watch)?)
    }

    /// What the models do, and which are being loaded.
    pub fn status(&self) -> (Vec<ModelStatus>, Vec<String>) {
        let of = |model: &Loaded| ModelStatus {
            name: model.served.name.clone(),
            bytes: model.bytes,
            about: model.served.about.clone(),
            waiting: model.scheduler.waiting(),
            slots: model.scheduler.slots(),
        };
        (self.loaded.iter().map(of).collect(), self.wanted.iter().map(|wanted| wanted.entry.name.clone()).collect())
    }

    /// Ends all that goes on. Whoever waits learns of it by the end of his channel.
    pub fn end(&mut self) {
        self.loaded.clear();
        self.wanted.clear();
    }
}

/// The refusal of a model that is not in the catalog.
pub fn unknown(name: &str) -> Refusal {
    let problem = format!("there is no model {}; /v1/models lists those that there are", quoted(name));
    Refusal { param: Some("model".to_owned()), ..Refusal::new(StatusCode::NOT_FOUND, problem).code("model_not_found") }
}
