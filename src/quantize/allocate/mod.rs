//! Which type each tensor gets, so that all of them fit into a number of bytes and cost the least divergence.
//!
//! What a tensor costs in each type is estimated on the calibration text by one walk of gradients past all tensors in all types
//! ([`sensitivity`]); costs of tensors are taken to add up. Then the types are chosen (`knapsack.rs`). The held-out part of the text judges: it
//! tells the divergence of the choice beside that of the largest mix of as many bytes ([`judge`]). `listing.rs` is the form that people read.
//!
//! [`sensitivity`]: crate::eval::compare::attribution::sensitivity

mod knapsack;
mod listing;

pub use crate::eval::compare::attribution::sensitivity::Sensitivity;
pub use listing::{listing, parse};

use super::held_out::parts;
use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::eval::compare::attribution::{Options, sensitivity};
use crate::eval::compare::{Candidate, Mode, Settings as Comparison, Text, Transform, compare, need as compare_need};
use crate::gguf::Gguf;
use crate::model::{CacheTypes, MemoryNeed, Model};
use crate::progress::Progress;
use crate::recipe::{Mix, Recipe, TensorFacts};
use knapsack::{Choice, choose};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use strata_quant::GgmlType;

/// The most chunks that costs are estimated on, and that judge. The former take nearly all of the time: with 16 and 4 probes, which take
/// three times as long, the choice on the small model has on its held-out part 0.0258, 0.0126 and 0.0052 nats at 4.3, 4.85 and 5.5 bits
/// per weight; with 6 and 3 it has 0.0264, 0.0137 and 0.0051, where the mixes of that size have 0.0750, 0.0203 and 0.0173.
const CHUNKS: [usize; 2] = [6, 16];

/// Probes of each chunk: see [`Options::probes`].
const PROBES: usize = 3;

/// What error feedback leaves of the cost of a matrix that it makes: on SmolLM2 0.27 to 0.58 in seven mixes on texts of the calibration's kinds.
const LEFT_BY_FEEDBACK: f64 = 0.4;

/// The types to choose from where 256 divides the rows, and where only 32 does.
const SUPER_BLOCKS: [GgmlType; 7] =
    [GgmlType::Q2_K, GgmlType::Q3_K, GgmlType::IQ4_XS, GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K, GgmlType::Q8_0];
const BLOCKS: [GgmlType; 6] =
    [GgmlType::Q4_0, GgmlType::IQ4_NL, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0];

/// The types that rows of so many values may have; none if no block divides them.
fn types(cols: usize) -> &'static [GgmlType] {
    match cols {
        _ if cols.is_multiple_of(256) => &SUPER_BLOCKS,
        _ if cols.is_multiple_of(32) => &BLOCKS,
        _ => &[],
    }
}

/// What every column's error weighs, by the names of tensors.
pub type Importance = BTreeMap<String, Vec<f32>>;

/// How costs are estimated.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The importance that scales are searched with.
    pub importance: Option<Importance>,
    /// Whether codes are then chosen by error feedback: of all matrices but the token embedding, which thus costs more beside them.
    pub feedback: bool,
    /// The folder of files that keep the hidden states; `None` keeps them in memory.
    pub spill: Option<PathBuf>,
    /// The file that keeps the state of an interrupted estimate; `None` keeps none.
    pub state: Option<PathBuf>,
}

impl Settings {
    fn options(&self) -> Options {
        Options { probes: Some(PROBES), verify: 0, spill: self.spill.clone(), state: self.state.clone() }
    }

    fn comparison(&self) -> Comparison {
        let cache = CacheTypes::both(GgmlType::F32);
        Comparison { modes: vec![Mode::WeightsOnly], cache, shard: (0, 1), state: None, spill: self.spill.clone() }
    }
}

/// The memory beside the weights that estimating and judging take.
///
/// # Errors
/// None: the caches are of a usual type.
pub fn need(of: &Hyperparameters, text: &Text, settings: &Settings, reference: &Gguf) -> Result<MemoryNeed> {
    let [learned, held_out] = parts(text, CHUNKS);
    let estimate = sensitivity::need(of, &learned, &settings.options(), reference, &types)?;
    let judge = compare_need(of, &held_out, &settings.comparison(), 2)?;
    Ok(MemoryNeed { kv: estimate.kv.max(judge.kv), scratch: estimate.scratch.max(judge.scratch) })
}

/// What each tensor costs in each type that it may have, about a file whose matrices have `bytes`.
///
/// # Errors
/// As [`sensitivity::sensitivities`].
pub fn estimate(
    model: &Model,
    text: &Text,
    bytes: u64,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Vec<Sensitivity>> {
    let [learned, _] = parts(text, CHUNKS);
    let mixes = mixes(model, settings.importance.is_some());
    let (base, _) = mixes.into_iter().min_by_key(|(_, size)| size.abs_diff(bytes)).expect("there are mixes");
    let base = candidate(model, &Recipe::new(base), settings)?;
    let mut all = sensitivity::sensitivities(model, &base, &types, &learned, &settings.options(), progress)?;
    if settings.feedback {
        let made = all.iter_mut().filter(|tensor| tensor.name != model.embedding_name());
        made.flat_map(|tensor| &mut tensor.costs).for_each(|(_, cost)| *cost *= LEFT_BY_FEEDBACK);
    }
    Ok(all)
}

/// The types of all matrices.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// The types, and what most weights are of.
    pub recipe: Recipe,
    /// The bytes of all matrices.
    pub bytes: u64,
    /// The divergence that is expected, in nats per scored token.
    pub kld: f64,
    /// Of each tensor its name, its type, and its share of that.
    pub tensors: Vec<(String, GgmlType, f64)>,
}

/// The types that cost least in at most `budget` bytes for all matrices; `None` if they do not fit in their smallest ones.
pub fn allocate(tensors: &[Sensitivity], budget: u64) -> Option<Allocation> {
    let choices: Vec<Vec<(GgmlType, Choice)>> = tensors.iter().map(choices).collect();
    let items: Vec<Vec<Choice>> =
        choices.iter().map(|choices| choices.iter().map(|(_, choice)| *choice).collect()).collect();
    let chosen = choose(&items, budget)?;
    let (mut weights, mut all) = (BTreeMap::<GgmlType, u64>::new(), Vec::new());
    let (mut bytes, mut kld) = (0, 0.0);
    for ((tensor, choices), at) in tensors.iter().zip(&choices).zip(chosen) {
        let (ty, choice) = choices[at];
        *weights.entry(ty).or_default() += (tensor.rows * tensor.cols) as u64;
        bytes += choice.bytes;
        kld += choice.cost;
        all.push((tensor.name.clone(), ty, choice.cost));
    }
    // A file is of the type that most of its weights are of; one of float types alone is of the nearest quantized one.
    let most = weights.into_iter().filter(|(ty, _)| ty.block_len() > 1).max_by_key(|(_, n)| *n);
    let mix = Mix::from_name(most.map_or(GgmlType::Q8_0, |(ty, _)| ty).name()).ok()?;
    let by_name = all.iter().map(|(name, ty, _)| (name.clone(), *ty)).collect();
    Some(Allocation { recipe: Recipe { by_name, ..Recipe::new(mix) }, bytes, kld, tensors: all })
}

/// The least bytes that all matrices take.
pub fn least_bytes(tensors: &[Sensitivity]) -> u64 {
    tensors.iter().filter_map(|tensor| choices(tensor).iter().map(|(_, choice)| choice.bytes).min()).sum()
}

/// The choices of a tensor: its types, and the one of the source, which costs nothing.
fn choices(tensor: &Sensitivity) -> Vec<(GgmlType, Choice)> {
    let source = [(tensor.source, 0.0)];
    let all = tensor.costs.iter().chain(&source);
    all.filter_map(|&(ty, cost)| Some((ty, Choice { bytes: bytes(tensor.rows, ty.row_bytes(tensor.cols)?), cost })))
        .collect()
}

/// The bytes of a tensor with those that fill up its last 32 in a GGUF file.
fn bytes(rows: usize, row: usize) -> u64 {
    (rows as u64 * row as u64).next_multiple_of(32)
}

/// The divergences, on the held-out part of the text, of an allocation and of the largest mix that has no more bytes, which is told.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// Of the allocation, in nats per scored token.
    pub kld: f64,
    /// The mix, the bytes of its matrices, and its divergence; `None` if even the smallest mix is larger.
    pub mix: Option<(Mix, u64, f64)>,
}

/// Measures both; `None` if nothing of the text is held out.
///
/// # Errors
/// As [`compare`].
pub fn judge(
    model: &Arc<Model>,
    text: &Text,
    allocation: &Allocation,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Option<Judgement>> {
    let [_, held_out] = parts(text, CHUNKS);
    if held_out.chunks.is_empty() {
        return Ok(None);
    }
    let mixes = mixes(model, settings.importance.is_some());
    let rival = mixes.into_iter().filter(|(_, bytes)| *bytes <= allocation.bytes).max_by_key(|(_, bytes)| *bytes);
    let mut candidates = vec![candidate(model, &allocation.recipe, settings)?];
    if let Some((mix, _)) = rival {
        candidates.push(candidate(model, &Recipe::new(mix), settings)?);
    }
    let result = compare(model, &candidates, &held_out, &settings.comparison(), progress)?;
    let klds: Vec<f64> = result.modes[0].candidates.iter().map(|candidate| candidate.mean_kld()).collect();
    Ok(Some(Judgement { kld: klds[0], mix: rival.map(|(mix, bytes)| (mix, bytes, klds[1])) }))
}

/// The quantized mixes that may be made, and the bytes of their matrices.
fn mixes(model: &Model, importance: bool) -> Vec<(Mix, u64)> {
    let (of, gguf) = (model.hyperparameters(), model.gguf());
    let facts: Vec<TensorFacts<'_>> =
        gguf.tensors().iter().map(|t| TensorFacts { name: &t.name, dims: &t.dims, kept: t.ty }).collect();
    let size = |recipe: &Recipe| -> u64 {
        let types = recipe.types(of, &facts, importance);
        let matrices = facts
            .iter()
            .zip(types)
            .filter(|(fact, _)| crate::arch::weight(fact.name).is_some_and(|named| named.spec.is_matrix()));
        let of_one = |(fact, ty): (&TensorFacts<'_>, GgmlType)| {
            let (cols, rows) = (fact.dims[0] as usize, fact.dims[1..].iter().product::<u64>() as usize);
            bytes(rows, ty.row_bytes(cols).unwrap_or(0))
        };
        matrices.map(of_one).sum()
    };
    let quantized = Mix::ALL.iter().filter(|mix| mix.base.block_len() > 1);
    let made = quantized.map(|mix| Recipe::new(*mix)).filter(|recipe| importance || !recipe.requires_importance());
    made.map(|recipe| (recipe.mix, size(&recipe))).collect()
}

/// The source as this recipe quantizes it.
fn candidate(model: &Model, recipe: &Recipe, settings: &Settings) -> Result<Candidate> {
    let importance = settings.importance.clone();
    let transform = Transform::quantized(model.gguf(), model.hyperparameters(), recipe, importance, false)?;
    Ok(Candidate { name: recipe.mix.name.to_owned(), model: None, transform, cache: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, rows: usize, importance: f64) -> Sensitivity {
        let costs = BLOCKS.iter().map(|ty| (*ty, importance / ty.row_bytes(32).unwrap().pow(4) as f64)).collect();
        Sensitivity { name: name.to_owned(), rows, cols: 64, source: GgmlType::BF16, costs }
    }

    #[test]
    fn bytes_go_where_errors_cost_most() {
        let tensors = [tensor("a", 1000, 1.0), tensor("b", 1000, 50.0), tensor("c", 1000, 1.0)];
        let [small, large] = [GgmlType::Q4_0, GgmlType::Q8_0].map(|ty| bytes(1000, ty.row_bytes(64).unwrap()));
        assert_eq!(least_bytes(&tensors), 3 * small);
        assert!(allocate(&tensors, 3 * small - 1).is_none());
        let Allocation { recipe, bytes, kld, tensors: all } = allocate(&tensors, 2 * small + large).unwrap();
        assert_eq!(recipe.by_name["b"], GgmlType::Q8_0);
        assert!(bytes <= 2 * small + large && all.len() == 3);
        assert_eq!(kld, all.iter().map(|(_, _, kld)| kld).sum::<f64>());
        // Whoever can afford the source itself has no loss.
        assert_eq!(allocate(&tensors, u64::MAX / 2).unwrap().kld, 0.0);
    }
}
