//! What is asked for is what comes out: mixes with exceptions, importance, metadata, models in several files, plans without a conversion.

mod common;

use common::{imatrix, input};
use std::collections::BTreeMap;
use std::path::PathBuf;
use strata::convert::{Input, Options, Split, Target, convert, plan};
use strata::gguf::shards::SplitLimit;
use strata::gguf::{Gguf, Layout};
use strata::progress::Quiet;
use strata::recipe::{Mix, Recipe};
use strata::split::merge;
use strata::{Error, GgmlType};

fn recipe(mix: &str, exceptions: &[&str]) -> Recipe {
    let mut recipe = Recipe::new(Mix::from_name(mix).unwrap());
    recipe.tensor_types = exceptions.iter().map(|text| Recipe::parse_exception(text).unwrap()).collect();
    recipe
}

fn make(input: &Input, target: &Target) -> strata::Result<strata::convert::Report> {
    Ok(convert(input, std::slice::from_ref(target), &Options::default(), &Quiet)?.remove(0))
}

fn refused(input: &Input, target: &Target, words: &[&str]) {
    let error = make(input, target).unwrap_err().to_string();
    assert!(words.iter().all(|word| error.contains(word)) && error.lines().count() == 1, "{error}");
    assert!(!target.path.exists());
}

/// Name, type and bytes of every tensor.
fn tensors(gguf: &Gguf) -> BTreeMap<&str, (GgmlType, &[u8])> {
    gguf.tensors().iter().map(|t| (t.name.as_str(), (t.ty, gguf.data(t)))).collect()
}

#[test]
fn a_plan_is_what_is_made() {
    let out = tempfile::tempdir().unwrap();
    let input = input();
    let mut target =
        Target::new(out.path().join("m.gguf"), recipe("q4_k_m", &["blk\\.[01]\\.ffn_down=q8_0", "attn_k=iq4_xs"]));
    target.metadata = vec![("general.name".into(), "another".into()), ("my.key".into(), 7u32.into())];
    for split in [Split::Whole, Split::Limit(SplitLimit::Bytes(1_000_000), true)] {
        target.split = split;
        let plan = plan(&input, &target, &Options::default()).unwrap();
        let report = make(&input, &target).unwrap();
        assert_eq!((report.files, report.tensors), (plan.files.len(), plan.tensors.len()));
        for (path, bytes) in &plan.files {
            assert_eq!(std::fs::metadata(path).unwrap().len(), *bytes, "{}", path.display());
        }
        let gguf = Gguf::open(&report.path).unwrap();
        for (planned, tensor) in plan.tensors.iter().zip(gguf.tensors()) {
            assert_eq!((&planned.name, &planned.dims), (&tensor.name, &tensor.dims));
            assert_eq!((planned.to, planned.bytes_to), (tensor.ty, tensor.bytes));
        }
        let ty = |name: &str| gguf.required_tensor(name).unwrap().ty;
        // As in llama-quantize, the mix's rules do not count what exceptions have taken: the third that they meet is of layer 4.
        assert_eq!((ty("blk.1.ffn_down.weight"), ty("blk.2.ffn_down.weight")), (GgmlType::Q8_0, GgmlType::Q4_K));
        assert_eq!(ty("blk.4.ffn_down.weight"), GgmlType::Q6_K);
        assert_eq!((ty("blk.3.attn_k.weight"), ty("blk.3.attn_q.weight")), (GgmlType::IQ4_XS, GgmlType::Q4_K));
        assert_eq!(gguf.str("general.name").unwrap(), Some("another"));
        assert_eq!(gguf.u32("my.key").unwrap(), Some(7));
        assert_eq!(gguf.u32("general.file_type").unwrap(), Some(15));
        assert!(strata::verify::model(&gguf, Some(&input), &Quiet).unwrap().hashes);
    }
}

#[test]
fn a_model_in_several_files_is_the_same_model() {
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name);
    let input = input();
    let mut target = Target::new(path("whole.gguf"), recipe("q5_k_m", &[]));
    make(&input, &target).unwrap();
    let whole = Gguf::open(&target.path).unwrap();
    for (limit, first_without_tensors, files) in [
        (SplitLimit::Tensors(20), false, 3),
        (SplitLimit::Tensors(20), true, 4),
        (SplitLimit::Bytes(1 << 40), false, 1),
    ] {
        target.path = path(&format!("parts-{files}.gguf"));
        target.split = Split::Limit(limit, first_without_tensors);
        let report = make(&input, &target).unwrap();
        assert_eq!(report.files, files);
        assert!(report.path.ends_with(format!("parts-{files}-00001-of-0000{files}.gguf")));
        let parts = Gguf::open(&report.path).unwrap();
        assert!(tensors(&parts) == tensors(&whole));
        assert!(strata::verify::model(&parts, Some(&input), &Quiet).unwrap().hashes);
        if files > 1 {
            merge(&parts, &path("merged.gguf"), &Quiet).unwrap();
            assert_eq!(std::fs::read(path("merged.gguf")).unwrap(), std::fs::read(path("whole.gguf")).unwrap());
            // The same parts from a model in parts.
            let again = Target { split: Split::AsSource, ..Target::new(path("again.gguf"), recipe("q4_0", &[])) };
            let options = Options { requantize: true, ..Options::default() };
            let source = Input::open(&report.path).unwrap();
            let report = convert(&source, &[again], &options, &Quiet).unwrap().remove(0);
            assert_eq!(report.files, files);
            let again = Gguf::open(&report.path).unwrap();
            for tensor in again.tensors() {
                assert_eq!(tensor.part, parts.required_tensor(&tensor.name).unwrap().part, "{}", tensor.name);
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().unwrap() == "gguf"), "{left:?}");
}

#[test]
fn importance_is_asked_for_and_checked() {
    let out = tempfile::tempdir().unwrap();
    let input = input();
    let mut target = Target::new(out.path().join("m.gguf"), recipe("q2_k_s", &[]));
    let missing = make(&input, &target).unwrap_err();
    assert!(matches!(missing, Error::ImportanceMissing { mix: "Q2_K_S" }) && !target.path.exists(), "{missing}");
    let matrix = imatrix();
    let weights = |name: &String| (name.clone(), matrix.weights(name).unwrap());
    let mut importance: BTreeMap<_, _> = matrix.entries.keys().map(weights).collect();
    importance.get_mut("blk.2.attn_q.weight").unwrap().pop();
    target.importance = Some(importance);
    refused(&input, &target, &["blk.2.attn_q.weight", "255", "256", "another model"]);
}

#[test]
fn models_without_rules_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let file = |name: &str, pairs: &[(&str, &str)], experts: u32| -> PathBuf {
        let path = out.path().join(name);
        let mut layout = Layout::new();
        for (key, value) in pairs {
            layout.set(*key, *value);
        }
        for key in ["llama.block_count", "llama.attention.head_count"] {
            layout.set(key, 1u32);
        }
        for key in ["llama.embedding_length", "llama.feed_forward_length", "llama.context_length"] {
            layout.set(key, 32u32);
        }
        layout.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        layout.set("llama.expert_count", experts);
        layout.tensor("token_embd.weight", &[32, 1], GgmlType::F32);
        let mut writer = layout.create(&path).unwrap();
        writer.begin("token_embd.weight").unwrap();
        writer.write(&[0; 128]).unwrap();
        writer.finish().unwrap();
        path
    };
    let target = Target::new(out.path().join("m.gguf"), recipe("q8_0", &[]));
    for (path, words) in [
        (file("a", &[("general.architecture", "gemma")], 0), ["general.architecture", "gemma"]),
        (file("b", &[("general.architecture", "llama")], 8), ["llama.expert_count", "mixture of experts"]),
        (file("c", &[], 0), ["general.architecture", "is missing"]),
    ] {
        refused(&Input::open(&path).unwrap(), &target, &words);
    }
    make(&Input::open(file("d", &[("general.architecture", "llama")], 0)).unwrap(), &target).unwrap();
}
