//! The small model as a reference, candidates beside it, and a text that it has not seen.

use super::mix;
use std::path::Path;
use std::sync::Arc;
use strata::arch::Hyperparameters;
use strata::convert::open_model;
use strata::eval::compare::text::Cut;
use strata::eval::compare::{Candidate, Text, Transform};
use strata::model::Model;
use strata::progress::Quiet;
use strata::stream::{ReadOptions, least_bytes};
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{Cpu, Isa};

/// A model of a file or checkpoint.
pub fn model(path: &Path, threads: usize) -> Arc<Model> {
    model_on(path, Cpu::new(Isa::best(), threads))
}

/// The same on a certain processor.
pub fn model_on(path: &Path, cpu: Cpu) -> Arc<Model> {
    Arc::new(Model::new(open_model(path, &Quiet).unwrap(), cpu).unwrap())
}

/// The same in the least memory, each layer read once.
pub fn streamed(path: &Path) -> Arc<Model> {
    let mut model = Model::new(open_model(path, &Quiet).unwrap(), Cpu::new(Isa::best(), 2)).unwrap();
    let bytes = least_bytes(&model.weights().sizes());
    let options = ReadOptions { single_pass: true, ..ReadOptions::default() };
    model.stream_within(bytes, &options, &Quiet).unwrap();
    assert!(model.plan().unwrap().streamed_bytes > 0);
    Arc::new(model)
}

/// The tokens of the text.
pub fn tokens(model: &Model) -> Vec<u32> {
    let options = EncodeOptions { add_special: true, parse_special: false };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/valid.txt");
    Tokenizer::from_gguf(model.gguf()).unwrap().encode(&std::fs::read_to_string(path).unwrap(), options).unwrap()
}

/// The first chunks of it.
pub fn text(model: &Model, context: usize, chunks: usize) -> Text {
    let bos = Tokenizer::from_gguf(model.gguf()).unwrap().bos();
    let cut = Cut { context, stride: None, max_chunks: Some(chunks) };
    Text::raw("valid.txt", &tokens(model), cut, bos).unwrap()
}

/// A candidate that is made of the reference.
pub fn ty(reference: &Model, name: &str) -> Candidate {
    let of = Hyperparameters::read(reference.gguf()).unwrap();
    let transform = Transform::quantized(reference.gguf(), &of, &mix(name), None, false).unwrap();
    Candidate { name: name.to_owned(), model: None, transform, cache: None }
}

/// A candidate with a model of its own.
pub fn file(model: Arc<Model>) -> Candidate {
    Candidate { name: "file".to_owned(), model: Some(model), transform: Transform::default(), cache: None }
}
