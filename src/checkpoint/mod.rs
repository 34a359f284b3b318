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

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An open checkpoint, its configuration and weights checked against each other.
pub struct Checkpoint {
    /// The folder of the checkpoint.
    pub dir: PathBuf,
    /// The hyperparameters of `config.json`, or of what stands for it.
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
                Checkpoint { dir: dir.to_owned(), config, weights }
            }
        };
        checkpoint.weights.check(&checkpoint.config)?;
        foreign::other_tokenizer(&checkpoint.dir)?;
        Ok(checkpoint)
    }

    /// Reads a JSON file of the folder; `None` if it does not exist.
    ///
    /// # Errors
    /// If it is not valid JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        read_json(&self.dir.join(name))
    }
}
