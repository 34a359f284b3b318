//! The walk of a candidate: the stream halfway to it, the probes at its end, and their gradients back to the embeddings.

use super::resume::{Done, LAYERS_AT, Resume, Walk};
use super::tally::{self, Tally};
use super::work::{Variant, Work};
use super::{gradients, head, streams};
use crate::error::Result;
use crate::eval::compare::lock_step::embed;
use crate::eval::compare::ranges::ranges;
use crate::model::States;
use crate::progress::Progress;

/// Adds what the walk of the next candidate gives to what is done. The first of the variants is the candidate.
///
/// # Errors
/// If weights or states cannot be read, the memory cannot be had, a number is not finite, or the user stopped.
pub fn walk(
    work: &Work<'_>,
    variants: &[Variant<'_>],
    (done, resume): (&mut Done, &Resume),
    probes: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let (of, n, saved) = (work.reference.hyperparameters(), work.tokens.len(), done.walk.take());
    let layers = saved.as_ref().map_or(of.layers, |walk| walk.layers);
    progress.begin("tensors: halfway", (n * layers) as u64);
    let mut stream = streams::stream(work, Some(&variants[0]), layers, progress)?;
    progress.end();
    let mut walk = match saved {
        Some(walk) => walk,
        None => begin(work, variants, done, &mut stream.end, probes, progress)?,
    };
    progress.begin("tensors: gradients", (n * of.layers) as u64);
    progress.advance((n * (of.layers - layers)) as u64);
    let save = &mut |walk: &mut Walk| resume.save(done, Some(walk));
    gradients::gradients(work, variants, &mut stream, (&mut walk, save), progress)?;
    progress.end();
    for (variant, tallies) in variants.iter().zip(&mut walk.tallies) {
        tallies[0] = embedding(work, variant, &mut walk.dh, progress)?;
    }
    done.walked.push(walk.tallies);
    Ok(())
}

/// The walk before the last layer.
fn begin(
    work: &Work<'_>,
    variants: &[Variant<'_>],
    done: &mut Done,
    halfway: &mut States,
    probes: usize,
    progress: &dyn Progress,
) -> Result<Walk> {
    let (of, candidate) = (work.reference.hyperparameters(), done.walked.len());
    progress.begin("tensors: probes", 2 * (work.rows.len() * of.vocab.div_ceil(head::PART)) as u64);
    let (ours, theirs) = done.ends.split_at_mut(1);
    let end = head::head(work, variants, [&mut ours[0], &mut theirs[candidate], halfway], probes, progress)?;
    progress.end();
    let none = Tally::new(probes, work.lengths.len());
    let of_variant = |output| {
        let mut tallies = vec![none.clone(); LAYERS_AT + of.layers * super::MATRICES];
        tallies[1] = output;
        tallies
    };
    Ok(Walk { layers: of.layers, dh: end.dh, tallies: end.tallies.into_iter().map(of_variant).collect() })
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
    let mut tally = Tally::new(dh.len() - 1, chunks);
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
