//! `strata serve`: models behind HTTP, for programs and browsers.

use super::serving::ServingArgs;
use crate::serve::catalog::Catalog;
use crate::serve::listen::Times;
use crate::serve::settings::{LoadSettings, Settings};
use crate::{output, serve, text};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;
use strata::size::Size;

/// Serve models by HTTP: OpenAI's and Anthropic's APIs and a web page
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["model", "models"]))]
pub struct Args {
    /// A model to serve: a GGUF file or the folder of a checkpoint, named as its file or NAME; may be given often
    #[arg(short = 'm', long = "model", value_name = "[NAME=]FILE")]
    model: Vec<String>,
    /// Serve all GGUF files and checkpoint folders in a folder
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Address to listen at; one that the network can reach needs --api-key or --allow-public
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen at; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Key that requests must have; may be given often
    #[arg(long, value_name = "KEY", env = "STRATA_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File with such keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Listen at an address that the network can reach without a key
    #[arg(long)]
    allow_public: bool,
    /// Origin of web pages that may use this server, as http://localhost:3000, or * for all; may be given often
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Answers of a model at the same time; each has a context of its own
    #[arg(long, alias = "parallel", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// Tokens of a slot's context, prompt and answer together; 0 is the model's [default: the model's, at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT")]
    context: Option<usize>,
    /// Requests that wait for a slot; more are told to come later
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    queue: u16,
    /// Seconds that an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=8_640_000))]
    timeout: u64,
    /// Largest body of a request, as 16M
    #[arg(long, value_name = "SIZE", default_value = "16M")]
    max_body: Size,
    /// Seconds in which a request must arrive, its head and its body each
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    request_timeout: u64,
    /// Seconds without a request after which a model leaves the memory [default: only when another needs it]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=8_640_000))]
    idle: Option<u64>,
    #[command(flatten)]
    serving: ServingArgs,
}

/// The tokens of prompts in a pass.
const BATCH: usize = 512;

/// The largest `--max-body`: bodies are held in memory.
const LARGEST_BODY: u64 = 1 << 30;

impl Args {
    /// Serves until Ctrl-C.
    pub fn run(self) -> Result<()> {
        let max_body = self.max_body.bytes();
        if max_body > LARGEST_BODY {
            bail!("--max-body is {}; give at most {}", output::bytes(max_body), output::bytes(LARGEST_BODY));
        }
        let catalog = Catalog::new(&self.model, self.models.as_deref())?;
        let request_time = Duration::from_secs(self.request_timeout);
        let idle = self.idle.map(Duration::from_secs);
        let load = LoadSettings { idle, ..self.serving.settings(usize::from(self.slots), self.context, BATCH)? };
        serve::run(Settings {
            keys: self.keys()?,
            host: self.host,
            port: self.port,
            origins: self.cors_origin,
            allow_public: self.allow_public,
            queue: usize::from(self.queue),
            timeout: Duration::from_secs(self.timeout),
            max_body: max_body as usize,
            body_time: request_time,
            times: Times { head: request_time, ..Times::default() },
            catalog,
            load,
        })
    }

    /// The keys of the options and of the file; a file without one would let everybody in.
    fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(file) = &self.api_key_file {
            let lines = text::read(file)?;
            let before = keys.len();
            keys.extend(lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if keys.len() == before {
                bail!("{}: no key in it; write one on a line", output::path(file));
            }
        }
        match keys.iter().any(|key| key.trim().is_empty()) {
            true => Err(anyhow::anyhow!("an API key is empty")).context("give another --api-key"),
            false => Ok(keys),
        }
    }
}
