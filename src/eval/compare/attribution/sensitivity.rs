//! What each tensor costs by itself in each of several types: one walk past all of them, halfway to a single candidate.

use super::costs::{self, Place};
use super::resume::{Done, Resume};
use super::work::{Variant, Work};
use super::{Options, divergences, largest_layer, need_of, places, streams, walk};
use crate::arch::Hyperparameters;
use crate::error::Result;
use crate::eval::compare::{Candidate, Text};
use crate::gguf::Gguf;
use crate::model::{MemoryNeed, Model};
use crate::progress::Progress;
use std::collections::HashMap;
use strata_quant::GgmlType;

/// What a tensor costs in each of some types.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: usize,
    /// The values of a row.
    pub cols: usize,
    /// Its type in the reference, in which it costs nothing.
    pub source: GgmlType,
    /// Its share of the divergence in each type, in nats per scored token.
    pub costs: Vec<(GgmlType, f64)>,
}

/// The types to ask for, for rows of so many values.
pub type TypesOf<'t> = dyn Fn(usize) -> &'t [GgmlType] + 't;

/// The memory beside the weights that [`sensitivities`] takes with these types.
///
/// # Errors
/// None: the caches are of a usual type.
pub fn need(
    of: &Hyperparameters,
    text: &Text,
    options: &Options,
    reference: &Gguf,
    types: &TypesOf<'_>,
) -> Result<MemoryNeed> {
    let variants = columns(of).into_iter().map(|cols| types(cols).len()).max().unwrap_or(0);
    // The base is counted as the largest type.
    let of_type = |k: usize| largest_layer(reference, |_, ty, cols| types(cols).get(k).copied().unwrap_or(ty));
    let stored = (0..variants).map(of_type).fold(2 * largest_layer(reference, |_, ty, _| ty), u64::saturating_add);
    need_of(of, text, options, (1, 1 + variants), stored)
}

/// What every tensor costs by itself in each of the types that `types` gives for its columns, in proportion so that the costs of the tensors
/// of `base` sum to its divergence. Errors are taken to first order about the point halfway to `base`, which should be of about the wanted size.
///
/// # Errors
/// As [`super::attribute`].
pub fn sensitivities(
    reference: &Model,
    base: &Candidate,
    types: &TypesOf<'_>,
    text: &Text,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Sensitivity>> {
    let work = Work::new(reference, text, options.spill.as_deref());
    let (of, probes) = (reference.hyperparameters(), options.probes(text.chunks.len()));
    let (layers, tokens, bases) = (of.layers, work.tokens.len(), std::slice::from_ref(base));
    let variant = Variant::of(base, reference);
    let places = places(&work, &variant);
    let shape = |place: &Place| reference.architecture().spec(place.role()).shape(of);
    let count = places.iter().map(|place| types(shape(place).1).len()).max().unwrap_or(0);
    let mut variants = vec![Variant::of(base, reference)];
    for k in 0..count {
        let ty = |place: &Place| {
            let ty = types(shape(place).1).get(k)?;
            Some((place.name(reference.architecture()), *ty))
        };
        variants.push(variant.retyped(reference, places.iter().filter_map(ty).collect::<HashMap<_, _>>()));
    }
    let asked: Vec<_> = places.iter().map(|place| types(shape(place).1)).collect();
    let file = options.file(&format!("sensitivities {asked:?}"), &work, bases);
    let resume = Resume::new(file, &work, 1, (probes, variants.len()));
    let mut done = resume.load(&work)?;
    progress.begin("sensitivities: layer by layer", (tokens * layers * 3) as u64);
    streams::streams(&work, &variants[..1], (&mut done, &resume), progress)?;
    progress.end();
    if done.measured.is_empty() {
        progress.begin("sensitivities: scoring", (work.rows.len() * 2) as u64);
        done.measured = divergences(&work, &variants[..1], &mut done.ends, progress)?;
        progress.end();
    }
    if done.walked.is_empty() {
        walk::walk(&work, &variants, (&mut done, &resume), probes, progress)?;
    }
    reference.check()?;
    let found = costs_by_type(&work, &variants, &done)?;
    let sensitivity = |(i, place): (usize, &Place)| {
        let (name, (rows, cols)) = (place.name(reference.architecture()), shape(place));
        let source = reference.gguf().required_tensor(&name)?.ty;
        let costs = types(cols).iter().zip(&found).map(|(ty, costs)| (*ty, costs[i])).collect();
        Ok(Sensitivity { name, rows, cols, source, costs })
    };
    let all = places.iter().enumerate().map(sensitivity).collect::<Result<_>>()?;
    resume.remove();
    Ok(all)
}

/// The costs of all tensors in every variant after the first, which is the base.
fn costs_by_type(work: &Work<'_>, variants: &[Variant<'_>], done: &Done) -> Result<Vec<Vec<f64>>> {
    let scored = work.rows.len();
    let of = |v: usize| costs::tallies(work, &variants[v], &done.walked[0][v]);
    let base = of(0)?;
    let (alone, shares) = {
        let alone = costs::alone(&base, scored);
        let shares = costs::shares(&base, &alone, scored);
        (alone.iter().sum::<f64>(), shares.iter().sum::<f64>())
    };
    let share = if alone > 0.0 { shares / alone } else { 1.0 };
    let costs = |v| Ok(costs::alone(&of(v)?, scored).into_iter().map(|cost| cost * share).collect());
    (1..variants.len()).map(costs).collect()
}

/// The lengths of the rows of all matrices.
fn columns(of: &Hyperparameters) -> [usize; 3] {
    [of.hidden, of.q_width(), of.ffn]
}
