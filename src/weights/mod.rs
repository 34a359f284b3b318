//! Where a pass gets the weights of a layer from.
//!
//! * [`LayerSource`]: hands out one layer after the other; `layers.rs` has the two that there are, over a map and over a ring;
//! * `tensors.rs`: the tensors of a model, found and checked once;
//! * `transform.rs`: what becomes of matrices in memory; `owned.rs`: matrices and layers in memory of their own;
//! * `streamed.rs`: the weights of a model that does not fit into its budget; `pinned.rs`: what of them stays, until others need the memory.
//!
//! Mapped, pinned and streamed weights are the bytes that lie in the file. That file may be a safetensors file as well as a GGUF file: the
//! only difference is the order of the rows of query and key matrices ([`Linear::head_dim`]).

mod layers;
pub(crate) mod owned;
pub(crate) mod pinned;
pub(crate) mod streamed;
pub(crate) mod tensors;
mod transform;

pub use layers::Layers;
pub(crate) use layers::OneLayer;
pub use streamed::Streamed;
pub use transform::Transform;

use crate::adapter::LowRank;
use crate::arch::{Architecture, Hyperparameters, Role};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::progress::Progress;
use crate::roofline::Sizes;
use crate::stream::files::{ModelFiles, files};
use crate::stream::plan::{Plan, plan};
use crate::stream::{BudgetParts, ReadOptions};
use std::collections::BTreeMap;
use strata_kernels::{Cpu, Matrix};
use strata_quant::GgmlType;
use tensors::Tensors;

/// A matrix and, in some models, a bias for its results.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// `(out, in)`
    pub weight: Matrix<'a>,
    /// `(out)`
    pub bias: Option<&'a [f32]>,
    /// Rows of a head, where the two halves of heads are apart as in Hugging Face checkpoints: then the results must be interleaved.
    pub head_dim: Option<usize>,
    /// What adapters add to the results.
    pub low_rank: &'a [LowRank],
}

/// The weights of one transformer layer.
pub struct Layer<'a> {
    /// `(hidden)`
    pub attn_norm: &'a [f32],
    /// Hidden state to query heads.
    pub q: Linear<'a>,
    /// Hidden state to key heads.
    pub k: Linear<'a>,
    /// Hidden state to value heads.
    pub v: Linear<'a>,
    /// `(head_dim)`: the norm of every query head, in models that have one.
    pub q_norm: Option<&'a [f32]>,
    /// The same of every key head.
    pub k_norm: Option<&'a [f32]>,
    /// Results of the heads to the hidden state.
    pub o: Linear<'a>,
    /// `(hidden)`
    pub ffn_norm: &'a [f32],
    /// Hidden state to gates.
    pub gate: Linear<'a>,
    /// Hidden state to what the gates scale.
    pub up: Linear<'a>,
    /// The feed-forward network's values to the hidden state.
    pub down: Linear<'a>,
}

/// The roles of a layer's matrices, in the order of a pass.
pub const MATRICES: [Role; 7] =
    [Role::AttnQ, Role::AttnK, Role::AttnV, Role::AttnOutput, Role::FfnGate, Role::FfnUp, Role::FfnDown];

impl<'a> Layer<'a> {
    /// The matrices with their roles, in the order of [`MATRICES`].
    pub fn linears(&self) -> [(Role, &Linear<'a>); MATRICES.len()] {
        let all = [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down];
        std::array::from_fn(|m| (MATRICES[m], all[m]))
    }

    /// The same layer with the matrices that `matrix` makes of their places in [`Layer::linears`].
    pub fn with_matrices<'b>(&self, matrix: impl Fn(usize, &Linear<'a>) -> Matrix<'b>) -> Layer<'b>
    where
        'a: 'b,
    {
        let linear = |m: usize, linear: &Linear<'a>| Linear {
            weight: matrix(m, linear),
            bias: linear.bias,
            head_dim: linear.head_dim,
            low_rank: linear.low_rank,
        };
        Layer {
            attn_norm: self.attn_norm,
            q: linear(0, &self.q),
            k: linear(1, &self.k),
            v: linear(2, &self.v),
            q_norm: self.q_norm,
            k_norm: self.k_norm,
            o: linear(3, &self.o),
            ffn_norm: self.ffn_norm,
            gate: linear(4, &self.gate),
            up: linear(5, &self.up),
            down: linear(6, &self.down),
        }
    }
}

/// Hands out the layers of a model, in their order.
pub trait LayerSource {
    /// The number of layers.
    fn layers(&self) -> usize;

    /// The layer after the one handed out last, the first at first, when its weights are there; the one before is released. `progress` may
    /// end the wait.
    ///
    /// # Errors
    /// If the weights cannot be read, or the user stopped.
    ///
    /// # Panics
    /// After the last layer.
    fn next_layer(&mut self, progress: &dyn Progress) -> Result<Layer<'_>>;

    /// Bytes of weights that have come from disk for the layers handed out so far.
    fn streamed_bytes(&self) -> u64 {
        0
    }
}

/// The weights of a model.
pub struct Weights {
    gguf: Gguf,
    files: ModelFiles,
    tensors: Tensors,
    streamed: Option<Streamed>, // unless the map serves
}

impl Weights {
    /// Finds every tensor that the architecture calls for. The weights stay mapped.
    ///
    /// # Errors
    /// Names a tensor that is missing, misshapen, of a type that Strata cannot run, or that nothing uses, or a norm or bias with a value
    /// that is not finite.
    pub fn new(gguf: Gguf, architecture: &Architecture, of: &Hyperparameters) -> Result<Weights> {
        // A norm that is not finite, say, may be the work of whoever writes to the file.
        let tensors = gguf.unless_changed(Tensors::find(&gguf, architecture, of))?;
        Ok(Weights { files: files(&gguf)?, tensors, gguf, streamed: None })
    }

    /// Fits the weights into a budget: where they do not fit as they are mapped, part of them is read now and the rest in every pass.
    ///
    /// # Errors
    /// If they cannot be made to fit, a file cannot be read, the memory cannot be had, or the user stopped.
    pub(crate) fn fit(
        &mut self,
        budget: BudgetParts,
        cpu: &Cpu,
        options: &ReadOptions,
        progress: &dyn Progress,
    ) -> Result<Plan> {
        let plan = plan(&self.sizes(), budget)?;
        if plan.mapped {
            self.gguf.files().for_each(|file| file.advise_huge_pages());
        } else {
            // Of several files those that share tensors were joined in memory.
            if self.files.is_empty() || self.tensors.matrices().any(|matrix| matrix.part >= self.files.len()) {
                return Err(Error::InMemory { doing: "streamed" });
            }
            self.gguf.files().for_each(|file| file.release_pages());
            let files = self.files.clone();
            self.streamed = Some(Streamed::load(files, plan.clone(), &self.tensors, cpu, options, progress)?);
        }
        Ok(plan)
    }

    /// The sizes of all matrices, as a plan and a roofline need them.
    pub fn sizes(&self) -> Sizes {
        self.tensors.sizes(&self.gguf)
    }

    /// The model's files.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Gives the files back.
    pub fn into_gguf(self) -> Gguf {
        self.gguf
    }

    /// The weights of a model that does not fit into its budget, if it does not.
    pub fn streamed(&self) -> Option<&Streamed> {
        self.streamed.as_ref()
    }

    /// The type of most weights.
    pub fn main_type(&self) -> GgmlType {
        self.tensors.main_type()
    }

    /// A source of all layers, from the first on. There is one at a time where weights come from disk: the next waits for it.
    pub fn layers(&self) -> Layers<'_> {
        self.layers_from(0)
    }

    /// A source of the layers from `first` on.
    pub fn layers_from(&self, first: usize) -> Layers<'_> {
        Layers::new(self, first)
    }

    /// Layer `i` as the file is mapped, in any order: a walk backward. What does not fit into memory is released by
    /// [`Weights::release`].
    pub fn mapped_layer(&self, i: usize) -> Layer<'_> {
        self.tensors.layer(i, |_, tensor| self.tensors.mapped(&self.gguf, tensor))
    }

    /// Releases the pages of the map that were touched, unless the map serves every pass.
    pub fn release(&self) {
        if self.streamed.is_some() {
            self.gguf.files().for_each(|file| file.release_pages());
        }
    }

    /// Decodes the embedding `(hidden)` of a token of the vocabulary.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn embed(&self, token: u32, values: &mut [f32]) -> Result<()> {
        let embedding = &self.tensors.embedding;
        match &self.streamed {
            Some(streamed) => {
                let row = streamed.read_row(embedding, token as u64)?;
                let format = embedding.ty.format().expect("`Tensors::find` checked the type");
                (format.decode)(&row, values);
            }
            None => self.tensors.mapped(&self.gguf, embedding).decode_row(token as usize, values),
        }
        Ok(())
    }

    /// `(hidden)`
    pub fn output_norm(&self) -> &[f32] {
        &self.tensors.output_norm
    }

    /// Gives the matrices of these names what adapters add to their results.
    pub(crate) fn adapt(&mut self, added: BTreeMap<String, Vec<LowRank>>) {
        self.tensors.adapt(added);
    }

    /// What adapters add to the embeddings of tokens.
    pub fn embedding_low_rank(&self) -> &[LowRank] {
        &self.tensors.embedding_low_rank
    }

    /// Hidden state to logits.
    pub fn output(&self) -> Linear<'_> {
        let output = &self.tensors.output;
        let weight = match &self.streamed {
            Some(streamed) => streamed.output(&output.weight),
            None => self.tensors.mapped(&self.gguf, &output.weight),
        };
        output.with(weight)
    }

    /// A stretch of weights that stays in memory, to measure how fast that is: of the mapped file the end, where the layers are, or the
    /// output matrix of a model that does not fit.
    pub fn stretch(&self) -> &[u8] {
        const ENOUGH: usize = 2 << 30; // to be beyond all caches
        let largest = || self.gguf.files().map(|file| file.bytes()).max_by_key(|bytes| bytes.len());
        let bytes = match &self.streamed {
            Some(streamed) => streamed.output_bytes(),
            None => largest().unwrap_or_default(),
        };
        &bytes[bytes.len().saturating_sub(ENOUGH)..]
    }

    /// That the files are still those that were opened.
    ///
    /// # Errors
    /// If they have changed: what was computed may be wrong.
    pub fn check(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.check(0))
    }
}
