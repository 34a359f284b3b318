//! The walk of the gradients from the last layer to the first, past every matrix, halfway from the reference to a candidate.

use super::MATRICES;
use super::backward::{Angles, Gradients, Group, INPUT, Trace, Transposed};
use super::resume::{LAYERS_AT, Walk};
use super::streams::Stream;
use super::tally::Tally;
use super::work::{Layers, Variant, Work};
use crate::error::Result;
use crate::progress::Progress;
use crate::weights::owned::Owned;

/// Rows of gradients, tokens times probes, that go through a layer together; at least those of a chunk and a probe.
pub const ROWS: usize = 512;

/// Tokens that go through a layer together, at least those of a chunk.
pub const TOKENS: usize = 512;

/// Probes that go through a layer together with so many tokens.
pub fn together(tokens: usize, probes: usize) -> usize {
    (ROWS / tokens.max(1)).clamp(1, probes)
}

/// Is called after each layer.
pub type Save<'a> = dyn FnMut(&mut Walk) -> Result<()> + 'a;

/// Takes a walk back through all layers that are before it, past every matrix of every variant. The first of these is the candidate that
/// `stream` is halfway to. The gradients by the states after the last layer become those by the embeddings. `save` is called after each
/// layer. `progress` counts tokens times layers.
///
/// # Errors
/// If the states cannot be read or written, memory cannot be had, the user stopped; or the error of `save`.
pub fn gradients(
    work: &Work<'_>,
    variants: &[Variant<'_>],
    stream: &mut Stream,
    (walk, save): (&mut Walk, &mut Save<'_>),
    progress: &dyn Progress,
) -> Result<()> {
    let n = work.tokens.len();
    let angles = Angles::new(work.reference, work.lengths.iter().copied().max().unwrap_or(0));
    let (mut step, mut back) = (Step::default(), Transposed::default());
    while walk.layers > 0 {
        let (i, Walk { dh: probes, tallies, .. }) = (walk.layers - 1, &mut *walk);
        let all = Layers::read(work, variants, i);
        let halfway = all.halfway();
        back.set(&halfway);
        let at = LAYERS_AT + i * MATRICES..LAYERS_AT + (i + 1) * MATRICES;
        let mut tallies: Vec<_> = tallies.iter_mut().map(|all| &mut all[at.clone()]).collect();
        step.weigh(&all, &mut tallies);
        for (chunks, rows) in work.groups(TOKENS) {
            let group = Group::new(&work.lengths[chunks.clone()], &angles);
            let h = stream.kept.rows(i * n + rows.start..i * n + rows.end)?;
            step.trace.run(work.reference, (i, &halfway.layer()), h, &group)?;
            step.errors(work, &all, &group);
            for first in (0..probes.len()).step_by(together(rows.len(), probes.len())) {
                progress.check()?;
                let last = (first + together(rows.len(), probes.len())).min(probes.len());
                let probes = &mut probes[first..last];
                step.dh.clear();
                for probe in &mut *probes {
                    step.dh.extend_from_slice(probe.rows(rows.clone())?);
                }
                let Step { trace, gradients, dh, .. } = &mut step;
                gradients.run(work.reference, (i, &halfway.layer(), &back), h, (trace, &group), dh);
                for (probe, dh) in probes.iter_mut().zip(dh.chunks_exact(h.len())) {
                    probe.update(rows.clone(), |to| {
                        to.copy_from_slice(dh);
                        Ok(())
                    })?;
                }
                step.tally(&group, (first, chunks.start), &mut tallies);
            }
            progress.advance(rows.len() as u64);
        }
        walk.layers = i;
        save(walk)?;
    }
    Ok(())
}

/// The buffers of a group of chunks in a layer.
#[derive(Default)]
struct Step {
    trace: Trace,
    gradients: Gradients,
    dh: Vec<f32>, // (probes, tokens, hidden)
    e: Owned,
    ex: Vec<Vec<Vec<f32>>>, // (variants, matrices): (tokens, rows of the matrix)
}

impl Step {
    /// Adds the squares of the weights and of their errors.
    fn weigh(&mut self, all: &Layers, tallies: &mut [&mut [Tally]]) {
        for (m, w) in all.ours.matrices().iter().enumerate() {
            let weight = w.square();
            for (theirs, tallies) in all.theirs.iter().zip(&mut *tallies) {
                w.difference(&theirs.matrices()[m], &mut self.e);
                (tallies[m].weight_error, tallies[m].weight) = (self.e.square(), weight);
            }
        }
    }

    /// What the errors of all matrices make of what these read.
    fn errors(&mut self, work: &Work<'_>, all: &Layers, group: &Group<'_>) {
        let Step { trace: Trace { inputs, .. }, e, ex, .. } = self;
        ex.resize_with(all.theirs.len(), || vec![Vec::new(); MATRICES]);
        for (theirs, ex) in all.theirs.iter().zip(ex) {
            for (m, ex) in ex.iter_mut().enumerate() {
                all.ours.matrices()[m].difference(&theirs.matrices()[m], e);
                ex.resize(group.tokens() * e.matrix().rows(), 0.0);
                work.reference.cpu().matmul(e.matrix(), &mut inputs[INPUT[m]], ex);
            }
        }
    }

    /// Adds what the group of chunks from `chunk` on gives for the probes from `probe` on.
    fn tally(&self, group: &Group<'_>, first: (usize, usize), tallies: &mut [&mut [Tally]]) {
        for (ex, tallies) in self.ex.iter().zip(tallies) {
            for (m, (ex, tally)) in ex.iter().zip(&mut **tallies).enumerate() {
                let (g, y) = (self.gradients.by[m].values(), &self.trace.products[m]);
                tally.add(first, &group.sequences, ex.len() / group.tokens(), g, [ex, y]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::{copy, pass, stream};
    use super::*;
    use crate::arch::Hyperparameters;
    use crate::convert::open_model;
    use crate::eval::compare::text::{Chunk, Text};
    use crate::eval::compare::{Candidate, Transform};
    use crate::model::{Model, Scratch, States};
    use crate::progress::Quiet;
    use crate::recipe::{Mix, Recipe};
    use std::path::Path;
    use std::sync::Arc;
    use strata_kernels::{Cpu, Isa};

    fn repository(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn small() -> Model {
        let gguf = open_model(&repository("models/tiny-rustdoc"), &Quiet).unwrap();
        Model::new(gguf, Cpu::new(Isa::best(), 2)).unwrap()
    }

    fn text(chunks: &[&[u32]]) -> Text {
        let chunk = |tokens: &&[u32]| Chunk { number: 0, tokens: tokens.to_vec(), scored: vec![0..tokens.len() - 1] };
        Text::of_chunks("t", chunks.iter().map(chunk).collect())
    }

    /// `(tokens, hidden)`: what the function multiplies the last hidden states with.
    fn factors(tokens: usize, hidden: usize, phase: f64) -> Vec<f32> {
        let at = |i: usize| libm::sin(0.37 * (i / hidden) as f64 + 0.11 * (i % hidden) as f64 + phase) as f32;
        (0..tokens * hidden).map(at).collect()
    }

    fn states(work: &Work<'_>, values: &[f32]) -> States {
        let mut states = work.states().unwrap();
        states.set(0, values).unwrap();
        states
    }

    /// For each chunk, the function of the end of the stream halfway to a candidate, with one matrix replaced.
    fn run(work: &Work<'_>, candidate: &Variant<'_>, other: (usize, usize, &Owned), factors: &[f32]) -> Vec<f64> {
        let (mut stream, n) = (stream(work, Some(candidate), 1, &Quiet).unwrap(), work.tokens.len());
        let mut h = work.states().unwrap();
        copy(&mut stream.kept, 0..n, &mut h, 0).unwrap();
        for i in 0..work.reference.hyperparameters().layers {
            let halfway = Layers::read(work, [candidate], i).halfway();
            let layer = if i == other.0 { halfway.with(other.1, other.2) } else { halfway.layer() };
            pass(work, work.reference, i, &layer, &mut h, &mut Scratch::default(), &Quiet).unwrap();
        }
        let d = factors.len() / n;
        let end = h.rows(0..n).unwrap();
        let of = |tokens: std::ops::Range<usize>| {
            let at = tokens.start * d..tokens.end * d;
            end[at.clone()].iter().zip(&factors[at]).map(|(h, f)| f64::from(*h) * f64::from(*f)).sum()
        };
        crate::eval::compare::ranges::ranges(work.lengths.iter().copied()).into_iter().map(of).collect()
    }

    #[test]
    fn finite_differences_are_the_same() {
        let model = Arc::new(small());
        let tokens: Vec<u32> = (0..40).map(|i| (i * 97 + 11) % 3800).collect();
        let text = text(&[&tokens[..23], &tokens[23..]]);
        let work = Work::new(&model, &text, None);
        let of = Hyperparameters::read(model.gguf()).unwrap();
        let recipe = Recipe::new(Mix::from_name("q4_0").unwrap());
        let transform = Transform::quantized(model.gguf(), &of, &recipe, None, false).unwrap();
        let candidate = Candidate { name: "q4_0".to_owned(), model: None, cache: None, transform };
        let variants = [Variant::of(&candidate, &model)];
        let factors = [0.0, 1.0].map(|phase| factors(40, of.hidden, phase));
        let mut stream = stream(&work, Some(&variants[0]), of.layers, &Quiet).unwrap();
        let dh = factors.iter().map(|factors| states(&work, factors)).collect();
        let tallies = vec![vec![Tally::new(1, 2); LAYERS_AT + of.layers * MATRICES]];
        let mut walk = Walk { layers: of.layers, dh, tallies };
        gradients(&work, &variants, &mut stream, (&mut walk, &mut |_| Ok(())), &Quiet).unwrap();
        for (layer, m) in [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 1), (0, 6)] {
            let all = Layers::read(&work, &variants, layer);
            let (ours, theirs) = (&all.ours.matrices()[m], &all.theirs[0].matrices()[m]);
            let far = [0.75, 0.25].map(|far| ours.towards(theirs, far));
            let name = format!("layer {layer}, {:?}", crate::weights::MATRICES[m]);
            for (probe, factors) in factors.iter().enumerate() {
                let [plus, minus] = [&far[0], &far[1]].map(|w| run(&work, &variants[0], (layer, m, w), factors));
                for chunk in 0..2 {
                    let difference = (plus[chunk] - minus[chunk]) / 0.5;
                    let sum = walk.tallies[0][LAYERS_AT + layer * MATRICES + m].to_list()[5 + probe * 2 + chunk];
                    let tolerance = 0.01 * difference.abs() + 0.01;
                    assert!((sum - difference).abs() < tolerance, "{name}, chunk {chunk}: {sum}, {difference}");
                }
            }
        }
    }

    /// What PyTorch says: `tests/data/make_gradients.py`.
    #[test]
    fn gradients_are_those_of_pytorch() {
        let golden = std::fs::read(repository("tests/data/tiny-rustdoc/gradients.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
        let tokens = [
            3840, 533, 1381, 1375, 260, 317, 303, 348, 603, 616, 2138, 271, 1381, 1375, 260, 11, 794, 554, 471, 198,
            403,
        ];
        let (model, text) = (small(), text(&[&tokens]));
        let (work, of) = (Work::new(&model, &text, None), model.hyperparameters());
        let mut stream = stream(&work, None, of.layers, &Quiet).unwrap();
        let (mut dh, angles) = (factors(21, of.hidden, 0.0), Angles::new(&model, 21));
        let (group, mut step, mut back) = (Group::new(&[21], &angles), Step::default(), Transposed::default());
        for i in (0..of.layers).rev() {
            let ours = Layers::read(&work, [], i).halfway();
            back.set(&ours);
            let h = stream.kept.rows(i * 21..(i + 1) * 21).unwrap();
            step.trace.run(&model, (i, &ours.layer()), h, &group).unwrap();
            step.gradients.run(&model, (i, &ours.layer(), &back), h, (&step.trace, &group), &mut dh);
            for (m, role) in crate::weights::MATRICES.into_iter().enumerate() {
                // `<dL/dW, W>` is the sum over tokens of `G . W x`.
                let product = super::super::tally::dot(step.gradients.by[m].values(), &step.trace.products[m]);
                let expected = golden["products"][model.architecture().spec(role).name(Some(i))].as_f64().unwrap();
                assert!(
                    (product - expected).abs() < 1e-3 * expected.abs().max(1.0),
                    "{i} {role:?}: {product} {expected}"
                );
            }
        }
    }
}
