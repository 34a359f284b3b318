//! OpenAI's API: chat, completions, responses, embeddings, models.

pub mod chat;
mod chat_stream;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod responses;
mod responses_input;
mod responses_output;
mod responses_stream;

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use strata::engine::Finished;

/// A number that no other answer of this server has.
pub fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    nanos.wrapping_add(COUNT.fetch_add(1 << 48, Ordering::Relaxed))
}

/// An id that no other answer of this server has.
pub fn id(prefix: &str) -> String {
    format!("{prefix}{:016x}", unique())
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The version that answers, which is what a seed depends on.
pub fn fingerprint() -> &'static str {
    concat!("strata-", env!("CARGO_PKG_VERSION"))
}

/// The tokens of an answer with several choices.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    prompt: usize,
    reused: usize,
    generated: usize,
}

impl Usage {
    /// Adds a choice; `same` is one to the prompt of another choice, which counts once.
    pub fn add(&mut self, finished: &Finished, same: bool) {
        if !same {
            self.prompt += finished.prompt_tokens;
            self.reused += finished.reused_tokens;
        }
        self.generated += finished.tokens;
    }

    /// As chat and completions tell it.
    pub fn told(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.reused},
        })
    }
}

/// The times of a choice, with llama.cpp's names, and the seed that repeats it.
pub fn timings(finished: &Finished, seed: u64) -> Value {
    let (prefill, decode) = (finished.prefill.as_secs_f64(), finished.decode.as_secs_f64());
    let fresh = finished.prompt_tokens.saturating_sub(finished.reused_tokens);
    let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    json!({
        "cache_n": finished.reused_tokens,
        "prompt_n": fresh,
        "prompt_ms": prefill * 1e3,
        "prompt_per_second": rate(fresh, prefill),
        "predicted_n": finished.tokens,
        "predicted_ms": decode * 1e3,
        "predicted_per_second": finished.decode_rate(),
        "waited_ms": finished.waited.as_secs_f64() * 1e3,
        "seed": seed,
    })
}
