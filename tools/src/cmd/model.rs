//! Arguments that every command that runs a model shares.

use super::habits::HabitArgs;
use super::lora::{LoraArgs, with_adapters};
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata::arch::Hyperparameters;
use strata::convert::open_model;
use strata::gguf::Gguf;
use strata::limits;
use strata::model::{CacheTypes, MemoryNeed, Model};
use strata::size::Ram;
use strata::stream::{self, Budget, ReadOptions, Reader};
use strata::{ActivationBits, Cpu, Error, GgmlType, Isa};

/// The model to run, and where.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model: a GGUF file, of a split one any part, or the folder of a Hugging Face checkpoint
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    pub model: PathBuf,
    #[command(flatten)]
    pub cpu: CpuArgs,
    #[command(flatten)]
    pub ram: RamArgs,
    #[command(flatten)]
    lora: LoraArgs,
}

/// Opens a GGUF file, or the folder of a checkpoint.
pub fn open(path: &Path) -> Result<Gguf> {
    Ok(open_model(path, &Shown::new(Unit::Bytes))?)
}

/// The memory of a model, and how the rest is read.
#[derive(clap::Args)]
pub struct RamArgs {
    /// Memory budget for everything, as 64G (10^9 bytes), 64GiB (2^30) or 80%; weights that do not fit are read from disk in every pass
    /// [default: the free memory less a reserve]
    #[arg(long, value_name = "SIZE")]
    ram: Option<Ram>,
    /// How to read streamed weights: auto, uring, pread or buffered [default: auto, the fastest]
    #[arg(long, value_name = "READER")]
    reader: Option<Reader>,
    /// I/O timeout in seconds: a read that takes longer is an error
    #[arg(long, alias = "patience", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    io_timeout: u64,
}

/// How a model is multiplied.
#[derive(Clone, Debug, clap::Args)]
pub struct CpuArgs {
    /// Threads [default: the physical cores]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Bits of the activations that quantized weights are multiplied with: 8, or 16, which all but ends the loss that is not the weights' own,
    /// and takes up to twice as long for a prompt
    #[arg(long, value_name = "BITS", default_value = "8", value_parser = activation_bits)]
    pub activations: ActivationBits,
    #[command(flatten)]
    pub habits: HabitArgs,
}

fn activation_bits(text: &str) -> Result<ActivationBits> {
    ActivationBits::ALL.into_iter().find(|bits| bits.bits().to_string() == text).context("choose 8 or 16")
}

/// The types of the KV cache.
#[derive(clap::Args)]
pub struct CacheArgs {
    /// Type of the KV cache's keys: f32, f16 or q8_0; also -ctk
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type_k: GgmlType,
    /// Type of the KV cache's values: f32, f16 or q8_0; also -ctv
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type_v: GgmlType,
}

impl CacheArgs {
    /// The types of keys and values.
    pub fn types(&self) -> CacheTypes {
        CacheTypes { k: self.cache_type_k, v: self.cache_type_v }
    }
}

/// The largest context that is not asked for, in tokens.
pub const DEFAULT_CONTEXT: usize = 4096;

/// The context that was asked for, of which 0 is the model's; longer than the model's it is a warning.
pub fn asked_context(asked: Option<usize>, of: &Hyperparameters) -> Option<usize> {
    let (asked, trained) = (asked?, of.context);
    if asked > trained {
        output::warn(&format!(
            "the model was trained for {trained} positions; beyond them its text may be poor; choose a smaller -c"
        ));
    }
    Some(if asked == 0 { trained } else { asked })
}

/// The type of keys or values of this name.
pub fn cache_type(name: &str) -> Result<GgmlType> {
    GgmlType::from_name(name).filter(|ty| CacheTypes::ALL.contains(ty)).context("choose f32, f16 or q8_0")
}

impl ModelArgs {
    /// Opens the model file.
    pub fn gguf(&self) -> Result<Gguf> {
        open(&self.model)
    }

    /// Loads the model; `need` is the memory that it takes beside its weights.
    pub fn load(&self, gguf: Gguf, need: MemoryNeed) -> Result<Model> {
        let adapters = self.lora.open()?;
        let mut model = self.ram.load(gguf, self.cpu.cpu()?, with_adapters(need, &adapters))?;
        model.adapt(adapters)?;
        Ok(model)
    }
}

impl RamArgs {
    /// Loads the model of an open file within its memory budget; prints the budget if the model does not fit or the user gave one.
    pub fn load(&self, gguf: Gguf, cpu: Cpu, need: MemoryNeed) -> Result<Model> {
        let need = need.with_activations(&Hyperparameters::read(&gguf)?, cpu.activations());
        let Some(budget) = self.ram.unwrap_or_default().budget()? else {
            let model = Model::new(gguf, cpu)?;
            return room_to_run(need).map(|()| model);
        };
        let free = stream::memory().map_or(u64::MAX, |memory| memory.available + budget.fixed);
        if budget.bytes > free {
            output::warn(&format!(
                "the budget is {}, but only {} are free: other programs will be pushed out; give less --ram",
                output::bytes(budget.bytes),
                output::bytes(free)
            ));
        }
        let model = Model::within(gguf, cpu, budget, need, &self.options(), &Shown::new(Unit::Bytes))?;
        if let Some(plan) = model.plan()
            && (self.ram.is_some() || !plan.mapped)
        {
            say(&model);
        }
        room_to_run(need).map(|()| model)
    }

    /// Loads the models of open files for work that is one pass over all of them: mapped if all fit into the budget, else each within the
    /// least that it can be streamed in. Beside the weights the work takes the first of the `needs` that fits, whose place is returned.
    pub fn load_for_one_pass(
        &self,
        files: Vec<Gguf>,
        cpu: impl Fn() -> Result<Cpu>,
        needs: &[MemoryNeed],
    ) -> Result<(Vec<Model>, usize)> {
        let mut models = files.into_iter().map(|file| Ok(Model::new(file, cpu()?)?)).collect::<Result<Vec<_>>>()?;
        let Some(budget) = self.ram.unwrap_or_default().budget()? else { return Ok((models, 0)) };
        let least: Vec<u64> = models.iter().map(|model| stream::least_bytes(&model.weights().sizes())).collect();
        let needs: Vec<MemoryNeed> = match models.first() {
            Some(model) => {
                let with =
                    |need: &MemoryNeed| need.with_activations(model.hyperparameters(), model.cpu().activations());
                needs.iter().map(with).collect()
            }
            None => needs.to_vec(),
        };
        let (pinned, all) = (least.iter().sum(), models.iter().map(|model| model.gguf().file_bytes()).sum::<u64>());
        let program = budget.fixed;
        let with = |weights: u64, need: MemoryNeed| {
            program.saturating_add(weights).saturating_add(need.kv).saturating_add(need.scratch)
        };
        let place = needs.iter().position(|&need| with(pinned, need) <= budget.bytes);
        let need = needs[place.unwrap_or(needs.len() - 1)];
        let Some(place) = place else {
            let MemoryNeed { kv, scratch: activations } = need;
            let (budget, need) = (budget.bytes, with(pinned, need));
            return Err(Error::BudgetTooSmall { budget, need, kv, activations, pinned, ring: 0, program }.into());
        };
        if with(all, need) > budget.bytes {
            let options = ReadOptions { single_pass: true, ..self.options() };
            for (model, &bytes) in models.iter_mut().zip(&least) {
                model.stream_within(bytes, &options, &Shown::new(Unit::Bytes))?;
            }
            let bytes = output::bytes(with(pinned, need));
            output::say(&format!("{} models within {bytes}: each layer is read once", models.len()));
        }
        room_to_run(need).map(|()| (models, place))
    }

    /// The budget; `None` if none is given and the system does not tell how much memory it has.
    pub fn budget(&self) -> Result<Option<Budget>> {
        Ok(self.ram.unwrap_or_default().budget()?)
    }

    /// The settings for reading streamed weights.
    pub fn options(&self) -> ReadOptions {
        let (reader, io_timeout) = (self.reader.unwrap_or_default(), Duration::from_secs(self.io_timeout));
        ReadOptions { reader, io_timeout, ..ReadOptions::default() }
    }
}

/// Checks now that the activations of a loaded model fit: an allocation that fails later would end the program.
fn room_to_run(need: MemoryNeed) -> Result<()> {
    limits::spare(need.scratch).with_context(|| {
        let bytes = output::bytes(need.scratch);
        format!("no memory for {bytes} of activations beside the model; take fewer tokens, or raise ulimit -v")
    })
}

/// Prints the budget and what it is spent on.
fn say(model: &Model) {
    let Some(plan) = model.plan() else { return };
    let parts = plan.parts;
    output::say(&format!(
        "budget {}: weights {}, ring {}, KV cache {}, activations {}, program {}",
        output::bytes(parts.budget),
        output::bytes(plan.pinned_bytes),
        output::bytes(plan.ring_bytes()),
        output::bytes(parts.kv),
        output::bytes(parts.scratch),
        output::bytes(parts.fixed),
    ));
    if let Some(streamed) = model.weights().streamed() {
        let strategy = streamed.strategy();
        let rate = streamed.streams().map_or(String::new(), |streams| format!(", {:.2} GB/s", streams.disk / 1e9));
        output::say(&format!(
            "{} of weights come from disk in every pass: {}, {} requests of {} MiB{rate}",
            output::bytes(plan.streamed_bytes),
            strategy.reader.name(),
            strategy.depth,
            strategy.request >> 20,
        ));
    }
}

impl CpuArgs {
    /// The processor with the instruction set that `STRATA_ISA` names, else the best one, and these activations.
    pub fn cpu(&self) -> Result<Cpu> {
        let isa = Isa::from_environment().context("STRATA_ISA")?;
        self.habits.say();
        let wanted = self.threads.map_or_else(strata::threads::physical_cores, usize::from);
        let cpu = Cpu::new(isa, limits::threads(wanted)).with_activations(self.activations);
        limits::spare(0).context("cannot keep so many threads; give fewer by --threads, or raise ulimit -v")?;
        if cpu.threads() < wanted {
            let n = cpu.threads();
            output::warn(&format!("the limits of this system allow {n} of {wanted} threads (ulimit -u, ulimit -v)"));
        }
        Ok(cpu)
    }
}
