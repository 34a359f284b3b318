//! `strata compare`: what quantizations cost, beside their reference.
//!
//! * `open.rs`: the reference and the candidates that the arguments name;
//! * `report.rs`: the figures of all candidates; `table.rs`, `json.rs` and `html/` write them;
//! * `tasks.rs`: the answers of all to tasks;
//! * `tensors.rs`: which tensor costs what.

mod html;
mod json;
mod open;
mod report;
mod table;
mod tasks;
mod tensors;

use super::model::{CacheArgs, CpuArgs, RamArgs, open};
use crate::progress::{Shown, Unit};
use crate::{machine, output, text};
use anyhow::{Result, bail};
use html::Page;
use report::Report;
use std::path::{Path, PathBuf};
use strata::arch::Hyperparameters;
use strata::eval::compare::attribution::{Attribution, attribute};
use strata::eval::compare::text::Cut;
use strata::eval::compare::{Comparison, Mode, Settings, Text, compare_and_keep};
use strata::gguf::Gguf;
use strata::io::inputs::Inputs;
use strata::io::outputs::Outputs;
use strata::tokenizer::Tokenizer;
use tensors::TensorArgs;

/// Compare quantizations with the model that they were made of
///
/// The reference is a GGUF file or the folder of a checkpoint. A candidate is a GGUF file, or a type (q4_k_m; q4_k_m+imatrix with --imatrix)
/// that is made of the reference as it is needed, without a file; +kv=q8_0, or +kv=q8_0/f16 for keys and values, gives it a KV cache of its
/// own type (bf16+kv=q8_0 is what the cache alone costs). All chunks of the text go through each layer of all models before the
/// next: no file is read twice, and none needs to fit into memory. Every figure has a 95 % interval, from resampled chunks.
#[derive(clap::Args)]
pub struct Args {
    /// Reference: a GGUF file, of a split one any part, or the folder of a Hugging Face checkpoint
    #[arg(value_name = "REFERENCE", required_unless_present = "merge")]
    reference: Option<PathBuf>,
    /// Candidates: GGUF files, or types as q4_k_m and q4_k_m+imatrix; both also with +kv=TYPE
    #[arg(value_name = "CANDIDATE", required_unless_present = "merge")]
    candidates: Vec<String>,
    /// Text, UTF-8: a file or a pipe; - is standard input. Several are reported side by side
    #[arg(short = 'f', long = "file", value_name = "TEXT", required_unless_present_any = ["merge", "chats", "hellaswag", "winogrande", "multiple_choice"])]
    texts: Vec<PathBuf>,
    /// Conversations, one a line as {"messages": [{"role": "user", "content": "..."}, ...]}, formatted by the reference's chat template and
    /// scored on the answers only
    #[arg(long = "chat", value_name = "FILE.jsonl")]
    chats: Vec<PathBuf>,
    #[command(flatten)]
    tasks: tasks::TaskArgs,
    /// Tokens in a chunk; the second half of each is scored
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT", default_value_t = 512)]
    context: usize,
    /// Move a window of -c tokens by so many, and score its last so many, instead of cutting chunks (llama-perplexity's --ppl-stride S with
    /// -c C is --stride S with -c C + S/2)
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Most chunks of each text to score
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Importance matrix of candidates named TYPE+imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Decode the weights and compute in F32: what the files are, without the quantized activations of a run
    #[arg(long, conflicts_with = "both")]
    weights_only: bool,
    /// Compare both as run and weights only
    #[arg(long)]
    both: bool,
    #[command(flatten)]
    tensors: TensorArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    ram: RamArgs,
    /// File that keeps the state of an interrupted comparison, which the same command resumes, or a folder for it [default: the folder of
    /// temporary files]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Compute part I of N, as 1/4: every N-th chunk. Needs --output, and --merge later
    #[arg(long, value_name = "I/N", value_parser = shard, requires = "output")]
    shard: Option<(usize, usize)>,
    /// Write the exact result, the scores of every token, to this file
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Merge the results of all parts instead: bit for bit the figures of one run
    #[arg(long, value_name = "RESULT", num_args = 1.., conflicts_with_all = ["reference", "candidates", "texts", "chats", "shard", "hellaswag", "winogrande", "multiple_choice"])]
    merge: Vec<PathBuf>,
    /// Also write a report with plots to this file, a page that loads nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shard", "hellaswag", "winogrande", "multiple_choice"])]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a table in Markdown, to be pasted
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print comma-separated values
    #[arg(long, conflicts_with_all = ["json", "markdown"])]
    csv: bool,
}

impl Args {
    /// Compares them.
    pub fn run(self) -> Result<()> {
        if !self.merge.is_empty() {
            let parts = self.merge.iter().map(|path| Comparison::open(path)).collect::<strata::Result<Vec<_>>>()?;
            let mut inputs = Inputs::default();
            self.merge.iter().for_each(|part| inputs.add(part, "a part"));
            return self.report(&Comparison::merge(&parts)?, &[], &inputs);
        }
        let Some(reference) = &self.reference else { bail!("name a reference") };
        let reference = open(reference)?;
        let tokenizer = text::tokenizer(&reference)?;
        let text = self.text(&reference, &tokenizer)?;
        let (reference, candidates, settings) = self.open(reference, &text)?;
        let mut inputs = Inputs::default();
        self.texts.iter().chain(&self.chats).for_each(|file| inputs.add(file, "the text"));
        self.tasks.files().for_each(|file| inputs.add(file, "the tasks"));
        let models = candidates.iter().filter_map(|candidate| candidate.model.as_ref()).chain([&reference]);
        models.for_each(|model| inputs.add_model(model.gguf()));
        for path in self.output.iter().chain(&self.html) {
            Outputs::check(path, &[path], &inputs)?;
        }
        let progress = Shown::new(Unit::Tokens);
        let (mut comparison, state) = compare_and_keep(&reference, &candidates, &text, &settings, &progress)?;
        comparison.name_tokens(&tokenizer)?;
        if let Some(path) = &self.output {
            write(path, &comparison.to_bytes(), &inputs)?;
        }
        let attributions = match self.tensors.options(&settings) {
            Some(options) => attribute(&reference, &candidates, &text, &options, &Shown::new(Unit::Tokens))?,
            None => Vec::new(),
        };
        if self.shard.is_none() {
            self.report(&comparison, &attributions, &inputs)?;
        }
        state.remove();
        Ok(())
    }

    /// The tokens of all texts.
    fn text(&self, reference: &Gguf, tokenizer: &Tokenizer) -> Result<Text> {
        if let Some(tasks) = self.tasks.text(tokenizer, &Hyperparameters::read(reference)?)? {
            return Ok(tasks);
        }
        let cut = Cut { context: self.context, stride: self.stride, max_chunks: self.chunks };
        text::cut(reference, tokenizer, (&self.texts, false), &self.chats, cut)
    }

    fn settings(&self) -> Settings {
        let as_run = Mode::as_run(self.cpu.activations);
        let modes = match (self.both, self.weights_only) {
            (true, _) => vec![as_run, Mode::WeightsOnly],
            (_, true) => vec![Mode::WeightsOnly],
            _ => vec![as_run],
        };
        Settings {
            modes,
            cache: self.cache.types(),
            shard: self.shard.unwrap_or((0, 1)),
            state: Some(self.state.clone().unwrap_or_else(std::env::temp_dir)),
            spill: None,
        }
    }

    /// What a report says of how it was made, beside what the comparison itself knows.
    fn recipe(&self) -> Vec<(String, String)> {
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
        let mut all = vec![("Made by", format!("strata {} on {date}", env!("CARGO_PKG_VERSION")))];
        if self.merge.is_empty() {
            let stride = self.stride.map(|stride| ("Stride", stride.to_string()));
            let cache = self.cache.types();
            let cache = ("KV cache, as run", format!("keys {}, values {}", cache.k.name(), cache.v.name()));
            let imatrix = self.imatrix.as_ref().map(|path| ("Importance matrix", output::path(path)));
            let machine = ("Machine", format!("{}, {}", machine::cpu_name(), strata::Isa::best().name()));
            all.extend(stride.into_iter().chain([cache]).chain(imatrix).chain([machine]));
        } else {
            all.push(("Merged", format!("of {} parts, which other machines may have made", self.merge.len())));
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Prints what was found, with the `attributions` of all candidates or none; no output may be one of the `inputs`.
    fn report(&self, comparison: &Comparison, attributions: &[Attribution], inputs: &Inputs) -> Result<()> {
        let (have, all) = (comparison.text.chunks.len(), comparison.text.texts.iter().map(|text| text.chunks).sum());
        if have < all {
            output::warn(&format!("{have} of {all} chunks are here: other parts are missing"));
        }
        if comparison.text.texts.iter().any(|text| text.tasks.is_some()) {
            if self.html.is_some() {
                bail!("these are the answers to tasks, and a page is of texts; leave out --html");
            }
            return self.report_tasks(comparison);
        }
        let report = Report::of(comparison);
        if let Some(path) = &self.html {
            let page = Page::new(&report, attributions, self.recipe()).render()?;
            write(path, page.as_bytes(), inputs)?;
        }
        match (self.json, self.csv) {
            (true, _) => output::print_json(&json::json(&report, attributions)?),
            (_, true) if !attributions.is_empty() => output::print_lines(&tensors::csv(comparison, attributions)),
            (_, true) => output::print_lines(&table::csv(&report)),
            _ => {
                let tables = table::tables(&report, self.markdown) + &tensors::tables(comparison, attributions);
                output::print_lines(&tables)
            }
        }
    }
}

/// Writes a whole file, which is none of the inputs.
fn write(path: &Path, bytes: &[u8], inputs: &Inputs) -> Result<()> {
    let mut out = Outputs::single("compare", path, inputs)?;
    out.write_all(bytes)?;
    Ok(out.commit()?)
}

/// Part `I/N`, from 0.
/// The place of a part, from 0, and the number of parts.
pub fn shard(text: &str) -> Result<(usize, usize), &'static str> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
    match parts {
        Some((i, n)) if (1..=n).contains(&i) => Ok((i - 1, n)),
        _ => Err("give the part and the number of parts, from 1, as 2/8"),
    }
}
