//! A number that is not finite has turned up in a pass: which operation met it, and which weight is the cause.

use crate::error::{Error, Setting};
use crate::model::Model;
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
    /// The product with the matrix of queries, keys or values, by its name.
    Projection(&'static str),
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
        let projections = [(q, "attn_q.weight"), (k, "attn_k.weight"), (v, "attn_v.weight")];
        if let Some((_, name)) = projections.iter().find(|(values, _)| !all_finite(values)) {
            return Stage::Projection(name);
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
    fn operation(self) -> String {
        match self {
            Stage::AttentionNorm => "the norm before attention".to_owned(),
            Stage::Projection(matrix) => format!("the product with {matrix}"),
            Stage::Cache(what, _) => format!("the {what} of attention"),
            Stage::Attention => "the scores of attention".to_owned(),
            Stage::AttentionOutput => "the product with attn_output.weight and the norm after it".to_owned(),
            Stage::Gate => "the products with ffn_gate.weight and ffn_up.weight".to_owned(),
            Stage::Down => "the product with ffn_down.weight".to_owned(),
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
        let first = layer.map_or("output".to_owned(), |i| format!("blk.{i}."));
        if let Err(cause) = self.check().and_then(|()| verify::weights(self.gguf(), &first, progress)) {
            return cause;
        }
        let place = match layer {
            Some(i) => format!("layer {i}, {}", stage.operation()),
            None => stage.operation(),
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
