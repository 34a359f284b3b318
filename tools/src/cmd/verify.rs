//! `strata verify`: checks a GGUF file.

use crate::output;
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use strata::convert::Input;
use strata::error::printable;
use strata::gguf::Gguf;

/// Check a GGUF file: its structure, that every weight is finite, and that every tensor has its recorded hash
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split one, any part
    file: PathBuf,
    /// Also check that this checkpoint or GGUF file has the hashes that the file records of its source
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,
    /// Compare with an independent reader: gguf-rs (needs a build with --features gguf-rs)
    #[arg(long, value_name = "READER", value_parser = ["gguf-rs"])]
    with: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Checks the file and prints what was verified.
    pub fn run(self) -> Result<()> {
        let gguf = Gguf::open(&self.file)?;
        let source = self.source.as_deref().map(Input::open).transpose()?;
        let shown = crate::progress::Shown::new(crate::progress::Unit::Bytes);
        let verified = strata::verify::model(&gguf, source.as_ref(), &shown)?;
        if self.with.is_some() {
            second_opinion(&gguf)?;
        }
        if self.json {
            return output::print_json(&json!({
                "file": self.file.display().to_string(), "tensors": gguf.tensors().len(), "bytes": gguf.file_bytes(),
                "hashes": verified.hashes, "sources": verified.sources, "types_not_decoded": verified.unknown,
                "second_opinion": self.with,
            }));
        }
        let names = |names: &[String]| names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
        let mut notes = String::new();
        match verified.hashes {
            true => notes.push_str(", each with its recorded SHA-256"),
            false => notes.push_str("; no hashes are recorded"),
        }
        if !verified.unknown.is_empty() {
            notes += &format!("; values of type {} were not looked at", verified.unknown.join(", "));
        }
        if !verified.sources.is_empty() {
            notes += &format!("; made of {}", names(&verified.sources));
        }
        if self.with.is_some() {
            notes.push_str("; gguf-rs agrees");
        }
        output::print_lines(&format!(
            "{}: sound: {}, {} tensors{notes}\n",
            output::path(&self.file),
            output::bytes(gguf.file_bytes()),
            gguf.tensors().len()
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
