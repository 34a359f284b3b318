//! `strata merge`: joins the files of a split model.

use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::Result;
use std::path::PathBuf;
use strata::gguf::Gguf;
use strata::split::merge;

/// Join the files of a split GGUF model into one; tensors keep the order of the files
#[derive(clap::Args)]
pub struct Args {
    /// Any part of the model
    input: PathBuf,
    /// The file to write
    output: PathBuf,
}

impl Args {
    /// Writes the merged file.
    pub fn run(self) -> Result<()> {
        let gguf = Gguf::open(&self.input)?;
        merge(&gguf, &self.output, &Shown::new(Unit::Bytes))?;
        let bytes: u64 = gguf.tensors().iter().map(|t| t.bytes).sum();
        let (n, parts) = (gguf.tensors().len(), gguf.files().count());
        let (output, bytes) = (output::path(&self.output), output::bytes(bytes));
        output::print_lines(&format!("{output}: {n} tensors of {parts} files, {bytes}\n"))
    }
}
