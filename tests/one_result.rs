//! One result everywhere: the logits of a whole model are the same bits on every instruction set, with any number of threads, token by
//! token or in one pass, alone or beside another sequence. By equality, for every type that can be written; and by their SHA-256, so that
//! two processors of different kinds can be compared.

mod common;

use common::{TOKENS, assert_same_bits, logits, logits_with, mix, model_file, open, pure};
use sha2::{Digest, Sha256};
use std::path::Path;
use strata::gguf::Gguf;
use strata::model::{CacheTypes, KvCache, Model, Scratch, Segment, WholeSequences};
use strata::progress::Quiet;
use strata::{ActivationBits, Cpu, GgmlType, Isa};

/// Opens a model for 16-bit activations.
fn open_16(path: &Path, isa: Isa, threads: usize) -> Model {
    let cpu = Cpu::new(isa, threads).with_activations(ActivationBits::Sixteen);
    Model::new(Gguf::open(path).unwrap(), cpu).unwrap()
}

#[test]
fn logits_do_not_depend_on_how_they_are_computed() {
    for format in GgmlType::with_format() {
        let (_dir, path) = model_file(pure(format.ty));
        for (bits, open) in [(8, open as fn(&Path, Isa, usize) -> Model), (16, open_16)] {
            let expected = logits(&open(&path, Isa::named("scalar").unwrap(), 1), &TOKENS, TOKENS.len()).unwrap();
            assert!(expected.iter().all(|l| l.is_finite()));
            for (isa, threads) in Isa::available().flat_map(|isa| [(isa, 1), (isa, 2)]) {
                let model = open(&path, isa, threads);
                for piece in [1, 4, TOKENS.len()] {
                    let of = format!("{} with {bits}-bit activations on {}", format.ty, isa.name());
                    let what = format!("{of}, {threads} threads, {piece} tokens a pass");
                    assert_same_bits(&logits(&model, &TOKENS, piece).unwrap(), &expected, &what);
                }
            }
        }
    }
}

/// `.ci/run` runs this test on x86-64 and under an emulator of aarch64: the model is converted there, too.
#[test]
fn pinned_logits_are_the_same_on_every_processor() {
    let bf16 = "006033be92cacb8273dbfb6b0d12908a6844bdf32ddf2c88de3a73ef9642f367";
    for (recipe, pinned, pinned_16) in [
        ("bf16", bf16, bf16),
        (
            "q8_0",
            "1a84bd61a5a6c60525b32d3285553d2ec8fb4ed6aafe5b1cb4b0fc40a3ea9833",
            "e88e85bd908cf4203553603db201f61889b42041da968935b56b48f85fd17e33",
        ),
        (
            "q4_k_m",
            "b110ee43ff174fb0992d2b5f62843c033229f16e34371c6ef6327e72111922dd",
            "972647a32cec096031f10437290e0acb57f9603a7de237a16c6de151ec8b729d",
        ),
    ] {
        let (_dir, path) = model_file(mix(recipe));
        for isa in Isa::available() {
            for (model, pinned) in [(open(&path, isa, 1), pinned), (open_16(&path, isa, 1), pinned_16)] {
                let logits = logits(&model, &TOKENS, TOKENS.len()).unwrap();
                let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
                let what = format!("{recipe} on {}, {:?} bits", isa.name(), model.cpu().activations());
                assert_eq!(format!("{:x}", Sha256::digest(&bytes)), pinned, "{what}");
            }
        }
    }
}

#[test]
fn sequences_in_one_pass_do_not_disturb_each_other() {
    let (_dir, path) = model_file(pure(GgmlType::Q8_0));
    let model = open(&path, Isa::best(), 2);
    let (long, short) = (&TOKENS[..], &TOKENS[..5]);
    let mut caches =
        [KvCache::new(model.hyperparameters(), 32).unwrap(), KvCache::new(model.hyperparameters(), 32).unwrap()];
    let [a, b] = &mut caches;
    let mut scratch = Scratch::default();
    let mut segments = [Segment { tokens: short, cache: a }, Segment { tokens: long, cache: b }];
    let mut hidden = model.pass(&mut scratch, &mut segments, &Quiet).unwrap();
    let together = hidden.logits(0..short.len() + long.len(), &Quiet).unwrap();
    let (first, second) = together.split_at(short.len() * model.hyperparameters().vocab);
    assert_same_bits(first, &logits(&model, short, short.len()).unwrap(), "the short sequence");
    assert_same_bits(second, &logits(&model, long, 1).unwrap(), "the long sequence");
}

#[test]
fn a_long_prompt_crosses_sub_batches_and_spans_unchanged() {
    let (_dir, path) = model_file(pure(GgmlType::Q4_0));
    let tokens: Vec<u32> = (0..700).map(|i| i * 37 % 3840).collect();
    for (k, v) in [(GgmlType::F16, GgmlType::F16), (GgmlType::Q8_0, GgmlType::Q8_0), (GgmlType::F32, GgmlType::Q8_0)] {
        let last = |isa, threads, piece| {
            let model = open(&path, isa, threads);
            let all = logits_with(&model, &tokens, piece, CacheTypes { k, v }).unwrap();
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

/// A beginning that is shared is computed once: by itself, by a part of another, over spans and sub-batches of both.
#[test]
fn sequences_that_share_a_beginning_have_the_states_of_those_that_do_not() {
    let (_dir, path) = model_file(pure(GgmlType::Q8_0));
    let token = |i: usize| (i * 37 % 3840) as u32;
    let lengths = [20, 1, 300, 7, 450, 5, 40];
    let shared = [0, 12, 0, 299, 257, 1, 6];
    let tokens: Vec<u32> = (0..lengths.iter().sum()).map(token).collect();
    let model = open(&path, Isa::best(), 2);
    let of = model.hyperparameters();
    for types in CacheTypes::ALL.map(CacheTypes::both) {
        let whole = |tokens: &[u32], lengths: &[usize], shared: &[usize]| {
            let sequences = WholeSequences::sharing(of, tokens, lengths, shared, types).unwrap();
            model.pass_whole(&mut Scratch::default(), sequences, &Quiet).unwrap().states().to_vec()
        };
        let states = whole(&tokens, &lengths, &shared);
        let (mut rows, mut rest, mut sequence) = (&states[..], &tokens[..], Vec::new());
        for (i, (len, shared)) in lengths.into_iter().zip(shared).enumerate() {
            let (own, others) = rest.split_at(len);
            sequence.truncate(shared);
            sequence.extend_from_slice(own);
            let alone = whole(&sequence, &[sequence.len()], &[]);
            let (own, others_rows) = rows.split_at(len * of.hidden);
            assert_same_bits(own, &alone[shared * of.hidden..], &format!("{types:?}: sequence {i}"));
            (rows, rest) = (others_rows, others);
        }
    }
}
