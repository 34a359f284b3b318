//! How a model gets into memory, within what is left of the budget; on a thread of its own, since others answer meanwhile.

use super::command::{Command, Commands};
use super::served::Served;
use crate::cmd::{DEFAULT_CONTEXT, asked_context, with_adapters};
use crate::output;
use crate::serve::catalog::Entry;
use crate::serve::refusal::Refusal;
use crate::serve::settings::LoadSettings;
use axum::http::StatusCode;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Builder;
use strata::arch::Hyperparameters;
use strata::convert::open_model;
use strata::engine::{Scheduler, SchedulerOptions};
use strata::gguf::Gguf;
use strata::model::{MemoryNeed, Model};
use strata::progress::{Progress, Quiet};
use strata::stream::{Budget, least_bytes};
use strata::tokenizer::Tokenizer;
use strata::{Cpu, Error, Isa, limits};

/// The tokens of texts that are embedded in a pass, or one text that has more.
pub const EMBED_BATCH: usize = 2048;

/// What a loading thread brings.
pub struct LoadedModel {
    /// Its name.
    pub name: String,
    /// The model, or why there is none.
    pub result: std::result::Result<Ready, Failed>,
}

/// A model that can answer.
pub struct Ready {
    /// Its slots.
    pub scheduler: Scheduler,
    /// What handlers see of it.
    pub served: Arc<Served>,
    /// The memory that it may take, in bytes.
    pub bytes: u64,
}

/// Why a model is not in memory.
pub enum Failed {
    /// The budget that was left does not hold it.
    Memory(Refusal),
    /// It cannot be run at all.
    Model(Refusal),
}

/// The memory that a model would like to have: all its weights mapped, with its slots. 0 if the file cannot be read: loading says why.
pub fn wish(entry: &Entry, settings: &LoadSettings) -> u64 {
    let bytes = || {
        let gguf = open_model(&entry.path, &Quiet)?;
        let of = Hyperparameters::read(&gguf)?;
        let need = need(&of, settings)?;
        Ok::<_, Error>(gguf.file_bytes().saturating_add(need.kv).saturating_add(need.scratch))
    };
    bytes().unwrap_or(0)
}

/// Loads a model within `budget` on a new thread, which tells the worker of it.
pub fn start(entry: Entry, settings: LoadSettings, budget: Option<Budget>, tell: Commands) {
    let name = entry.name.clone();
    let failed = |name: String, refusal: Refusal| LoadedModel { name, result: Err(Failed::Memory(refusal)) };
    let to = tell.clone();
    let work = move || {
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&entry, &settings, budget)));
        let result = loaded.unwrap_or_else(|_| Err(Failed::Model(broken(&entry.name))));
        // A server that has ended does not want it any more.
        let _ = tell.send(Command::Loaded(Box::new(LoadedModel { name: entry.name, result })));
    };
    if let Err(error) = Builder::new().name("load".to_owned()).spawn(work) {
        let _ = to.send(Command::Loaded(Box::new(failed(name, Refusal::from(Error::Thread(error))))));
    }
}

fn load(entry: &Entry, settings: &LoadSettings, budget: Option<Budget>) -> std::result::Result<Ready, Failed> {
    let explained = |error: anyhow::Error| {
        output::say(&format!("error: cannot load {}: {error:#}", entry.name));
        match error.downcast_ref::<Error>() {
            Some(Error::BudgetTooSmall { .. } | Error::OutOfMemory { .. } | Error::Thread(_)) => {
                Failed::Memory(short(&entry.name))
            }
            _ => Failed::Model(broken(&entry.name)),
        }
    };
    try_load(entry, settings, budget).map_err(explained)
}

fn try_load(entry: &Entry, settings: &LoadSettings, budget: Option<Budget>) -> anyhow::Result<Ready> {
    let log = Log(&entry.name);
    let gguf = open_model(&entry.path, &log)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    tokenizer.notes().iter().for_each(|note| log.warn(note));
    let tokenizer = Arc::new(tokenizer);
    let of = Hyperparameters::read(&gguf)?;
    let (mut options, need) = (options(&of, settings), need(&of, settings)?);
    let context = options.context;
    let served = Served::new(entry, &gguf, tokenizer.clone(), context, &settings.template)?;
    let (mut model, bytes) = model(gguf, settings, budget, need, &log)?;
    model.adapt(settings.adapters.clone())?;
    limits::spare(need.scratch)?;
    options.prefix_cache = settings.prefix_cache.open(&model, options.types);
    let scheduler = Scheduler::new(Arc::new(model), Some(tokenizer), options)?;
    Ok(Ready { scheduler, served: Arc::new(served), bytes })
}

/// The model, and the bytes that it may take.
fn model(
    gguf: Gguf,
    settings: &LoadSettings,
    budget: Option<Budget>,
    need: MemoryNeed,
    log: &Log<'_>,
) -> anyhow::Result<(Model, u64)> {
    let cpu = settings.cpu.cpu()?;
    let others = need.kv.saturating_add(need.scratch);
    let Some(budget) = budget else {
        let model = Model::new(gguf, cpu)?;
        let bytes = model.gguf().file_bytes().saturating_add(others);
        return Ok((model, bytes));
    };
    let model = Model::within(gguf, cpu, budget, need, &settings.read, log)?;
    let weights = match model.plan() {
        Some(plan) if !plan.mapped => plan.pinned_bytes.saturating_add(plan.ring_bytes()),
        _ => model.gguf().file_bytes(),
    };
    Ok((model, weights.saturating_add(others)))
}

/// The slots of a model.
fn options(of: &Hyperparameters, settings: &LoadSettings) -> SchedulerOptions {
    let context = asked_context(settings.context, of).unwrap_or(of.context.min(DEFAULT_CONTEXT));
    SchedulerOptions {
        slots: settings.slots,
        context,
        types: settings.types,
        batch: settings.batch,
        prefix_cache: None,
    }
}

/// The memory beside the weights: slots, their passes, and a pass of texts to embed.
fn need(of: &Hyperparameters, settings: &LoadSettings) -> strata::Result<MemoryNeed> {
    let options = options(of, settings);
    let embed = MemoryNeed::layer_by_layer(of, &[options.context.max(EMBED_BATCH)], settings.types)?;
    let need = options.need(of)?.and_bytes(embed.kv.saturating_add(embed.scratch));
    Ok(with_adapters(need.with_activations(of, settings.cpu.activations), &settings.adapters))
}

/// What the program itself may take more, between a look at its memory and the loading of a model.
const GROWTH: u64 = 32_000_000;

/// The most slots, up to `most`, that the budget holds beside the weights; of a model that is streamed keys and values take at most half.
/// At least 1: loading says what is missing.
pub fn most_slots(gguf: Gguf, settings: &LoadSettings, most: usize) -> strata::Result<usize> {
    let Some(budget) = settings.budget else { return Ok(most) };
    let (of, whole) = (Hyperparameters::read(&gguf)?, gguf.file_bytes());
    let model = Model::new(gguf, Cpu::new(Isa::best(), 1))?;
    let least = least_bytes(&model.weights().sizes());
    let free = budget.bytes.saturating_sub(budget.fixed).saturating_sub(GROWTH);
    let fits = |slots: usize| {
        let need = need(&of, &LoadSettings { slots, ..settings.clone() })?;
        let others = need.kv.saturating_add(need.scratch);
        let with = |weights: u64| weights.saturating_add(others) <= free;
        Ok::<_, Error>(with(whole) || (with(least) && need.kv <= free / 2))
    };
    for slots in (2..=most).rev() {
        if fits(slots)? {
            return Ok(slots);
        }
    }
    Ok(1)
}

fn short(name: &str) -> Refusal {
    let problem =
        format!("there is no memory for the model {} beside those that are answering", strata::error::quoted(name));
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, problem).code("no_memory").retry_after(10)
}

fn broken(name: &str) -> Refusal {
    let problem = format!("the model {} cannot be loaded; the server's log says why", strata::error::quoted(name));
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, problem).code("model_broken")
}

/// Warnings of loading, with the model's name.
struct Log<'a>(&'a str);

impl Progress for Log<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn warn(&self, what: &str) {
        output::warn(&format!("{}: {what}", self.0));
    }
    fn cancelled(&self) -> bool {
        crate::progress::stopped()
    }
}
