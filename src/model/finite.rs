//! A number that is not finite has turned up in a pass: which operation met it, and which weight is the cause.

use super::Model;
use crate::arch::tensors::layer_prefix;
use crate::arch::{Architecture, Role};
use crate::error::{Error, Setting};
use crate::progress::Progress;
use crate::verify;
use strata_kernels::KvLayout;
use strata_quant::GgmlType;
use strata_quant::float::all_finite;

/// The operation whose results are not all finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The norm before attention.
    AttentionNorm,
    /// The product with the matrix of queries, keys or values.
    Projection(Role),
    /// Keys, or values, that the type of the cache cannot hold.
    Cache(&'static str, GgmlType),
    /// The scores of attention, or their weighted sum.
    Attention,
    /// The way from the heads back to the hidden state, and the norm after it.
    AttentionOutput,
    /// The gate of the feed-forward network.
    Gate,
    /// The way back from the feed-forward network.
    Down,
    /// The norm before the output matrix.
    OutputNorm,
    /// The logits.
    Output,
}

impl Stage {
    /// What made attention fail: `q`, `k` and `v` as it got them, and the cache that they went to.
    pub(crate) fn of_attention(q: &[f32], k: &[f32], v: &[f32], layout: KvLayout) -> Stage {
        let projections = [(q, Role::AttnQ), (k, Role::AttnK), (v, Role::AttnV)];
        if let Some(&(_, role)) = projections.iter().find(|(values, _)| !all_finite(values)) {
            return Stage::Projection(role);
        }
        let (of_keys, of_values) = layout.types();
        for (values, what, ty) in [(k, "keys", of_keys), (v, "values", of_values)] {
            if values.iter().any(|v| v.abs() >= largest(ty)) {
                return Stage::Cache(what, ty);
            }
        }
        Stage::Attention
    }

    /// The operation in words.
    fn operation(self, architecture: &Architecture) -> String {
        let name = |role| architecture.spec(role).gguf;
        match self {
            Stage::AttentionNorm => "the norm before attention".to_owned(),
            Stage::Projection(role) => format!("the product with {}.weight", name(role)),
            Stage::Cache(what, _) => format!("the {what} of attention"),
            Stage::Attention => "the scores of attention".to_owned(),
            Stage::AttentionOutput => {
                format!("the product with {}.weight and the norm after it", name(Role::AttnOutput))
            }
            Stage::Gate => {
                format!("the products with {}.weight and {}.weight", name(Role::FfnGate), name(Role::FfnUp))
            }
            Stage::Down => format!("the product with {}.weight", name(Role::FfnDown)),
            Stage::OutputNorm => "the norm before the output matrix".to_owned(),
            Stage::Output => "the logits".to_owned(),
        }
    }
}

/// From here on a number is infinite in a cache of that type.
fn largest(ty: GgmlType) -> f32 {
    // Half of the last place above the largest half, 65504, rounds to infinity.
    const HALF: f32 = 65520.0;
    match ty {
        GgmlType::F16 => HALF,
        GgmlType::Q8_0 => 127.0 * HALF,
        _ => f32::INFINITY,
    }
}

/// `Err(stage)` unless all numbers were finite.
pub(crate) fn finite(all: bool, stage: Stage) -> Result<(), Stage> {
    if all { Ok(()) } else { Err(stage) }
}

impl Model {
    /// Why numbers are not finite at `stage`, in layer `layer` if it is in one: the file has changed, or a weight is not finite, or finite
    /// weights give numbers that are too large. Reads all weights, those of the layer first.
    pub(crate) fn not_finite(&self, layer: Option<usize>, stage: Stage, progress: &dyn Progress) -> Error {
        let first = match layer {
            Some(i) => layer_prefix(i),
            None => self.architecture().spec(Role::Output).gguf.to_owned(),
        };
        if let Err(cause) = self.check().and_then(|()| verify::weights(self.gguf(), &first, progress)) {
            return cause;
        }
        let place = match layer {
            Some(i) => format!("layer {i}, {}", stage.operation(self.architecture())),
            None => stage.operation(self.architecture()),
        };
        let (problem, remedy) = match stage {
            Stage::Cache(what, ty) => (
                format!("all weights are finite, but {what} are too large for a cache of type {ty}"),
                "keep keys and values in single precision",
            ),
            _ => (
                "all weights are finite, but what they give is too large for single precision".to_owned(),
                "the weights are of no working model; get or convert it again",
            ),
        };
        let error = Error::invalid(self.gguf().path(), place, problem, remedy);
        if matches!(stage, Stage::Cache(..)) { error.with_setting(Setting::CacheTypes) } else { error }
    }
}
