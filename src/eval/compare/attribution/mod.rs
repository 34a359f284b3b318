//! Which tensor of a candidate costs what: the share of every matrix in its divergence from the reference, weights only.
//!
//! * `work.rs`: what all steps work on;
//! * `streams.rs`: the residual stream, forward, and its errors in every layer;
//! * `head.rs`: random probes of the logits, and their gradients by the last hidden states;
//! * `gradients.rs`: the walk of these from the last layer to the first; `backward.rs`, `attention.rs`: through a layer;
//! * `tally.rs`: what is summed up for a tensor, and why that gives its share; `costs.rs`: the shares;
//! * `upgrades.rs`: where more bytes would save most; `verify.rs`: tensors measured one at a time;
//! * `matrix.rs`, `product.rs`: matrices in memory.

mod attention;
mod backward;
mod costs;
mod gradients;
mod head;
mod matrix;
mod product;
pub mod result;
mod streams;
mod tally;
mod upgrades;
mod verify;
mod work;

pub use result::{Attribution, LayerError, TensorCost, Upgrade};

use super::derive::Head;
use super::lock_step::embed;
use super::ranges::ranges;
use super::scores::CandidateScores;
use super::{Candidate, DECODED_LOGIT_ROWS, Text, comparable, score};
use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::model::{CacheTypes, MemoryNeed, Model, States, WholeSequences};
use crate::progress::Progress;
use costs::Place;
use matrix::MATRICES;
use std::collections::HashMap;
use std::path::PathBuf;
use strata_quant::GgmlType;
use streams::Streams;
use tally::Tally;
use verify::Task;
use work::{Variant, Work};

/// Settings of an attribution.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Random probes of each chunk, at most 64; `None` takes as many as make 128 in all, at most 16. The shares are as uncertain as
    /// `sqrt(2 / (probes * chunks))`, or somewhat less.
    pub probes: Option<usize>,
    /// Of how many tensors of each candidate the divergence is measured as well, those with the largest shares.
    pub verify: usize,
    /// The folder of files that keep the hidden states; `None` keeps them in memory.
    pub spill: Option<PathBuf>,
}

impl Options {
    fn probes(&self, chunks: usize) -> usize {
        const ENOUGH: usize = 128;
        self.probes.unwrap_or_else(|| ENOUGH.div_ceil(chunks.max(1)).clamp(2, 16)).clamp(1, 64)
    }
}

/// The memory beside the weights that the attribution of so many candidates takes.
///
/// # Errors
/// None: the caches are of a usual type.
pub fn need(of: &Hyperparameters, text: &Text, options: &Options, candidates: usize) -> Result<MemoryNeed> {
    let (lengths, probes) = (text.lengths(), options.probes(text.chunks.len()));
    let (tokens, longest) = (lengths.iter().sum::<usize>(), lengths.iter().copied().max().unwrap_or(0));
    let group = gradients::TOKENS.min(tokens).max(longest);
    let rows = gradients::together(group, probes) * group;
    let product =
        |factors: &[usize]| factors.iter().fold(4u64, |product, &factor| product.saturating_mul(factor as u64));
    let layer = of.hidden * (2 * of.q_width() + 2 * of.kv_width() + 3 * of.ffn);
    // The layer, its transposed matrices, that of a candidate, and the candidates and their upgrades as they are encoded, in 8.5 bits.
    let weights = product(&[layer, 3]).saturating_add(product(&[layer, candidates]).saturating_mul(17) / 16);
    // An error and what it gives; what the matrices read and give; gradients by results, and those on their way.
    let widest = of.ffn.max(of.hidden).max(of.q_width());
    let error = product(&[widest, of.hidden]).saturating_add(product(&[widest, 2 * group]));
    let trace = product(&[group, 6 * of.hidden + 4 * of.q_width() + 4 * of.kv_width() + 5 * of.ffn]);
    let gradients = product(&[rows, 8 * of.hidden + 6 * of.q_width() + 6 * of.kv_width() + 4 * of.ffn]);
    // Of all scored tokens; the probes of a part of the vocabulary.
    let scored = product(&[text.scores(), probes + 3, of.hidden]).saturating_add(product(&[512, 2048, 3 * probes + 4]));
    let lanes = of.layers + probes + candidates + 3 + verify::TOGETHER.min(options.verify * candidates);
    let states = match options.spill {
        None => product(&[tokens, of.hidden, lanes]),
        Some(_) => product(&[2 * group, of.hidden, lanes - of.layers]),
    };
    let kv = WholeSequences::kv_bytes(of, &lengths, CacheTypes::both(GgmlType::F32))?;
    let scratch = [weights, error, trace, gradients, scored, states, MemoryNeed::sub_batch(of, &lengths)];
    Ok(MemoryNeed { kv, scratch: scratch.into_iter().fold(0, u64::saturating_add) })
}

/// What the tensors of candidates cost on a text, which is that of all its chunks: parts cannot be merged.
///
/// # Errors
/// If a candidate is of another shape than the reference, weights cannot be read, a number is not finite, the memory cannot be had, or the
/// user stopped.
pub fn attribute(
    reference: &Model,
    candidates: &[Candidate],
    text: &Text,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Attribution>> {
    candidates.iter().try_for_each(|candidate| same_shape(reference, candidate))?;
    let work = Work::new(reference, text, options.spill.as_deref());
    let (layers, tokens, scored) = (reference.hyperparameters().layers, work.tokens.len(), work.rows.len());
    let variants: Vec<Variant<'_>> = candidates.iter().map(|c| Variant::of(c, reference)).collect();
    let n = variants.len();

    progress.begin("tensors: layer by layer", (tokens * layers * (1 + 2 * n)) as u64);
    let mut streams = streams::streams(&work, &variants, progress)?;
    progress.end();
    progress.begin("tensors: scoring", (scored * (1 + n)) as u64);
    let measured = divergences(&work, &variants, &mut streams.ends, progress)?;
    progress.end();
    let (mut results, probes) = (Vec::new(), options.probes(text.chunks.len()));
    for (c, measured) in measured.into_iter().enumerate() {
        let variant = Variant::of(&candidates[c], reference);
        let larger = larger(&work, &variant)?;
        let upgraded = variant.retyped(reference, larger.clone());
        let both = [variant, upgraded];
        let all = walk(&work, &both, (&mut streams, c), probes, progress)?;
        let cost = Costs { work: &work, variant: &both[0], tallies: &all[0] };
        let mut attribution = cost.attribution(measured, streams.errors[c].clone())?;
        attribution.upgrades = cost.upgrades(&larger, &costs::shares(&all[1], scored))?;
        results.push(attribution);
    }
    verify_largest(&work, &variants, &mut streams, &mut results, options.verify, progress)?;
    let models = variants.iter().map(|variant| variant.model).chain([reference]);
    models.into_iter().try_for_each(|model| model.check())?;
    Ok(results)
}

/// An error unless every matrix of a candidate has the shape of the reference's.
fn same_shape(reference: &Model, candidate: &Candidate) -> Result<()> {
    let Some(model) = &candidate.model else { return Ok(()) };
    comparable(reference, candidate, model)?;
    let shape = |model: &Model| {
        let of = model.hyperparameters();
        [of.hidden, of.ffn, of.heads, of.kv_heads, of.head_dim]
    };
    let (ours, theirs) = (shape(reference), shape(model));
    if ours == theirs {
        return Ok(());
    }
    let problem = format!(
        "has hidden, feed-forward, query heads, key heads and head lengths of {theirs:?}, the reference {ours:?}: tensors cannot be compared"
    );
    let place = format!("candidate {}", candidate.name);
    Err(Error::invalid(model.gguf().path(), place, problem, "compare models of one checkpoint"))
}

/// The mean divergences of lanes from the first: of the reference, whose states are the first, then one for each candidate.
fn divergences(
    work: &Work<'_>,
    candidates: &[Variant<'_>],
    ends: &mut [States],
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let mut lanes = vec![(Head::new(work.reference, &work.decoded), 0)];
    lanes.extend(candidates.iter().enumerate().map(|(c, of)| (Head::new(of.model, &of.decoded), c + 1)));
    let (_, scores) = score(lanes, ends, work.text, DECODED_LOGIT_ROWS, progress)?;
    Ok(scores.iter().map(CandidateScores::mean_kld).collect())
}

/// The types of all matrices of a candidate in the next larger type of their family, and of those that have none in the reference's.
fn larger(work: &Work<'_>, variant: &Variant<'_>) -> Result<HashMap<String, GgmlType>> {
    let (architecture, gguf) = (work.reference.architecture(), work.reference.gguf());
    let mut types = HashMap::new();
    for place in places(work, variant) {
        let name = place.name(architecture);
        let cols = architecture.spec(place.role()).shape(work.reference.hyperparameters()).1;
        let same = || gguf.tensor(&name).map_or(GgmlType::F32, |tensor| tensor.ty);
        let ty = upgrades::next_larger(variant.ty(&name)?, cols).unwrap_or_else(same);
        types.insert(name, ty);
    }
    Ok(types)
}

/// The tensors of a candidate.
fn places(work: &Work<'_>, variant: &Variant<'_>) -> Vec<Place> {
    let mut places = vec![Place::Embedding { tied: variant.is_tied() }];
    places.extend((!variant.is_tied()).then_some(Place::Output));
    let layers = 0..work.reference.hyperparameters().layers;
    places.extend(layers.flat_map(|layer| (0..MATRICES).map(move |matrix| Place::Matrix { layer, matrix })));
    places
}

/// The sums of all tensors of candidate `c` and of what else is made of it: its walk.
fn walk(
    work: &Work<'_>,
    variants: &[Variant<'_>],
    (streams, c): (&mut Streams, usize),
    probes: usize,
    progress: &dyn Progress,
) -> Result<Vec<Vec<(Place, Tally)>>> {
    let (of, scored) = (work.reference.hyperparameters(), work.rows.len());
    progress.begin("tensors: halfway", (work.tokens.len() * of.layers) as u64);
    let mut stream = streams::stream(work, Some(&variants[0]), progress)?;
    progress.end();
    progress.begin("tensors: probes", 2 * (scored * of.vocab.div_ceil(head::PART)) as u64);
    let (ours, theirs) = streams.ends.split_at_mut(1);
    let mut end = head::head(work, variants, [&mut ours[0], &mut theirs[c], &mut stream.end], probes, progress)?;
    progress.end();
    progress.begin("tensors: gradients", (work.tokens.len() * of.layers) as u64);
    let layers = gradients::gradients(work, variants, &mut stream, &mut end.dh, progress)?;
    progress.end();
    let mut all = Vec::new();
    for ((variant, layers), output) in variants.iter().zip(layers).zip(end.tallies) {
        let embedding = embedding(work, variant, &mut end.dh, progress)?;
        all.push(costs::tallies(work, variant, output, embedding, layers)?);
    }
    Ok(all)
}

/// The sums of the token embedding of a variant, from the gradients of all probes by the embeddings.
fn embedding(work: &Work<'_>, variant: &Variant<'_>, dh: &mut [States], progress: &dyn Progress) -> Result<Tally> {
    let (d, chunks) = (work.reference.hyperparameters().hidden, work.lengths.len());
    let rows = |tokens: &[u32]| -> Result<[Vec<f32>; 2]> {
        let mut both = [States::in_memory(Vec::new(), d), States::in_memory(Vec::new(), d)];
        let [ours, theirs] = &mut both;
        embed(work.reference, &work.decoded, tokens, ours)?;
        embed(variant.model, &variant.decoded, tokens, theirs)?;
        let [ours, mut e] = both.map(States::into_memory);
        e.iter_mut().zip(&ours).for_each(|(e, ours)| *e -= ours);
        Ok([e, ours])
    };
    let mut tally = Tally::new(dh.len(), chunks);
    for (chunk, tokens) in ranges(work.lengths.iter().copied()).into_iter().enumerate() {
        progress.check()?;
        let [e, y] = rows(&work.tokens[tokens.clone()])?;
        for (probe, dh) in dh.iter_mut().enumerate() {
            let sequence = [0..tokens.len()];
            tally.add((probe, chunk), &sequence, d, dh.rows(tokens.clone())?, [&e, &y]);
        }
    }
    let vocab: Vec<u32> = (0..work.reference.hyperparameters().vocab as u32).collect();
    for tokens in vocab.chunks(512) {
        progress.check()?;
        let [e, w] = rows(tokens)?;
        tally.weight_error += e.chunks(d).map(|e| tally::dot(e, e)).sum::<f64>();
        tally.weight += w.chunks(d).map(|w| tally::dot(w, w)).sum::<f64>();
    }
    Ok(tally)
}

/// The sums of a candidate's tensors, to be made costs.
struct Costs<'a> {
    work: &'a Work<'a>,
    variant: &'a Variant<'a>,
    tallies: &'a [(Place, Tally)],
}

impl Costs<'_> {
    fn attribution(&self, measured_kld: f64, layers: Vec<LayerError>) -> Result<Attribution> {
        let scored = self.work.rows.len();
        let shares = costs::shares(self.tallies, scored);
        let architecture = self.work.reference.architecture();
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let mut tensors = Vec::new();
        for ((place, tally), &kld) in self.tallies.iter().zip(&shares) {
            let name = place.name(architecture);
            let ty = self.variant.ty(&name)?;
            tensors.push(TensorCost {
                layer: place.layer(),
                role: architecture.spec(place.role()).gguf,
                ty: ty.name(),
                bytes: self.bytes(*place, ty),
                weight_error: ratio(tally.weight_error, tally.weight),
                output_error: ratio(tally.error, tally.output),
                kld,
                verified: None,
                name,
            });
        }
        tensors.sort_by(|a, b| b.kld.total_cmp(&a.kld));
        let freedom = self.tallies.first().map_or(1, |(_, tally)| tally.sums.len()) as f64;
        Ok(Attribution {
            measured_kld,
            sum_kld: shares.iter().sum(),
            joint_kld: costs::joint(self.tallies, scored),
            sampling_error: (2.0 / freedom).sqrt(),
            layers,
            tensors,
            upgrades: Vec::new(),
        })
    }

    fn bytes(&self, place: Place, ty: GgmlType) -> u64 {
        costs::values(self.work, place) / ty.block_len() as u64 * ty.block_bytes() as u64
    }

    /// Where one percent more bytes would save most: `shares` are those of the larger types.
    fn upgrades(&self, types: &HashMap<String, GgmlType>, shares: &[f64]) -> Result<Vec<Upgrade>> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        let now = costs::shares(self.tallies, self.work.rows.len());
        for (((place, _), now), larger) in self.tallies.iter().zip(now).zip(shares) {
            let name = place.name(self.work.reference.architecture());
            let (from, to) = (self.variant.ty(&name)?, types[&name]);
            bytes += self.bytes(*place, from);
            let extra_bytes = self.bytes(*place, to).saturating_sub(self.bytes(*place, from));
            all.push(Upgrade { name, from: from.name(), to: to.name(), extra_bytes, saves_kld: now - larger });
        }
        Ok(upgrades::choose(all, bytes))
    }
}

/// Measures the divergence of the `n` tensors of each candidate with the largest shares, one at a time.
fn verify_largest(
    work: &Work<'_>,
    candidates: &[Variant<'_>],
    streams: &mut Streams,
    results: &mut [Attribution],
    n: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let mut tasks = Vec::new();
    for (candidate, (variant, result)) in candidates.iter().zip(&*results).enumerate() {
        let architecture = work.reference.architecture();
        let places: HashMap<String, Place> =
            places(work, variant).into_iter().map(|place| (place.name(architecture), place)).collect();
        let largest = result.tensors.iter().take(n).enumerate();
        tasks.extend(largest.map(|(at, tensor)| Task { candidate, place: places[&tensor.name], at }));
    }
    let measured = verify::verify(work, candidates, &tasks, streams, progress)?;
    for (task, kld) in tasks.iter().zip(measured) {
        results[task.candidate].tensors[task.at].verified = Some(kld);
    }
    Ok(())
}
