//! `strata split`: splits a model into several files.

use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::Result;
use std::fmt::Write;
use std::path::PathBuf;
use strata::gguf::Gguf;
use strata::gguf::shards::SplitLimit;
use strata::size::Size;
use strata::split::{MAX_TENSORS, Placement, SplitOptions, plan, split};

/// Split a GGUF model into files PREFIX-00001-of-0000N.gguf, as gguf-split does
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split one, any part
    input: PathBuf,
    /// The start of the names of the files
    prefix: PathBuf,
    /// At most SIZE of tensors in a file, as 500M, 48G (10^9 bytes, as in gguf-split) or 4GiB (2^30); a larger tensor gets its own
    #[arg(long, value_name = "SIZE", conflicts_with = "split_max_tensors")]
    split_max_size: Option<Size>,
    /// At most N tensors in a file [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    split_max_tensors: Option<u64>,
    /// Split into N files (2 to 64) for as many drives: each has an equal share of every two layers, so that all drives are
    /// read at once. Put links to the files into one folder to run them; strata merge joins them, with tensors in order of file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=64))]
    #[arg(conflicts_with_all = ["split_max_size", "split_max_tensors"])]
    drives: Option<u64>,
    /// Put only metadata into the first file (with --drives, into an additional one)
    #[arg(long)]
    no_tensor_first_split: bool,
    /// Only print the planned files
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Writes the files, or prints the plan.
    pub fn run(self) -> Result<()> {
        let tensors = self.split_max_tensors.map_or(MAX_TENSORS, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let limit = self.split_max_size.map_or(SplitLimit::Tensors(tensors), |size| SplitLimit::Bytes(size.bytes()));
        let placement = self.drives.map_or(Placement::Linear(limit), |n| Placement::Striped(n as usize));
        let options = SplitOptions { placement, first_without_tensors: self.no_tensor_first_split };
        let gguf = Gguf::open(&self.input)?;
        let shards = match self.dry_run {
            true => plan(&gguf, &self.prefix, &options)?,
            false => split(&gguf, &self.prefix, &options, &Shown::new(Unit::Bytes))?,
        };
        let mut text = String::new();
        for shard in shards {
            let (n, bytes) = (shard.tensors.len(), output::bytes(shard.bytes));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}: {n} tensors, {bytes}", output::path(&shard.path));
            if let Placement::Linear(SplitLimit::Bytes(max)) = placement
                && shard.bytes > max
                && let Some(&first) = shard.tensors.first()
            {
                let name = &gguf.tensors()[first].name;
                output::say(&format!(
                    "note: {} is over the limit, since {name} alone is larger; allow more with --split-max-size",
                    output::path(&shard.path)
                ));
            }
        }
        output::print_lines(&text)
    }
}
