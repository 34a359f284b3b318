//! A model: its hyperparameters, its weights, and the pass through its layers.
//!
//! * [`pass`]: tokens in, hidden states and logits out;
//! * [`forward`]: the one loop over layers, for any number of models in lock step;
//! * [`layer`]: what a layer computes;
//! * [`sequences`]: whose tokens go through a layer together; [`states`]: their hidden states between layers;
//! * [`cache`]: the keys and values of a sequence;
//! * [`need`]: the memory beside the weights;
//! * `finite.rs`: why numbers are not finite, where they are not.

pub mod cache;
mod finite;
pub mod forward;
pub mod layer;
pub mod need;
pub mod pass;
pub mod sequences;
pub mod states;

pub use cache::{CacheTypes, KvCache};
pub use layer::{Scratch, Segment};
pub use need::MemoryNeed;
pub use pass::Hidden;
pub use sequences::{Sequences, WholeSequences};
pub use states::States;

use crate::adapter::{self, AdapterFile};
use crate::arch::rope::Angles;
use crate::arch::{Architecture, Hyperparameters, Role};
use crate::convert::open_model;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::progress::{Progress, Quiet};
use crate::stream::rates::{self, Streams};
use crate::stream::{Budget, BudgetParts, Plan, Rates, ReadOptions};
use crate::threads;
use crate::weights::Weights;
use std::path::Path;
use std::sync::Arc;
use strata_kernels::{Cpu, Isa, Rotation};

/// A model ready to run.
pub struct Model {
    architecture: &'static Architecture,
    hyperparameters: Hyperparameters,
    angles: Angles, // of RoPE
    weights: Weights,
    cpu: Cpu,
    plan: Option<Plan>,
    adapters: Vec<Arc<AdapterFile>>,
}

impl Model {
    /// Opens a GGUF file, or the folder of a Hugging Face checkpoint, to run on all physical cores with the best instruction set. The
    /// weights stay in the file and are mapped.
    ///
    /// # Errors
    /// If it is not a complete model that Strata can run.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let cpu = Cpu::new(Isa::best(), threads::physical_cores());
        Model::new(open_model(path.as_ref(), &Quiet)?, cpu)
    }

    /// Makes a model of open files.
    ///
    /// # Errors
    /// If they are not a complete model that Strata can run.
    pub fn new(gguf: Gguf, cpu: Cpu) -> Result<Model> {
        let architecture = Architecture::of(&gguf)?;
        let hyperparameters = gguf.unless_changed(Hyperparameters::read(&gguf))?;
        let angles = gguf.unless_changed(Angles::read(&gguf, &hyperparameters))?;
        let weights = Weights::new(gguf, architecture, &hyperparameters)?;
        Ok(Model { architecture, hyperparameters, angles, weights, cpu, plan: None, adapters: Vec::new() })
    }

    /// Makes a model of open files that keeps within a budget, with what it `need`s beside its weights: what does not fit is read in every
    /// pass.
    ///
    /// # Errors
    /// As [`Model::new`]; also if it cannot be made to fit, the files cannot be read, or the user stopped.
    pub fn within(
        gguf: Gguf,
        cpu: Cpu,
        budget: Budget,
        need: MemoryNeed,
        options: &ReadOptions,
        progress: &dyn Progress,
    ) -> Result<Model> {
        let mut model = Model::new(gguf, cpu)?;
        let fixed = budget.fixed + model.cpu.memory_bytes();
        let parts = BudgetParts { budget: budget.bytes, fixed, kv: need.kv, scratch: need.scratch };
        model.plan = Some(model.weights.fit(parts, &model.cpu, options, progress)?);
        Ok(model)
    }

    /// Streams the weights of a mapped model within as many bytes for the weights alone.
    ///
    /// # Errors
    /// As [`Model::within`].
    pub fn stream_within(&mut self, bytes: u64, options: &ReadOptions, progress: &dyn Progress) -> Result<()> {
        let parts = BudgetParts { budget: bytes, ..BudgetParts::default() };
        self.plan = Some(self.weights.fit(parts, &self.cpu, options, progress)?);
        Ok(())
    }

    /// Applies adapters in every pass from now on, in this order.
    ///
    /// # Errors
    /// If one belongs to another model.
    pub fn adapt(&mut self, adapters: Vec<Arc<AdapterFile>>) -> Result<()> {
        self.weights.adapt(adapter::pairs(self.weights.gguf(), self.architecture, &adapters)?);
        self.adapters = adapters;
        Ok(())
    }

    /// The adapters that are applied.
    pub fn adapters(&self) -> &[Arc<AdapterFile>] {
        &self.adapters
    }

    /// What stays in memory and what is read in every pass; `None` without a budget.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// How fast this machine reads and multiplies the weights; takes a moment.
    pub fn rates(&self) -> Rates {
        let macs = rates::macs_per_second(&self.cpu, self.weights.main_type());
        let streamed = self.weights.streamed();
        match streamed.and_then(|streamed| streamed.streams().zip(streamed.strategy().new_bytes_per_second)) {
            Some((&Streams { disk, memory, contention }, load)) => Rates { disk, load, memory, macs, contention },
            None => Rates::without_disk(rates::memory_bytes_per_second(&self.cpu, self.weights.stretch()), macs),
        }
    }

    /// That the files are still those that were opened: what was computed from them until now is right.
    ///
    /// # Errors
    /// If one has changed.
    pub fn check(&self) -> Result<()> {
        self.adapters.iter().try_for_each(|adapter| adapter.check())?;
        self.weights.check()
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The architecture.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// The name of the token embedding.
    pub fn embedding_name(&self) -> String {
        self.architecture.spec(Role::TokenEmbedding).name(None)
    }

    /// The name of the tensor that gives the logits: the output matrix, or the token embedding where these are tied.
    pub fn output_name(&self) -> String {
        let own = self.architecture.spec(Role::Output).name(None);
        if self.gguf().tensor(&own).is_some() { own } else { self.embedding_name() }
    }

    /// The hyperparameters.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The angles of rotary position embedding.
    pub fn angles(&self) -> &Angles {
        &self.angles
    }

    /// Computes the angles of `positions`.
    pub(crate) fn rotate(&self, rotation: &mut Rotation, positions: impl Iterator<Item = usize>) {
        let angles = &self.angles;
        rotation.set(self.architecture.rope, positions, angles.pairs(), |position, pair| angles.at(position, pair));
    }

    /// The files.
    pub fn gguf(&self) -> &Gguf {
        self.weights.gguf()
    }

    /// The processor.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}
