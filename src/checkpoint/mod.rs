//! A Hugging Face checkpoint: a folder with `config.json`, `tokenizer.json` and the weights in safetensors files.

mod config;
pub(crate) mod foreign;
pub(crate) mod json;
mod layers;
pub(crate) mod quantized;
mod rope;
mod weights;

pub use config::Config;
pub(crate) use config::MAX_TOKENS;
pub(crate) use json::read_json;
pub(crate) use weights::Part;
pub use weights::{Dtype, Source, Weights};

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An open checkpoint, its configuration and weights checked against each other.
pub struct Checkpoint {
    /// The folder of the checkpoint.
    pub dir: PathBuf,
    /// The hyperparameters of `config.json`.
    pub config: Config,
    /// The tensors, mapped.
    pub weights: Weights,
}

impl Checkpoint {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// If a file is missing or broken, or the model is of a kind that Strata does not know.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        if !dir.is_dir() {
            let problem = if dir.exists() { "is not a folder" } else { "does not exist" };
            return Err(Error::invalid(dir, "checkpoint", problem, "name the folder that has config.json"));
        }
        let config = Config::read(dir)?;
        let mut weights = Weights::open(dir)?;
        weights.check(&config)?;
        foreign::other_tokenizer(dir)?;
        Ok(Checkpoint { dir: dir.to_owned(), config, weights })
    }

    /// Reads a JSON file of the folder; `None` if it does not exist.
    ///
    /// # Errors
    /// If it is not valid JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        read_json(&self.dir.join(name))
    }
}
