//! What came of a run: JSON, or a line on speeds beside what was predicted.

use crate::{machine, output};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;
use strata::engine::{Collected, End, Token};
use strata::model::Model;
use strata::stream::Estimate;
use strata::tokenizer::Tokenizer;
use strata::weights::Streamed;

/// What was asked for.
pub(super) struct Wanted {
    pub context: usize, // tokens
    pub seed: u64,      // of the first answer
    pub n_parallel: usize,
    pub logprobs: bool,
}

/// Finished answers to a prompt.
pub(super) struct Run<'m> {
    pub model: &'m Model,
    pub wanted: Wanted,
    pub answers: Vec<Collected>, // at least one
    pub load: Duration,
    pub predicted: Option<Estimate>, // of a token
    pub bytes_read_to_load: u64,
}

/// An end as JSON says it.
fn end_name(end: End) -> &'static str {
    match end {
        End::Stop => "stop",
        End::StopText(_) => "stop_text",
        End::Length => "length",
        End::Context => "context",
        End::Cancelled => "cancelled",
    }
}

/// A token with its text and its alternatives.
fn logprobs(token: &Token, tokenizer: Option<&Tokenizer>) -> Result<Value> {
    let text = |id: u32| -> Result<Option<String>> {
        let bytes = tokenizer.map(|tokenizer| tokenizer.token_bytes(id)).transpose()?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let Some(of) = &token.logprobs else { return Ok(Value::Null) };
    let top = of.top.iter().map(|t| Ok(json!({"id": t.token, "text": text(t.token)?, "logprob": t.logprob})));
    let top = top.collect::<Result<Vec<_>>>()?;
    Ok(json!({"id": token.id, "text": text(token.id)?, "logprob": of.chosen, "top": top}))
}

impl Run<'_> {
    /// Computed tokens of the prompt per second.
    fn prefill_rate(&self) -> f64 {
        let first = &self.answers[0].finished;
        (first.prompt_tokens - first.reused_tokens) as f64 / first.prefill.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// All that is known; `tokenizer` tells the texts of tokens.
    pub fn json(&self, tokenizer: Option<&Tokenizer>) -> Result<Value> {
        let (streamed, Collected { tokens, text, finished }) = (self.model.weights().streamed(), &self.answers[0]);
        let decode_rate = finished.decode_rate();
        let ids = |tokens: &[Token]| tokens.iter().map(|token| token.id).collect::<Vec<_>>();
        let mut answers = Vec::new();
        for (i, Collected { tokens, text, finished }) in self.answers.iter().enumerate() {
            let mut answer = json!({
                "text": text,
                "tokens": ids(tokens),
                "end": end_name(finished.end),
                "seed": self.wanted.seed.wrapping_add(i as u64),
                "decode_tokens_per_second": finished.decode_rate(),
            });
            if self.wanted.logprobs {
                let of = tokens.iter().map(|token| logprobs(token, tokenizer)).collect::<Result<Vec<_>>>()?;
                answer["logprobs"] = Value::from(of);
            }
            answers.push(answer);
        }
        Ok(json!({
            "text": text,
            "tokens": ids(tokens),
            "answers": answers,
            "prompt_tokens": finished.prompt_tokens,
            "reused_prompt_tokens": finished.reused_tokens,
            "seed": self.wanted.seed,
            "activation_bits": self.model.cpu().activations().bits(),
            "load_seconds": self.load.as_secs_f64(),
            "prefill_seconds": finished.prefill.as_secs_f64(),
            "prefill_tokens_per_second": self.prefill_rate(),
            "decode_tokens_per_second": decode_rate,
            "seconds_per_token": if finished.decoded == 0 { 0.0 } else { 1.0 / decode_rate },
            "predicted_seconds_per_token": self.predicted.map(|estimate| estimate.seconds),
            "bound_by": self.predicted.map(|estimate| estimate.bound.name()),
            "streamed_bytes_per_pass": self.model.plan().map(|plan| plan.streamed_bytes),
            "disk_bytes_per_second": streamed.and_then(Streamed::streams).map(|streams| streams.disk),
            "disk_bytes_per_second_while_running": streamed.and_then(Streamed::bytes_per_second),
            "released_bytes": streamed.map(Streamed::released),
            "reader": streamed.map(|streamed| streamed.strategy().reader.name()),
            "bytes_read": machine::bytes_read(),
            "bytes_read_before_prompt": self.bytes_read_to_load,
            "peak_rss_bytes": machine::peak_rss_bytes(),
        }))
    }

    /// Prints speeds beside what was predicted, after the text.
    pub fn report(&self) -> Result<()> {
        let (streamed, finished) = (self.model.weights().streamed(), &self.answers[0].finished);
        let decode_rate = finished.decode_rate();
        let full = match finished.end {
            End::Context => format!("; stopped because the context of {} is full (-c)", self.wanted.context),
            _ => String::new(),
        };
        let reused = match finished.reused_tokens {
            0 => String::new(),
            reused => format!(" ({reused} from the cache)"),
        };
        let others = match self.wanted.n_parallel {
            1 => String::new(),
            n => format!(" each of {n} answers"),
        };
        output::print("\n")?;
        output::say(&format!(
            "load {:.2} s; prompt {} tokens{reused}, {:.1} t/s; generation {} tokens, {decode_rate:.1} t/s{others}; seed {}{full}",
            self.load.as_secs_f64(),
            finished.prompt_tokens,
            self.prefill_rate(),
            finished.tokens,
            self.wanted.seed,
        ));
        if let (Some(estimate), 1..) = (self.predicted, finished.decoded) {
            let rates = streamed.and_then(|streamed| streamed.streams().zip(streamed.bytes_per_second()));
            let disk = rates.map_or(String::new(), |(before, now)| {
                format!("; the disk gave {:.2} GB/s, {:.2} before", now / 1e9, before.disk / 1e9)
            });
            output::say(&format!(
                "{:.3} s a token; {:.3} s were predicted, bound by the {}{disk}",
                1.0 / decode_rate,
                estimate.seconds,
                estimate.bound.name(),
            ));
        }
        if let Some(bytes @ 1..) = streamed.map(Streamed::released) {
            let bytes = output::bytes(bytes);
            output::say(&format!("memory was short: {bytes} of weights were released and read again since"));
        }
        Ok(())
    }
}
