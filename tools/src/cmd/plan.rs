//! `strata plan`: which weights of a model stay in memory, which are read from disk, and how fast it runs, even before it is downloaded.

use super::model::{CacheArgs, CpuArgs, open};
use crate::output;
use anyhow::{Context, Result, anyhow, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::path::PathBuf;
use strata::arch::{Architecture, Hyperparameters, LLAMA};
use strata::gguf::Gguf;
use strata::io::file::Mapped;
use strata::model::{KvCache, MemoryNeed};
use strata::recipe::{Mix, Recipe};
use strata::roofline::Sizes;
use strata::size::{Ram, Size};
use strata::stream::{self, BudgetParts, Drives, Estimate, Plan, Rates, ReadOptions, Streams};
use strata::synthetic::{Preset, Synthetic};
use strata::tokenizer::Tokenizer;
use strata::weights::Weights;
use strata::{Cpu, GgmlType};

/// Bytes of the program and Llama 3's vocabulary, for a model without a file.
const PROGRAM: u64 = 100_000_000;

/// Predict how much of a model stays in memory, how much is read from disk, and how long a token takes
///
/// For a file (-m), or for a model that is not downloaded yet (--shape 405b --type q4_k_m). Rates that are not given are measured.
#[derive(clap::Args)]
pub struct Args {
    /// The model: a GGUF file, of a split one any part, or the folder of a Hugging Face checkpoint
    #[arg(short = 'm', long = "model", value_name = "FILE", required_unless_present = "shape")]
    model: Option<PathBuf>,
    /// A Llama 3 model of this size: 1b, 3b, 8b, 70b or 405b
    #[arg(long, value_name = "SHAPE", requires = "ty", conflicts_with = "model")]
    shape: Option<String>,
    /// Type or mix of its weights; strata info lists them
    #[arg(long = "type", value_name = "TYPE", requires = "shape")]
    ty: Option<String>,
    /// Memory budget for everything, as 64G (10^9 bytes), 64GiB (2^30) or 80% [default: the free memory less a reserve]
    #[arg(long, value_name = "SIZE")]
    ram: Option<Ram>,
    /// Read rate of the disk in bytes per second, as 7G [default: measured on FILE]
    #[arg(long, value_name = "RATE")]
    disk: Option<Size>,
    /// Read rate of the memory in bytes per second, as 60G [default: measured]
    #[arg(long, value_name = "RATE")]
    memory_bandwidth: Option<Size>,
    /// Multiply-adds per second of a long prompt, as 500G [default: measured]
    #[arg(long, value_name = "RATE")]
    macs: Option<Size>,
    /// Tokens in the context
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT", default_value_t = 4096)]
    context: usize,
    /// Tokens in the prompt
    #[arg(short = 'p', long = "prompt-tokens", value_name = "TOKENS", default_value_t = 512, value_parser = parse_tokens)]
    prompt: usize,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_tokens(text: &str) -> Result<usize> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| anyhow!("give a number of tokens, at least 1"))
}

/// The model: a file, or a shape without one.
struct Subject {
    name: String,
    of: Hyperparameters,
    sizes: Sizes,
    main_type: GgmlType,
    file: Option<(Gguf, Option<Tokenizer>)>, // the vocabulary is kept since it takes memory when the model runs
}

impl Args {
    /// Prints the plan.
    pub fn run(self) -> Result<()> {
        let subject = match (&self.model, &self.shape) {
            (Some(path), _) => of_file(open(path)?)?,
            (None, Some(shape)) => of_shape(shape, self.ty.as_deref().unwrap_or_default())?,
            (None, None) => bail!("give a model with -m FILE, or --shape and --type"),
        };
        let of = &subject.of;
        let prompt = self.prompt.min(self.context);
        // Only now: what has been loaded for the subject counts as the program's.
        let budget = self.ram.unwrap_or_default().budget()?;
        let budget = budget.context("this system does not tell how much memory it has; give --ram 64G")?;
        let kv = KvCache::bytes(of, self.context, self.cache.types())?;
        let cpu = self.cpu.cpu()?;
        let need = MemoryNeed::passes(of, kv, prompt, 1).with_activations(of, cpu.activations());
        let program = if subject.file.is_some() { budget.fixed } else { PROGRAM };
        let fixed = program + cpu.memory_bytes();
        let parts = BudgetParts { budget: budget.bytes, fixed, kv: need.kv, scratch: need.scratch };
        let planned = stream::plan(&subject.sizes, parts)?;
        let rates = self.rates(&subject, &cpu)?;
        let outlook = Outlook::of(&subject.sizes, &planned, &rates, prompt as u64);
        if self.json {
            return output::print_json(&json!({
                "model": subject.name,
                "layers": of.layers,
                "file_bytes": subject.sizes.file_bytes,
                "mapped": planned.mapped,
                "budget_bytes": parts.budget,
                "pinned_bytes": planned.pinned_bytes,
                "streamed_bytes_per_pass": planned.streamed_bytes,
                "ring_bytes": planned.ring_bytes(),
                "kv_bytes": parts.kv,
                "scratch_bytes": parts.scratch,
                "program_bytes": parts.fixed,
                "context": self.context,
                "prompt_tokens": prompt,
                "activation_bits": cpu.activations().bits(),
                "disk_bytes_per_second": rates.disk.is_finite().then_some(rates.disk),
                "read_bytes_per_second": rates.memory,
                "macs_per_second": rates.macs,
                "load_seconds": outlook.load,
                "seconds_per_token": outlook.token.seconds,
                "seconds_to_first_token": outlook.load + outlook.prompt.seconds,
                "bound_by": outlook.token.bound.name(),
                "prompt_bound_by": outlook.prompt.bound.name(),
            }));
        }
        output::print_lines(&self.text(&subject, &planned, &rates, &outlook, prompt))
    }

    fn rates(&self, subject: &Subject, cpu: &Cpu) -> Result<Rates> {
        let options = ReadOptions::default();
        let given = |rate: Option<Size>| rate.map(|rate| rate.bytes() as f64);
        let (disk, memory_bandwidth) = (given(self.disk), given(self.memory_bandwidth));
        let drives = match (disk, &subject.file) {
            (Some(_), _) => None,
            (None, Some((gguf, _))) => Drives::of(gguf, &options)?,
            (None, None) => bail!("there is no file to measure the disk on; give its rate, as --disk 7G"),
        };
        let macs = given(self.macs).unwrap_or_else(|| stream::macs_per_second(cpu, subject.main_type));
        if let Some(mut drives) = drives {
            let memory = stream::some_memory(stream::PROBE_BYTES)?;
            let Streams { disk, memory, contention } =
                Streams::measure(cpu, memory.bytes(), || drives.bytes_per_second())?;
            let (memory, load) = (memory_bandwidth.unwrap_or(memory), drives.strategy().new_bytes_per_second);
            return Ok(Rates { disk, load: load.unwrap_or(disk), memory, macs, contention });
        }
        let memory = match memory_bandwidth {
            Some(memory) => memory,
            None => stream::memory_bytes_per_second(cpu, stream::some_memory(stream::PROBE_BYTES)?.bytes()),
        };
        Ok(Rates { disk: disk.unwrap_or(f64::INFINITY), ..Rates::without_disk(memory, macs) })
    }

    fn text(&self, subject: &Subject, planned: &Plan, rates: &Rates, outlook: &Outlook, prompt: usize) -> String {
        let (sizes, parts) = (&subject.sizes, planned.parts);
        let share = 100.0 * planned.streamed_bytes as f64 / sizes.pass_bytes() as f64;
        let stays = match planned.mapped {
            true => "all of it stays in memory".to_owned(),
            false => format!(
                "{} stay in memory, {} ({share:.0} %) come from disk in every pass",
                output::bytes(planned.pinned_bytes),
                output::bytes(planned.streamed_bytes)
            ),
        };
        let disk = match rates.disk.is_finite() {
            true => format!("disk {:.2} GB/s", rates.disk / 1e9),
            false => "disk not measured".to_owned(),
        };
        format!(
            "{}: {} layers, {}; {stays}\n\
             budget {}: weights {}, ring {}, KV cache of {} tokens {}, activations {}, program {}\n\
             {disk}, memory {:.1} GB/s, {:.0} G multiplications/s\n\
             loading {}, then a prompt of {prompt} tokens {}, bound by the {}\n\
             a token {}, bound by the {}\n\n{}\n{}",
            subject.name,
            subject.of.layers,
            output::bytes(sizes.file_bytes),
            output::bytes(parts.budget),
            output::bytes(planned.pinned_bytes),
            output::bytes(planned.ring_bytes()),
            self.context,
            output::bytes(parts.kv),
            output::bytes(parts.scratch),
            output::bytes(parts.fixed),
            rates.memory / 1e9,
            rates.macs / 1e9,
            seconds(outlook.load),
            seconds(outlook.prompt.seconds),
            outlook.prompt.bound.name(),
            seconds(outlook.token.seconds),
            outlook.token.bound.name(),
            alternatives(sizes, planned, rates, prompt as u64),
            if planned.mapped { "" } else { "Two drives: strata split --drives 2 FILE PREFIX, and a part on each.\n" },
        )
    }
}

/// Predicted times of loading, the prompt and a token.
struct Outlook {
    load: f64,
    prompt: Estimate,
    token: Estimate,
}

impl Outlook {
    fn of(sizes: &Sizes, planned: &Plan, rates: &Rates, prompt: u64) -> Outlook {
        Outlook {
            load: planned.load_seconds(rates),
            prompt: planned.pass(sizes, rates, prompt),
            token: planned.pass(sizes, rates, 1),
        }
    }
}

/// The predictions for larger budgets and a second drive.
fn alternatives(sizes: &Sizes, planned: &Plan, rates: &Rates, prompt: u64) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "RAM",
        "drives",
        "from disk",
        "a token",
        "first token",
        "bound by",
    ]);
    for column in [0, 1, 2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let parts = planned.parts;
    let all = parts.fixed + parts.kv + parts.scratch + sizes.file_bytes;
    let mut budgets = vec![parts.budget];
    budgets.extend([parts.budget / 2 * 3, parts.budget * 2].into_iter().filter(|&more| more < all));
    budgets.extend((all > parts.budget).then_some(all));
    for budget in budgets {
        let Ok(planned) = stream::plan(sizes, BudgetParts { budget, ..parts }) else { continue };
        for drives in [1, 2].into_iter().filter(|&drives| drives == 1 || planned.streamed_bytes > 0) {
            let rates = Rates { disk: rates.disk * drives as f64, ..*rates };
            let outlook = Outlook::of(sizes, &planned, &rates, prompt);
            table.add_row([
                output::bytes(budget),
                drives.to_string(),
                output::bytes(planned.streamed_bytes),
                seconds(outlook.token.seconds),
                seconds(outlook.load + outlook.prompt.seconds),
                outlook.token.bound.name().to_owned(),
            ]);
        }
    }
    table
}

fn seconds(n: f64) -> String {
    match n {
        n if n >= 99.5 => format!("{n:.0} s"),
        n if n >= 9.95 => format!("{n:.1} s"),
        n if n >= 0.0995 => format!("{n:.2} s"),
        n => format!("{n:.3} s"),
    }
}

fn of_file(gguf: Gguf) -> Result<Subject> {
    let of = Hyperparameters::read(&gguf)?;
    let name = gguf.path().display().to_string();
    let architecture = Architecture::of(&gguf)?;
    let weights = Weights::new(gguf, architecture, &of)?;
    let (sizes, main_type, gguf) = (weights.sizes(), weights.main_type(), weights.into_gguf());
    // A file without one, or with one that cannot be used, runs by --tokens.
    let tokenizer = Tokenizer::from_gguf(&gguf).ok();
    // What was touched of the file is not the program's.
    gguf.files().for_each(Mapped::release_pages);
    Ok(Subject { name, of, sizes, main_type, file: Some((gguf, tokenizer)) })
}

fn of_shape(shape: &str, ty: &str) -> Result<Subject> {
    let (preset, mix) = (Preset::from_name(shape)?, Mix::from_name(ty)?);
    let tensors = Synthetic { preset, recipe: Recipe::new(mix), seed: 0 }.tensors();
    let tensors = tensors.iter().map(|t| (t.name.as_str(), t.dims.as_slice(), t.ty));
    let sizes = Sizes::of(LLAMA, preset.hyperparameters.layers, tensors)?;
    let name = format!("Llama {} {}", preset.name, mix.name);
    Ok(Subject { name, of: preset.hyperparameters, sizes, main_type: mix.base, file: None })
}
