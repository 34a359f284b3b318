//! One result everywhere: the logits of a whole model are the same bits on every instruction set, with any number of threads, token by
//! token or in one pass, alone or beside another sequence. By equality, for every type that can be written.

use std::path::Path;
use strata::convert::{Input, Options, Target, convert};
use strata::gguf::Gguf;
use strata::model::{CacheTypes, KvCache, Model, Scratch, Segment};
use strata::progress::Quiet;
use strata::recipe::Recipe;
use strata::{Cpu, GgmlType, Isa};

const TOKENS: [u32; 21] =
    [3840, 533, 1381, 1375, 260, 317, 303, 348, 603, 616, 2138, 271, 1381, 1375, 260, 11, 794, 554, 471, 198, 403];

/// Logits after every token `(tokens, vocab)`, sent through the model in pieces of the given length.
fn logits(model: &Model, tokens: &[u32], piece: usize) -> Vec<f32> {
    logits_with(model, tokens, piece, CacheTypes::default())
}

fn logits_with(model: &Model, tokens: &[u32], piece: usize, types: CacheTypes) -> Vec<f32> {
    let mut cache = KvCache::with_types(model.hyperparameters(), tokens.len(), types).unwrap();
    let mut scratch = Scratch::default();
    let mut logits = Vec::new();
    for tokens in tokens.chunks(piece) {
        let mut hidden = model.pass(&mut scratch, &mut [Segment { tokens, cache: &mut cache }], &Quiet).unwrap();
        logits.extend(hidden.logits(0..tokens.len(), &Quiet).unwrap());
    }
    logits
}

fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    let different = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(different, 0, "{what}: {different} of {} logits differ", a.len());
}

#[test]
fn logits_do_not_depend_on_how_they_are_computed() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-rustdoc");
    let dir = tempfile::tempdir().unwrap();
    let input = Input::open(&checkpoint).unwrap();
    for format in GgmlType::with_format() {
        let path = dir.path().join(format!("{}.gguf", format.ty));
        convert(&input, &[Target::new(&path, Recipe::pure(format.ty).unwrap())], &Options::default(), &Quiet).unwrap();
        let open = |isa: Isa, threads| Model::new(Gguf::open(&path).unwrap(), Cpu::new(isa, threads)).unwrap();
        let expected = logits(&open(Isa::named("scalar").unwrap(), 1), &TOKENS, TOKENS.len());
        assert!(expected.iter().all(|l| l.is_finite()));
        for isa in Isa::available() {
            for threads in [1, 2] {
                let model = open(isa, threads);
                for piece in [1, 4, TOKENS.len()] {
                    let what = format!("{} {} {threads} threads, {piece} tokens a pass", format.ty, isa.name());
                    assert_same_bits(&logits(&model, &TOKENS, piece), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn sequences_in_one_pass_do_not_disturb_each_other() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-rustdoc");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    convert(
        &Input::open(&checkpoint).unwrap(),
        &[Target::new(&path, Recipe::pure(GgmlType::Q8_0).unwrap())],
        &Options::default(),
        &Quiet,
    )
    .unwrap();
    let model = Model::new(Gguf::open(&path).unwrap(), Cpu::new(Isa::best(), 2)).unwrap();
    let (long, short) = (&TOKENS[..], &TOKENS[..5]);
    let mut caches =
        [KvCache::new(model.hyperparameters(), 32).unwrap(), KvCache::new(model.hyperparameters(), 32).unwrap()];
    let [a, b] = &mut caches;
    let mut scratch = Scratch::default();
    let mut segments = [Segment { tokens: short, cache: a }, Segment { tokens: long, cache: b }];
    let mut hidden = model.pass(&mut scratch, &mut segments, &Quiet).unwrap();
    let together = hidden.logits(0..short.len() + long.len(), &Quiet).unwrap();
    let (first, second) = together.split_at(short.len() * model.hyperparameters().vocab);
    assert_same_bits(first, &logits(&model, short, short.len()), "the short sequence");
    assert_same_bits(second, &logits(&model, long, 1), "the long sequence");
}

#[test]
fn a_long_prompt_crosses_sub_batches_and_spans_unchanged() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-rustdoc");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    convert(
        &Input::open(&checkpoint).unwrap(),
        &[Target::new(&path, Recipe::pure(GgmlType::Q4_0).unwrap())],
        &Options::default(),
        &Quiet,
    )
    .unwrap();
    let tokens: Vec<u32> = (0..700).map(|i| i * 37 % 3840).collect();
    for (k, v) in [(GgmlType::F16, GgmlType::F16), (GgmlType::Q8_0, GgmlType::Q8_0), (GgmlType::F32, GgmlType::Q8_0)] {
        let last = |isa, threads, piece| {
            let model = Model::new(Gguf::open(&path).unwrap(), Cpu::new(isa, threads)).unwrap();
            let all = logits_with(&model, &tokens, piece, CacheTypes { k, v });
            all[all.len() - model.hyperparameters().vocab..].to_vec()
        };
        let expected = last(Isa::best(), 2, 700);
        for isa in Isa::available().filter(|isa| isa.name() != "scalar") {
            for (threads, piece) in [(2, 33), (1, 1), (3, 300)] {
                let what = format!("{} {k} {v}: {piece} of 700 tokens, {threads} threads", isa.name());
                assert_same_bits(&last(isa, threads, piece), &expected, &what);
            }
        }
    }
}
