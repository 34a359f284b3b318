//! Adapters: merged while a checkpoint is converted, beside what PEFT merges (tests/data/make_lora.py), and applied while a model runs,
//! beside the merged model.

mod common;

use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use strata::adapter::{Adapter, AdapterFile};
use strata::arch::LLAMA;
use strata::arch::tensors::permuted_row;
use strata::convert::{Input, Options, Target, convert, open_model};
use strata::gguf::{Gguf, Layout};
use strata::model::{CacheTypes, KvCache, Model, Scratch, Segment};
use strata::progress::{Progress, Quiet};
use strata::stream::ReadOptions;
use strata::{Cpu, Error, GgmlType, Isa, Result};

/// The adapters of `merged.safetensors`, one after the other.
const ADAPTERS: [(&str, f64); 3] = [("plain", 1.0), ("rs", 0.5), ("embed", -1.5)];

/// The rows that the file has of every matrix; the last is -1 there.
const ROWS: [usize; 2] = [0, 33];

fn data(name: &str) -> PathBuf {
    common::repository("tests/data/lora").join(name)
}

fn merged_input() -> Input {
    let mut input = common::input();
    let open = |(name, scale): (&str, f64)| Adapter::open(&data(name), scale, &Quiet).unwrap();
    input.merge(ADAPTERS.map(open).into()).unwrap();
    input
}

fn make(input: &Input, path: &Path, mix: &str, options: &Options) -> Result<()> {
    convert(input, &[Target::new(path, common::mix(mix))], options, &Quiet).map(drop)
}

/// The values of the rows of a tensor that PEFT's file has, in the checkpoint's order of rows.
fn rows(gguf: &Gguf, name: &str, head_dim: Option<usize>) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let (cols, rows) = (tensor.cols() as usize, tensor.rows() as usize);
    let mut values = vec![0.0; rows * cols];
    (tensor.ty.format().unwrap().decode)(gguf.data(tensor), &mut values);
    if rows == 1 {
        return values;
    }
    let place = |row: usize| (0..rows).find(|&r| head_dim.map_or(r, |head_dim| permuted_row(r, head_dim)) == row);
    let wanted = ROWS.into_iter().chain([rows - 1]).map(|row| place(row).unwrap());
    wanted.flat_map(|r| values[r * cols..][..cols].to_vec()).collect()
}

/// The values of a safetensors file, by name.
fn reference() -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(data("merged.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let bf16 = |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
        let values = match view.dtype() {
            safetensors::Dtype::F32 => view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            _ => view.data().as_chunks().0.iter().map(|&b| bf16(b)).collect(),
        };
        (name, values)
    };
    file.tensors().into_iter().map(values).collect()
}

#[test]
fn merged_weights_are_those_of_peft() {
    let (folder, input, reference) = (tempfile::tempdir().unwrap(), merged_input(), reference());
    let layers = 6;
    for (mix, end) in [("f32", ""), ("bf16", ".bf16")] {
        let path = folder.path().join(mix);
        make(&input, &path, mix, &Options::default()).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let (mut compared, mut unequal, mut values) = (0, 0, 0);
        for (spec, layer) in LLAMA.all_tensors(layers) {
            let Some([hf, _]) = spec.hf_names(layer) else { continue };
            let Some(peft) = reference.get(&format!("{hf}{end}")) else { continue };
            let ours = rows(&gguf, &spec.name(layer), spec.permuted.map(|_| 64));
            assert_eq!(ours.len(), peft.len(), "{hf}");
            let largest = peft.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            // F32: sums of at most four products, in another order, then two roundings. BF16: rarely the other neighbour.
            let tolerance = if end.is_empty() { 8.0 * f32::EPSILON * largest } else { largest / 128.0 };
            for (a, b) in ours.iter().zip(peft) {
                assert!((a - b).abs() <= tolerance, "{hf}: {a} beside {b}");
                // PEFT rounds what it adds to an embedding to BF16 before it adds it.
                unequal += usize::from(a != b && hf != "model.embed_tokens.weight");
            }
            values += ours.len();
            compared += 1;
        }
        assert_eq!(compared, 28, "every tensor that PEFT changed");
        assert!(end.is_empty() || unequal * 1000 < values, "{unequal} of {values} values differ in BF16");
        let base = {
            let path = folder.path().join("base");
            common::write_model(&path, common::mix(mix));
            Gguf::open(&path).unwrap()
        };
        // What no adapter names stays, bit for bit.
        for name in ["blk.2.ffn_up.weight", "blk.0.attn_v.weight", "blk.4.attn_q.weight"] {
            let same = base.data(base.tensor(name).unwrap()) == gguf.data(gguf.tensor(name).unwrap());
            assert_eq!(same, name != "blk.0.attn_v.weight", "{name}");
        }
        let recipe = gguf.str("strata.recipe").unwrap().unwrap();
        assert!(ADAPTERS.iter().all(|(name, _)| recipe.contains(&format!("\"name\":\"{name}\""))), "{recipe}");
    }
}

#[test]
fn bytes_are_the_same_with_any_threads_memory_and_instructions() {
    let (folder, input) = (tempfile::tempdir().unwrap(), merged_input());
    let path = |name: &str| folder.path().join(name);
    make(&input, &path("a"), "q4_k_m", &Options::default()).unwrap();
    for (i, (threads, memory, isa)) in
        [(1, Some(40 << 20), Isa::available().next().unwrap()), (3, None, Isa::best())].into_iter().enumerate()
    {
        let options = Options { threads: Some(threads), memory, isa, ..Options::default() };
        let other = path(&i.to_string());
        make(&input, &other, "q4_k_m", &options).unwrap();
        assert!(fs::read(path("a")).unwrap() == fs::read(other).unwrap());
    }
}

#[test]
fn a_stopped_run_is_resumed_with_the_same_adapters_alone() {
    let (folder, input) = (tempfile::tempdir().unwrap(), merged_input());
    let (path, whole) = (folder.path().join("m"), folder.path().join("whole"));
    make(&input, &whole, "q8_0", &Options::default()).unwrap();
    let target = Target::new(&path, common::mix("q8_0"));
    let stops = common::StopsAfter(AtomicUsize::new(60));
    let options = Options { threads: Some(1), memory: Some(24 << 20), ..Options::default() };
    let stopped = convert(&input, std::slice::from_ref(&target), &options, &stops);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let mut other = common::input();
    other.merge(vec![Adapter::open(&data("plain"), 0.25, &Quiet).unwrap()]).unwrap();
    for input in [common::input(), other] {
        let said = make(&input, &path, "q8_0", &options).unwrap_err().to_string();
        assert!(said.contains("lora"), "{said}");
    }
    let report = convert(&input, &[target], &options, &Quiet as &dyn Progress).unwrap();
    assert!(report[0].resumed > 0 && fs::read(path).unwrap() == fs::read(whole).unwrap());
}

/// A copy of an adapter with its files edited.
fn edited(config: &[(&str, &str)], edit: impl Fn(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(data("plain").join("adapter_config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in config {
        json[key] = serde_json::from_str(value).unwrap();
    }
    fs::write(folder.path().join("adapter_config.json"), json.to_string()).unwrap();
    let bytes = fs::read(data("plain").join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let mut all = file.tensors().into_iter().map(|(n, v)| (n, (v.shape().to_vec(), values(v.data())))).collect();
    edit(&mut all);
    let bytes: Vec<_> =
        all.values().map(|(_, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).collect();
    let views = all.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(folder.path().join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

#[test]
fn what_cannot_be_merged_exactly_is_refused_by_name() {
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let said = |folder: &tempfile::TempDir| {
        let merged = Adapter::open(folder.path(), 1.0, &Quiet).and_then(|one| common::input().merge(vec![one]));
        merged.unwrap_err().to_string()
    };
    for (key, value, words) in [
        ("use_dora", "true", "DoRA"),
        ("peft_type", "\"LOHA\"", "\"LOHA\""),
        ("init_lora_weights", "\"pissa_niter_4\"", "changes the base model"),
        ("lora_bias", "true", "lora_bias"),
        ("layer_replication", "[[0, 1]]", "layer_replication"),
        ("trainable_token_indices", "[1]", "trainable_token_indices"),
        ("something_new", "3", "something_new"),
        ("rank_pattern", "{\"(\": 2}", "no regular expression"),
        ("r", "0", "a count from 1 on"),
        ("lora_alpha", "1e60", "32-bit float"),
        ("r", "5", "adapter_config.json and the base model call for [5, 768]"),
    ] {
        let said = said(&edited(&[(key, value)], |_| ()));
        assert!(said.contains(words), "{key}: {said}");
    }
    let lora_b = format!("{q}.lora_B.weight");
    let with = |name: &str, shape: Vec<usize>| {
        edited(&[], |all| {
            let values = vec![0.5; shape.iter().product()];
            all.insert(name.to_owned(), (shape.clone(), values));
        })
    };
    for (folder, words) in [
        (edited(&[], |all| drop(all.remove(&lora_b))), "is not one of a pair"),
        (edited(&[], BTreeMap::clear), "there are none"),
        (with(&lora_b, vec![200, 4]), "[256, 4]"),
        (with("base_model.model.model.layers.9.mlp.up_proj.weight", vec![1]), "does not have"),
        (with("base_model.model.lm_head.weight", vec![4096, 256]), "tie_word_embeddings"),
        (with("base_model.model.model.embed_tokens.weight", vec![4100, 256]), "another vocabulary"),
        (with(&format!("{q}.lora_magnitude_vector"), vec![256]), "DoRA"),
        (with(&format!("{q}.bias"), vec![256]), "does not have"),
    ] {
        let said = said(&folder);
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(Adapter::open(&data("missing"), 1.0, &Quiet).err().unwrap().to_string().contains("does not exist"));
    // Weights that are not finite are an error that says so, and not a file of infinities.
    let huge = edited(&[], |all| all.values_mut().for_each(|(_, values)| values.fill(3e30)));
    let mut input = common::input();
    input.merge(vec![Adapter::open(huge.path(), 1.0, &Quiet).unwrap()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let said = make(&input, &folder.path().join("m"), "bf16", &Options::default()).unwrap_err().to_string();
    assert!(said.contains("too many times"), "{said}");
    let over = Adapter::open(&data("plain"), 3e38, &Quiet).and_then(|one| common::input().merge(vec![one]));
    assert!(over.unwrap_err().to_string().contains("multiplied by inf"));
    let (_folder, path) = common::model_file(common::pure(GgmlType::Q8_0));
    let mut gguf = Input::open(path).unwrap();
    let said = gguf.merge(vec![Adapter::open(&data("plain"), 1.0, &Quiet).unwrap()]).unwrap_err().to_string();
    assert!(said.contains("is a GGUF file"), "{said}");
}

/// The model at `path` with adapter files, each with a scale.
fn adapted(mut model: Model, adapters: &[(&str, f32)]) -> Model {
    let open = |&(name, scale): &(&str, f32)| Arc::new(AdapterFile::open(&data(name), scale, &Quiet).unwrap());
    model.adapt(adapters.iter().map(open).collect()).unwrap();
    model
}

/// The hidden states after the last layer, `(tokens, hidden)`.
fn states(model: &Model) -> Vec<f32> {
    let types = CacheTypes::both(GgmlType::F32);
    let mut cache = KvCache::with_types(model.hyperparameters(), common::TOKENS.len(), types).unwrap();
    let mut scratch = Scratch::default();
    let segment = Segment { tokens: &common::TOKENS, cache: &mut cache };
    model.pass(&mut scratch, &mut [segment], &Quiet).unwrap().states().to_vec()
}

#[test]
fn adapters_that_are_applied_do_what_merged_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    common::write_model(&base, common::mix("f32"));
    let plain = states(&common::open(&base, Isa::best(), 2));
    // llama.cpp's files have one alpha for all modules.
    let one_alpha = edited(&[("alpha_pattern", "{}")], |_| ());
    for (peft, file, scale) in [(one_alpha.path().to_owned(), "plain.gguf", 0.75), (data("embed"), "embed.gguf", -1.5)]
    {
        let mut input = common::input();
        input.merge(vec![Adapter::open(&peft, scale, &Quiet).unwrap()]).unwrap();
        let path = folder.path().join(file);
        make(&input, &path, "f32", &Options::default()).unwrap();
        let merged = states(&common::open(&path, Isa::best(), 2));
        let applied = states(&adapted(common::open(&base, Isa::best(), 2), &[(file, scale as f32)]));
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
        let moved = apart(&merged, &plain);
        assert!(
            apart(&merged, &applied) < 1e-3 * moved && moved > 0.1,
            "{file}: {} of {moved}",
            apart(&merged, &applied)
        );
        // A checkpoint's rows of heads are in another order, and its results are put in the same.
        let gguf = open_model(&common::checkpoint(), &Quiet).unwrap();
        let model = Model::new(gguf, Cpu::new(Isa::best(), 2)).unwrap();
        assert!(apart(&states(&adapted(model, &[(file, scale as f32)])), &applied) < 1e-3 * moved, "{file}");
    }
}

#[test]
fn adapters_give_one_result() {
    let (_folder, path) = common::model_file(common::mix("q4_0"));
    let both = [("plain.gguf", 1.0), ("embed.gguf", 0.5)];
    let with = |isa, threads| adapted(common::open(&path, isa, threads), &both);
    let expected = common::logits(&with(Isa::best(), 2), &common::TOKENS, 21).unwrap();
    let bits = |logits: Vec<f32>| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let without = common::logits(&common::open(&path, Isa::best(), 2), &common::TOKENS, 21).unwrap();
    assert_ne!(bits(expected.clone()), bits(without));
    let expected = bits(expected);
    for (isa, threads, piece) in [(Isa::best(), 1, 1), (Isa::best(), 3, 5)] {
        assert!(bits(common::logits(&with(isa, threads), &common::TOKENS, piece).unwrap()) == expected, "{piece}");
    }
    for isa in Isa::available() {
        let logits = common::logits(&with(isa, 2), &common::TOKENS, 8).unwrap();
        assert!(bits(logits) == expected, "{}", isa.name());
    }
    let streamed = adapted(common::streamed_with(&path, 0.3, &ReadOptions::default()).unwrap(), &both);
    assert!(bits(common::logits(&streamed, &common::TOKENS, 8).unwrap()) == expected);
}

/// An adapter file with these keys and F32 tensors.
fn adapter_file(path: &Path, keys: &[(&str, &str)], tensors: &[(&str, [u64; 2])]) {
    let mut layout = Layout::new();
    keys.iter().for_each(|(key, value)| layout.set(*key, *value));
    layout.set("adapter.lora.alpha", 8f32);
    tensors.iter().for_each(|(name, dims)| layout.tensor(*name, dims, GgmlType::F32));
    let mut writer = layout.create(path).unwrap();
    for (name, dims) in tensors {
        writer.begin(name).unwrap();
        writer.write(&vec![0; 4 * (dims[0] * dims[1]) as usize]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn adapters_of_other_models_are_refused() {
    let (folder, path) = common::model_file(common::pure(GgmlType::Q8_0));
    let file = folder.path().join("adapter.gguf");
    let lora = [("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")];
    let [a, b] = ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"];
    type Keys<'a> = &'a [(&'a str, &'a str)];
    type Tensors<'a> = &'a [(&'a str, [u64; 2])];
    let cases: [(Keys<'_>, Tensors<'_>, &str); 8] = [
        (&lora[1..], &[(a, [256, 4])], "is \"model\""),
        (&lora[..2], &[(a, [256, 4])], "adapter.type"),
        (&[lora[0], ("general.architecture", "qwen2"), lora[2]], &[(a, [256, 4]), (b, [4, 256])], "qwen2"),
        (&lora, &[(a, [256, 4])], "no partner"),
        (&lora, &[(a, [256, 4]), (b, [5, 256])], "[256, 5]"),
        (&lora, &[(a, [128, 4]), (b, [4, 256])], "[256, 4]"),
        (&lora, &[("blk.9.attn_q.weight.lora_a", [256, 4]), ("blk.9.attn_q.weight.lora_b", [4, 256])], "blk.9"),
        (&lora, &[("blk.0.attn_norm.weight", [256, 1])], "is neither lora_a nor lora_b"),
    ];
    for (keys, tensors, words) in cases {
        adapter_file(&file, keys, tensors);
        let mut model = common::open(&path, Isa::best(), 1);
        let adapted = AdapterFile::open(&file, 1.0, &Quiet).and_then(|one| model.adapt(vec![Arc::new(one)]));
        let said = adapted.unwrap_err().to_string();
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(AdapterFile::open(&data("plain"), 1.0, &Quiet).err().unwrap().to_string().contains("is a folder"));
}
