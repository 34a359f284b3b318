//! Every tensor of every file that llama-quantize made, with and without importance, against what Strata makes of the same weights:
//! the type each gets and the SHA-256 of its bytes; and the same bytes from every instruction set.
//!
//! `STRATA_GOLDEN=DIR` adds `DIR/models/small-rustdoc` with `DIR/golden/llama-quantize`, which is too large for the repository.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use strata::convert::{Input, Options, Target, convert};
use strata::gguf::Gguf;
use strata::imatrix::Imatrix;
use strata::progress::Quiet;
use strata::recipe::{Mix, Recipe};
use strata::{GgmlType, Isa};

/// A checkpoint with what llama-quantize made of it.
struct Golden {
    checkpoint: PathBuf,
    imatrix: Imatrix,
    files: Vec<Value>,
}

impl Golden {
    fn all() -> Vec<Golden> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = root.join("tests/data/tiny-rustdoc");
        let tiny = root.join("models/tiny-rustdoc");
        let mut all = vec![Golden::open(tiny, data.join("quantize.json"), data.join("imatrix.gguf"))];
        if let Ok(dir) = std::env::var("STRATA_GOLDEN") {
            let dir = PathBuf::from(dir);
            let golden = dir.join("golden/llama-quantize");
            let (json, imatrix) = (golden.join("small-rustdoc.json"), golden.join("small-rustdoc.imatrix.gguf"));
            all.push(Golden::open(dir.join("models/small-rustdoc"), json, imatrix));
        }
        all
    }

    fn open(checkpoint: PathBuf, json: PathBuf, imatrix: PathBuf) -> Golden {
        let mut golden: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        let Value::Array(files) = golden["files"].take() else { panic!("no files") };
        Golden { checkpoint, imatrix: Imatrix::open(imatrix).unwrap(), files }
    }

    /// The target that the golden file `i` is of.
    fn target(&self, i: usize, folder: &Path) -> Target {
        let file = &self.files[i];
        let mut recipe = Recipe::new(Mix::from_name(file["type"].as_str().unwrap()).unwrap());
        recipe.pure = file["mode"] == "pure";
        let mut target = Target::new(folder.join(format!("{i}.gguf")), recipe);
        if file["mode"] == "imatrix" {
            let names = self.imatrix.entries.keys();
            target.importance = Some(names.map(|name| (name.clone(), self.imatrix.weights(name).unwrap())).collect());
        }
        target
    }
}

fn encode(isa: Isa, ty: GgmlType, values: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let mut bytes = vec![0; values.len() / cols * row_bytes];
    for (out, row) in bytes.chunks_exact_mut(row_bytes).zip(values.chunks_exact(cols)) {
        isa.encode(ty, row, importance, out);
    }
    bytes
}

/// Straight from safetensors, eight files in one read.
#[test]
fn every_tensor_is_that_of_llama_quantize() {
    for golden in Golden::all() {
        let input = Input::open(&golden.checkpoint).unwrap();
        let numbers: Vec<usize> = (0..golden.files.len()).collect();
        let (mut equal, mut wrong) = (0, Vec::new());
        for together in numbers.chunks(8) {
            let folder = tempfile::tempdir().unwrap();
            let targets: Vec<_> = together.iter().map(|&i| golden.target(i, folder.path())).collect();
            convert(&input, &targets, &Options::default(), &Quiet).unwrap();
            for (target, &i) in targets.iter().zip(together) {
                let (file, gguf) = (&golden.files[i], Gguf::open(&target.path).unwrap());
                let expected = file["tensors"].as_object().unwrap();
                assert_eq!(gguf.tensors().len(), expected.len());
                assert_eq!(gguf.required_u32("general.file_type").unwrap(), target.recipe.mix.file_type);
                for tensor in gguf.tensors() {
                    let hash: String =
                        Sha256::digest(gguf.data(tensor)).iter().map(|byte| format!("{byte:02x}")).collect();
                    let golden = &expected[&tensor.name];
                    if golden[0] == tensor.ty.name() && golden[1] == hash.as_str() {
                        equal += 1;
                    } else {
                        wrong.push(format!("{} {} {} as {}", file["type"], file["mode"], tensor.name, tensor.ty));
                    }
                }
                keep(&target.path);
            }
        }
        println!("{}: {equal} tensors of {} files", golden.checkpoint.display(), golden.files.len());
        assert!(wrong.is_empty(), "{} tensors differ: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    }
}

/// CI shows every file that is made here to a second reader.
fn keep(path: &Path) {
    if let Ok(folder) = std::env::var("STRATA_KEEP") {
        let bytes = std::fs::read(path).unwrap();
        let name: String = Sha256::digest(&bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(Path::new(&folder).join(name + ".gguf"), bytes).unwrap();
    }
}

#[test]
fn every_instruction_set_makes_the_same_bytes() {
    let golden = &Golden::all()[0];
    let folder = tempfile::tempdir().unwrap();
    let source = Target::new(folder.path().join("bf16.gguf"), Recipe::pure(GgmlType::BF16).unwrap());
    convert(&Input::open(&golden.checkpoint).unwrap(), std::slice::from_ref(&source), &Options::default(), &Quiet)
        .unwrap();
    let gguf = Gguf::open(&source.path).unwrap();
    let extremes = [0.0, -0.0, 1e-45, -1e-20, 1e-15, 1.0, -1.0, 3e4, 1e30, -1e37];
    for ty in GgmlType::with_format().map(|format| format.ty) {
        let cols = ty.block_len().max(32) * 3;
        for importance in [None, golden.imatrix.weights("blk.0.ffn_down.weight")] {
            let weights = importance.as_deref().map(|weights| &weights[..cols.min(weights.len())]);
            let cols = weights.map_or(cols, <[f32]>::len);
            let tensor = gguf.required_tensor("blk.1.attn_q.weight").unwrap();
            let mut values = vec![0.0; (tensor.rows() * tensor.cols()) as usize];
            (tensor.ty.format().unwrap().decode)(gguf.data(tensor), &mut values);
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
