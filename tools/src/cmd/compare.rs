//! `strata compare`: what quantizations cost, beside their reference.

use super::model::{CacheArgs, CpuArgs, RamArgs, open};
use crate::progress::{Shown, Unit};
use crate::{output, text};
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::arch::Hyperparameters;
use strata::eval::compare::summary::{Figure, PERCENTILES, Pair, Resamples, Summary, pair, summarize};
use strata::eval::compare::{
    Candidate, CandidateFacts, Comparison, Mode, ModeScores, Settings, Text, Transform, compare, need,
};
use strata::gguf::Gguf;
use strata::imatrix::Imatrix;
use strata::io::inputs::Inputs;
use strata::io::outputs::Outputs;
use strata::model::Model;
use strata::recipe::{Mix, Recipe};
use strata::tokenizer::EncodeOptions;

/// Compare quantizations with the model that they were made of
///
/// The reference is a GGUF file or the folder of a checkpoint. A candidate is a GGUF file, or a type (q4_k_m; q4_k_m+imatrix with --imatrix)
/// that is made of the reference as it is needed, without a file. All chunks of the text go through each layer of all models before the
/// next: no file is read twice, and none needs to fit into memory. Every figure has a 95 % interval, from resampled chunks.
#[derive(clap::Args)]
pub struct Args {
    /// Reference: a GGUF file, of a split one any part, or the folder of a Hugging Face checkpoint
    #[arg(value_name = "REFERENCE", required_unless_present = "merge")]
    reference: Option<PathBuf>,
    /// Candidates: GGUF files, or types as q4_k_m and q4_k_m+imatrix
    #[arg(value_name = "CANDIDATE", required_unless_present = "merge")]
    candidates: Vec<String>,
    /// Text, UTF-8: a file or a pipe; - is standard input
    #[arg(short = 'f', long = "file", value_name = "TEXT", required_unless_present = "merge")]
    text: Option<PathBuf>,
    /// Tokens in a chunk; the second half of each is scored
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT", default_value_t = 512)]
    context: usize,
    /// Most chunks to score
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Importance matrix of candidates named TYPE+imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Decode the weights and compute in F32: what the files are, without the 8-bit activations of a run
    #[arg(long, conflicts_with = "both")]
    weights_only: bool,
    /// Compare both as run and weights only
    #[arg(long)]
    both: bool,
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
    #[arg(long, value_name = "RESULT", num_args = 1.., conflicts_with_all = ["reference", "candidates", "text", "shard"])]
    merge: Vec<PathBuf>,
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
            return self.report(&Comparison::merge(&parts)?);
        }
        let (Some(reference), Some(file)) = (&self.reference, &self.text) else { bail!("name a reference and a text") };
        let reference = open(reference)?;
        let tokenizer = text::tokenizer(&reference)?;
        let options = EncodeOptions { add_special: true, parse_special: false };
        let tokens = text::tokens(&tokenizer, &text::read(file)?, options)?;
        let name = output::path(file);
        let text = Text::raw(name, &tokens, self.context, self.chunks, tokenizer.bos())?;
        let (reference, candidates) = self.open(reference, &text)?;
        let shown = Shown::new(Unit::Tokens);
        let comparison = compare(&reference, &candidates, &text, &self.settings(), &shown)?;
        if let Some(path) = &self.output {
            let mut inputs = Inputs::default();
            inputs.add(file, "the text");
            let models = candidates.iter().filter_map(|candidate| candidate.model.as_ref()).chain([&reference]);
            models.for_each(|model| inputs.add_model(model.gguf()));
            let mut out = Outputs::single("compare", path, &inputs)?;
            out.write_all(&comparison.to_bytes())?;
            out.commit()?;
        }
        if self.shard.is_some() { Ok(()) } else { self.report(&comparison) }
    }

    fn settings(&self) -> Settings {
        let modes = match (self.both, self.weights_only) {
            (true, _) => vec![Mode::AsRun, Mode::WeightsOnly],
            (_, true) => vec![Mode::WeightsOnly],
            _ => vec![Mode::AsRun],
        };
        Settings {
            modes,
            cache: self.cache.types(),
            shard: self.shard.unwrap_or((0, 1)),
            state: Some(self.state.clone().unwrap_or_else(std::env::temp_dir)),
        }
    }

    /// Opens all models within the memory that they may have.
    fn open(&self, reference: Gguf, text: &Text) -> Result<(Arc<Model>, Vec<Candidate>)> {
        let of = Hyperparameters::read(&reference)?;
        let importance = self.imatrix.as_ref().map(Imatrix::open).transpose()?;
        let (mut files, mut specs, mut seen) = (vec![reference], Vec::new(), HashSet::new());
        for name in &self.candidates {
            if !seen.insert(name) {
                bail!("the candidate {name} is given twice; leave one out");
            }
            let path = Path::new(name);
            if path.exists() {
                specs.push((path.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned()), None));
                files.push(open(path)?);
            } else {
                specs.push((name.clone(), Some(self.transform(name, &files[0], &of, importance.as_ref())?)));
            }
        }
        let settings = self.settings();
        let lanes = settings.modes.len() * (1 + specs.len());
        let need = need(&of, text.tokens.len(), text.context, &settings, lanes)?;
        let mut models = self.ram.load_for_one_pass(files, || self.cpu.cpu(), need)?.into_iter().map(Arc::new);
        let Some(reference) = models.next() else { bail!("there is no reference") };
        let candidate = |(name, transform): (String, Option<Transform>)| {
            let model = if transform.is_some() { None } else { models.next() };
            Candidate { name, model, transform: transform.unwrap_or_default() }
        };
        Ok((reference, specs.into_iter().map(candidate).collect()))
    }

    /// What becomes of the reference's matrices for a candidate type: `q4_k_m` or `q4_k_m+imatrix`.
    fn transform(
        &self,
        name: &str,
        gguf: &Gguf,
        of: &Hyperparameters,
        importance: Option<&Imatrix>,
    ) -> Result<Transform> {
        let (ty, with) = name.strip_suffix("+imatrix").map_or((name, false), |ty| (ty, true));
        let recipe = Recipe::new(Mix::from_name(ty)?);
        let importance: Option<BTreeMap<String, Vec<f32>>> = match (with, importance) {
            (false, _) => None,
            (true, Some(matrix)) => {
                let weights = |name: &String| Some((name.clone(), matrix.weights(name)?));
                Some(matrix.entries.keys().filter_map(weights).collect())
            }
            (true, None) => bail!("{name} needs an importance matrix; give it by --imatrix"),
        };
        Ok(Transform::quantized(gguf, of, &recipe, importance, false)?)
    }

    fn report(&self, comparison: &Comparison) -> Result<()> {
        let resamples = Resamples::new(comparison.chunks.len());
        let modes: Vec<ModeReport<'_>> =
            comparison.modes.iter().map(|scores| ModeReport::of(comparison, scores, &resamples)).collect();
        if self.json {
            return output::print_json(&json(comparison, &modes));
        }
        for mode in &modes {
            if modes.len() > 1 {
                output::print(&format!("{}:\n", mode.mode.name()))?;
            }
            let rows = mode.rows(comparison);
            output::print_lines(&if self.csv { csv(&rows) } else { format!("{}\n", table(&rows)) })?;
            if !self.csv {
                let pairs = mode.pairs_text(comparison);
                let list = || pairs.lines().map(|line| format!("- {line}\n")).collect::<String>();
                output::print_lines(&if self.markdown { list() } else { pairs.clone() })?;
            }
        }
        Ok(())
    }
}

/// Part `I/N`, from 0.
fn shard(text: &str) -> Result<(usize, usize), &'static str> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
    match parts {
        Some((i, n)) if (1..=n).contains(&i) => Ok((i - 1, n)),
        _ => Err("give the part and the number of parts, from 1, as 2/8"),
    }
}

/// The figures of all candidates in one mode.
struct ModeReport<'c> {
    mode: Mode,
    scores: &'c ModeScores,
    summaries: Vec<Summary>,
    pairs: Vec<(usize, usize, Pair)>,
}

impl<'c> ModeReport<'c> {
    fn of(comparison: &Comparison, scores: &'c ModeScores, resamples: &Resamples) -> ModeReport<'c> {
        let (b, all, chunks) = (&scores.reference, &scores.candidates, &comparison.chunks);
        let summaries = all.iter().map(|c| summarize(b, c, chunks, resamples)).collect();
        let places = (0..all.len()).flat_map(|i| (i + 1..all.len()).map(move |j| (i, j)));
        let pairs = places.map(|(i, j)| (i, j, pair(&all[i], &all[j], chunks, resamples))).collect();
        ModeReport { mode: scores.mode, scores, summaries, pairs }
    }

    /// The header and a row for each candidate.
    fn rows(&self, comparison: &Comparison) -> Vec<Vec<String>> {
        let header = [
            "candidate",
            "size",
            "BPW",
            "PPL",
            "PPL ratio",
            "rho PPL",
            "KLD",
            "median KLD",
            "99 % KLD",
            "99.9 % KLD",
            "max KLD",
            "Same Top P",
            "Same Top 5",
            "RMS dp",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for (candidate, s) in comparison.candidates.iter().zip(&self.summaries) {
            rows.push(vec![
                candidate.name.clone(),
                output::bytes(candidate.bytes),
                format!("{:.3}", candidate.bits_per_weight()),
                interval(&s.perplexity, 4, 1.0),
                interval(&s.perplexity_ratio, 5, 1.0),
                format!("{:.4}", s.correlation.value),
                interval(&s.mean_kld, 5, 1.0),
                format!("{:.5}", s.kld_percentiles[0].value),
                format!("{:.4}", s.kld_percentiles[3].value),
                interval(&s.kld_percentiles[4], 3, 1.0),
                format!("{:.3}", s.max_kld),
                interval(&s.same_top, 2, 100.0),
                format!("{:.2}", 100.0 * s.common_top.value),
                interval(&s.rms_dp, 3, 100.0),
            ]);
        }
        rows
    }

    /// Which candidates are known to be better than which.
    fn pairs_text(&self, comparison: &Comparison) -> String {
        let name = |i: usize| &comparison.candidates[i].name;
        let line = |(i, j, pair): &(usize, usize, Pair)| {
            let (better, worse) = if pair.difference.value <= 0.0 { (i, j) } else { (j, i) };
            let Figure { value, low, high } = pair.difference;
            let interval = format!("difference of KLD {value:.5}, 95 % from {low:.5} to {high:.5}");
            match pair.chunks_to_decide {
                Some(chunks) => {
                    format!("{} and {}: not decided ({interval}); about {chunks} chunks would\n", name(*i), name(*j))
                }
                None if pair.difference.is_decided() => {
                    format!("{} is better than {} ({interval})\n", name(*better), name(*worse))
                }
                None => format!("{} and {}: equal ({interval})\n", name(*i), name(*j)),
            }
        };
        self.pairs.iter().map(line).collect()
    }
}

/// `0.0313 [0.0301, 0.0326]`, in units of `1 / scale`.
fn interval(figure: &Figure, digits: usize, scale: f64) -> String {
    let [value, low, high] = [figure.value, figure.low, figure.high].map(|x| format!("{:.digits$}", x * scale));
    if figure.low.is_finite() { format!("{value} [{low}, {high}]") } else { value }
}

fn table(rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(&rows[0]);
    for i in 1..rows[0].len() {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &rows[1..] {
        table.add_row(row);
    }
    table
}

fn csv(rows: &[Vec<String>]) -> String {
    let quoted = |cell: &String| {
        if cell.contains([',', '"']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    rows.iter().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n").collect()
}

/// All figures of a candidate, for programs.
fn candidate_json(candidate: &CandidateFacts, s: &Summary) -> Value {
    let percentiles = || PERCENTILES.iter().zip(&s.kld_percentiles);
    let figures = [
        ("perplexity", &s.perplexity),
        ("perplexity_ratio", &s.perplexity_ratio),
        ("correlation", &s.correlation),
        ("mean_kld", &s.mean_kld),
        ("same_top", &s.same_top),
        ("same_top_5", &s.common_top),
        ("mean_dp", &s.mean_dp),
        ("rms_dp", &s.rms_dp),
    ];
    let mut all = Map::new();
    all.insert("file".to_owned(), candidate.path.as_ref().unwrap_or(&candidate.name).as_str().into());
    all.insert("name".to_owned(), candidate.name.as_str().into());
    all.insert("bytes".to_owned(), candidate.bytes.into());
    all.insert("bits_per_weight".to_owned(), candidate.bits_per_weight().into());
    all.extend(figures.map(|(name, figure)| (name.to_owned(), figure.value.into())));
    all.insert("se_kld".to_owned(), s.se_kld.into());
    all.insert("max_kld".to_owned(), s.max_kld.into());
    let values: Map<String, Value> = percentiles().map(|(p, figure)| (p.to_string(), figure.value.into())).collect();
    all.insert("kld_percentiles".to_owned(), values.into());
    let mut intervals = Map::new();
    intervals.extend(figures.map(|(name, figure)| (name.to_owned(), interval_json(figure))));
    intervals.extend(percentiles().map(|(p, figure)| (format!("kld_percentile_{p}"), interval_json(figure))));
    all.insert("intervals".to_owned(), intervals.into());
    all.into()
}

fn interval_json(figure: &Figure) -> Value {
    json!({"low": figure.low, "high": figure.high})
}

fn pair_json(comparison: &Comparison, (i, j, pair): &(usize, usize, Pair)) -> Value {
    let Figure { value, low, high } = pair.difference;
    json!({
        "a": comparison.candidates[*i].name,
        "b": comparison.candidates[*j].name,
        "difference": value,
        "low": low,
        "high": high,
        "decided": pair.difference.is_decided(),
        "chunks_to_decide": pair.chunks_to_decide,
    })
}

fn mode_json(comparison: &Comparison, report: &ModeReport<'_>) -> Value {
    let (reference, nll) = (&comparison.reference, &report.scores.reference.nll);
    let candidates = comparison.candidates.iter().zip(&report.summaries).map(|(c, s)| candidate_json(c, s));
    json!({
        "mode": report.mode.name(),
        "reference": {
            "file": reference.path,
            "bytes": reference.bytes,
            "bits_per_weight": reference.bits_per_weight(),
            "perplexity": (nll.iter().sum::<f64>() / nll.len() as f64).exp(),
        },
        "candidates": candidates.collect::<Vec<_>>(),
        "pairs": report.pairs.iter().map(|pair| pair_json(comparison, pair)).collect::<Vec<_>>(),
    })
}

/// The first mode at the top, as most comparisons have one; others beside it.
fn json(comparison: &Comparison, modes: &[ModeReport<'_>]) -> Value {
    let mut modes = modes.iter().map(|mode| mode_json(comparison, mode));
    let mut all = modes.next().unwrap_or_default();
    all["text"] = comparison.text.as_str().into();
    all["tokens_sha256"] = comparison.tokens_sha256.to_string().into();
    all["context"] = comparison.context.into();
    all["chunks"] = comparison.chunks.len().into();
    all["tokens_scored"] = comparison.modes.first().map_or(0, |mode| mode.reference.nll.len()).into();
    let others: Vec<Value> = modes.collect();
    if !others.is_empty() {
        all["other_modes"] = others.into();
    }
    all
}
