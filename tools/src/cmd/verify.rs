//! `strata verify`: is this file sound?

use crate::output;
use anyhow::Result;
use std::path::PathBuf;
use strata::gguf::Gguf;

/// Check a GGUF file: its structure, and that every weight is a number
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split one, any part
    file: PathBuf,
    /// Ask an independent reader for a second opinion: gguf-rs (needs a build with --features gguf-rs)
    #[arg(long, value_name = "READER", value_parser = ["gguf-rs"])]
    with: Option<String>,
}

impl Args {
    /// Checks it.
    pub fn run(self) -> Result<()> {
        let gguf = Gguf::open(&self.file)?;
        let unchecked = strata::verify::weights(&gguf, &crate::progress::Shown::new(crate::progress::Unit::Bytes))?;
        let mut notes = String::new();
        if !unchecked.is_empty() {
            notes = format!("; values of type {} were not looked at", unchecked.join(", "));
        }
        if self.with.is_some() {
            second_opinion(&gguf)?;
            notes.push_str("; gguf-rs agrees");
        }
        output::print(&format!(
            "{}: sound: {} tensors, {}{notes}\n",
            self.file.display(),
            gguf.tensors().len(),
            output::bytes(gguf.file_bytes())
        ))
    }
}

#[cfg(not(feature = "gguf-rs"))]
fn second_opinion(_: &Gguf) -> Result<()> {
    anyhow::bail!(
        "this strata was built without gguf-rs; build it with: cargo build --release --features strata-cli/gguf-rs"
    )
}

#[cfg(feature = "gguf-rs")]
use crate::second_opinion::compare as second_opinion;
