//! Which tensor of a candidate costs what: the share of every matrix in its divergence from the reference, weights only.
//!
//! With `z` the logits of the reference at a scored token, `F(z) = diag(p) - p p'` the Fisher information of logits, and `J(W)` what small
//! errors of the weights do to the logits, the errors `E` of a candidate cost
//! ```text
//! KLD = int_0^1 (1 - s) dz' F(z + s dz) dz ds,   dz = int_0^1 J(W + s E) E ds
//! ```
//! (Taylor's theorem with the remainder as an integral; the gradient of the divergence is 0 at `z`). The weights of the two integrals have
//! their centroids at `s = 1/3` and `s = 1/2`. So `1/2 (J E)' F (J E)` with `F` a third of the way from the reference's logits to the
//! candidate's, and `J` halfway from its weights to the candidate's, is right to third order in `E`; both at the reference, only to second.
//! So each candidate has a walk of its own. Tensors with errors `E_i` cost `1/2 (J E_i)' F (J E_i)` by
//! themselves, and in all `1/2 (J E)' F (J E)`, the sum of `1/2 (J E_i)' F (J E)`, which is less where errors make up for each other. The
//! shares are the former, in proportion so that they sum to the latter.
//!
//! * `work.rs`: what all steps work on; `resume.rs`: how far they are;
//! * `streams.rs`: the residual stream, forward, and its errors in every layer;
//! * `walk.rs`: the steps of a candidate's walk; `head.rs`: random probes of the logits, and their gradients by the last hidden states;
//! * `gradients.rs`: these from the last layer to the first; `backward.rs`, `attention.rs`: through a layer;
//! * `tally.rs`: what is summed up for a tensor, and why that gives its share; `costs.rs`: the shares;
//! * `upgrades.rs`: where more bytes would save most; `verify.rs`: tensors measured one at a time;
//! * [`sensitivity`]: the costs of every tensor in several types;
//! * `product.rs`: products in memory.

mod attention;
mod backward;
mod costs;
mod gradients;
mod head;
mod product;
pub mod result;
mod resume;
pub mod sensitivity;
mod streams;
mod tally;
mod upgrades;
mod verify;
mod walk;
mod work;

pub use result::{Attribution, LayerError, TensorCost, Upgrade};

use super::derive::Head;
use super::scores::CandidateScores;
use super::{Candidate, DECODED_LOGIT_ROWS, StateFile, Text, comparable, identify, score};
use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{CacheTypes, MemoryNeed, Model, States, WholeSequences};
use crate::progress::Progress;
use crate::weights::Transform;
use costs::Place;
use resume::{Done, Resume, VARIANTS};
use std::collections::HashMap;
use std::path::PathBuf;
use strata_quant::GgmlType;
use tally::Tally;
use verify::Task;
use work::{Variant, Work};

/// The number of matrices of a layer.
const MATRICES: usize = crate::weights::MATRICES.len();

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
    /// The file that keeps the state of an interrupted attribution, or the folder that it is made in; `None` keeps none.
    pub state: Option<PathBuf>,
}

impl Options {
    fn probes(&self, chunks: usize) -> usize {
        const ENOUGH: usize = 128;
        self.probes.unwrap_or_else(|| ENOUGH.div_ceil(chunks.max(1)).clamp(2, 16)).clamp(1, 64)
    }

    /// The file of the state of this work, of which `what` says what these settings do not.
    fn file(&self, what: &str, work: &Work<'_>, candidates: &[Candidate]) -> StateFile {
        let models = candidates.iter().filter_map(|candidate| candidate.model.as_deref());
        let models: Vec<&Model> = [work.reference].into_iter().chain(models).collect();
        let how = format!("{what} {} {}", self.probes(work.lengths.len()), self.verify);
        let (id, hidden) = (identify(&models, candidates, work.text, &how), work.reference.hyperparameters().hidden);
        StateFile::new("tensors", self.state.clone(), id, [work.tokens.len(), hidden])
    }
}

/// The memory beside the weights that the attribution of candidates takes, each a file and what becomes of its matrices.
///
/// # Errors
/// None: the caches are of a usual type.
pub fn need(
    of: &Hyperparameters,
    text: &Text,
    options: &Options,
    reference: &Gguf,
    candidates: &[(&Gguf, &Transform)],
) -> Result<MemoryNeed> {
    // The reference's layer, a candidate's, and that in larger types, as they are stored.
    let variants = candidates.iter().map(|(file, transform)| {
        let stored = |name: &str, ty| transform.stored_type(name, ty);
        let larger = |ty, cols| upgrades::next_larger(ty, cols).unwrap_or(GgmlType::F32);
        largest_layer(file, |name, ty, _| stored(name, ty))
            + largest_layer(file, |name, ty, cols| larger(stored(name, ty), cols))
    });
    let stored = largest_layer(reference, |_, ty, _| ty).saturating_add(variants.max().unwrap_or(0));
    need_of(of, text, options, (candidates.len(), VARIANTS), stored)
}

/// The same for so many candidates, each with so many variants, whose layers take `stored` bytes with the reference's.
fn need_of(
    of: &Hyperparameters,
    text: &Text,
    options: &Options,
    (candidates, variants): (usize, usize),
    stored: u64,
) -> Result<MemoryNeed> {
    let (lengths, probes) = (text.lengths(), options.probes(text.chunks.len()) + 1);
    let (tokens, longest) = (lengths.iter().sum::<usize>(), lengths.iter().copied().max().unwrap_or(0));
    let group = gradients::TOKENS.min(tokens).max(longest);
    let rows = gradients::together(group, probes) * group;
    let product =
        |factors: &[usize]| factors.iter().fold(4u64, |product, &factor| product.saturating_mul(factor as u64));
    let layer = product(&[of.hidden, 2 * of.q_width() + 2 * of.kv_width() + 3 * of.ffn]);
    // Halfway and transposed, in F32.
    let weights = layer.saturating_mul(2).saturating_add(stored);
    // An error of a matrix; what all of them give, and what the matrices read and give; gradients by these, and those on their way.
    let (results, widest) = (2 * of.hidden + of.q_width() + 2 * of.kv_width() + 2 * of.ffn, of.ffn.max(of.q_width()));
    let errors = product(&[widest, of.hidden]).saturating_add(product(&[group, variants, results]));
    let trace = product(&[group, 6 * of.hidden + 4 * of.q_width() + 4 * of.kv_width() + 5 * of.ffn]);
    let gradients = product(&[rows, 8 * of.hidden + 6 * of.q_width() + 6 * of.kv_width() + 4 * of.ffn]);
    let walk = [weights, errors, trace, gradients].into_iter().fold(0, u64::saturating_add);
    // Forward, layers are those of the reference and a candidate; or one halfway to it.
    let forward = weights.saturating_add(MemoryNeed::sub_batch(of, &lengths));
    // Of all scored tokens the gradients, and what the matrix reads in four places; the probes of a part of the vocabulary.
    let (part, block) = (head::PART.min(of.vocab), head::ROWS.min(text.scores()));
    let scored = product(&[text.scores(), probes + 4, of.hidden]);
    let probes_of_part = product(&[block, 3 * probes * part + 4 * part + probes * of.hidden]);
    let parts = product(&[part, 5 + variants, of.hidden]);
    let head = [scored, probes_of_part, parts].into_iter().fold(0, u64::saturating_add);
    // Those kept of one model; probes; the ends; three more, or those of tensors one at a time.
    let lanes = probes + 1 + candidates + 3.max(verify::TOGETHER.min(options.verify * candidates));
    let states = match options.spill {
        None => product(&[tokens, of.hidden, of.layers + lanes]),
        Some(_) => product(&[2 * group, of.hidden, lanes + 1]),
    };
    let kv = WholeSequences::kv_bytes(of, &lengths, CacheTypes::both(GgmlType::F32))?;
    Ok(MemoryNeed { kv, scratch: states.saturating_add(walk.max(forward).max(head)) })
}

/// The bytes of the largest layer of a file, where the tensors are of the types that `ty` makes of their names, types and columns.
fn largest_layer(file: &Gguf, ty: impl Fn(&str, GgmlType, usize) -> GgmlType) -> u64 {
    let mut layers: HashMap<&str, u64> = HashMap::new();
    for tensor in file.tensors() {
        let layer = tensor.name.strip_prefix("blk.").and_then(|name| name.split_once('.'));
        if let (Some((layer, _)), [cols, rows @ ..]) = (layer, &*tensor.dims) {
            let cols = usize::try_from(*cols).unwrap_or(usize::MAX);
            let row = ty(&tensor.name, tensor.ty, cols).row_bytes(cols).unwrap_or(usize::MAX) as u64;
            let bytes = layers.entry(layer).or_default();
            *bytes = bytes.saturating_add(rows.iter().fold(row, |bytes, rows| bytes.saturating_mul(*rows)));
        }
    }
    layers.into_values().max().unwrap_or(0)
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
    let (layers, tokens) = (reference.hyperparameters().layers, work.tokens.len());
    let variants: Vec<Variant<'_>> = candidates.iter().map(|c| Variant::of(c, reference)).collect();
    let (n, probes) = (variants.len(), options.probes(text.chunks.len()));
    let resume = Resume::new(options.file("tensors", &work, candidates), &work, n, (probes, VARIANTS));
    let mut done = resume.load(&work)?;

    progress.begin("tensors: layer by layer", (tokens * layers * (1 + 2 * n)) as u64);
    streams::streams(&work, &variants, (&mut done, &resume), progress)?;
    progress.end();
    if done.measured.is_empty() {
        progress.begin("tensors: scoring", (work.rows.len() * (1 + n)) as u64);
        done.measured = divergences(&work, &variants, &mut done.ends, progress)?;
        progress.end();
    }
    let mut results = Vec::new();
    for (c, variant) in variants.iter().enumerate() {
        let larger = larger(&work, variant)?;
        let both = [Variant::of(&candidates[c], reference), variant.retyped(reference, larger.clone())];
        if c >= done.walked.len() {
            walk::walk(&work, &both, (&mut done, &resume), probes, progress)?;
        }
        let of = |v: usize| costs::tallies(&work, &both[v], &done.walked[c][v]);
        let cost = Costs { work: &work, variant, tallies: &of(0)? };
        let mut attribution = cost.attribution(done.measured[c], done.errors[c].clone())?;
        attribution.upgrades = cost.upgrades(&larger, &of(1)?)?;
        results.push(attribution);
    }
    verify_largest(&work, &variants, (&mut done, &resume), &mut results, options.verify, progress)?;
    let models = variants.iter().map(|variant| variant.model).chain([reference]);
    models.into_iter().try_for_each(|model| model.check())?;
    resume.remove();
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

/// The sums of a candidate's tensors, to be made costs.
struct Costs<'a> {
    work: &'a Work<'a>,
    variant: &'a Variant<'a>,
    tallies: &'a [(Place, Tally)],
}

impl Costs<'_> {
    fn attribution(&self, measured_kld: f64, layers: Vec<LayerError>) -> Result<Attribution> {
        let scored = self.work.rows.len();
        let alone = costs::alone(self.tallies, scored);
        let shares = costs::shares(self.tallies, &alone, scored);
        let architecture = self.work.reference.architecture();
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let mut tensors = Vec::new();
        for (((place, tally), &alone_kld), kld) in self.tallies.iter().zip(&alone).zip(shares) {
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
                alone_kld,
                verified: None,
                name,
            });
        }
        tensors.sort_by(|a, b| b.kld.total_cmp(&a.kld));
        let freedom = self.tallies.first().map_or(1, |(_, tally)| tally.random().len()) as f64;
        Ok(Attribution {
            measured_kld,
            sum_kld: tensors.iter().map(|tensor| tensor.kld).sum(),
            alone_kld: alone.iter().sum(),
            sampling_error: (2.0 / freedom).sqrt(),
            layers,
            tensors,
            upgrades: Vec::new(),
        })
    }

    fn bytes(&self, place: Place, ty: GgmlType) -> u64 {
        costs::values(self.work, place) / ty.block_len() as u64 * ty.block_bytes() as u64
    }

    /// Where one percent more bytes would save most: `larger` are the sums of the larger types.
    fn upgrades(&self, types: &HashMap<String, GgmlType>, larger: &[(Place, Tally)]) -> Result<Vec<Upgrade>> {
        let (mut all, mut bytes, scored) = (Vec::new(), 0, self.work.rows.len());
        let [now, later] = [self.tallies, larger].map(|tallies| costs::alone(tallies, scored));
        let shares = costs::shares(self.tallies, &now, scored);
        for (i, (place, _)) in self.tallies.iter().enumerate() {
            let name = place.name(self.work.reference.architecture());
            let (from, to) = (self.variant.ty(&name)?, types[&name]);
            bytes += self.bytes(*place, from);
            let extra_bytes = self.bytes(*place, to).saturating_sub(self.bytes(*place, from));
            let saves_kld = if now[i] > 0.0 { shares[i] * (1.0 - later[i] / now[i]) } else { 0.0 };
            all.push(Upgrade { name, from: from.name(), to: to.name(), extra_bytes, saves_kld });
        }
        Ok(upgrades::choose(all, bytes))
    }
}

/// Measures the divergence of the `n` tensors of each candidate with the largest shares, one at a time.
fn verify_largest(
    work: &Work<'_>,
    candidates: &[Variant<'_>],
    (done, resume): (&mut Done, &Resume),
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
    let measured = verify::verify(work, candidates, &tasks, (done, resume), progress)?;
    for (task, kld) in tasks.iter().zip(measured) {
        results[task.candidate].tensors[task.at].verified = Some(kld);
    }
    Ok(())
}
