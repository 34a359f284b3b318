//! A Hugging Face checkpoint: a folder with `config.json`, `tokenizer.json` and the weights in safetensors files.

mod config;
pub(crate) mod foreign;
pub(crate) mod json;
mod weights;

pub use config::Config;
pub(crate) use config::MAX_TOKENS;
pub(crate) use json::read_json;
pub use weights::{Dtype, Source, Weights};

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An open checkpoint, its configuration and weights checked against each other.
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// The shape of the model.
    pub config: Config,
    /// The tensors, mapped.
    pub weights: Weights,
}

impl Checkpoint {
    /// Opens a folder.
    ///
    /// # Errors
    /// If a file is missing or broken, or the model is of a kind that Strata does not know.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        if !dir.is_dir() {
            let problem = if dir.exists() { "is no folder" } else { "does not exist" };
            return Err(Error::invalid(dir, "checkpoint", problem, "name the folder that has config.json"));
        }
        let config = Config::read(dir)?;
        let weights = Weights::open(dir)?;
        weights.check(&config)?;
        foreign::other_tokenizer(dir)?;
        Ok(Checkpoint { dir: dir.to_owned(), config, weights })
    }

    /// A JSON file of the folder; `None` if it is not there.
    ///
    /// # Errors
    /// If it is there and no JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        read_json(&self.dir.join(name))
    }
}
