//! Every tensor of every file that llama-quantize made, with and without importance, against what Strata makes of the same weights:
//! the type each gets and the SHA-256 of its bytes; and the same bytes from every instruction set.
//!
//! `STRATA_GOLDEN=DIR` adds `DIR/models/small-rustdoc` with `DIR/golden/llama-quantize`, which is too large for the repository.

use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use strata::convert::{Options, convert};
use strata::gguf::{Gguf, TensorInfo};
use strata::imatrix::Imatrix;
use strata::progress::Quiet;
use strata::recipe::{Mix, ModelFacts, Recipe, TensorFacts};
use strata::{GgmlType, Isa};

/// A checkpoint with what llama-quantize made of it.
struct Golden {
    _dir: tempfile::TempDir,
    gguf: Gguf, // in BF16
    imatrix: Imatrix,
    files: Value,
}

impl Golden {
    fn all() -> Vec<Golden> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = root.join("tests/data/tiny-rustdoc");
        let mut all = vec![Golden::open(
            &root.join("models/tiny-rustdoc"),
            data.join("quantize.json"),
            data.join("imatrix.gguf"),
        )];
        if let Ok(dir) = std::env::var("STRATA_GOLDEN") {
            let dir = PathBuf::from(dir);
            let golden = dir.join("golden/llama-quantize");
            let (json, imatrix) = (golden.join("small-rustdoc.json"), golden.join("small-rustdoc.imatrix.gguf"));
            all.push(Golden::open(&dir.join("models/small-rustdoc"), json, imatrix));
        }
        all
    }

    fn open(checkpoint: &Path, json: PathBuf, imatrix: PathBuf) -> Golden {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bf16.gguf");
        convert(checkpoint, &path, &Options { ty: GgmlType::BF16, name: None }, &Quiet).unwrap();
        let files = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        Golden { _dir: dir, gguf: Gguf::open(&path).unwrap(), imatrix: Imatrix::open(imatrix).unwrap(), files }
    }

    fn facts(&self) -> ModelFacts {
        let number = |key: &str| self.gguf.required_u32(key).unwrap() as usize;
        ModelFacts {
            layers: number("llama.block_count"),
            heads: number("llama.attention.head_count"),
            kv_heads: number("llama.attention.head_count_kv"),
        }
    }

    /// The values of a tensor `(rows, cols)`.
    fn values(&self, tensor: &TensorInfo) -> Vec<f32> {
        let mut values = vec![0.0; (tensor.rows() * tensor.cols()) as usize];
        (tensor.ty.format().unwrap().decode)(self.gguf.data(tensor), &mut values);
        values
    }
}

fn encode(isa: Isa, ty: GgmlType, values: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let mut bytes = vec![0; values.len() / cols * row_bytes];
    let rows = bytes.par_chunks_exact_mut(row_bytes).zip(values.par_chunks_exact(cols));
    rows.for_each(|(out, row)| isa.encode(ty, row, importance, out));
    bytes
}

#[test]
fn every_tensor_is_that_of_llama_quantize() {
    for golden in Golden::all() {
        // Many files share tensors: each is made once.
        let made: Mutex<HashMap<(String, GgmlType, bool), String>> = Mutex::default();
        let (mut equal, mut wrong) = (0, Vec::new());
        for file in golden.files["files"].as_array().unwrap() {
            let (mix, mode) = (file["type"].as_str().unwrap(), file["mode"].as_str().unwrap());
            let mut recipe = Recipe::new(Mix::from_name(mix).unwrap());
            recipe.pure = mode == "pure";
            let importance = mode == "imatrix";
            let tensors = golden.gguf.tensors();
            let facts: Vec<_> =
                tensors.iter().map(|t| TensorFacts { name: &t.name, dims: &t.dims, kept: t.ty }).collect();
            let types = recipe.types(golden.facts(), &facts, importance);
            assert_eq!(file["tensors"].as_object().unwrap().len(), tensors.len());
            let failed: Vec<_> = tensors
                .par_iter()
                .zip(&types)
                .filter_map(|(tensor, &ty)| {
                    let expected = &file["tensors"][&tensor.name];
                    if expected[0] != ty.name() {
                        return Some(format!("{mix} {mode} {}: {ty}, not {}", tensor.name, expected[0]));
                    }
                    let weights = importance.then(|| golden.imatrix.weights(&tensor.name)).flatten();
                    let key = (tensor.name.clone(), ty, weights.is_some());
                    let known = made.lock().unwrap().get(&key).cloned();
                    let hash = known.unwrap_or_else(|| {
                        let values = golden.values(tensor);
                        let bytes = encode(Isa::best(), ty, &values, tensor.cols() as usize, weights.as_deref());
                        Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
                    });
                    let same = expected[1] == hash.as_str();
                    made.lock().unwrap().insert(key, hash);
                    (!same).then(|| format!("{mix} {mode} {} as {ty}", tensor.name))
                })
                .collect();
            equal += types.len() - failed.len();
            println!("{mix} {mode}: {} of {} tensors", types.len() - failed.len(), types.len());
            wrong.extend(failed);
        }
        println!("{equal} tensors are llama-quantize's");
        assert!(wrong.is_empty(), "{} tensors differ: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    }
}

#[test]
fn every_instruction_set_makes_the_same_bytes() {
    let golden = &Golden::all()[0];
    let extremes = [0.0, -0.0, 1e-45, -1e-20, 1e-15, 1.0, -1.0, 3e4, 1e30, -1e37];
    for ty in GgmlType::with_format().map(|format| format.ty) {
        let cols = ty.block_len().max(32) * 3;
        for importance in [None, golden.imatrix.weights("blk.0.ffn_down.weight")] {
            let weights = importance.as_deref().map(|weights| &weights[..cols.min(weights.len())]);
            let cols = weights.map_or(cols, <[f32]>::len);
            let tensor = golden.gguf.required_tensor("blk.1.attn_q.weight").unwrap();
            let mut values = golden.values(tensor);
            values.truncate(values.len() / cols * cols);
            // Rows of one value, and of a few wild ones.
            for (row, &x) in values.chunks_mut(cols).zip(&extremes) {
                row.fill(x);
            }
            for (i, x) in values.chunks_mut(cols).nth(extremes.len()).unwrap().iter_mut().enumerate() {
                *x = extremes[i * 7 % extremes.len()];
            }
            let expected = encode(Isa::named("scalar").unwrap(), ty, &values, cols, weights);
            for isa in Isa::available() {
                assert!(encode(isa, ty, &values, cols, weights) == expected, "{ty} by {isa:?}");
            }
            let mut by_format = vec![0; expected.len()];
            for (row, out) in values.chunks(cols).zip(by_format.chunks_mut(ty.row_bytes(cols).unwrap())) {
                (ty.format().unwrap().encode)(row, weights, out);
            }
            assert!(by_format == expected, "{ty}");
        }
    }
}
