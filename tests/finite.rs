//! Not a number is never a result: a weight that is not finite, or finite ones whose results are not, end a run, a perplexity and a
//! calibration with an error that names the file and the tensor, or the layer and the operation.

mod common;

use common::{TOKENS, pure, write_model};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use strata::engine::sampling::Sampling;
use strata::engine::{Request, Scheduler, SchedulerOptions, collect};
use strata::error::Error;
use strata::eval::calibrate::calibrate;
use strata::eval::compare::Text;
use strata::eval::compare::text::Cut;
use strata::eval::perplexity::perplexity;
use strata::gguf::{Gguf, Layout, TensorInfo};
use strata::model::{CacheTypes, Model};
use strata::progress::Quiet;
use strata::{Cpu, GgmlType, Isa};

const PROMPT: &[u32] = TOKENS.split_at(16).0;

/// The small model in one type, with an output matrix of its own: a copy of the embedding.
fn model(ty: GgmlType, folder: &Path) -> PathBuf {
    let (tied, path) = (folder.join("tied.gguf"), folder.join(format!("{ty}.gguf")));
    write_model(&tied, pure(ty));
    let gguf = Gguf::open(&tied).unwrap();
    let mut layout = Layout::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| !key.starts_with("strata.")) {
        layout.set(key, value.to_owned());
    }
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    let output = TensorInfo { name: "output.weight".to_owned(), ..embedding.clone() };
    let tensors: Vec<&TensorInfo> = gguf.tensors().iter().chain([&output]).collect();
    tensors.iter().for_each(|tensor| layout.tensor(tensor.name.as_str(), &tensor.dims, tensor.ty));
    let mut writer = layout.create(&path).unwrap();
    for tensor in tensors {
        writer.begin(&tensor.name).unwrap();
        writer.write(gguf.data(tensor)).unwrap();
    }
    writer.finish().unwrap();
    path
}

/// The file of a type, made once.
fn file(ty: GgmlType) -> Vec<u8> {
    static FILES: Mutex<BTreeMap<GgmlType, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut files = FILES.lock().unwrap();
    let make = || std::fs::read(model(ty, tempfile::tempdir().unwrap().path())).unwrap();
    files.entry(ty).or_insert_with(make).clone()
}

/// What each use of a model says.
fn uses(file: &[u8], types: CacheTypes) -> [(&'static str, Result<(), Error>); 3] {
    let open = || Model::new(Gguf::from_bytes(file).unwrap(), Cpu::new(Isa::best(), 1));
    let run = || {
        let model = Arc::new(open()?);
        let mut scheduler = Scheduler::new(model, None, SchedulerOptions { types, ..SchedulerOptions::single(32) })?;
        let (listener, collected) = collect();
        let sampling = Sampling::greedy();
        scheduler.submit(Request { limit: 2, sampling, ..Request::new(PROMPT.to_vec()) }, listener)?;
        scheduler.run(&Quiet)?;
        collected.take().map(drop)
    };
    let score = || {
        let scored = perplexity(&open()?, PROMPT, 16, None, None, types, &Quiet)?;
        assert!(scored.perplexity.is_finite() && scored.standard_error.is_finite());
        Ok(())
    };
    let measure = || {
        let text = Text::raw("text", PROMPT, Cut { context: 16, stride: None, max_chunks: None }, None)?;
        let matrix = calibrate(&open()?, &text, true, &Quiet)?;
        assert!(matrix.entries.values().flat_map(|entry| &entry.in_sum2).all(|sum| sum.is_finite()));
        Ok(())
    };
    [("run", run()), ("perplexity", score()), ("calibrate", measure())]
}

const KINDS: [&str; 12] = [
    "token_embd.weight",
    "blk.3.attn_norm.weight",
    "blk.3.attn_q.weight",
    "blk.3.attn_k.weight",
    "blk.3.attn_v.weight",
    "blk.3.attn_output.weight",
    "blk.3.ffn_norm.weight",
    "blk.3.ffn_gate.weight",
    "blk.3.ffn_up.weight",
    "blk.3.ffn_down.weight",
    "output_norm.weight",
    "output.weight",
];

#[test]
fn a_weight_that_is_not_finite_is_named() {
    use GgmlType::*;
    for ty in [F32, F16, BF16, Q8_0, Q4_0, Q5_1, Q2_K, Q3_K, Q4_K, Q6_K, IQ4_XS] {
        let file = file(ty);
        let gguf = Gguf::from_bytes(file.as_slice()).unwrap();
        for (i, name) in KINDS.into_iter().enumerate() {
            let tensor = gguf.tensor(name).unwrap();
            // A token of the text, so that its row of the embedding is used, or the first row of a vector.
            let row = (TOKENS[3] as u64).min(tensor.rows() - 1);
            let at = (tensor.offset + tensor.bytes / tensor.rows() * row) as usize;
            let format = tensor.ty.format().unwrap();
            let bad: (usize, &[u8]) = match (tensor.ty, i % 3) {
                (F32, 0) => (0, &[0, 0, 0xc0, 0x7f]),
                (F32, 1) => (0, &[0, 0, 0x80, 0x7f]),
                (F32, _) => (0, &[0, 0, 0x80, 0xff]),
                (BF16, 0) => (0, &[0xc0, 0x7f]),
                (BF16, _) => (0, &[0x80, 0xff]),
                (_, 0) => (format.scales.last().copied().unwrap_or(0), &[0, 0x7e]),
                (_, 1) => (format.scales.first().copied().unwrap_or(0), &[0, 0x7c]),
                (_, _) => (format.scales.last().copied().unwrap_or(0), &[0, 0xfc]),
            };
            let mut damaged = file.clone();
            damaged[at + bad.0..][..bad.1.len()].copy_from_slice(bad.1);
            for (what, result) in uses(&damaged, CacheTypes::default()) {
                // A calibration makes no logits.
                if (what, name) == ("calibrate", "output.weight") {
                    continue;
                }
                let Err(error) = result else { panic!("{what} of {ty} with {name} damaged gave a result") };
                let said = error.to_string();
                for words in [name, &format!("row {row}, column 0"), "damaged"] {
                    assert!(said.contains(words), "{what} of {ty}: {words:?} is not in: {said}");
                }
            }
        }
        for (what, result) in uses(&file, CacheTypes::default()) {
            result.unwrap_or_else(|error| panic!("{what} of the undamaged {ty}: {error}"));
        }
    }
}

/// The F32 file with a tensor multiplied.
fn multiplied(name: &str, factor: f32) -> Vec<u8> {
    let mut file = file(GgmlType::F32);
    let gguf = Gguf::from_bytes(file.as_slice()).unwrap();
    let tensor = gguf.tensor(name).unwrap();
    let range = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
    for bytes in file[range].as_chunks_mut().0 {
        *bytes = (f32::from_le_bytes(*bytes) * factor).to_le_bytes();
    }
    file
}

#[test]
fn finite_weights_that_give_no_numbers_are_told_by_layer_and_operation() {
    let table = [
        ("blk.2.attn_q.weight", 1e37, "layer 2, the scores of attention"),
        ("blk.2.attn_output.weight", 1e30, "layer 2, the product with attn_output.weight"),
        ("blk.2.ffn_up.weight", 1e38, "layer 2, the products with ffn_gate.weight and ffn_up.weight"),
        ("blk.2.ffn_down.weight", 1e38, "layer 2, the product with ffn_down.weight"),
        ("blk.2.ffn_down.weight", 1e25, "layer 3, the norm before attention"),
        ("blk.5.ffn_down.weight", 1e25, "the norm before the output matrix"),
    ];
    for (name, factor, words) in table {
        for (what, result) in uses(&multiplied(name, factor), CacheTypes::both(GgmlType::F32)) {
            let Err(error) = result else { panic!("{what} with {name} x {factor:e} gave a result") };
            let said = error.to_string();
            assert!(said.contains("all weights are finite"), "{what} with {name} x {factor:e}: {said}");
            // A calibration keeps keys and values in half precision.
            assert!(said.contains(words) || what == "calibrate", "{words:?} is not in: {said}");
        }
    }
    let [run, _, _] = uses(&multiplied("output.weight", 1e38), CacheTypes::default());
    assert!(run.1.unwrap_err().to_string().contains("the logits: all weights are finite"));
}

#[test]
fn what_a_cache_cannot_hold_is_told_by_its_type() {
    use GgmlType::*;
    for (name, what) in [("blk.2.attn_k.weight", "keys"), ("blk.2.attn_v.weight", "values")] {
        for (factor, ty, fits) in [
            (1e5, F16, false),
            (1e5, Q8_0, true),
            (1e5, F32, true),
            (1e9, F16, false),
            (1e9, Q8_0, false),
            (1e9, F32, true),
        ] {
            let [run, score, _] = uses(&multiplied(name, factor), CacheTypes::both(ty));
            for (command, result) in [run, score] {
                let said = result.map_or_else(|error| error.to_string(), |()| String::new());
                assert_eq!(said.is_empty(), fits, "{command} with {what} x {factor:e} in {ty}: {said}");
                let named = said.contains("layer 2")
                    && said.contains(&format!("{what} are too large for a cache of type {ty}"));
                assert!(fits || named, "{command} with {what} x {factor:e} in {ty}: {said}");
            }
        }
    }
}
