//! A checkpoint's folder runs as the file that a conversion to its own types makes of it: the same bits, resident and streamed.

use super::folder::{Folder, small};
use crate::common::{TOKENS, assert_same_bits, logits};
use half::f16;
use safetensors::Dtype;
use std::path::Path;
use strata::convert::open_model;
use strata::eval::calibrate::calibrate;
use strata::eval::compare::Text;
use strata::eval::compare::text::Cut;
use strata::eval::perplexity::perplexity;
use strata::model::{CacheTypes, MemoryNeed, Model};
use strata::progress::Quiet;
use strata::stream::{Budget, ReadOptions};
use strata::{Cpu, GgmlType, Isa};

/// Opens a model within as many bytes, or mapped.
fn open(path: &Path, budget: Option<u64>) -> Model {
    let (gguf, cpu) = (open_model(path, &Quiet).unwrap(), Cpu::new(Isa::best(), 2));
    match budget {
        None => Model::new(gguf, cpu).unwrap(),
        Some(bytes) => {
            let budget = Budget { bytes: bytes + cpu.memory_bytes(), fixed: 0 };
            Model::within(gguf, cpu, budget, MemoryNeed::default(), &ReadOptions::default(), &Quiet).unwrap()
        }
    }
}

/// The least budget and a half of a model's layers more.
fn budgets(model: &Model) -> [u64; 2] {
    let sizes = model.weights().sizes();
    let layers: Vec<u64> = sizes.layers.iter().map(|layer| layer.iter().map(|m| m.bytes()).sum()).collect();
    let least = sizes.output.bytes() + 2 * layers.iter().max().unwrap() + 500_000;
    [least, least + layers.iter().sum::<u64>() / 2]
}

/// That the folder and the file give the same bits, however they are read.
fn check(folder: &Folder, ty: GgmlType) {
    let converted = folder.convert(ty);
    let file = open(&converted.out.path().join("m.gguf"), None);
    let expected = logits(&file, &TOKENS, 5).unwrap();
    let text: Vec<u32> = (0..3 * 32).map(|i| i * 37 % 3840).collect();
    let nll = |model: &Model| {
        let scored = perplexity(model, &text, 32, None, Some(3840), CacheTypes::default(), &Quiet).unwrap();
        scored.mean_nll.to_bits()
    };
    let cut = Text::raw("numbers", &text, Cut { context: 32, stride: None, max_chunks: None }, None).unwrap();
    let sums = |model: &Model| calibrate(model, &cut, true, &Quiet).unwrap();
    let (expected_nll, expected_sums) = (nll(&file), sums(&file));
    let all = open(&folder.dir, None);
    for budget in [None].into_iter().chain(budgets(&all).map(Some)) {
        let model = open(&folder.dir, budget);
        let streamed = model.plan().is_some_and(|plan| plan.streamed_bytes > 0);
        assert_eq!(streamed, budget.is_some() && model.hyperparameters().layers > 2, "{budget:?}");
        assert_same_bits(&logits(&model, &TOKENS, 5).unwrap(), &expected, "logits");
        assert_eq!(nll(&model), expected_nll);
        assert!(sums(&model) == expected_sums);
    }
}

#[test]
fn in_bf16() {
    check(&Folder::new(), GgmlType::BF16);
}

#[test]
fn in_shards_of_f16() {
    let folder = Folder::new();
    folder.weights(|tensors| {
        for (dtype, _, bytes) in tensors.values_mut() {
            let values = bytes.as_chunks().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32());
            *bytes = values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
            *dtype = Dtype::F16;
        }
    });
    folder.shard(true);
    check(&folder, GgmlType::F16);
}

/// Biases, linear scaling, an output matrix, another length of heads.
#[test]
fn in_f32_with_all_that_the_other_lacks() {
    let folder = small();
    // Smaller, so that logits are those of a text and not all of one token.
    folder.weights(|tensors| {
        for (_, _, bytes) in tensors.values_mut() {
            let values = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes) / 64.0);
            *bytes = values.flat_map(f32::to_le_bytes).collect();
        }
    });
    check(&folder, GgmlType::F32);
}

#[test]
fn its_tensors_are_named_by_the_errors() {
    let folder = Folder::new();
    folder.weights(|tensors| {
        let (_, _, bytes) = tensors.get_mut("model.layers.3.self_attn.k_proj.weight").unwrap();
        bytes[2..4].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    });
    let error = logits(&open(&folder.dir, None), &TOKENS, 5).unwrap_err().to_string();
    assert!(error.contains("blk.3.attn_k.weight") && error.contains("row 0, column 1"), "{error}");
}
