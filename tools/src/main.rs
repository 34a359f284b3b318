//! The command `strata`: a file for each subcommand, in `cmd/`.
//!
//! Results go to stdout, all else to stderr. Exit codes: 0, 1 (failed), 2 (usage).
#![forbid(unsafe_code)]
// Their macros panic where the disk is full or the reader has gone; `output.rs` does not.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

mod answer;
mod batch;
mod cmd;
mod config;
mod conversation;
mod folders;
mod machine;
mod output;
mod progress;
mod remedy;
#[cfg(feature = "gguf-rs")]
mod second_opinion;
mod serve;
mod status;
mod text;

use clap::{CommandFactory, FromArgMatches, Parser};
use std::process::ExitCode;
use strata::{Isa, limits, threads};

/// Converts, quantizes, runs and compares Llama models on the CPU of this machine, offline.
#[derive(Parser)]
#[command(name = "strata", version, long_version = version(), max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    limits::allow_many_files();
    limits::stock_up();
    progress::watch_signals();
    output::finish(threads::share(machine::shared_threads()).map_err(Into::into).and_then(|()| cli.command.run()))
}

/// The version, and what this processor can do.
fn version() -> String {
    let available: Vec<_> = Isa::available().map(Isa::name).collect();
    format!("{}\ninstruction sets: {}", env!("CARGO_PKG_VERSION"), available.join(" "))
}

/// Reads the arguments over the defaults of the user.
fn parse() -> Result<Cli, ExitCode> {
    let (command, file) = config::configured(Cli::command()).map_err(|problem| output::finish_config(&problem))?;
    let matches = command.try_get_matches_from(cmd::arguments(std::env::args_os()));
    matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|said| {
        let code = output::finish_usage(&said);
        if let (Some(file), true) = (file, said.use_stderr()) {
            output::say(&format!("defaults are also read from {}", output::path(&file)));
        }
        code
    })
}
