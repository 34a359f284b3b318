//! A checkpoint of Hugging Face: a folder with `config.json`, `tokenizer.json` and the weights in safetensors or PyTorch
//! files; or of Meta, with `params.json` and `consolidated.NN.pth`.

mod config;
mod files;
pub(crate) mod foreign;
pub(crate) mod json;
mod layers;
pub(crate) mod meta;
pub(crate) mod quantized;
mod rope;
mod torch;
mod weights;

pub use config::Config;
pub(crate) use config::MAX_TOKENS;
pub(crate) use json::read_json;
pub(crate) use weights::Part;
pub use weights::{Dtype, Place, Source, Split, Weights};

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
    /// The hyperparameters of `config.json`, or of what stands for it.
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
            return Err(Error::invalid(
                dir,
                "checkpoint",
                problem,
                "name the folder that has config.json or params.json",
            ));
        }
        let of_meta = if dir.join("config.json").exists() { None } else { meta::open(dir)? };
        let mut checkpoint = match of_meta {
            Some(checkpoint) => checkpoint,
            None => {
                let (config, weights) = (Config::read(dir)?, Weights::open(dir)?);
                Checkpoint::of(dir.to_owned(), config, weights)
            }
        };
        checkpoint.weights.check(&checkpoint.config)?;
        foreign::other_tokenizer(&checkpoint.dir)?;
        Ok(checkpoint)
    }

    /// One without adapters.
    fn of(dir: PathBuf, config: Config, weights: Weights) -> Checkpoint {
        let (adapters, changes) = Default::default();
        Checkpoint { dir, config, weights, adapters, changes }
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
