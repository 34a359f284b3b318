//! What all handlers share, and the routes.

use super::body;
use super::catalog::Entry;
use super::guard::{Guard, guard};
use super::metrics::Metrics;
use super::object::Object;
use super::refusal::{Refusal, Result};
use super::settings::Settings;
use super::worker::Shared;
use super::worker::command::{Command, Commands};
use super::worker::models::unknown;
use super::worker::served::Served;
use super::{anthropic, finish, native, openai, openapi, page};
use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{MethodRouter, get, post};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

/// The most work beside the worker's at a time: templates, grammars, tokenizing.
const HANDS: usize = 4;
/// The time that such work may take.
const WORK_TIME: Duration = Duration::from_secs(10);
/// Seconds after which a client may try again when the queue is full.
const RETRY_AFTER: u64 = 2;

/// What all handlers share.
pub struct App {
    /// What the server was started with.
    pub settings: Settings,
    /// Who may ask.
    pub guard: Guard,
    /// The numbers of `/metrics`.
    pub metrics: Metrics,
    /// The way to the worker.
    pub commands: Commands,
    /// What the worker does.
    pub status: Shared,
    /// Seconds since 1970 when the server started.
    pub started: u64,
    /// Bytes for bodies.
    pub bodies: Arc<Semaphore>,
    places: Arc<Semaphore>,
    hands: Arc<Semaphore>,
}

impl App {
    /// Of a server whose worker hears `commands`.
    pub fn new(settings: Settings, loopback: bool, commands: Commands, status: Shared) -> App {
        let guard = Guard::new(&settings.host, loopback, &settings.origins, &settings.keys);
        let places = settings.load.slots + settings.queue;
        let known = routes().iter().map(|(path, _)| *path).chain(page::paths()).collect();
        App {
            guard,
            metrics: Metrics::new(known),
            commands,
            status,
            started: openai::now(),
            bodies: Arc::new(Semaphore::new((body::LARGEST_HELD * settings.max_body).min(Semaphore::MAX_PERMITS))),
            places: Arc::new(Semaphore::new(places)),
            hands: Arc::new(Semaphore::new(HANDS)),
            settings,
        }
    }

    /// The most answers at a time, waiting ones included.
    pub fn most(&self) -> usize {
        self.settings.load.slots + self.settings.queue
    }

    /// Places for so many answers, held until they end.
    pub fn admit(&self, answers: usize) -> Result<OwnedSemaphorePermit> {
        let full = || {
            let problem = "all slots are taken and the queue is full; try again later";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, problem).code("queue_full").retry_after(RETRY_AFTER)
        };
        let answers = u32::try_from(answers).map_err(|_| full())?;
        self.places.clone().try_acquire_many_owned(answers).map_err(|_| full())
    }

    /// The entry of the model that a request names, or of the first one.
    pub fn entry(&self, body: &Object<'_>) -> Result<&Entry> {
        let catalog = &self.settings.catalog;
        match body.text("model")? {
            Some(name) => catalog.find(name).ok_or_else(|| unknown(name)),
            None => catalog.entries().first().ok_or_else(|| body.missing("model")),
        }
    }

    /// A model, loaded first if need be.
    pub async fn model(&self, entry: &Entry) -> Result<Arc<Served>> {
        let name = entry.name.clone();
        let asked = self.commands.ask(|reply| Command::Model { name, reply });
        tokio::time::timeout(self.settings.timeout, asked).await.unwrap_or_else(|_| Err(late()))
    }

    /// Does work that takes a while on a thread for it.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let hand = self.hands.clone().acquire_owned().await.map_err(|_| late())?;
        let task = spawn_blocking(move || {
            let done = work();
            drop(hand);
            done
        });
        match tokio::time::timeout(WORK_TIME, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Refusal::defect()),
            Err(_) => Err(Refusal::request("takes too long to prepare: a smaller grammar, schema or prompt is needed")
                .code("too_complex")),
        }
    }
}

/// The refusal of an answer that takes longer than the server was told to wait.
pub fn late() -> Refusal {
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the answer took longer than the server allows (--timeout)")
        .code("timeout")
}

type Routes = Vec<(&'static str, MethodRouter<Arc<App>>)>;

/// The endpoints; `openapi` describes each.
pub fn routes() -> Routes {
    vec![
        ("/health", get(native::health)),
        ("/v1/health", get(native::health)),
        ("/metrics", get(native::metrics)),
        ("/openapi.json", get(openapi::serve)),
        ("/props", get(native::props)),
        ("/slots", get(native::slots)),
        ("/tokenize", post(native::tokenize)),
        ("/detokenize", post(native::detokenize)),
        ("/apply-template", post(native::apply_template)),
        ("/v1/models", get(openai::models::list)),
        ("/v1/models/{model}", get(openai::models::one)),
        ("/v1/chat/completions", post(openai::chat::create)),
        ("/v1/completions", post(openai::completions::create)),
        ("/v1/embeddings", post(openai::embeddings::create)),
        ("/v1/responses", post(openai::responses::create)),
        ("/v1/messages", post(anthropic::messages::create)),
        ("/v1/messages/count_tokens", post(anthropic::messages::count_tokens)),
    ]
}

/// Everything that the server answers.
pub fn router(app: Arc<App>) -> Router {
    let endpoints = routes().into_iter().fold(Router::new(), |router, (path, handlers)| router.route(path, handlers));
    let all = page::paths().fold(endpoints, |router, path| router.route(path, get(page::serve)));
    all.layer(middleware::from_fn_with_state(app.clone(), guard))
        .layer(middleware::from_fn_with_state(app.clone(), finish::finish))
        .with_state(app)
}
