//! The command `strata`: a file for each subcommand, in `cmd/`.
//!
//! Results go to stdout, all else to stderr. Exit codes: 0, 1 (failed), 2 (usage).
#![forbid(unsafe_code)]
// Their macros panic where the disk is full or the reader has gone; `output.rs` does not.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

mod answer;
mod batch;
mod cmd;
mod conversation;
mod machine;
mod output;
mod progress;
mod remedy;
#[cfg(feature = "gguf-rs")]
mod second_opinion;
mod serve;
mod status;
mod text;

use clap::Parser;
use std::process::ExitCode;
use strata::{limits, threads};

/// Converts, quantizes, runs and compares Llama models on the CPU of this machine, offline.
#[derive(Parser)]
#[command(name = "strata", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(std::env::args_os().map(cmd::long_name)) {
        Ok(cli) => cli,
        Err(said) => return output::finish_usage(&said),
    };
    limits::allow_many_files();
    limits::stock_up();
    progress::watch_signals();
    output::finish(threads::share(machine::shared_threads()).map_err(Into::into).and_then(|()| cli.command.run()))
}
