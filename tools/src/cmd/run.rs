//! `strata run`: generates text after a prompt.

use super::model::{CacheArgs, ModelArgs};
use super::sampling::SamplingArgs;
use crate::progress::{Shown, Unit};
use crate::{machine, output, text};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::arch::Hyperparameters;
use strata::engine::sampling::Sampler;
use strata::engine::{End, Session, Timings};
use strata::model::{KvCache, MemoryNeed, Model};
use strata::stream::Estimate;
use strata::tokenizer::{EncodeOptions, StreamDecoder, Tokenizer};
use strata::weights::Streamed;

/// The largest default context.
const DEFAULT_CONTEXT: usize = 4096;

/// Generate text after a prompt
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Prompt
    #[arg(short = 'p', long, value_name = "PROMPT")]
    prompt: Option<String>,
    /// Prompt from a file or a pipe; - is standard input
    #[arg(short = 'f', long = "file", value_name = "TEXT", conflicts_with_all = ["prompt", "tokens"])]
    file: Option<PathBuf>,
    /// Prompt as token ids, as 1,2,3; for files without a vocabulary
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "prompt")]
    tokens: Option<Vec<u32>>,
    /// Tokens to generate [default: until the model ends the text or the context is full]
    #[arg(short = 'n', long = "predict", value_name = "TOKENS")]
    predict: Option<usize>,
    /// Tokens in the context, prompt and answer together [default: the model's, at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT")]
    context: Option<usize>,
    /// Continue past the model's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON at the end instead of text while it is generated
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    /// Generates text after the prompt.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let gguf = self.model.gguf()?;
        let tokenizer = match (&self.tokens, gguf.str("tokenizer.ggml.model")?) {
            (Some(_), None | Some("no_vocab" | "none")) => None,
            _ => Some(Arc::new(text::tokenizer(&gguf)?)),
        };
        let (settings, of) = (self.sampling.settings(&gguf)?, Hyperparameters::read(&gguf)?);
        let mut sampler = Sampler::new(&settings, of.vocab, tokenizer.as_ref())?;
        let prompt = self.prompt(tokenizer.as_deref())?;
        let context = self.context(&of, prompt.len())?;
        let kv = KvCache::bytes(&of, context, self.cache.types())?;
        let need = MemoryNeed::passes(&of, kv, prompt.len(), 1);
        let model = Arc::new(self.model.load(gguf, need)?);
        let (predicted, load) = (predict(&model), start.elapsed());
        let mut session = Session::with_cache(model.clone(), self.cache.cache(&model, context)?);
        let bytes_read_to_load = machine::bytes_read();
        let (mut tokens, mut text) = (Vec::new(), String::new());
        let mut decoder = tokenizer.as_deref().map(StreamDecoder::new);
        let mut emit = |piece: String| -> Result<()> {
            if self.json {
                text.push_str(&piece);
                Ok(())
            } else {
                output::print(&piece)
            }
        };
        let timings = session.generate(
            &prompt,
            self.predict.unwrap_or(usize::MAX),
            &mut sampler,
            |token| !self.ignore_eos && tokenizer.as_ref().is_some_and(|t| t.is_eog(token)),
            |token| {
                tokens.push(token);
                emit(match &mut decoder {
                    Some(decoder) => decoder.push(token)?,
                    None => format!("{token} "),
                })
            },
            &Shown::new(Unit::Tokens),
        )?;
        if let Some(decoder) = decoder {
            emit(decoder.finish())?;
        }
        let (prompt, seed) = (prompt.len(), settings.seed);
        let run =
            Run { model: &model, context, prompt, seed, text, tokens, load, timings, predicted, bytes_read_to_load };
        if self.json { output::print_json(&run.json()) } else { run.report() }
    }

    fn prompt(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
        if let Some(tokens) = &self.tokens {
            return Ok(tokens.clone());
        }
        let text = match (&self.prompt, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => text::read(file)?,
            (None, None) => String::new(),
        };
        match tokenizer {
            Some(tokenizer) => text::tokens(tokenizer, &text, EncodeOptions { add_special: true, parse_special: true }),
            None => bail!("the file has no vocabulary; give the prompt as --tokens 1,2,3"),
        }
    }

    fn context(&self, of: &Hyperparameters, prompt: usize) -> Result<usize> {
        let trained = of.context;
        let wanted = self.predict.map(|n| prompt.saturating_add(n));
        let context = match self.context {
            Some(0) => trained,
            Some(context) => context,
            None => wanted.map_or(trained.min(DEFAULT_CONTEXT), |n| n.min(trained).max(1)).max(prompt.min(trained)),
        };
        if context > trained {
            output::warn(&format!(
                "the model was trained for {trained} positions; beyond them its text may be poor; choose a smaller -c"
            ));
        }
        if prompt > context {
            bail!(
                "the prompt has {prompt} tokens and the context {context}; choose a larger -c (the model was trained for {trained})"
            );
        }
        Ok(context)
    }
}

/// A finished generation.
struct Run<'m> {
    model: &'m Model,
    context: usize, // tokens
    prompt: usize,  // tokens
    seed: u64,
    text: String, // empty if it was printed as it came
    tokens: Vec<u32>,
    load: Duration,
    timings: Timings,
    predicted: Option<Estimate>, // of a token
    bytes_read_to_load: u64,
}

impl Run<'_> {
    /// Tokens of the prompt per second.
    fn prefill_rate(&self) -> f64 {
        self.prompt as f64 / self.timings.prefill.as_secs_f64()
    }

    fn json(&self) -> Value {
        let (streamed, decode_rate) = (self.model.weights().streamed(), self.timings.decode_rate());
        json!({
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt,
            "seed": self.seed,
            "load_seconds": self.load.as_secs_f64(),
            "prefill_tokens_per_second": self.prefill_rate(),
            "decode_tokens_per_second": decode_rate,
            "seconds_per_token": if self.timings.decoded == 0 { 0.0 } else { 1.0 / decode_rate },
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
        })
    }

    /// Prints speeds beside what was predicted, after the text.
    fn report(&self) -> Result<()> {
        let (streamed, decode_rate) = (self.model.weights().streamed(), self.timings.decode_rate());
        let full = match self.timings.end {
            End::Context => format!("; stopped because the context of {} is full (-c)", self.context),
            End::Stop | End::Length => String::new(),
        };
        output::print("\n")?;
        output::say(&format!(
            "load {:.2} s; prompt {} tokens, {:.1} t/s; generation {} tokens, {decode_rate:.1} t/s; seed {}{full}",
            self.load.as_secs_f64(),
            self.prompt,
            self.prefill_rate(),
            self.tokens.len(),
            self.seed,
        ));
        if let (Some(estimate), 1..) = (self.predicted, self.timings.decoded) {
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

/// The predicted time of a token; `None` without a budget.
fn predict(model: &Model) -> Option<Estimate> {
    let plan = model.plan()?;
    Some(plan.pass(&model.weights().sizes(), &model.rates(), 1))
}
