//! How fast a model runs, and how fast it could: a *test* is so many passes of so many tokens at some depth, and its limit follows from
//! what a pass must read and multiply at least.
//!
//! ```text
//! bytes  = weights of all layers + output matrix + keys and values of all tokens that the pass attends to
//! macs   = tokens * weights in the layers' matrices + rows of logits * weights in the output matrix
//! limit  = tokens / max(bytes / read bandwidth, macs / int8 peak, bytes from disk / disk bandwidth)
//! ```
//! The embedding counts only where it is the output matrix, too. Arithmetic outside the matrices counts nothing, and weights of F16, BF16
//! and F32 are held to the int8 peak as well: one measure for all. The limits of the machine are measured right before each run,
//! over the model's own weights, because they move where others share the machine; that of the disk before and after, by passes that
//! compute nothing.

use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;
use crate::random;
use crate::stream::Rates;
use crate::weights::LayerSource;
use std::time::Instant;

/// A test: what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `ppN`: a prompt of `tokens` tokens in one pass, and the logits of its last.
    Prefill {
        /// N
        tokens: usize,
        /// Tokens in the cache before.
        depth: usize,
    },
    /// `tgN`: `passes` passes, each with the next token of `batch` sequences of their own, and the logits of all.
    Decode {
        /// N
        passes: usize,
        /// Tokens in the cache of each sequence before.
        depth: usize,
        /// Sequences.
        batch: usize,
    },
}

impl Test {
    /// Its name: `pp512`, `tg128`.
    pub fn name(&self) -> String {
        match self {
            Test::Prefill { tokens, .. } => format!("pp{tokens}"),
            Test::Decode { passes, .. } => format!("tg{passes}"),
        }
    }

    /// Tokens in the cache of each sequence before it.
    pub fn depth(&self) -> usize {
        match *self {
            Test::Prefill { depth, .. } | Test::Decode { depth, .. } => depth,
        }
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        match *self {
            Test::Prefill { .. } => 1,
            Test::Decode { batch, .. } => batch,
        }
    }

    /// Passes, and the tokens of each sequence in one.
    fn passes(&self) -> (usize, usize) {
        match *self {
            Test::Prefill { tokens, .. } => (1, tokens),
            Test::Decode { passes, .. } => (passes, 1),
        }
    }

    /// Tokens that go through the model.
    pub fn tokens(&self) -> usize {
        let (passes, tokens) = self.passes();
        passes * tokens * self.batch()
    }

    /// The memory that it takes beside the weights.
    ///
    /// # Errors
    /// If a cache cannot be of these types.
    pub fn need(&self, of: &Hyperparameters, types: CacheTypes) -> Result<MemoryNeed> {
        let (passes, tokens) = self.passes();
        let capacity = self.depth().saturating_add(passes.saturating_mul(tokens));
        let kv = KvCache::bytes(of, capacity, types)?.saturating_mul(self.batch() as u64);
        Ok(MemoryNeed::passes(of, kv, tokens.saturating_mul(self.batch()), self.batch()))
    }
}

/// The speed of one run of a test, beside its limit.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Tokens per second at the limit of the machine.
    pub limit_tokens_per_second: f64,
    /// Bytes of weights, keys and values for each token.
    pub bytes_per_token: f64,
    /// The limits of the machine, measured right before.
    pub machine: Limits,
    /// The drives, of a model that does not fit into its budget.
    pub streamed: Option<Streaming>,
}

/// The limits that streaming sets to a run.
#[derive(Clone, Copy, Debug)]
pub struct Streaming {
    /// Bytes per second from disk, measured right before.
    pub disk_bytes_per_second: f64,
    /// Tokens per second that the plan predicts from that.
    pub predicted_tokens_per_second: f64,
}

impl Streaming {
    /// The limits of passes of `tokens` tokens at `disk` bytes per second; `None` without a plan.
    fn of(model: &Model, disk: f64, machine: &Limits, tokens: usize) -> Option<Streaming> {
        let rates = Rates { disk, memory: machine.read_bytes_per_second, ..model.rates() };
        let pass = model.plan()?.pass(&model.weights().sizes(), &rates, tokens as u64);
        let predicted_tokens_per_second = tokens as f64 / pass.seconds;
        Some(Streaming { disk_bytes_per_second: disk, predicted_tokens_per_second })
    }
}

/// The limits of the machine with all threads of a [`Cpu`](crate::Cpu).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes read from memory per second.
    pub read_bytes_per_second: f64,
    /// 8-bit multiply-adds per second.
    pub int8_macs_per_second: f64,
}

impl Limits {
    /// Measures them, over `data`, which should be far larger than the caches.
    pub fn measure(cpu: &crate::Cpu, data: &[u8]) -> Limits {
        Limits {
            read_bytes_per_second: cpu.read_bytes_per_second(data),
            int8_macs_per_second: cpu.int8_macs_per_second(),
        }
    }
}

/// One run of a test: measures the limits, fills the cache up to the depth, times the passes. `progress` counts tokens and can stop between passes.
///
/// # Errors
/// If there is no memory for the keys and values, a number is not finite, or the user stopped.
pub fn run(
    model: &Model,
    test: &Test,
    types: CacheTypes,
    scratch: &mut Scratch,
    progress: &dyn Progress,
) -> Result<Run> {
    let (passes, tokens) = test.passes();
    let capacity = test.depth() + passes * tokens;
    let new_cache = || -> Result<KvCache> {
        progress.check()?;
        let mut cache = KvCache::with_types(model.hyperparameters(), capacity, types)?;
        cache.fill_random(model.cpu(), test.depth());
        Ok(cache)
    };
    let mut caches: Vec<KvCache> = (0..test.batch()).map(|_| new_cache()).collect::<Result<_>>()?;
    let machine = Limits::measure(model.cpu(), model.weights().stretch());
    let sizes = model.weights().sizes();
    let before = disk_bytes_per_second(model, progress)?;
    let vocab = model.hyperparameters().vocab;
    let mut state = 1;
    let mut random = || (random::uniform(&mut state) * vocab as f64) as u32;
    let (mut seconds, mut bytes, mut limits) = (0.0, 0.0, Vec::with_capacity(passes));
    for _ in 0..passes {
        progress.check()?;
        let prompts: Vec<Vec<u32>> = caches.iter().map(|_| (0..tokens).map(|_| random()).collect()).collect();
        let mut segments: Vec<_> =
            caches.iter_mut().zip(&prompts).map(|(cache, tokens)| Segment { tokens, cache }).collect();
        let start = Instant::now();
        let all = tokens * test.batch();
        let hidden = model.pass(scratch, &mut segments, progress)?;
        std::hint::black_box(hidden.into_logits(all - test.batch()..all, progress)?);
        seconds += start.elapsed().as_secs_f64();
        let attended: usize = caches.iter().map(|cache| cache.len() * cache.token_bytes()).sum();
        let work = sizes.pass(all as u64, test.batch() as u64, attended as u64);
        // Every plane of the activations is a product of its own.
        let macs = machine.int8_macs_per_second / model.cpu().activations().planes() as f64;
        limits.push(work.seconds(machine.read_bytes_per_second, macs));
        bytes += work.bytes;
        progress.advance((tokens * test.batch()) as u64);
    }
    let disk = before.zip(disk_bytes_per_second(model, progress)?).map(|(before, after)| (before + after) / 2.0);
    let from_disk = model.plan().zip(disk).map_or(0.0, |(plan, rate)| plan.streamed_bytes as f64 / rate);
    let least: f64 = limits.into_iter().map(|limit| limit.max(from_disk)).sum();
    let all = test.tokens() as f64;
    Ok(Run {
        tokens_per_second: all / seconds,
        limit_tokens_per_second: all / least,
        bytes_per_token: bytes / all,
        machine,
        streamed: before.and_then(|disk| Streaming::of(model, disk, &machine, tokens * test.batch())),
    })
}

/// Bytes per second from disk in a pass that takes the weights of all layers and does nothing with them; `None` if none do.
fn disk_bytes_per_second(model: &Model, progress: &dyn Progress) -> Result<Option<f64>> {
    let (Some(plan), Some(streamed)) = (model.plan(), model.weights().streamed()) else { return Ok(None) };
    let (mut layers, mut start, mut bytes) = (model.weights().layers(), Instant::now(), 0);
    for i in 0..layers.layers() {
        layers.next_layer(progress)?;
        if (i as u64) < plan.slots {
            // These were there before anyone asked.
            start = Instant::now();
        } else {
            bytes += streamed.streamed_bytes(i);
        }
    }
    Ok((bytes > 0).then(|| bytes as f64 / start.elapsed().as_secs_f64()))
}
