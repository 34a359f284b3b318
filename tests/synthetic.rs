//! Models of random weights: the same bytes every time, read and run like any other, and as their recipe says.

use std::fs;
use std::path::Path;
use strata::gguf::Gguf;
use strata::model::{KvCache, Model, Scratch, Segment};
use strata::progress::{Progress, Quiet};
use strata::recipe::{Mix, Recipe};
use strata::synthetic::{Preset, Synthetic};
use strata::{Cpu, Error, GgmlType, Isa};

fn synthetic(recipe: Recipe, tied: bool, seed: u64) -> Synthetic {
    let shape = Preset::llama_3("tiny", 2, (256, 512), (4, 2), tied);
    Synthetic { preset: shape.with_vocab(300), recipe, seed }
}

fn written(model: &Synthetic, path: &Path) -> Vec<u8> {
    model.write(path, &Quiet).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_seed_makes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let pure = || Recipe::pure(GgmlType::Q4_K).unwrap();
    let first = written(&synthetic(pure(), false, 1), &path);
    assert!(first == written(&synthetic(pure(), false, 1), &path));
    assert!(first != written(&synthetic(pure(), false, 2), &path));
}

#[test]
fn every_type_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for (i, format) in GgmlType::with_format().enumerate() {
        let tied = i % 2 == 0;
        written(&synthetic(Recipe::pure(format.ty).unwrap(), tied, 1), &path);
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.tensors().len(), 2 + usize::from(!tied) + 2 * 9);
        for tensor in gguf.tensors() {
            assert_eq!(tensor.ty, if tensor.rows() == 1 { GgmlType::F32 } else { format.ty }, "{}", tensor.name);
            // Mean square of a row of n weights: 1/n, less what little the format loses.
            let (n, blocks) = (tensor.cols() as usize, tensor.bytes as usize / tensor.rows() as usize);
            let mut row = vec![0.0; n];
            (tensor.ty.format().unwrap().decode)(&gguf.data(tensor)[..blocks], &mut row);
            let square: f32 = row.iter().map(|w| w * w).sum();
            let expected = if tensor.rows() == 1 { n as f32 } else { 1.0 };
            assert!((square / expected - 1.0).abs() < 0.4, "{} of {}: {square}", tensor.name, format.ty);
        }
        let model = Model::new(gguf, Cpu::new(Isa::best(), 2)).unwrap();
        let mut cache = KvCache::new(model.hyperparameters(), 20).unwrap();
        cache.fill_random(model.cpu(), 17);
        assert_eq!(cache.len(), 17);
        let (mut scratch, tokens) = (Scratch::default(), [1, 299, 7]);
        let mut hidden =
            model.pass(&mut scratch, &mut [Segment { tokens: &tokens, cache: &mut cache }], &Quiet).unwrap();
        let logits = hidden.logits(0..3, &Quiet).unwrap().to_vec();
        assert!(logits.iter().all(|l| l.is_finite()) && logits.iter().any(|l| l.abs() > 0.1), "{}", format.ty);
        // What was made up is seen.
        let mut short = KvCache::new(model.hyperparameters(), 3).unwrap();
        let mut hidden =
            model.pass(&mut scratch, &mut [Segment { tokens: &tokens, cache: &mut short }], &Quiet).unwrap();
        assert_ne!(hidden.logits(0..3, &Quiet).unwrap(), logits);
    }
}

#[test]
fn mixes_are_those_of_a_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    written(&synthetic(Recipe::new(Mix::from_name("q4_k_m").unwrap()), false, 1), &path);
    let gguf = Gguf::open(&path).unwrap();
    let ty = |name: &str| gguf.tensor(name).unwrap().ty;
    assert_eq!(ty("blk.0.attn_q.weight"), GgmlType::Q4_K);
    assert_eq!(ty("blk.1.attn_v.weight"), GgmlType::Q6_K);
    assert_eq!(ty("output.weight"), GgmlType::Q6_K);
    assert_eq!(gguf.u32("general.file_type").unwrap(), Some(15));
}

#[test]
fn what_was_stopped_or_finds_no_room_leaves_nothing() {
    struct Stopped;
    impl Progress for Stopped {
        fn begin(&self, _: &str, _: u64) {}
        fn advance(&self, _: u64) {}
        fn end(&self) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut model = synthetic(Recipe::pure(GgmlType::F32).unwrap(), true, 1);
    assert!(matches!(model.write(&path, &Stopped), Err(Error::Cancelled)));
    if cfg!(unix) {
        model.preset.hyperparameters.vocab = 1 << 46;
        let said = model.write(&path, &Quiet).unwrap_err().to_string();
        assert!(said.contains("are free; take fewer layers"), "{said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
