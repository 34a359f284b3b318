//! What a server was started with.

use super::catalog::Catalog;
use super::listen::Times;
use crate::cmd::{Adapters, ChatTemplateArgs, CpuArgs, PrefixCacheArgs};
use std::time::Duration;
use strata::model::CacheTypes;
use strata::stream::{Budget, ReadOptions};

/// The settings of a server.
pub struct Settings {
    /// The address to listen at.
    pub host: String,
    /// Its port; 0 lets the system choose.
    pub port: u16,
    /// Keys, of which requests must have one, if there are any.
    pub keys: Vec<String>,
    /// Origins of web pages that may ask.
    pub origins: Vec<String>,
    /// Whether everybody in the network may ask without a key.
    pub allow_public: bool,
    /// Requests that wait for a slot, at most.
    pub queue: usize,
    /// The time that an answer may take.
    pub timeout: Duration,
    /// The most bytes of a request's body.
    pub max_body: usize,
    /// The time in which a body must arrive.
    pub body_time: Duration,
    /// The time limits of connections.
    pub times: Times,
    /// The models.
    pub catalog: Catalog,
    /// How they are loaded.
    pub load: LoadSettings,
}

/// The most bytes of a body, and the longest time, that a program grants itself.
const BODY: usize = 1 << 30;
/// See [`BODY`].
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Settings {
    /// Those of a server that only this program asks.
    pub fn local(catalog: Catalog, load: LoadSettings) -> Settings {
        Settings {
            host: "127.0.0.1".to_owned(),
            port: 0,
            keys: Vec::new(),
            origins: Vec::new(),
            allow_public: false,
            queue: 10 * load.slots,
            timeout: FOREVER,
            max_body: BODY,
            body_time: FOREVER,
            times: Times::default(),
            catalog,
            load,
        }
    }
}

/// How models are loaded.
#[derive(Clone)]
pub struct LoadSettings {
    /// The memory of all together; `None` where the system does not tell how much there is.
    pub budget: Option<Budget>,
    /// How streamed weights are read.
    pub read: ReadOptions,
    /// The threads of each model.
    pub cpu: CpuArgs,
    /// Requests that a model answers at the same time.
    pub slots: usize,
    /// Tokens of a slot; `None` is the model's, at most [`DEFAULT_CONTEXT`], 0 the model's.
    pub context: Option<usize>,
    /// The types of keys and values.
    pub types: CacheTypes,
    /// The time without a request after which a model is unloaded.
    pub idle: Option<Duration>,
    /// The chat template, if it is not the models' own, and what it is given beside messages.
    pub template: ChatTemplateArgs,
    /// Adapters that every model is run with.
    pub adapters: Adapters,
    /// The most tokens of prompts in a pass: other slots wait for no more.
    pub batch: usize,
    /// Keys and values on disk.
    pub prefix_cache: PrefixCacheArgs,
}
