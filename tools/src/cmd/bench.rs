//! `strata bench`: the speed of a model, and its share of the machine's limits.
//!
//! Every round has one run of each test, so that load from other programs affects all tests alike. Each run is compared with limits that
//! are measured right before it (`src/bench.rs` has the formulas), and the medians of the shares are printed.

use super::model::{CacheArgs, CpuArgs, RamArgs, open};
use crate::progress::{Shown, Unit};
use crate::{machine, output};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use strata::arch::Hyperparameters;
use strata::bench::{Limits, Run, Streaming, Test, run};
use strata::gguf::Gguf;
use strata::model::{CacheTypes, MemoryNeed, Scratch};
use strata::progress::Progress;
use strata::recipe::{Mix, Recipe};
use strata::stream::{Drives, ReadOptions, some_memory};
use strata::synthetic::{Preset, Synthetic};
use strata::{ActivationBits, Cpu, GgmlType};

/// Measure the speed of a model and the limits of this machine
///
/// Without a model only the machine is measured: the read bandwidth of all threads in bytes per second, and the peak of the best
/// instruction in 8-bit multiply-adds per second.
///
/// Test ppN is one pass of a prompt of N tokens; tgN is N passes, each with the next token of every sequence of the batch. "limit" is the
/// speed that the machine allows: tokens / max(bytes / read bandwidth, multiply-adds / int8 peak) of a pass. Bytes are those of all layers,
/// the output matrix and the KV cache; multiply-adds are those of all matrices (F16, BF16 and F32 are compared with the int8 peak as well),
/// with --activations 16 twice as many.
/// For a model that does not fit into --ram, bytes from disk / disk bandwidth count as well, measured before and after, and "predicted" is
/// the plan's prediction. Runs of all tests alternate, limits are measured before each, and figures are medians.
#[derive(clap::Args)]
pub struct Args {
    /// Models to measure: GGUF files, or folders of Hugging Face checkpoints
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    models: Vec<PathBuf>,
    /// Measure a model of this shape with random weights instead, in a temporary file: 1b, 3b, 8b, 70b or 405b
    #[arg(long, value_name = "SHAPE", conflicts_with = "models", value_parser = Preset::from_name)]
    synthetic: Option<Preset>,
    /// Layers of the synthetic model [default: all of the real one]
    #[arg(long, value_name = "N", requires = "synthetic", conflicts_with = "models", value_parser = clap::value_parser!(u16).range(1..=512))]
    layers: Option<u16>,
    /// Types of the synthetic models, also -t: one type for every matrix (q4_k), or a mix (q4_k_m)
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', default_value = "q4_k_m", requires = "synthetic", conflicts_with = "models", value_parser = recipe)]
    types: Vec<Recipe>,
    /// Folder of the temporary file [default: the system's folder for temporary files, TMPDIR]
    #[arg(long, value_name = "DIR", requires = "synthetic", conflicts_with = "models")]
    dir: Option<PathBuf>,
    /// Prompt lengths; 0 is none
    #[arg(short = 'p', long = "n-prompt", value_name = "N,...", value_delimiter = ',', default_value = "512")]
    prompts: Vec<u32>,
    /// Tokens to generate; 0 is none
    #[arg(short = 'n', long = "n-gen", value_name = "N,...", value_delimiter = ',', default_value = "128")]
    generate: Vec<u32>,
    /// Tokens in the KV cache before a test, filled with random values
    #[arg(short = 'd', long = "n-depth", value_name = "N,...", value_delimiter = ',', default_value = "0")]
    depths: Vec<u32>,
    /// Numbers of sequences that are generated together, each with its own context
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: Vec<u32>,
    /// Repetitions of each test
    #[arg(short = 'r', long = "repetitions", value_name = "RUNS", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Skip the warm-up, a pass of up to 512 tokens. Models that are streamed from disk have none
    #[arg(long)]
    no_warmup: bool,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    ram: RamArgs,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print the table as comma-separated values
    #[arg(long)]
    csv: bool,
}

/// A type's own name means every matrix, unlike in `strata convert`, where `q4_k` is the mix Q4_K_M.
fn recipe(name: &str) -> strata::Result<Recipe> {
    match GgmlType::from_name(name).filter(|ty| ty.format().is_some()) {
        Some(ty) => Recipe::pure(ty),
        None => Mix::from_name(name).map(Recipe::new),
    }
}

/// The most tokens of the warm-up pass.
const WARM_UP: usize = 512;

/// A test on a model and its runs.
struct Measured {
    model: String,
    ty: String,
    test: Test,
    activations: ActivationBits,
    runs: Vec<Run>,
    peak_rss: u64,
}

impl Args {
    /// Runs the benchmarks and prints their results.
    pub fn run(self) -> Result<()> {
        let cpu = self.cpu.cpu()?;
        let (isa, threads) = (cpu.isa().name(), cpu.threads());
        let mut bench = Bench { isa, threads, measured: Vec::new(), disk: Vec::new(), machine: Vec::new() };
        for path in &self.models {
            let gguf = open(path)?;
            bench.disk(&gguf, &self.ram.options())?;
            bench.model(gguf, self.cpu.cpu()?, &self, || ())?;
        }
        for (shape, recipe) in self.synthetic.iter().flat_map(|shape| self.types.iter().map(move |ty| (*shape, ty))) {
            bench.synthetic(shape, recipe, &self)?;
        }
        if self.models.is_empty() && self.synthetic.is_none() {
            bench.machine.push(Limits::measure(&cpu, some_memory(1 << 30)?.bytes()));
        }
        bench.print(&self)
    }

    fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for depth in self.depths.iter().map(|&depth| depth as usize) {
            let prompts = self.prompts.iter().filter(|&&n| n > 0);
            tests.extend(prompts.map(|&n| Test::Prefill { tokens: n as usize, depth }));
            for &n in self.generate.iter().filter(|&&n| n > 0) {
                let batches = self.batch.iter();
                tests.extend(batches.map(|&b| Test::Decode { passes: n as usize, depth, batch: b as usize }));
            }
        }
        tests
    }
}

/// The results so far.
struct Bench {
    isa: &'static str,
    threads: usize,
    measured: Vec<Measured>,
    disk: Vec<f64>,
    machine: Vec<Limits>,
}

impl Bench {
    /// Writes a synthetic model, measures it and removes it.
    fn synthetic(&mut self, mut preset: Preset, recipe: &Recipe, args: &Args) -> Result<()> {
        let layers = &mut preset.hyperparameters.layers;
        *layers = args.layers.map_or(*layers, usize::from);
        let folder = match &args.dir {
            Some(dir) => {
                tempfile::tempdir_in(dir).with_context(|| format!("cannot make a folder in {}", output::path(dir)))
            }
            None => tempfile::tempdir().context("cannot make a temporary folder; name another one with --dir"),
        }?;
        let path = folder.path().join(format!("synthetic-{}.gguf", preset.name));
        let model = Synthetic { preset, recipe: recipe.clone(), seed: 1 };
        model.write(&path, &Shown::new(Unit::Bytes))?;
        let gguf = Gguf::open(&path)?;
        self.disk(&gguf, &args.ram.options())?;
        // Where open files can be removed, it goes as soon as it is loaded: little that may happen leaves it behind.
        let mut folder = Some(folder);
        let remove = || {
            if cfg!(unix) {
                drop(folder.take());
            }
        };
        self.model(gguf, args.cpu.cpu()?, args, remove)
    }

    /// Measures the drives of a model.
    fn disk(&mut self, gguf: &Gguf, options: &ReadOptions) -> Result<()> {
        if let Some(mut drives) = Drives::of(gguf, options)? {
            self.disk.push(drives.bytes_per_second()?);
        }
        Ok(())
    }

    /// Runs all tests on a model, in rounds. `loaded` is called when its files need not be opened again.
    fn model(&mut self, gguf: Gguf, cpu: Cpu, args: &Args, loaded: impl FnOnce()) -> Result<()> {
        let name = gguf.path().file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let (ty, tests) = (type_of(&gguf)?, args.tests());
        let need = need(&Hyperparameters::read(&gguf)?, &tests, args.cache.types())?;
        let model = args.ram.load(gguf, cpu, need)?;
        loaded();
        // This also brings the file into memory.
        self.machine.push(Limits::measure(model.cpu(), model.weights().stretch()));
        let first = self.measured.len();
        self.measured.extend(tests.into_iter().map(|test| Measured {
            model: name.clone(),
            ty: ty.clone(),
            test,
            activations: model.cpu().activations(),
            runs: Vec::new(),
            peak_rss: 0,
        }));
        let measured = &mut self.measured[first..];
        let shown = Shown::new(Unit::Tokens);
        let tokens: usize = measured.iter().map(|measured| measured.test.tokens()).sum();
        let pass = |measured: &Measured| match measured.test {
            Test::Prefill { tokens, .. } => tokens.min(WARM_UP),
            Test::Decode { .. } => 1,
        };
        let longest = measured.iter().map(pass).max();
        let wanted = !args.no_warmup && model.weights().streamed().is_none();
        let warm_up = longest.filter(|_| wanted).map(|tokens| Test::Prefill { tokens, depth: 0 });
        let before = warm_up.map_or(0, |test| test.tokens());
        shown.begin(&format!("{name} {ty}"), before as u64 + tokens as u64 * u64::from(args.runs));
        let mut scratch = Scratch::default();
        if let Some(test) = warm_up {
            run(&model, &test, args.cache.types(), &mut scratch, &shown)?;
        }
        for _ in 0..args.runs {
            for Measured { test, runs, peak_rss, .. } in measured.iter_mut() {
                shown.step(&test.name());
                machine::reset_peak_rss();
                let run = run(&model, test, args.cache.types(), &mut scratch, &shown)?;
                *peak_rss = machine::peak_rss_bytes().max(*peak_rss);
                self.machine.push(run.machine);
                runs.push(run);
            }
        }
        shown.end();
        Ok(())
    }

    fn print(&self, args: &Args) -> Result<()> {
        let read = median(self.machine.iter().map(|limits| limits.read_bytes_per_second));
        let int8 = median(self.machine.iter().map(|limits| limits.int8_macs_per_second));
        let disk = (!self.disk.is_empty()).then(|| median(self.disk.iter().copied()));
        if args.json {
            return output::print_json(&json!({
                "machine": {
                    "cpu": machine::cpu_name(), "isa": self.isa, "threads": self.threads,
                    "read_bytes_per_second": read, "int8_macs_per_second": int8, "disk_bytes_per_second": disk,
                },
                "results": self.measured.iter().map(Measured::as_json).collect::<Vec<_>>(),
            }));
        }
        let line = format!(
            "{}, {}, {} threads: read {:.1} GB/s, int8 {:.0} G multiply-adds/s, disk {} GB/s\n",
            machine::cpu_name(),
            self.isa,
            self.threads,
            read / 1e9,
            int8 / 1e9,
            disk.map_or("-".to_owned(), |rate| format!("{:.2}", rate / 1e9))
        );
        if args.csv {
            output::say(line.trim_end());
            return output::print(&self.csv());
        }
        output::print_lines(&line)?;
        if self.measured.is_empty() { Ok(()) } else { output::print_lines(&format!("\n{}\n", self.table())) }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "model",
            "type",
            "test",
            "depth",
            "batch",
            "t/s",
            "limit t/s",
            "share",
            "bytes/token",
            "peak RSS",
            "disk GB/s",
            "predicted t/s",
        ]);
        for i in 3..12 {
            if let Some(column) = table.column_mut(i) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for measured in &self.measured {
            table.add_row([
                measured.model.clone(),
                measured.ty.clone(),
                measured.test.name(),
                measured.test.depth().to_string(),
                measured.test.batch().to_string(),
                format!("{:.2}", measured.median(|run| run.tokens_per_second)),
                format!("{:.2}", measured.median(|run| run.limit_tokens_per_second)),
                format!("{:.1} %", 100.0 * measured.share()),
                output::bytes(measured.median(|run| run.bytes_per_token) as u64),
                output::bytes(measured.peak_rss),
                measured
                    .streamed(|_, s| s.disk_bytes_per_second)
                    .map_or("-".to_owned(), |rate| format!("{:.2}", rate / 1e9)),
                measured.streamed(|_, s| s.predicted_tokens_per_second).map_or("-".to_owned(), |t| format!("{t:.2}")),
            ]);
        }
        table
    }

    /// The fields of the JSON form, a line for each result.
    fn csv(&self) -> String {
        let rows: Vec<Value> = self.measured.iter().map(Measured::as_json).collect();
        let mut text = String::new();
        let Some(Value::Object(first)) = rows.first() else { return text };
        text.push_str(&first.keys().map(String::as_str).collect::<Vec<_>>().join(","));
        text.push('\n');
        for row in rows.iter().filter_map(Value::as_object) {
            text.push_str(&row.values().map(Value::to_string).collect::<Vec<_>>().join(","));
            text.push('\n');
        }
        text
    }
}

impl Measured {
    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure))
    }

    /// The median of a figure of streamed runs; `None` for a resident model.
    fn streamed(&self, figure: impl Fn(&Run, Streaming) -> f64) -> Option<f64> {
        let figures: Vec<f64> = self.runs.iter().filter_map(|run| Some(figure(run, run.streamed?))).collect();
        (!figures.is_empty()).then(|| median(figures.into_iter()))
    }

    fn share(&self) -> f64 {
        self.median(|run| run.tokens_per_second / run.limit_tokens_per_second)
    }

    fn as_json(&self) -> Value {
        let rates = || self.runs.iter().map(|run| run.tokens_per_second);
        json!({
            "model": self.model,
            "test": self.test.name(),
            "type": self.ty,
            "depth": self.test.depth(),
            "batch": self.test.batch(),
            "activation_bits": self.activations.bits(),
            "tokens_per_second": self.median(|run| run.tokens_per_second),
            "min_tokens_per_second": rates().fold(f64::INFINITY, f64::min),
            "max_tokens_per_second": rates().fold(0.0, f64::max),
            "limit_tokens_per_second": self.median(|run| run.limit_tokens_per_second),
            "share_of_limit": self.share(),
            "bytes_per_token": self.median(|run| run.bytes_per_token),
            "peak_rss_bytes": self.peak_rss,
            "disk_bytes_per_second": self.streamed(|_, s| s.disk_bytes_per_second),
            "predicted_tokens_per_second": self.streamed(|_, s| s.predicted_tokens_per_second),
            "measured_over_predicted_seconds": self.streamed(|run, s| s.predicted_tokens_per_second / run.tokens_per_second),
        })
    }
}

/// The type of all matrices in the layers; where they differ the file's mix, or the type of most bytes.
fn type_of(gguf: &Gguf) -> Result<String> {
    let mut bytes: BTreeMap<GgmlType, u64> = BTreeMap::new();
    for tensor in gguf.tensors().iter().filter(|tensor| tensor.rows() > 1) {
        *bytes.entry(tensor.ty).or_default() += tensor.bytes;
    }
    let Some((&most, _)) = bytes.iter().max_by_key(|(_, bytes)| **bytes) else { return Ok("-".to_owned()) };
    let file_type = gguf.u32("general.file_type")?;
    let mix = Mix::ALL.iter().find(|mix| Some(mix.file_type) == file_type && mix.base == most);
    Ok(mix.filter(|_| bytes.len() > 1).map_or(most.name(), |mix| mix.name).to_owned())
}

/// The largest memory need of all tests beside the weights. Refuses tests that would exhaust the memory, before anything is measured.
fn need(of: &Hyperparameters, tests: &[Test], types: CacheTypes) -> Result<MemoryNeed> {
    let mut most = MemoryNeed::default();
    for test in tests {
        let need = test.need(of, types)?;
        if let Some(free) = machine::available_bytes().filter(|&free| need.kv > free) {
            bail!(
                "{} at depth {} for {} sequences needs a KV cache of {}, and {} of memory are free; choose a smaller -p, -n, -d or --batch",
                test.name(),
                test.depth(),
                test.batch(),
                output::bytes(need.kv),
                output::bytes(free)
            );
        }
        most = MemoryNeed { kv: most.kv.max(need.kv), scratch: most.scratch.max(need.scratch) };
    }
    Ok(most)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { 0.0 } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}
