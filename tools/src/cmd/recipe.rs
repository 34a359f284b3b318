//! Arguments that every command that makes GGUF files shares.

use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Result, anyhow, bail};
use std::path::PathBuf;
use strata::convert::{Input, Options, Target, convert};
use strata::{Error, GgmlType, Isa};

/// How to make them.
#[derive(clap::Args)]
pub struct RecipeArgs {
    /// The most memory for buffers, as in 512M or 2G [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Threads [default: all that the system offers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Discard what an interrupted run left, instead of going on from there
    #[arg(long)]
    restart: bool,
}

impl RecipeArgs {
    /// The library's options.
    pub fn options(&self) -> Result<Options> {
        let isa = Isa::from_environment().map_err(|problem| anyhow!(problem))?;
        let threads = self.threads.map(usize::from);
        Ok(Options { memory: self.memory, threads, isa, restart: self.restart, ..Options::default() })
    }
}

/// Makes the files and says what they are.
pub fn make(input: &Input, targets: &[Target], options: &Options) -> Result<()> {
    let reports = match convert(input, targets, options, &Shown::new(Unit::Bytes)) {
        Ok(reports) => reports,
        Err(error) => {
            let kept: Vec<_> = targets.iter().map(Target::partial).filter(|partial| partial.exists()).collect();
            match (error, kept.first()) {
                (Error::Cancelled, Some(kept)) => {
                    bail!("stopped; the same command goes on from {}", kept.display())
                }
                (error, _) => return Err(error.into()),
            }
        }
    };
    for report in reports {
        let resumed = match report.resumed {
            0 => String::new(),
            n => format!(" ({n} of them by an earlier run)"),
        };
        output::print(&format!(
            "{}: {} tensors{resumed}, {}, {:.3} bits per weight\n",
            report.path.display(),
            report.tensors,
            output::bytes(report.bytes),
            report.bits_per_weight
        ))?;
    }
    Ok(())
}

/// A type that can be written.
pub fn parse_type(name: &str) -> Result<GgmlType> {
    let known: Vec<_> = GgmlType::with_format().map(|format| format.ty.name().to_lowercase()).collect();
    match GgmlType::from_name(name) {
        Some(ty) if ty.format().is_some() => Ok(ty),
        _ => bail!("choose one of {}", known.join(", ")),
    }
}

/// The paths of outputs of several types: `-o` is a file if there is one type, else a folder or a name with `{type}` in it.
pub fn output_paths(given: Option<PathBuf>, input: &Input, types: &[GgmlType]) -> Result<Vec<PathBuf>> {
    let path = input.path().canonicalize().unwrap_or_else(|_| input.path().to_owned());
    let name = match input {
        Input::Checkpoint(_) => path.file_name(),
        Input::Gguf(_) => path.file_stem(),
    };
    let name = name.map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let in_folder =
        |folder: PathBuf| types.iter().map(|ty| folder.join(format!("{name}-{}.gguf", ty.name()))).collect::<Vec<_>>();
    let Some(given) = given else { return Ok(in_folder(PathBuf::new())) };
    if let Some(template) = given.to_str().filter(|text| text.contains("{type}")) {
        return Ok(types.iter().map(|ty| template.replace("{type}", ty.name()).into()).collect());
    }
    match types.len() {
        1 if !given.is_dir() => Ok(vec![given]),
        _ if given.is_dir() => Ok(in_folder(given)),
        n => bail!("{} cannot be {n} files: name a folder, or put {{type}} into the name", given.display()),
    }
}

/// A number of bytes: `123`, `64k`, `512M`, `2G`, `1.5G`; units are powers of 1024, `MB` those of 1000.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || anyhow!("must be a size like 512M or 2G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (power, thousand) = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => (0, 1024.0),
        "k" | "kib" => (1, 1024.0),
        "m" | "mib" => (2, 1024.0),
        "g" | "gib" => (3, 1024.0),
        "t" | "tib" => (4, 1024f64),
        "kb" => (1, 1000.0),
        "mb" => (2, 1000.0),
        "gb" => (3, 1000.0),
        "tb" => (4, 1000.0),
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * thousand.powi(power);
    if !(1.0..=1e18).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        for (text, bytes) in [("7", 7), ("64k", 65536), ("1.5G", 3 << 29), ("2MB", 2_000_000), ("3MiB", 3 << 20)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "G", "0", "-1", "1X", "nan", "inf", "1e30", "1 G", "٣"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
