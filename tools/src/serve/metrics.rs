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
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

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

/// What a finished answer adds.
#[derive(Clone, Copy)]
pub struct Spent {
    /// Tokens of the prompt, and those of them that a cache had.
    pub prompt: usize,
    /// See `prompt`.
    pub reused: usize,
    /// Tokens of the answer.
    pub generated: usize,
    /// The time of the prompt.
    pub prefill: Duration,
    /// The time of the answer.
    pub decode: Duration,
    /// The time without a slot.
    pub waited: Duration,
}

impl Metrics {
    /// Zeros. Requests for other paths than the `known` ones are counted together.
    pub fn new(known: Vec<&'static str>) -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::default(),
            known,
            answered: Family::default(),
            duration: Histogram::new([0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]),
            prompt_tokens: Counter::default(),
            reused_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            prefill_seconds: Seconds::default(),
            decode_seconds: Seconds::default(),
            waited_seconds: Seconds::default(),
            cancelled: Counter::default(),
            processing: Gauge::default(),
            waiting: Gauge::default(),
            models: Gauge::default(),
            resident: Gauge::default(),
        };
        let to = &mut metrics.registry;
        to.register("strata_requests", "Responses begun, by path and status", metrics.answered.clone());
        to.register("strata_response_start_seconds", "Seconds until a response began", metrics.duration.clone());
        to.register("strata_prompt_tokens", "Tokens of prompts", metrics.prompt_tokens.clone());
        to.register("strata_prompt_tokens_reused", "Tokens of prompts that a cache had", metrics.reused_tokens.clone());
        to.register("strata_generated_tokens", "Tokens of answers", metrics.generated_tokens.clone());
        to.register("strata_prefill_seconds", "Seconds spent on prompts", metrics.prefill_seconds.clone());
        to.register("strata_decode_seconds", "Seconds spent on answers", metrics.decode_seconds.clone());
        to.register("strata_waited_seconds", "Seconds that requests waited for a slot", metrics.waited_seconds.clone());
        to.register("strata_cancelled", "Answers whose client had gone", metrics.cancelled.clone());
        to.register("strata_requests_processing", "Requests in slots", metrics.processing.clone());
        to.register("strata_requests_waiting", "Requests without a slot", metrics.waiting.clone());
        to.register("strata_models_loaded", "Models in memory", metrics.models.clone());
        to.register("strata_resident_bytes", "Resident memory of the process", metrics.resident.clone());
        metrics
    }

    /// Counts a response.
    pub fn answered(&self, path: &str, status: StatusCode, time: Duration) {
        let path = self.known.iter().find(|known| **known == path).copied().unwrap_or("other").to_owned();
        self.answered.get_or_create(&Answered { path, status: status.as_u16() }).inc();
        self.duration.observe(time.as_secs_f64());
    }

    /// Counts a finished answer.
    pub fn spent(&self, spent: &Spent) {
        self.prompt_tokens.inc_by(spent.prompt as u64);
        self.reused_tokens.inc_by(spent.reused as u64);
        self.generated_tokens.inc_by(spent.generated as u64);
        self.prefill_seconds.inc_by(spent.prefill.as_secs_f64());
        self.decode_seconds.inc_by(spent.decode.as_secs_f64());
        self.waited_seconds.inc_by(spent.waited.as_secs_f64());
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
