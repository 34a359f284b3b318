//! Adapters as arguments: `ADAPTER` or `ADAPTER=SCALE`, and llama.cpp's `FILE:SCALE`.

use crate::progress::{Shown, Unit};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::adapter::AdapterFile;
use strata::model::MemoryNeed;

/// Adapters that are applied while a model runs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LoraArgs {
    /// Apply a LoRA adapter, a GGUF file as llama.cpp's convert_lora_to_gguf.py makes it, SCALE times [default: once]; may be given several
    /// times
    #[arg(long, value_name = "FILE[=SCALE]", value_delimiter = ',', value_parser = lora)]
    lora: Vec<(PathBuf, f64)>,
    /// The same with a scale, as llama.cpp takes it
    #[arg(long, value_name = "FILE:SCALE", value_delimiter = ',', value_parser = scaled, hide = true)]
    lora_scaled: Vec<(PathBuf, f64)>,
}

/// Open adapters.
pub type Adapters = Vec<Arc<AdapterFile>>;

impl LoraArgs {
    /// Opens them, in the order in which they are applied.
    pub fn open(&self) -> Result<Adapters> {
        let all = self.lora.iter().chain(&self.lora_scaled);
        let open = |(path, scale): &(PathBuf, f64)| AdapterFile::open(path, *scale as f32, &Shown::new(Unit::Bytes));
        Ok(all.map(|one| open(one).map(Arc::new)).collect::<strata::Result<_>>()?)
    }
}

/// The same need with that of adapters.
pub fn with_adapters(need: MemoryNeed, adapters: &Adapters) -> MemoryNeed {
    adapters.iter().fold(need, |need, adapter| need.and_bytes(adapter.memory()))
}

/// Parses an adapter and how many times it is added. A path that exists is one, whatever it looks like.
pub fn lora(text: &str) -> Result<(PathBuf, f64)> {
    match text.rsplit_once('=') {
        Some((path, number)) if !Path::new(text).exists() => Ok((path.into(), scale(number)?)),
        _ => Ok((text.into(), 1.0)),
    }
}

fn scaled(text: &str) -> Result<(PathBuf, f64)> {
    let (path, number) = text.rsplit_once(':').context("must be FILE:SCALE")?;
    Ok((path.into(), scale(number)?))
}

fn scale(number: &str) -> Result<f64> {
    let scale: f64 = number.parse().with_context(|| format!("the scale {number:?} is no number"))?;
    ensure!((scale as f32).is_finite(), "the scale must be a number that a 32-bit float holds");
    Ok(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_stands_behind_the_adapter() {
        assert_eq!(lora("dir/a").unwrap(), ("dir/a".into(), 1.0));
        assert_eq!(lora("a=b=-0.5").unwrap(), ("a=b".into(), -0.5));
        assert_eq!(scaled("c:a:0.25").unwrap(), ("c:a".into(), 0.25));
        for text in ["a=", "a=x", "a=nan", "a=inf", "a=1e60"] {
            assert!(lora(text).is_err(), "{text}");
        }
        assert!(scaled("a").is_err() && scaled("a:x").is_err());
    }
}
