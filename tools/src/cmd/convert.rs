//! `strata convert`: a Hugging Face checkpoint to GGUF.

use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Result, bail};
use std::path::PathBuf;
use strata::GgmlType;
use strata::convert::{Options, convert};

/// Convert a Hugging Face checkpoint (a folder of config.json, tokenizer.json, safetensors) to a GGUF file
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the checkpoint
    dir: PathBuf,
    /// The file to write [default: NAME-TYPE.gguf in this folder]
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Type of the weights; strata info lists them
    #[arg(short = 't', long = "type", value_name = "T", default_value = "bf16", value_parser = parse_type)]
    ty: GgmlType,
    /// The model's name in the file [default: from the model card or the folder]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// A type that can be written.
pub fn parse_type(name: &str) -> Result<GgmlType> {
    let known: Vec<_> = GgmlType::with_format().map(|format| format.ty.name().to_lowercase()).collect();
    match GgmlType::from_name(name) {
        Some(ty) if ty.format().is_some() => Ok(ty),
        _ => bail!("choose one of {}", known.join(", ")),
    }
}

impl Args {
    /// Converts it.
    pub fn run(self) -> Result<()> {
        let output_path = match self.output {
            Some(path) => path,
            None => {
                let dir = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
                let name = dir.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
                format!("{name}-{}.gguf", self.ty.name()).into()
            }
        };
        let options = Options { ty: self.ty, name: self.name };
        let report = convert(&self.dir, &output_path, &options, &Shown::new(Unit::Bytes))?;
        output::print(&format!(
            "{}: {} tensors, {}, {:.3} bits per weight\n",
            output_path.display(),
            report.tensors,
            output::bytes(report.bytes),
            report.bits_per_weight
        ))
    }
}
