//! What independent programs said (`tests/data/NAME`, made by transformers in float32 and Hugging Face tokenizers) against what Strata
//! says, from the checkpoint on: logits, greedy text, perplexity.
//!
//! `STRATA_GOLDEN=DIR` adds every `DIR/models/NAME` with `DIR/golden/NAME`, for checkpoints too large for the repository.

use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::convert::{Input, Options, Target, convert};
use strata::engine::sampling::Sampling;
use strata::engine::{Request, Scheduler, SchedulerOptions, collect};
use strata::eval::perplexity::perplexity;
use strata::gguf::Gguf;
use strata::model::{CacheTypes, KvCache, Model, Scratch, Segment};
use strata::progress::Quiet;
use strata::recipe::Recipe;
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{Cpu, GgmlType, Isa};

/// Checkpoints with their expectations.
fn fixtures() -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut fixtures = vec![(root.join("models/tiny-rustdoc"), root.join("tests/data/tiny-rustdoc"))];
    if let Ok(dir) = std::env::var("STRATA_GOLDEN") {
        for entry in std::fs::read_dir(Path::new(&dir).join("models")).unwrap() {
            let model = entry.unwrap().path();
            let golden = Path::new(&dir).join("golden").join(model.file_name().unwrap());
            fixtures.push((model, golden));
        }
    }
    fixtures
}

/// A checkpoint converted to F32 and opened.
fn open(checkpoint: &Path) -> (tempfile::TempDir, Arc<Model>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    convert(
        &Input::open(checkpoint).unwrap(),
        &[Target::new(&path, Recipe::pure(GgmlType::F32).unwrap())],
        &Options::default(),
        &Quiet,
    )
    .unwrap();
    let model = Arc::new(Model::new(Gguf::open(&path).unwrap(), Cpu::new(Isa::best(), 2)).unwrap());
    (dir, model)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn logits_are_those_of_transformers() {
    for (checkpoint, golden) in fixtures() {
        let (_dir, model) = open(&checkpoint);
        let bytes = std::fs::read(golden.join("logits.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let integers = |name: &str| -> (Vec<usize>, Vec<i64>) {
            let view = file.tensor(name).unwrap();
            let values = match view.dtype() {
                safetensors::Dtype::I64 => view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
                safetensors::Dtype::I32 => {
                    view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as i64).collect()
                }
                other => panic!("{name}: {other:?}"),
            };
            (view.shape().to_vec(), values)
        };
        let ((shape, ids), (_, positions)) = (integers("input_ids"), integers("positions"));
        let expected = numbers(file.tensor("logits").unwrap().data());
        let vocab = model.hyperparameters().vocab;
        let mut worst = 0f32;
        for (s, ids) in ids.chunks(shape[1]).enumerate() {
            let tokens: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            let mut cache =
                KvCache::with_types(model.hyperparameters(), tokens.len(), CacheTypes::both(GgmlType::F32)).unwrap();
            let mut scratch = Scratch::default();
            let mut hidden =
                model.pass(&mut scratch, &mut [Segment { tokens: &tokens, cache: &mut cache }], &Quiet).unwrap();
            for (p, &position) in positions.iter().enumerate() {
                let position = position as usize;
                let logits = hidden.logits(position..position + 1, &Quiet).unwrap();
                let start = (s * positions.len() + p) * vocab;
                for (ours, theirs) in logits.iter().zip(&expected[start..start + vocab]) {
                    worst = worst.max((ours - theirs).abs());
                    assert!(
                        (ours - theirs).abs() <= 2e-3,
                        "{}: sequence {s} position {position}",
                        checkpoint.display()
                    );
                }
            }
        }
        println!("{}: largest difference of a logit {worst:e}", checkpoint.display());
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    for (checkpoint, golden) in fixtures() {
        let (_dir, model) = open(&checkpoint);
        let tokenizer = Tokenizer::from_gguf(model.gguf()).unwrap();
        for case in json(golden.join("greedy.json")).as_array().unwrap() {
            let ids = |key: &str| -> Vec<u32> {
                case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
            };
            let prompt = tokenizer
                .encode(case["prompt"].as_str().unwrap(), EncodeOptions { add_special: true, parse_special: true })
                .unwrap();
            assert_eq!(prompt, ids("prompt_ids"));
            let expected = ids("ids");
            let context = prompt.len() + expected.len();
            let options =
                SchedulerOptions { types: CacheTypes::both(GgmlType::F32), ..SchedulerOptions::single(context) };
            let mut scheduler = Scheduler::new(model.clone(), None, options).unwrap();
            let (listener, collected) = collect();
            let (limit, sampling) = (expected.len(), Sampling::greedy());
            scheduler.submit(Request { limit, sampling, ..Request::new(prompt) }, listener).unwrap();
            scheduler.run(&Quiet).unwrap();
            let tokens: Vec<u32> = collected.take().unwrap().tokens.iter().map(|token| token.id).collect();
            assert_eq!(tokens, expected, "{}: {:?}", checkpoint.display(), case["prompt"]);
            assert_eq!(tokenizer.decode_with(&tokens, true).unwrap(), case["text"].as_str().unwrap());
        }
    }
}

#[test]
fn perplexity_is_that_of_transformers() {
    for (checkpoint, golden) in fixtures() {
        let (_dir, model) = open(&checkpoint);
        let tokenizer = Tokenizer::from_gguf(model.gguf()).unwrap();
        let expected = json(golden.join("perplexity.json"));
        let text = include_str!("data/valid.txt");
        let tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false }).unwrap();
        let result = perplexity(&model, &tokens, 512, None, tokenizer.bos(), CacheTypes::default(), &Quiet).unwrap();
        assert_eq!(result.chunks as u64, expected["chunks"].as_u64().unwrap());
        assert_eq!(result.tokens_scored as u64, expected["scored_tokens"].as_u64().unwrap());
        let ratio = result.perplexity / expected["perplexity"].as_f64().unwrap();
        println!("{}: perplexity {} ({ratio} of transformers')", checkpoint.display(), result.perplexity);
        assert!((ratio - 1.0).abs() < 1e-3, "{}", result.perplexity);
    }
}

#[test]
fn encodings_are_those_of_hugging_face() {
    for (checkpoint, golden) in fixtures() {
        let (_dir, model) = open(&checkpoint);
        let tokenizer = Tokenizer::from_gguf(model.gguf()).unwrap();
        for case in json(golden.join("tokenize.json")).as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = |key: &str| -> Vec<u32> {
                case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
            };
            assert_eq!(
                tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true }).unwrap(),
                ids("ids"),
                "{text:?}"
            );
            assert_eq!(
                tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true }).unwrap(),
                ids("ids_without_bos"),
                "{text:?}"
            );
            assert_eq!(
                tokenizer.decode_with(&ids("ids_without_bos"), true).unwrap(),
                case["decoded"].as_str().unwrap(),
                "{text:?}"
            );
        }
    }
}
