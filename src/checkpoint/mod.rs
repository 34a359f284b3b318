//! A Hugging Face checkpoint: a folder with `config.json`, `tokenizer.json` and the weights in safetensors files.

mod config;
pub(crate) mod foreign;
pub(crate) mod json;
mod weights;

pub use config::Config;
pub(crate) use config::MAX_TOKENS;
pub(crate) use json::read_json;
pub use weights::{Dtype, Source, Weights};

use crate::adapter::{self, Adapter, Change};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open checkpoint, its configuration and weights checked against each other.
pub struct Checkpoint {
    /// The folder of the checkpoint.
    pub dir: PathBuf,
    /// The hyperparameters of `config.json`.
    pub config: Config,
    /// The tensors, mapped.
    pub weights: Weights,
    /// The adapters that are merged into them when they are converted; none at first.
    pub adapters: Vec<Arc<Adapter>>,
    /// What these make of the tensors of these names.
    pub(crate) changes: BTreeMap<String, Arc<Change>>,
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
        let weights = Weights::open(dir)?;
        weights.check(&config)?;
        foreign::other_tokenizer(dir)?;
        let (adapters, changes) = Default::default();
        Ok(Checkpoint { dir: dir.to_owned(), config, weights, adapters, changes })
    }

    /// Merges adapters into what is converted, one after the other.
    ///
    /// # Errors
    /// If one does not belong to this model, or changes what cannot be changed exactly.
    pub fn merge(&mut self, adapters: Vec<Adapter>) -> Result<()> {
        self.adapters = adapters.into_iter().map(Arc::new).collect();
        self.changes = adapter::changes(self, &self.adapters)?;
        Ok(())
    }

    /// Reads a JSON file of the folder; `None` if it does not exist.
    ///
    /// # Errors
    /// If it is not valid JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        read_json(&self.dir.join(name))
    }
}
