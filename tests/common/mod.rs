//! The small model that Strata carries, for tests: its checkpoint, GGUF files made of it, models of these, and their logits.
// Each test file is a crate of its own that uses a part of this.
#![allow(dead_code)]

pub mod calibrated;
pub mod compared;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use strata::convert::{Input, Options, Target, convert};
use strata::gguf::Gguf;
use strata::imatrix::Imatrix;
use strata::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use strata::progress::{Progress, Quiet};
use strata::recipe::{Mix, Recipe};
use strata::stream::{Budget, ReadOptions};
use strata::tokenizer::{Tokenizer, Vocab};
use strata::{Cpu, GgmlType, Isa, Result};
use tempfile::TempDir;

/// A prompt in the model's tokens; the first begins a text.
pub const TOKENS: [u32; 21] =
    [3840, 533, 1381, 1375, 260, 317, 303, 348, 603, 616, 2138, 271, 1381, 1375, 260, 11, 794, 554, 471, 198, 403];

/// Stops after so many looks.
pub struct StopsAfter(pub AtomicUsize);

impl Progress for StopsAfter {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
    }
}

/// A file of the repository, from any of its packages.
pub fn repository(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().map(|folder| folder.join(path)).find(|path| path.exists()).expect("the repository has it")
}

/// The folder of the checkpoint, which is read-only.
pub fn checkpoint() -> PathBuf {
    repository("models/tiny-rustdoc")
}

/// The checkpoint, to be converted.
pub fn input() -> Input {
    Input::open(checkpoint()).unwrap()
}

/// llama-imatrix's importance matrix of the model in BF16 over 40 chunks of `valid.txt`.
pub fn imatrix_path() -> PathBuf {
    repository("tests/data/tiny-rustdoc/imatrix.gguf")
}

/// The same, opened.
pub fn imatrix() -> Imatrix {
    Imatrix::open(imatrix_path()).unwrap()
}

/// All matrices in one type.
pub fn pure(ty: GgmlType) -> Recipe {
    Recipe::pure(ty).unwrap()
}

/// The mix with that name.
pub fn mix(name: &str) -> Recipe {
    Recipe::new(Mix::from_name(name).unwrap())
}

/// Converts the model to a file at `path`.
pub fn write_model(path: &Path, recipe: Recipe) {
    convert(&input(), &[Target::new(path, recipe)], &Options::default(), &Quiet).unwrap();
}

/// The model as `model.gguf` in a folder of its own.
pub fn model_file(recipe: Recipe) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_model(&path, recipe);
    (dir, path)
}

/// Opens a model for an instruction set and a number of threads.
pub fn open(path: &Path, isa: Isa, threads: usize) -> Model {
    Model::new(Gguf::open(path).unwrap(), Cpu::new(isa, threads)).unwrap()
}

/// The model with so much memory for its weights that `share` of what could be read from disk stays.
pub fn streamed_with(path: &Path, share: f64, options: &ReadOptions) -> Result<Model> {
    let cpu = || Cpu::new(Isa::best(), 2);
    let sizes = open(path, Isa::best(), 2).weights().sizes();
    let layer = |i: usize| sizes.layers[i].iter().map(|m| m.bytes()).sum::<u64>();
    let layers: Vec<u64> = (0..sizes.layers.len()).map(layer).collect();
    let least = sizes.output.bytes() + 2 * layers.iter().max().unwrap() + 200_000;
    let rest = layers.iter().sum::<u64>() - 2 * layers.iter().min().unwrap();
    let bytes = least + (rest as f64 * share) as u64 + cpu().memory_bytes();
    let budget = Budget { bytes, fixed: 0 };
    Model::within(Gguf::open(path)?, cpu(), budget, MemoryNeed::default(), options, &Quiet)
}

/// The logits after every token, `(tokens, vocab)`, in passes of `piece` tokens each.
pub fn logits(model: &Model, tokens: &[u32], piece: usize) -> Result<Vec<f32>> {
    logits_with(model, tokens, piece, CacheTypes::default())
}

/// The same with other types of the KV cache.
pub fn logits_with(model: &Model, tokens: &[u32], piece: usize, types: CacheTypes) -> Result<Vec<f32>> {
    let mut cache = KvCache::with_types(model.hyperparameters(), tokens.len(), types)?;
    let (mut scratch, mut logits) = (Scratch::default(), Vec::new());
    for tokens in tokens.chunks(piece) {
        let mut hidden = model.pass(&mut scratch, &mut [Segment { tokens, cache: &mut cache }], &Quiet)?;
        logits.extend(hidden.logits(0..tokens.len(), &Quiet)?);
    }
    Ok(logits)
}

/// The tokenizer of a SentencePiece vocabulary, `tests/data/sentencepiece.json`.
pub fn sentencepiece() -> Tokenizer {
    let path = repository("tests/data/sentencepiece.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let list = |key: &str| json[key].clone();
    let vocab = Vocab {
        model: "llama".to_owned(),
        tokens: serde_json::from_value(list("pieces")).unwrap(),
        scores: serde_json::from_value(list("scores")).unwrap(),
        types: serde_json::from_value(list("types")).unwrap(),
        unk: Some(0),
        bos: Some(1),
        eos: Some(2),
        ..Vocab::default()
    };
    Tokenizer::new(vocab, &path).unwrap()
}

/// The bits of numbers: what "the same result" means.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Panics unless both have the same bits.
pub fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let different = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(different, 0, "{what}: {different} of {} differ", a.len());
}
