//! Arguments that every command that runs a model shares.

use anyhow::{Result, anyhow};
use std::path::PathBuf;
use strata::gguf::Gguf;
use strata::model::Model;
use strata::{Cpu, Isa};

/// Which model, on what.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model, a GGUF file; of a split one, any part
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    pub model: PathBuf,
    #[command(flatten)]
    pub cpu: CpuArgs,
}

/// On how many threads.
#[derive(clap::Args)]
pub struct CpuArgs {
    /// Threads [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl ModelArgs {
    /// Opens it.
    pub fn open(&self) -> Result<Model> {
        Ok(Model::new(Gguf::open(&self.model)?, self.cpu.cpu()?)?)
    }
}

impl CpuArgs {
    /// The processor with the instruction set of `STRATA_ISA` or the best it has.
    pub fn cpu(&self) -> Result<Cpu> {
        let isa = Isa::from_environment().map_err(|problem| anyhow!(problem))?;
        Ok(Cpu::new(isa, self.threads.map_or_else(crate::machine::default_threads, usize::from)))
    }
}
