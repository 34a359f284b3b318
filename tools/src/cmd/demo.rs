//! `strata demo`: converts, compares and runs a small real model that is part of the program.

use super::model::CpuArgs;
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::convert::{Input, Options, Target, convert};
use strata::engine::Session;
use strata::engine::sampling::{Sampler, Sampling};
use strata::eval::perplexity::perplexity;
use strata::gguf::Gguf;
use strata::model::{CacheTypes, Model};
use strata::recipe::{Mix, Recipe};
use strata::tokenizer::{EncodeOptions, StreamDecoder, Tokenizer};

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
        write(&model, &tokenizer, self.predict)
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
fn write(model: &Arc<Model>, tokenizer: &Tokenizer, predict: usize) -> Result<()> {
    let prompt = tokenizer.encode(PROMPT, EncodeOptions { add_special: true, parse_special: true })?;
    let mut session =
        Session::new(model.clone(), prompt.len().saturating_add(predict).min(model.hyperparameters().context))?;
    let settings = Sampling { temperature: 0.6, seed: 1, ..Sampling::default() };
    let mut sampler = Sampler::new(&settings, model.hyperparameters().vocab, None)?;
    let mut text = StreamDecoder::new(tokenizer);
    output::print(PROMPT)?;
    let timings = session.generate(
        &prompt,
        predict,
        &mut sampler,
        |token| tokenizer.is_eog(token),
        |token| output::print(&text.push(token)?),
        &Shown::new(Unit::Tokens),
    )?;
    output::print(&format!("{}\n", text.finish()))?;
    output::say(&format!(
        "{} threads, {}: {:.0} tokens per second",
        model.cpu().threads(),
        model.cpu().isa().name(),
        timings.decode_rate()
    ));
    Ok(())
}
