//! The options of the prefix cache, for every command that answers prompts.

use crate::{folders, output};
use anyhow::Result;
use std::path::PathBuf;
use strata::engine::PrefixCache;
use strata::model::{CacheTypes, Model};
use strata::size::Size;

/// Keys and values of prompts on disk.
#[derive(Clone, Debug, clap::Args)]
pub struct PrefixCacheArgs {
    /// Bytes that keys and values of prompts may take on disk, so that the next prompt that begins alike starts there; 0 keeps none
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = limit, env = "STRATA_CACHE_DISK", hide_env_values = true)]
    cache_disk: u64,
    /// Their folder [default: strata/prefix in $XDG_CACHE_HOME, else in ~/.cache]
    #[arg(long, value_name = "DIR", env = "STRATA_CACHE_DIR", hide_env_values = true)]
    cache_dir: Option<PathBuf>,
}

fn limit(text: &str) -> Result<u64> {
    if text == "0" { Ok(0) } else { Ok(text.parse::<Size>()?.bytes()) }
}

impl PrefixCacheArgs {
    /// The cache of a model; `None` if it is off, or its folder cannot be made, which is a warning.
    pub fn open(&self, model: &Model, types: CacheTypes) -> Option<PrefixCache> {
        let folder =
            self.cache_dir.clone().or_else(|| Some(folders::of_user("XDG_CACHE_HOME", ".cache")?.join("prefix")))?;
        if self.cache_disk == 0 {
            return None;
        }
        let opened = PrefixCache::open(&folder, self.cache_disk, model, types);
        opened.map_err(|error| output::warn(&format!("{error}; prompts are not kept on disk"))).ok()
    }
}
