//! `strata batch`: answers a file of requests.

use super::compare::shard;
use super::model::{asked_context, open};
use super::serving::ServingArgs;
use crate::batch::{self, Results, Shard};
use crate::serve::catalog::Catalog;
use crate::serve::local::Local;
use crate::serve::settings::Settings;
use crate::serve::{fingerprint, most_slots};
use crate::{output, text};
use anyhow::Result;
use std::path::PathBuf;
use strata::arch::Hyperparameters;
use strata::engine::template::DEFAULT_NOW;
use strata::io::inputs::Inputs;

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
    #[command(flatten)]
    serving: ServingArgs,
}

/// The most requests at a time that are not asked for.
const MOST_SLOTS: usize = 256;

/// The tokens of prompts in a pass: nobody waits for the first word of an answer, and every pass reads all weights.
const BATCH: usize = 4096;

impl Args {
    /// Answers the requests that have no result yet.
    pub fn run(mut self) -> Result<()> {
        // A run that goes on tomorrow gives the results of today.
        self.serving.template.date_or(DEFAULT_NOW);
        let gguf = open(&self.model)?;
        let of = Hyperparameters::read(&gguf)?;
        let decides = format!("{} {} {} {:?}", fingerprint(), gguf.digest(), self.serving.decides()?, self.context);
        let (part, parts) = self.shard.unwrap_or((0, 1));
        let lines = batch::read(&self.input, &text::read(&self.input)?, Shard { part, of: parts }, &decides)?;
        let mut inputs = Inputs::default();
        inputs.add(&self.input, "the requests");
        inputs.add_model(&gguf);
        let mut results = Results::open(&self.output, &lines, &inputs)?;
        let longest = || lines.iter().map(|line| line.most_tokens).max().unwrap_or(1).min(of.context);
        let context = asked_context(self.context, &of).unwrap_or_else(longest);
        let mut load = self.serving.settings(1, Some(context), BATCH)?;
        let most = lines.len().clamp(1, self.slots.map_or(MOST_SLOTS, usize::from));
        load.slots = if self.slots.is_some() { most } else { most_slots(gguf, &load, most)? };
        if results.done() > 0 {
            output::say(&format!("{} of {} requests were answered before", results.done(), lines.len()));
        }
        if results.done() < lines.len() {
            let slots = load.slots;
            output::say(&format!("up to {slots} requests at a time, of {context} tokens each"));
            let server = Local::start(Settings::local(Catalog::one(&self.model), load))?;
            batch::answer(&server, &lines, &mut results, slots + slots.div_ceil(4))?;
        }
        let refused = results.refused();
        results.finish(&inputs)?;
        if refused > 0 {
            output::warn(&format!("{refused} of {} requests were refused; their lines say why", lines.len()));
        }
        Ok(())
    }
}
