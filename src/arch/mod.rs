//! What the models of one architecture are made of. Every other module asks here: which tensors there are, how they are named and shaped,
//! which hyperparameters give those shapes, and what is computed between the matrices.
//!
//! * [`tensors`]: the table's columns for a tensor, and its names in both kinds of file;
//! * [`hyperparameters`]: the numbers of one model and the keys they are stored under;
//! * [`rope`]: the angles of rotary position embedding, [`scaling`]: what checkpoints do to reach further positions;
//! * [`LayerSet`]: some of a model's layers;
//! * `rows.rs`: the tensors that most architectures share; `llama.rs` and its neighbours: a row each;
//! * `refused.rs`: architectures of other kinds, and what to say of them.
//!
//! To add an architecture of this kind: write its file beside `llama.rs`, and list it in [`ARCHITECTURES`].

mod granite;
pub mod hyperparameters;
mod layer_set;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
pub(crate) mod refused;
pub mod rope;
mod rows;
pub mod scaling;
mod smollm3;
pub mod tensors;

pub use hyperparameters::{Hyperparameters, Scales, Window};
pub use layer_set::LayerSet;
pub use strata_kernels::Rope;
pub use tensors::{Bias, Dim, Group, Heads, MatrixInput, Presence, Role, TensorPart, TensorSpec};

use crate::error::{Error, Result, quoted};
use crate::gguf::Gguf;

/// An architecture: a row of the table.
#[derive(Debug)]
pub struct Architecture {
    /// The value of `general.architecture`, and the prefix of the keys of hyperparameters in GGUF files.
    pub name: &'static str,
    /// The values of `architectures` in `config.json`.
    pub hf_classes: &'static [&'static str],
    /// The values of `model_type` in `config.json`, for files that name no class.
    pub hf_model_types: &'static [&'static str],
    /// The tensors, in the order in which a forward pass reads them; those of a layer stand once.
    pub tensors: &'static [TensorSpec],
    /// Parts of a layer that old converters stored in GGUF files though they follow from the hyperparameters.
    pub derived: &'static [&'static str],
    /// The ends of names of tensors that checkpoints carry though they follow from `config.json`.
    pub hf_derived: &'static [&'static str],
    /// Which values of a head are rotated together.
    pub rope: Rope,
    /// The norms before attention, before the feed-forward network and before the output matrix.
    pub norm: Norm,
    /// The function of the gates of the feed-forward network.
    pub activation: Activation,
    /// What transformers takes where `config.json` has no such key.
    pub defaults: ConfigDefaults,
    /// The layers whose attention has a sliding window, by `config.json`.
    pub windows: Windows,
    /// Every so many-th layer has no RoPE, unless the file says otherwise.
    pub no_rope_interval: Option<usize>,
    /// True if models have factors between the matrices ([`Scales`]).
    pub has_scales: bool,
    /// Flags of GGUF files that change what is computed, each with the value that changes nothing.
    pub neutral_flags: &'static [(&'static str, bool)],
}

/// Hyperparameters that `config.json` may leave out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigDefaults {
    /// `max_position_embeddings`
    pub context: usize,
    /// `head_dim`; `None` if it is the share of a head in a hidden state.
    pub head_dim: Option<usize>,
    /// `rope_theta`
    pub rope_base: f32,
    /// `tie_word_embeddings`
    pub tied: bool,
}

/// The layers whose attention has the `sliding_window` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None: transformers leaves the key out of account.
    None,
    /// All; where the key is absent, it is so many tokens.
    All {
        /// Tokens.
        default: usize,
    },
    /// If `use_sliding_window` says so, those of `layer_types`, else those from `max_window_layers` on.
    FromLayer {
        /// `max_window_layers`, where it is absent.
        default: usize,
    },
    /// If `use_sliding_window` says so, those of `layer_types`, else those without RoPE.
    WithoutRope,
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `x * weight / sqrt(mean(x^2) + eps)` (Zhang and Sennrich 2019).
    Rms,
}

/// A gate's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

impl Activation {
    /// Its names in `config.json`.
    pub fn hf_names(self) -> &'static [&'static str] {
        match self {
            Activation::Silu => &["silu", "swish"],
        }
    }
}

/// All architectures.
pub static ARCHITECTURES: [&Architecture; 6] =
    [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3, &smollm3::SMOLLM3, &granite::GRANITE];

/// The architecture of models that have no file yet: synthetic ones, and shapes on paper.
pub static LLAMA: &Architecture = ARCHITECTURES[0];

impl Architecture {
    /// The architecture of a GGUF model.
    ///
    /// # Errors
    /// If the file names none, or one that is not in the table.
    pub fn of(gguf: &Gguf) -> Result<&'static Architecture> {
        let name = gguf.required_str("general.architecture")?;
        Architecture::from_name(name).ok_or_else(|| {
            let (problem, remedy) = match refused::kind_of(name) {
                Some(kind) => (format!("{} is {kind}", quoted(name)), refused::REMEDY.to_owned()),
                None => (format!("{} is not supported", quoted(name)), format!("strata runs {}", names().join(", "))),
            };
            Error::invalid(gguf.path(), "general.architecture", problem, remedy)
        })
    }

    /// The architecture with this value of `general.architecture`.
    pub fn from_name(name: &str) -> Option<&'static Architecture> {
        ARCHITECTURES.into_iter().find(|architecture| architecture.name == name)
    }

    /// The architecture of a checkpoint whose `config.json` has this class, or without a class this model type.
    pub fn from_hf(class: Option<&str>, model_type: Option<&str>) -> Option<&'static Architecture> {
        ARCHITECTURES.into_iter().find(|architecture| match (class, model_type) {
            (Some(class), _) => architecture.hf_classes.contains(&class),
            (None, Some(model_type)) => architecture.hf_model_types.contains(&model_type),
            (None, None) => false,
        })
    }

    /// The row of the tensor with this role.
    ///
    /// # Panics
    /// If the table has none: those of [`Role::REQUIRED`] are in every table, as the tests show.
    pub fn spec(&self, role: Role) -> &'static TensorSpec {
        self.find_spec(role).expect("every table has the required roles")
    }

    /// The row of the tensor with this role, if there is one.
    pub fn find_spec(&self, role: Role) -> Option<&'static TensorSpec> {
        self.tensors.iter().find(|spec| spec.role == role)
    }

    /// The matrices of a layer, in the order of a pass.
    pub fn layer_matrices(&self) -> impl Iterator<Item = &'static TensorSpec> + use<> {
        self.tensors.iter().filter(|spec| spec.in_layer && spec.is_matrix())
    }

    /// Every tensor of a model of `layers` layers, with its layer, in the order of a pass: what comes before the layers, these one after
    /// the other, what comes after.
    pub fn all_tensors(&self, layers: usize) -> impl Iterator<Item = (&'static TensorSpec, Option<usize>)> + use<> {
        let tensors = self.tensors;
        let first = tensors.iter().position(|spec| spec.in_layer).unwrap_or(tensors.len());
        let last = tensors.iter().rposition(|spec| spec.in_layer).map_or(first, |last| last + 1);
        let of_model = |specs: &'static [TensorSpec]| specs.iter().map(|spec| (spec, None));
        let of_layer = move |i| tensors[first..last].iter().map(move |spec| (spec, Some(i)));
        of_model(&tensors[..first]).chain((0..layers).flat_map(of_layer)).chain(of_model(&tensors[last..]))
    }

    /// The tensor that a name in a GGUF file means; `None` for a name that no model of this architecture has.
    pub fn find(&self, name: &str) -> Option<NamedTensor> {
        let (layer, stem) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            // As names are made: "blk.07" is not layer 7.
            Some((digits, stem)) => (Some(digits.parse().ok().filter(|i: &usize| i.to_string() == digits)?), stem),
            None => (None, name),
        };
        let (stem, part) = match stem.rsplit_once('.')? {
            (stem, "weight") => (stem, TensorPart::Weight),
            (stem, "bias") => (stem, TensorPart::Bias),
            _ => return None,
        };
        let spec = self.tensors.iter().find(|spec| spec.gguf == stem && spec.in_layer == layer.is_some())?;
        (part == TensorPart::Weight || spec.bias != Bias::Never).then_some(NamedTensor { spec, layer, part })
    }

    /// True for the tensors that a model of `layers` layers uses, and for what old converters stored though it follows from the
    /// hyperparameters. A bias of the output needs an output matrix of its own to belong to.
    pub fn uses(&self, name: &str, layers: usize, has_output: bool) -> bool {
        let in_a_layer = |layer: usize| layer < layers;
        match self.find(name) {
            Some(found) if found.spec.role == Role::Output && found.part == TensorPart::Bias => has_output,
            Some(found) => found.layer.is_none_or(in_a_layer),
            None => name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).is_some_and(|(digits, part)| {
                let layer = digits.parse().ok().filter(|i: &usize| i.to_string() == digits);
                layer.is_some_and(in_a_layer) && self.derived.contains(&part)
            }),
        }
    }

    /// Where a forward pass reads the tensor of this name, as a key to sort by; what the table does not have comes last.
    pub fn place_in_pass(&self, name: &str) -> impl Ord + use<> {
        const AFTER: usize = usize::MAX;
        let first_of_layer = || self.tensors.iter().position(|spec| spec.in_layer).unwrap_or(0);
        match self.find(name) {
            None => (AFTER, 0, 0, TensorPart::Weight),
            Some(NamedTensor { spec, layer, part }) => {
                let row = self.tensors.iter().position(|row| row.role == spec.role).unwrap_or(AFTER);
                // Layers stand together, where the first of their tensors is.
                (layer.map_or(row, |_| first_of_layer()), layer.unwrap_or(0), row, part)
            }
        }
    }
}

/// The values of `general.architecture` that are known.
fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    names.dedup();
    names
}

/// What a name in a GGUF file of any architecture means.
pub fn named(name: &str) -> Option<NamedTensor> {
    ARCHITECTURES.into_iter().find_map(|architecture| architecture.find(name))
}

/// The matrix or vector that a name in a GGUF file of any architecture means, but no bias.
pub fn weight(name: &str) -> Option<NamedTensor> {
    named(name).filter(|named| named.part == TensorPart::Weight)
}

/// What a name in a GGUF file means.
#[derive(Clone, Copy, Debug)]
pub struct NamedTensor {
    /// The row of the table.
    pub spec: &'static TensorSpec,
    /// The layer, of a tensor that every layer has.
    pub layer: Option<usize>,
    /// The matrix or vector itself, or what is added to its results.
    pub part: TensorPart,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_every_role_once() {
        for architecture in ARCHITECTURES {
            let mut roles: Vec<_> = architecture.tensors.iter().map(|spec| spec.role).collect();
            assert!(Role::REQUIRED.iter().all(|role| roles.contains(role)));
            roles.sort();
            assert!(roles.windows(2).all(|pair| pair[0] != pair[1]));
            // Names mean the same in all of them: who has a name alone asks `named`.
            for spec in architecture.tensors {
                let name = spec.name(spec.in_layer.then_some(0));
                assert!(ARCHITECTURES.iter().filter_map(|other| other.find(&name)).all(|it| it.spec.role == spec.role));
            }
            // The layers' rows stand together: `all_tensors` relies on it.
            let in_layer = architecture.tensors.iter().map(|spec| spec.in_layer);
            assert_eq!(in_layer.collect::<Vec<_>>().chunk_by(|a, b| a == b).count(), 3);
        }
    }

    #[test]
    fn names_are_made_and_found_again() {
        for (spec, layer) in LLAMA.all_tensors(12) {
            let found = LLAMA.find(&spec.name(layer)).unwrap();
            assert_eq!((found.spec.role, found.layer, found.part), (spec.role, layer, TensorPart::Weight));
            let bias = LLAMA.find(&spec.bias_name(layer));
            assert_eq!(bias.map(|bias| bias.part), (spec.bias != Bias::Never).then_some(TensorPart::Bias));
        }
        for name in
            ["blk.07.attn_q.weight", "blk.x.attn_q.weight", "attn_q.weight", "blk.0.output.weight", "blk.0.attn_q"]
        {
            assert!(LLAMA.find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn used_is_what_a_pass_takes_and_what_follows_from_the_hyperparameters() {
        for (name, has_output, used) in [
            ("token_embd.weight", false, true),
            ("output.bias", true, true),
            ("output.bias", false, false),
            ("blk.1.ffn_down.bias", true, true),
            ("blk.2.ffn_down.weight", true, false),
            ("blk.1.attn_rot_embd", true, true),
            ("blk.01.attn_rot_embd", true, false),
            ("blk.1.attn_norm.bias", true, false),
            ("blk.1.attn_q.scale", true, false),
        ] {
            assert_eq!(LLAMA.uses(name, 2, has_output), used, "{name}");
        }
    }

    #[test]
    fn names_are_put_in_the_order_of_a_pass() {
        let ordered = [
            "rope_freqs.weight",
            "token_embd.weight",
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.weight",
            "blk.0.attn_q.bias",
            "blk.0.ffn_down.weight",
            "blk.2.attn_q.weight",
            "blk.10.attn_q.weight",
            "output_norm.weight",
            "output.weight",
            "blk.x.attn_q.weight",
            "blk.0.other.weight",
        ];
        assert!(ordered.is_sorted_by_key(|name| LLAMA.place_in_pass(name)));
        assert!(LLAMA.place_in_pass(ordered[10]) == LLAMA.place_in_pass(ordered[11]));
    }
}
