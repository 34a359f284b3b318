//! `strata split`: one model over several files.

use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Result, anyhow};
use std::fmt::Write;
use std::path::PathBuf;
use strata::gguf::Gguf;
use strata::split::{MAX_TENSORS, Options, Placement, SplitLimit, plan, split};

/// Split a GGUF model over files PREFIX-00001-of-0000N.gguf, as gguf-split does
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split one, any part
    input: PathBuf,
    /// What the names of the files start with
    prefix: PathBuf,
    /// At most so many bytes of tensors in a file: 300K, 500M, 48G (thousands); a larger tensor gets its own
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "split_max_tensors")]
    split_max_size: Option<u64>,
    /// At most so many tensors in a file [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    split_max_tensors: Option<u64>,
    /// Split over N files (2 to 64) for as many drives: each has a like share of every two layers, so all are read at
    /// once. Links to them in one folder are a model; strata merge joins them with the tensors ordered by file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=64))]
    #[arg(conflicts_with_all = ["split_max_size", "split_max_tensors"])]
    drives: Option<u64>,
    /// Put only metadata into the first file (with --drives into one more)
    #[arg(long)]
    no_tensor_first_split: bool,
    /// Only show what would go where
    #[arg(long)]
    dry_run: bool,
}

/// `N`, `NK`, `NM` or `NG` bytes, at least one, in powers of a thousand.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || anyhow!("give a size as 300K, 500M or 48G");
    let unit = match text.chars().last().map(|unit| unit.to_ascii_uppercase()) {
        Some('K') => 1000,
        Some('M') => 1_000_000,
        Some('G') => 1_000_000_000,
        Some('0'..='9') => 1,
        _ => return Err(wrong()),
    };
    let number = if unit == 1 { text } else { &text[..text.len() - 1] };
    let n: u64 = number.parse().map_err(|_| wrong())?;
    n.checked_mul(unit).filter(|&n| n > 0).ok_or_else(wrong)
}

impl Args {
    /// Splits it.
    pub fn run(self) -> Result<()> {
        let tensors = self.split_max_tensors.map_or(MAX_TENSORS, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let limit = self.split_max_size.map_or(SplitLimit::Tensors(tensors), SplitLimit::Bytes);
        let placement = self.drives.map_or(Placement::Linear(limit), |n| Placement::Striped(n as usize));
        let options = Options { placement, first_without_tensors: self.no_tensor_first_split };
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

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_decimal() {
        for (text, bytes) in [("5", 5), ("300K", 300_000), ("500m", 500_000_000), ("48G", 48_000_000_000)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "0M", "G", "-1M", "1.5G", "1T", "1Gé", "99999999999999999999", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
