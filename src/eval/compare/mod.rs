//! What a quantization costs: candidates beside their reference, on the same tokens.
//!
//! * [`text`]: the tokens, in chunks, and which of them are scored; [`chat`]: those of conversations;
//! * [`attribution`]: which tensor costs what;
//! * `derive.rs`: candidates that have no file, and the weights of any as F32;
//! * `lock_step.rs`: all chunks through each layer of all models before the next; `state.rs`: the file that keeps it;
//! * [`scores`]: what a candidate makes of a token, [`astray`]: of those where it is farthest from the reference; [`summary`]: of all of
//!   them, with intervals (`beyond.rs`: of percentiles);
//! * [`result`]: the exact result, which several machines make parts of; `file.rs`: its file.

pub mod astray;
pub mod attribution;
mod beyond;
pub mod chat;
mod derive;
mod file;
mod lock_step;
mod ranges;
pub mod result;
pub mod scores;
mod state;
pub mod summary;
pub mod text;

pub use crate::weights::Transform;
pub(super) use derive::Head;
pub use result::{CandidateFacts, Comparison, ModeScores};
pub use state::StateFile;
pub use text::Text;

use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::io::hash::{Digest, Hasher};
use crate::model::{CacheTypes, MemoryNeed, Model, States, WholeSequences};
use crate::progress::Progress;
pub(crate) use lock_step::embed;
use lock_step::{LaneSpec, hidden_states};
use scores::{CandidateScores, Distributions, ReferenceScores};
use state::Saved;
use std::path::PathBuf;
use std::sync::Arc;
use strata_quant::{ActivationBits, GgmlType};

/// How matrices are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As a run multiplies them: quantized weights with 8-bit activations. What the user gets.
    AsRun,
    /// As a run with 16-bit activations multiplies them.
    AsRun16,
    /// Decoded weights with activations, keys and values in F32. What the file is.
    WeightsOnly,
}

impl Mode {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::AsRun => "as run",
            Mode::AsRun16 => "as run, 16-bit activations",
            Mode::WeightsOnly => "weights only",
        }
    }

    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::AsRun, Mode::AsRun16, Mode::WeightsOnly];

    /// That of a run with activations of this precision.
    pub fn as_run(bits: ActivationBits) -> Mode {
        match bits {
            ActivationBits::Eight => Mode::AsRun,
            ActivationBits::Sixteen => Mode::AsRun16,
        }
    }
}

/// A candidate.
pub struct Candidate {
    /// Its name in reports: the file's, or the type's.
    pub name: String,
    /// Its model; `None` if it is made of the reference's.
    pub model: Option<Arc<Model>>,
    /// What becomes of the matrices of that model, or of the reference's.
    pub transform: Transform,
    /// The types of its KV cache; `None` takes those of the mode.
    pub cache: Option<CacheTypes>,
}

/// Settings of a comparison.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The modes to compare in.
    pub modes: Vec<Mode>,
    /// The types of the KV cache as run.
    pub cache: CacheTypes,
    /// The part of the chunks to compute, `(i, n)` with `i` from 0: every `n`-th.
    pub shard: (usize, usize),
    /// The file that keeps the state of an interrupted comparison, or the folder that it is made in; `None` keeps none.
    pub state: Option<PathBuf>,
    /// The folder of files that keep the hidden states between layers; `None` keeps them in memory.
    pub spill: Option<PathBuf>,
}

/// The rows of logits in memory at a time, of the reference and of one candidate.
const LOGIT_ROWS: usize = 64;

/// The same where a part of the output matrix is decoded for all of them.
const DECODED_LOGIT_ROWS: usize = 512;

/// The memory beside the weights that comparing so many candidates takes.
///
/// # Errors
/// If a cache cannot be of these types.
pub fn need(of: &Hyperparameters, text: &Text, settings: &Settings, candidates: usize) -> Result<MemoryNeed> {
    let (lengths, lanes) = (text.lengths(), (settings.modes.len() * (1 + candidates)) as u64);
    let kv = WholeSequences::kv_bytes(of, &lengths, CacheTypes::both(GgmlType::F32))?.saturating_mul(lanes);
    let rows = if settings.modes.contains(&Mode::WeightsOnly) { DECODED_LOGIT_ROWS } else { LOGIT_ROWS };
    // Logits of the reference and a candidate in F32, exponentials in F64.
    let logits = (16 * rows as u64).saturating_mul(of.vocab as u64);
    // Of states in files, a group of each lane is in memory, as values and as bytes.
    let tokens =
        if settings.spill.is_some() { 2 * WholeSequences::most_tokens(&lengths) } else { lengths.iter().sum() };
    let states = MemoryNeed::states(of, tokens).saturating_mul(lanes);
    Ok(MemoryNeed { kv, scratch: MemoryNeed::sub_batch(of, &lengths).saturating_add(logits).saturating_add(states) })
}

/// Compares candidates with a reference on a text. `progress` counts tokens times layers times lanes, then scored tokens times lanes.
///
/// # Errors
/// If a candidate has another vocabulary or number of layers, weights cannot be read, a number is not finite, the memory cannot be had, or
/// the user stopped.
///
/// # Panics
/// If a mode is that of a run with activations of another precision than the models' processors have.
pub fn compare(
    reference: &Arc<Model>,
    candidates: &[Candidate],
    text: &Text,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let (comparison, state) = compare_and_keep(reference, candidates, text, settings, progress)?;
    state.remove();
    Ok(comparison)
}

/// In a state: the comparison is finished.
const FINISHED: u64 = u64::MAX;

/// [`compare`], whose result the state keeps until its owner removes it: for work that takes long after it.
///
/// # Errors
/// Those of [`compare`].
///
/// # Panics
/// As [`compare`].
pub fn compare_and_keep(
    reference: &Arc<Model>,
    candidates: &[Candidate],
    text: &Text,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<(Comparison, StateFile)> {
    let files = candidates.iter().filter_map(|candidate| Some((candidate, candidate.model.as_ref()?)));
    files.into_iter().try_for_each(|(candidate, model)| comparable(reference, candidate, model))?;
    let models = candidates.iter().filter_map(|candidate| candidate.model.as_ref()).chain([reference]);
    let runs: Vec<Mode> = models.map(|model| Mode::as_run(model.cpu().activations())).collect();
    let other = settings
        .modes
        .iter()
        .filter(|mode| **mode != Mode::WeightsOnly)
        .find(|mode| !runs.iter().all(|run| run == *mode));
    assert!(other.is_none(), "{other:?} with models for {runs:?}");
    let text = text.shard(settings.shard);
    let transforms = Transforms::of(candidates);
    let lanes = Lanes::of(reference, candidates, &transforms, settings);
    let of = reference.hyperparameters();
    let Settings { modes, cache, shard, .. } = settings;
    let id = identify(&lanes.models, candidates, &text, &format!("{modes:?} {cache:?} {shard:?}"));
    let state = StateFile::new("compare", settings.state.clone(), id, [text.lengths().iter().sum(), of.hidden]);
    let n = lanes.specs.len();
    let saved = match state.load(n, || States::new(settings.spill.as_deref(), of.hidden))? {
        Some(saved) if saved.step == FINISHED => {
            let comparison = Comparison::from_bytes(&saved.known).ok_or_else(|| state.refused())?;
            return Ok((comparison, state));
        }
        Some(saved) if saved.step >= of.layers as u64 || saved.states.len() != n => return Err(state.refused()),
        saved => saved,
    };
    let modes = lanes.scores((&state, saved), candidates.len(), &text, settings, progress)?;
    let comparison = Comparison {
        text,
        reference: CandidateFacts::of_reference(reference),
        candidates: candidates.iter().map(|candidate| CandidateFacts::of(candidate, reference)).collect(),
        modes,
        pieces: Default::default(),
    };
    state.save(FINISHED, &comparison.to_bytes(), &mut [])?;
    Ok((comparison, state))
}

/// What becomes of matrices in [`Mode::WeightsOnly`], and of those of the reference as run.
struct Transforms {
    identity: Transform,
    decoded: Transform,
    of_candidates: Vec<Transform>,
}

impl Transforms {
    fn of(candidates: &[Candidate]) -> Transforms {
        let of_candidates = candidates.iter().map(|candidate| candidate.transform.clone().and_decode()).collect();
        Transforms { identity: Transform::default(), decoded: Transform::decoded(), of_candidates }
    }
}

/// All lanes: the reference and every candidate in every mode, in the order of their models.
struct Lanes<'a> {
    models: Vec<&'a Model>, // the reference, then those of candidates that have one
    specs: Vec<LaneSpec<'a>>,
    owners: Vec<(usize, Option<usize>)>, // the mode and the candidate of each lane
}

impl<'a> Lanes<'a> {
    fn of(
        reference: &'a Model,
        candidates: &'a [Candidate],
        transforms: &'a Transforms,
        settings: &Settings,
    ) -> Lanes<'a> {
        let mut lanes = Lanes { models: vec![reference], specs: Vec::new(), owners: Vec::new() };
        lanes.add(0, None, [&transforms.identity, &transforms.decoded], None, settings);
        let of = |c: usize| [&candidates[c].transform, &transforms.of_candidates[c]];
        let all = 0..candidates.len();
        let (with, without): (Vec<usize>, Vec<usize>) = all.partition(|&c| candidates[c].model.is_some());
        without.into_iter().for_each(|c| lanes.add(0, Some(c), of(c), candidates[c].cache, settings));
        for c in with {
            lanes.models.extend(candidates[c].model.as_deref());
            lanes.add(lanes.models.len() - 1, Some(c), of(c), candidates[c].cache, settings);
        }
        lanes
    }

    /// Sends the text through all of them, from the saved states on, and scores it.
    fn scores(
        &self,
        (state, saved): (&StateFile, Option<Saved>),
        candidates: usize,
        text: &Text,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Vec<ModeScores>> {
        let Lanes { models, specs, owners } = self;
        let tokens: usize = text.lengths().iter().sum();
        progress.begin("comparing", (tokens * models[0].hyperparameters().layers * specs.len()) as u64);
        let mut states = hidden_states(models, specs, text, settings.spill.as_deref(), (state, saved), progress)?;
        progress.end();
        progress.begin("scoring", (text.scores() * specs.len()) as u64);
        let mut modes = Vec::new();
        for (at, &mode) in settings.modes.iter().enumerate() {
            let lane = |candidate| {
                let lane = owners.iter().position(|owner| *owner == (at, candidate));
                lane.expect("every candidate has a lane in every mode")
            };
            let lanes: Vec<usize> = [None].into_iter().chain((0..candidates).map(Some)).map(lane).collect();
            let heads = lanes.iter().map(|&lane| Head::new(models[specs[lane].model], specs[lane].transform));
            let rows = if mode == Mode::WeightsOnly { DECODED_LOGIT_ROWS } else { LOGIT_ROWS };
            let (reference, candidates) =
                score(heads.zip(lanes.iter().copied()).collect(), &mut states, text, rows, progress)?;
            modes.push(ModeScores { mode, reference, candidates });
        }
        progress.end();
        Ok(modes)
    }

    /// The lanes of a candidate in all modes, whose matrices become this as run, and that for weights only.
    fn add(
        &mut self,
        model: usize,
        candidate: Option<usize>,
        [as_run, decoded]: [&'a Transform; 2],
        own_cache: Option<CacheTypes>,
        settings: &Settings,
    ) {
        for (at, mode) in settings.modes.iter().enumerate() {
            let (transform, cache) = match mode {
                Mode::AsRun | Mode::AsRun16 => (as_run, settings.cache),
                Mode::WeightsOnly => (decoded, CacheTypes::both(GgmlType::F32)),
            };
            self.specs.push(LaneSpec { model, transform, cache: own_cache.unwrap_or(cache) });
            self.owners.push((at, candidate));
        }
    }
}

/// Scores the lanes of a mode, the reference first: their heads, and the places of their hidden states `(tokens, hidden)`.
fn score(
    mut lanes: Vec<(Head<'_>, usize)>,
    states: &mut [States],
    text: &Text,
    rows: usize,
    progress: &dyn Progress,
) -> Result<(ReferenceScores, Vec<CandidateScores>)> {
    let (mut reference, mut candidates) =
        (ReferenceScores::default(), vec![CandidateScores::default(); lanes.len() - 1]);
    let mut distributions = Distributions::new(lanes[0].0.isa());
    let (mut h, mut logits) = (Vec::new(), Vec::new());
    for scored in text.scored().chunks(rows) {
        for (lane, (head, state)) in lanes.iter_mut().enumerate() {
            progress.check()?;
            h.clear();
            for token in scored {
                h.extend_from_slice(states[*state].rows(token.row..token.row + 1)?);
            }
            head.logits(&h, &mut logits, progress)?;
            match lane.checked_sub(1) {
                None => distributions.set(&mut logits, scored, &mut reference),
                Some(candidate) => distributions.compare(&logits, scored, &mut candidates[candidate]),
            }
            progress.advance(scored.len() as u64);
        }
    }
    Ok((reference, candidates))
}

/// An error if a candidate cannot be compared with the reference token by token and layer by layer.
fn comparable(reference: &Model, candidate: &Candidate, model: &Model) -> Result<()> {
    let ([a, b], path) = ([reference, model].map(Model::hyperparameters), model.gguf().path());
    let differ = |what: &str, a: usize, b: usize| {
        let problem = format!("has {b} {what}, the reference {a}");
        Error::invalid(path, format!("candidate {}", candidate.name), problem, "compare models of one checkpoint")
    };
    if a.vocab != b.vocab {
        return Err(differ("tokens in its vocabulary", a.vocab, b.vocab));
    }
    if a.layers != b.layers {
        return Err(differ("layers", a.layers, b.layers));
    }
    let tokens = [reference, model].map(|model| model.gguf().array("tokenizer.ggml.tokens").ok().flatten());
    let same = match tokens {
        [Some(ours), Some(theirs)] => ours.iter().eq(theirs.iter()),
        [ours, theirs] => ours.is_none() && theirs.is_none(),
    };
    if !same {
        let problem = "has other tokens than the reference: their numbers mean different texts";
        let place = format!("candidate {}", candidate.name);
        return Err(Error::invalid(path, place, problem, "compare models of one checkpoint"));
    }
    Ok(())
}

/// A hash of everything that decides the result of work on these models: `how` are its settings.
fn identify(models: &[&Model], candidates: &[Candidate], text: &Text, how: &str) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(concat!(env!("CARGO_PKG_VERSION"), "\n").as_bytes());
    for model in models {
        hasher.update(format!("{:?}\n", model.cpu().activations()).as_bytes());
        for file in model.gguf().files() {
            hasher.update(format!("{} {:?}\n", file.path().display(), file.stamp()).as_bytes());
        }
    }
    for candidate in candidates {
        let Candidate { name, transform, cache, .. } = candidate;
        hasher.update(format!("{name} {} {cache:?}\n", transform.identify()).as_bytes());
    }
    hasher.update(format!("{how} {:?}\n", text.texts).as_bytes());
    for text::Chunk { number, tokens, scored } in &text.chunks {
        hasher.update(format!("{number} {} {scored:?}\n", tokens.len()).as_bytes());
        tokens.iter().for_each(|token| hasher.update(&token.to_le_bytes()));
    }
    hasher.digest()
}
