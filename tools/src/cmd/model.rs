//! Arguments that every command that runs a model shares.

use anyhow::{Result, anyhow};
use std::ffi::OsString;
use std::path::PathBuf;
use strata::gguf::Gguf;
use strata::model::{CacheTypes, KvCache, Model};
use strata::{Cpu, GgmlType, Isa};

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

/// What keys and values are kept as.
#[derive(clap::Args)]
pub struct CacheArgs {
    /// Numbers that the keys of tokens are kept as: f32, f16 or q8_0; also -ctk
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type_k: GgmlType,
    /// Numbers that the values of tokens are kept as: f32, f16 or q8_0; also -ctv
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type_v: GgmlType,
}

impl CacheArgs {
    /// Both.
    pub fn types(&self) -> CacheTypes {
        CacheTypes { k: self.cache_type_k, v: self.cache_type_v }
    }

    /// An empty cache for `context` tokens of `model`.
    pub fn cache(&self, model: &Model, context: usize) -> Result<KvCache> {
        Ok(KvCache::with_types(model.shape(), context, self.types())?)
    }
}

fn cache_type(name: &str) -> Result<GgmlType, String> {
    let ty = GgmlType::from_name(name).filter(|ty| CacheTypes::ALL.contains(ty));
    ty.ok_or_else(|| "choose f32, f16 or q8_0".to_owned())
}

/// llama.cpp's short names of more than one letter, which the parser of arguments does not know.
pub fn long_name(arg: OsString) -> OsString {
    match arg.to_str() {
        Some("-ctk") => "--cache-type-k".into(),
        Some("-ctv") => "--cache-type-v".into(),
        _ => arg,
    }
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
