//! `strata batch`: answers a file of requests.

use super::PrefixCacheArgs;
use super::compare::shard;
use super::model::{CacheArgs, CpuArgs, RamArgs, open};
use crate::batch::{self, Line, Results, Shard};
use crate::serve::catalog::Catalog;
use crate::serve::listen::Times;
use crate::serve::local::Local;
use crate::serve::settings::{LoadSettings, Settings};
use crate::{output, text};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;
use strata::arch::Hyperparameters;
use strata::io::inputs::Inputs;
use strata::model::KvCache;
use strata::stream::Budget;

/// Answer a file of requests, many in each pass; a run that was stopped goes on where it was
#[derive(clap::Args)]
pub struct Args {
    /// Requests, a line each in OpenAI's batch format
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// The model: a GGUF file, or the folder of a Hugging Face checkpoint
    #[arg(short = 'm', long, value_name = "FILE")]
    model: PathBuf,
    /// Results, a line each in the order of the requests; what is answered so far is in OUT.jsonl.results
    #[arg(short = 'o', long, value_name = "OUT.jsonl")]
    output: PathBuf,
    /// Answer a part of the lines only, as 2/8: the results of all parts together are those of one run
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// Requests at the same time [default: as many as the memory holds, at most 256]
    #[arg(long, alias = "parallel", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: Option<u16>,
    /// Tokens of a request and its answer together [default: what the longest of the requests can need; at most the model's]
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT")]
    context: Option<usize>,
    /// Chat template in the place of the model's own
    #[arg(long, value_name = "JINJA", conflicts_with = "chat_template_file")]
    chat_template: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE")]
    chat_template_file: Option<PathBuf>,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    prefix_cache: PrefixCacheArgs,
    #[command(flatten)]
    ram: RamArgs,
}

/// The most requests at a time that are not asked for.
const MOST_SLOTS: usize = 256;

/// The tokens of prompts in a pass: nobody waits for the first word of an answer, and every pass reads all weights.
const BATCH: usize = 4096;

/// The time that an answer may take: as long as it needs.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Args {
    /// Answers the requests that have no result yet.
    pub fn run(self) -> Result<()> {
        let gguf = open(&self.model)?;
        let of = Hyperparameters::read(&gguf)?;
        let template = match &self.chat_template_file {
            Some(file) => Some(text::read(file)?),
            None => self.chat_template.clone(),
        };
        let types = self.cache.types();
        let decides = format!("{} {} {} {template:?} {:?}", gguf.digest(), types.k, types.v, self.context);
        let (part, parts) = self.shard.unwrap_or((0, 1));
        let lines = batch::read(&self.input, &text::read(&self.input)?, Shard { part, of: parts }, &decides)?;
        let mut inputs = Inputs::default();
        inputs.add(&self.input, "the requests");
        inputs.add_model(&gguf);
        let mut results = Results::open(&self.output, &lines, &inputs)?;
        let context = self.context(&of, &lines);
        let budget = self.ram.budget()?;
        let slots = match self.slots {
            Some(slots) => usize::from(slots),
            None => slots(budget, gguf.file_bytes(), KvCache::bytes(&of, context, types)?),
        };
        let slots = slots.clamp(1, lines.len().max(1));
        drop(gguf);
        if results.done() > 0 {
            output::say(&format!("{} of {} requests were answered before", results.done(), lines.len()));
        }
        if results.done() < lines.len() {
            output::say(&format!("up to {slots} requests at a time, of {context} tokens each"));
            let server = Local::start(self.settings(slots, context, template, budget)?)?;
            batch::answer(&server, &lines, &mut results, slots + slots.div_ceil(4))?;
        }
        let refused = results.refused();
        results.finish(&inputs)?;
        if refused > 0 {
            output::warn(&format!("{refused} of {} requests were refused; their lines say why", lines.len()));
        }
        Ok(())
    }

    /// Tokens of a slot.
    fn context(&self, of: &Hyperparameters, lines: &[Line]) -> usize {
        match self.context {
            Some(0) => of.context,
            Some(context) => context,
            None => lines.iter().map(|line| line.most_tokens).max().unwrap_or(1).min(of.context),
        }
    }

    fn settings(
        &self,
        slots: usize,
        context: usize,
        template: Option<String>,
        budget: Option<Budget>,
    ) -> Result<Settings> {
        let model = self.model.to_str().context("the path of the model is not UTF-8; rename it")?;
        let threads = self.cpu.threads;
        drop(self.cpu.cpu()?);
        Ok(Settings {
            host: "127.0.0.1".to_owned(),
            port: 0,
            keys: Vec::new(),
            origins: Vec::new(),
            allow_public: false,
            queue: 10 * slots,
            timeout: FOREVER,
            max_body: 1 << 30,
            body_time: FOREVER,
            times: Times::default(),
            catalog: Catalog::new(&[model.to_owned()], None)?,
            load: LoadSettings {
                budget,
                read: self.ram.options(),
                cpu: |threads| CpuArgs { threads }.cpu(),
                threads,
                slots,
                context: Some(context),
                types: self.cache.types(),
                idle: None,
                template,
                batch: BATCH,
                prefix_cache: self.prefix_cache.clone(),
            },
        })
    }
}

/// Slots whose keys and values, of `kv` bytes each, fit beside `weights` bytes; of a model that is streamed they take half of the budget.
fn slots(budget: Option<Budget>, weights: u64, kv: u64) -> usize {
    let Some(budget) = budget else { return MOST_SLOTS };
    let free = budget.bytes.saturating_sub(budget.fixed);
    // A quarter of what is left stays for activations.
    let spare = free.saturating_sub(weights) / 4 * 3;
    let most = spare.max(free / 2) / kv.max(1);
    usize::try_from(most).unwrap_or(MOST_SLOTS).clamp(1, MOST_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fill_the_memory_beside_the_weights() {
        let budget = Some(Budget { bytes: 110, fixed: 10 });
        assert_eq!(slots(budget, 20, 6), 10);
        assert_eq!(slots(budget, 1000, 5), 10);
        assert_eq!(slots(budget, 1000, 500), 1);
        assert_eq!(slots(None, 1, 1), MOST_SLOTS);
    }
}
