//! What `/metrics` tells, in Prometheus' text format.

use super::worker::status::Status;
use crate::machine;
use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use strata::engine::Finished;

/// A number of seconds that grows.
type Seconds = Counter<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    path: String,
    status: u16,
}

/// The numbers of a server.
pub struct Metrics {
    registry: Registry,
    known: Vec<&'static str>,
    answered: Family<Answered, Counter>,
    duration: Histogram,
    prompt_tokens: Counter,
    reused_tokens: Counter,
    generated_tokens: Counter,
    prefill_seconds: Seconds,
    decode_seconds: Seconds,
    waited_seconds: Seconds,
    cancelled: Counter,
    processing: Gauge,
    waiting: Gauge,
    models: Gauge,
    resident: Gauge,
}

/// A new metric of a registry.
fn new<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Zeros. Requests for other paths than the `known` ones are counted together.
    pub fn new(known: Vec<&'static str>) -> Metrics {
        let mut registry = Registry::default();
        let to = &mut registry;
        let duration = Histogram::new([0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]);
        to.register("strata_response_start_seconds", "Seconds until a response began", duration.clone());
        Metrics {
            known,
            answered: new(to, "strata_requests", "Responses begun, by path and status"),
            duration,
            prompt_tokens: new(to, "strata_prompt_tokens", "Tokens of prompts"),
            reused_tokens: new(to, "strata_prompt_tokens_reused", "Tokens of prompts that a cache had"),
            generated_tokens: new(to, "strata_generated_tokens", "Tokens of answers"),
            prefill_seconds: new(to, "strata_prefill_seconds", "Seconds spent on prompts"),
            decode_seconds: new(to, "strata_decode_seconds", "Seconds spent on answers"),
            waited_seconds: new(to, "strata_waited_seconds", "Seconds that requests waited for a slot"),
            cancelled: new(to, "strata_cancelled", "Answers whose client had gone"),
            processing: new(to, "strata_requests_processing", "Requests in slots"),
            waiting: new(to, "strata_requests_waiting", "Requests without a slot"),
            models: new(to, "strata_models_loaded", "Models in memory"),
            resident: new(to, "strata_resident_bytes", "Resident memory of the process"),
            registry,
        }
    }

    /// Counts a response.
    pub fn answered(&self, path: &str, status: StatusCode, time: Duration) {
        let path = self.known.iter().find(|known| **known == path).copied().unwrap_or("other").to_owned();
        self.answered.get_or_create(&Answered { path, status: status.as_u16() }).inc();
        self.duration.observe(time.as_secs_f64());
    }

    /// Counts a finished answer.
    pub fn finished(&self, finished: &Finished) {
        self.prompt_tokens.inc_by(finished.prompt_tokens as u64);
        self.reused_tokens.inc_by(finished.reused_tokens as u64);
        self.generated_tokens.inc_by(finished.tokens as u64);
        self.prefill_seconds.inc_by(finished.prefill.as_secs_f64());
        self.decode_seconds.inc_by(finished.decode.as_secs_f64());
        self.waited_seconds.inc_by(finished.waited.as_secs_f64());
    }

    /// Counts an answer that nobody waits for any more.
    pub fn cancelled(&self) {
        self.cancelled.inc();
    }

    /// The text, with the numbers of this moment.
    pub fn text(&self, status: &Status) -> String {
        self.processing.set(status.processing() as i64);
        self.waiting.set(status.waiting() as i64);
        self.models.set(status.models.len() as i64);
        self.resident.set(i64::try_from(machine::rss_bytes()).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
