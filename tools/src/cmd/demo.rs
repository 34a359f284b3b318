//! `strata demo`: converts, compares and runs a small real model that is part of the program.

use super::model::CpuArgs;
use crate::answer::shown;
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::convert::{Input, Options, Target, convert};
use strata::engine::sampling::Sampling;
use strata::engine::{Engine, Request, SchedulerOptions};
use strata::eval::perplexity::perplexity;
use strata::gguf::Gguf;
use strata::model::{CacheTypes, Model};
use strata::recipe::{Mix, Recipe};
use strata::tokenizer::{EncodeOptions, Tokenizer};

/// The checkpoint `models/tiny-rustdoc`, file by file.
const CHECKPOINT: [(&str, &[u8]); 6] = [
    ("README.md", include_bytes!("../../../models/tiny-rustdoc/README.md")),
    ("config.json", include_bytes!("../../../models/tiny-rustdoc/config.json")),
    ("generation_config.json", include_bytes!("../../../models/tiny-rustdoc/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../models/tiny-rustdoc/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../models/tiny-rustdoc/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../models/tiny-rustdoc/tokenizer_config.json")),
];
/// Text of the kind that the model was trained on, but not from its training data.
const TEXT: &str = include_str!("../../../tests/data/valid.txt");
const PROMPT: &str = "A vector is";

/// Convert a small built-in model to five types, compare them, and generate a paragraph
#[derive(clap::Args)]
pub struct Args {
    /// Another checkpoint to use instead
    dir: Option<PathBuf>,
    /// Chunks of 512 tokens to measure the perplexity on
    #[arg(long, value_name = "N", default_value_t = 16)]
    chunks: usize,
    /// Tokens to generate
    #[arg(short = 'n', long = "predict", value_name = "TOKENS", default_value_t = 100)]
    predict: usize,
    #[command(flatten)]
    cpu: CpuArgs,
}

impl Args {
    /// Runs the demonstration.
    pub fn run(self) -> Result<()> {
        let folder =
            tempfile::tempdir().context("cannot make a temporary folder; set TMPDIR to one that can be written")?;
        let checkpoint = match &self.dir {
            Some(dir) => dir.clone(),
            None => unpack(folder.path())?,
        };
        let input = Input::open(&checkpoint)?;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(["type", "size", "bits per weight", "perplexity"]);
        for i in 1..4 {
            if let Some(column) = table.column_mut(i) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let (mut last, shown) = (None, Shown::new(Unit::Tokens));
        for name in ["BF16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0"] {
            let path = folder.path().join(format!("demo-{name}.gguf"));
            let target = Target::new(&path, Recipe::new(Mix::from_name(name)?));
            let made = convert(&input, &[target], &Options::default(), &Shown::new(Unit::Bytes))?;
            let report = made.first().context("nothing was converted")?;
            let model = Arc::new(Model::new(Gguf::open(&path)?, self.cpu.cpu()?)?);
            let tokenizer = Tokenizer::from_gguf(model.gguf())?;
            let tokens = tokenizer.encode(TEXT, EncodeOptions { add_special: true, parse_special: false })?;
            let measured =
                perplexity(&model, &tokens, 512, Some(self.chunks), tokenizer.bos(), CacheTypes::default(), &shown)?;
            table.add_row([
                name.to_owned(),
                output::bytes(report.bytes),
                format!("{:.2}", report.bits_per_weight),
                format!("{:.3} +/- {:.3}", measured.perplexity, measured.standard_error),
            ]);
            last = Some((model, tokenizer));
        }
        output::print_lines(&format!("{table}\n\n"))?;
        let (model, tokenizer) = last.context("no type was converted")?;
        write(&Engine::new(model, Arc::new(tokenizer)), self.predict)
    }
}

/// Writes the built-in checkpoint into a folder.
fn unpack(folder: &Path) -> Result<PathBuf> {
    let dir = folder.join("tiny-rustdoc");
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", output::path(&dir)))?;
    for (name, bytes) in CHECKPOINT {
        let path = dir.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", output::path(&path)))?;
    }
    Ok(dir)
}

/// Generates a paragraph after [`PROMPT`] and prints it.
fn write(engine: &Engine, predict: usize) -> Result<()> {
    let (model, tokenizer) = (engine.model(), engine.tokenizer());
    let prompt = tokenizer.encode(PROMPT, EncodeOptions { add_special: true, parse_special: true })?;
    let context = prompt.len().saturating_add(predict).min(model.hyperparameters().context);
    let mut scheduler = engine.scheduler(SchedulerOptions::single(context))?;
    let sampling = Sampling { temperature: 0.6, seed: 1, ..Sampling::default() };
    output::print(PROMPT)?;
    let (listener, printed) = shown(|_, text| output::print(text));
    scheduler.submit(Request { limit: predict, sampling, ..Request::new(prompt) }, listener)?;
    scheduler.run(&Shown::new(Unit::Tokens))?;
    let finished = printed.take()?.finished;
    output::print("\n")?;
    output::say(&format!(
        "{} threads, {}: {:.0} tokens per second",
        model.cpu().threads(),
        model.cpu().isa().name(),
        finished.decode_rate()
    ));
    Ok(())
}
