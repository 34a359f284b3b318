//! The subcommands, in the order of the workflow from a checkpoint to text.

mod allocate;
mod batch;
mod bench;
mod calibrate;
mod chat;
mod chat_template;
mod compare;
mod completions;
mod convert;
mod demo;
mod diff;
mod grammar;
mod habits;
mod info;
mod inspect;
mod lora;
mod merge;
mod metadata_value;
mod method;
mod model;
mod perplexity;
mod plan;
mod prefix_cache;
mod quantize;
mod recipe;
mod run;
mod sampling;
mod serve;
mod serving;
mod set;
mod split;
mod template;
mod tokenize;
mod verify;

pub use chat_template::ChatTemplateArgs;
pub use habits::arguments;
pub use lora::{Adapters, with_adapters};
pub use model::{CpuArgs, DEFAULT_CONTEXT, asked_context};
pub use prefix_cache::PrefixCacheArgs;

use anyhow::Result;
use clap::{CommandFactory, Subcommand};

/// A subcommand and its arguments.
#[derive(Subcommand)]
pub enum Command {
    Convert(convert::Args),
    Quantize(quantize::Args),
    Run(run::Args),
    Chat(chat::Args),
    Template(template::Args),
    Serve(serve::Args),
    Batch(batch::Args),
    Perplexity(perplexity::Args),
    Compare(compare::Args),
    Plan(plan::Args),
    Calibrate(calibrate::Args),
    Split(split::Args),
    Merge(merge::Args),
    Inspect(inspect::Args),
    Diff(diff::Args),
    Set(set::Args),
    Tokenize(tokenize::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Demo(demo::Args),
    Info(info::Args),
    Completions(completions::Completions),
    Man(completions::Man),
}

impl Command {
    /// Runs the subcommand.
    pub fn run(self) -> Result<()> {
        match self {
            Command::Convert(args) => args.run(),
            Command::Quantize(args) => args.run(),
            Command::Run(args) => args.run(),
            Command::Chat(args) => args.run(),
            Command::Template(args) => args.run(),
            Command::Serve(args) => args.run(),
            Command::Batch(args) => args.run(),
            Command::Perplexity(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Calibrate(args) => args.run(),
            Command::Split(args) => args.run(),
            Command::Merge(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Diff(args) => args.run(),
            Command::Set(args) => args.run(),
            Command::Tokenize(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Demo(args) => args.run(),
            Command::Info(args) => args.run(),
            Command::Completions(args) => args.run(crate::Cli::command()),
            Command::Man(args) => args.run(crate::Cli::command()),
        }
    }
}
