//! The command `strata`: a file for each subcommand, in `cmd/`.
//!
//! Results go to stdout, all else to stderr. Exit codes: 0, 1 (failed), 2 (usage).
#![forbid(unsafe_code)]

mod cmd;
mod machine;
mod output;
mod progress;
#[cfg(feature = "gguf-rs")]
mod second_opinion;

use clap::Parser;
use std::process::ExitCode;

/// Converts, quantizes, runs and compares Llama models on the CPU of this machine, offline.
#[derive(Parser)]
#[command(name = "strata", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(std::env::args_os().map(cmd::long_name));
    progress::watch_signals();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
