//! `strata serve`: models behind HTTP.
//!
//! * `listen.rs`: connections; `guard.rs`, `keys.rs`: who may ask; `finish.rs`, `refusal.rs`: how it is told what went wrong;
//! * `body.rs`, `object.rs`: JSON that is read field by field; `params.rs`, `sampling.rs`, `conversation.rs`: what is asked;
//! * `worker/`: the thread that owns the models; `answer.rs`, `choice.rs`, `sse.rs`: what it says, as parts and as events;
//! * `local.rs`: the endpoints without a network, for `strata batch`;
//! * `openai/`, `anthropic/`, `native/`: the endpoints; `openapi/` describes them; `page.rs` is the web page; `metrics.rs` counts.

mod answer;
mod anthropic;
mod app;
mod body;
pub mod catalog;
mod choice;
mod conversation;
mod finish;
mod guard;
mod keys;
pub mod listen;
pub mod local;
mod metrics;
mod native;
mod object;
mod openai;
mod openapi;
mod page;
mod params;
mod refusal;
mod sampling;
pub mod settings;
mod sse;
mod worker;

pub use openai::fingerprint;
pub use worker::most_slots;

use crate::{output, progress};
use anyhow::{Context, Result, bail};
use app::App;
use settings::Settings;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use worker::command::Command;

/// Threads that handle requests; the work is the worker's.
const HANDLERS: usize = 2;
/// How often it is looked whether the server is to stop.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);
/// The time that running answers get to end when the server stops, and then the time for their clients to be told.
const GRACE: Duration = Duration::from_secs(5);
/// See [`GRACE`].
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until the user stops it.
pub fn run(settings: Settings) -> Result<()> {
    let addresses = addresses(&settings)?;
    let loopback = addresses.iter().all(|address| address.ip().is_loopback());
    if !loopback && settings.keys.is_empty() && !settings.allow_public {
        bail!(
            "{} can be reached from the network, and no API key is set: everybody could use the models; give --api-key, or --allow-public",
            settings.host
        );
    }
    let runtime = Builder::new_multi_thread().worker_threads(HANDLERS).enable_io().enable_time().build();
    let runtime = runtime.context("the system starts no threads")?;
    let (commands, status, worker) =
        worker::start(settings.catalog.clone(), settings.load.clone()).context("the system starts no thread")?;
    let app = Arc::new(App::new(settings, loopback, commands.clone(), status.clone()));
    let served = runtime.block_on(serve(app, &addresses));
    status.halt();
    let _ = commands.send(Command::Stop);
    runtime.shutdown_timeout(LAST_WORDS);
    let _ = worker.join();
    served
}

/// The addresses that a host's name stands for.
fn addresses(settings: &Settings) -> Result<Vec<SocketAddr>> {
    let found = (settings.host.as_str(), settings.port).to_socket_addrs();
    let found: Vec<SocketAddr> =
        found.with_context(|| format!("{} is no address of this machine", settings.host))?.collect();
    match found.is_empty() {
        true => bail!("{} is no address of this machine", settings.host),
        false => Ok(found),
    }
}

async fn serve(app: Arc<App>, addresses: &[SocketAddr]) -> Result<()> {
    let (host, port) = (&app.settings.host, app.settings.port);
    let listener =
        TcpListener::bind(addresses).await.with_context(|| format!("cannot listen at {host}, port {port}"))?;
    let address = listener.local_addr().context("cannot listen")?;
    output::say(&format!("listening on http://{address}"));
    let (stop, stopped) = watch::channel(false);
    let (times, status) = (app.settings.times, app.status.clone());
    let mut served = tokio::spawn(listen::serve(listener, app::router(app), times, stopped));
    while !progress::stopped() {
        sleep(SIGNAL_CHECK).await;
        if served.is_finished() {
            bail!("the server has ended unexpectedly");
        }
    }
    output::say("stopping: running answers get a moment to end");
    let _ = stop.send(true);
    if timeout(GRACE, &mut served).await.is_err() {
        // What still runs is told so.
        status.halt();
        if timeout(LAST_WORDS, &mut served).await.is_err() {
            served.abort();
        }
    }
    Ok(())
}
