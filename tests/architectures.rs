//! Every architecture of the table, in small: logits and greedy text are those of transformers, and the same bits however they are computed;
//! every pre-tokenizer splits as Hugging Face's. `tests/data/make_architectures.py` made what is expected, and says how weights are made.
//!
//! `STRATA_TOKENIZERS=FILE` adds vocabularies too large for the repository: `[{"file": "PATH.gguf", "texts": [..], "ids": [[..], ..]}, ..]`.

mod common;

use common::{assert_same_bits, logits_with, open};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use strata::convert::{Input, Options, Target, convert, open_model};
use strata::gguf::Gguf;
use strata::model::{CacheTypes, Model};
use strata::progress::Quiet;
use strata::recipe::Recipe;
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{Cpu, GgmlType, Isa};
use tempfile::TempDir;

const F32: CacheTypes = CacheTypes { k: GgmlType::F32, v: GgmlType::F32 };

fn expected() -> Value {
    serde_json::from_str(include_str!("data/architectures.json")).unwrap()
}

fn numbers<T: TryFrom<i64>>(list: &Value) -> Vec<T> {
    list.as_array().unwrap().iter().map(|n| T::try_from(n.as_i64().unwrap()).ok().unwrap()).collect()
}

/// The weights of a tensor in BF16: splitmix64 of their places, from FNV-1a of the name.
fn weights(name: &str, len: usize) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    let value = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let n = ((z >> 32) % 255) as f32 - 127.0;
        if name.contains("norm") { 1.0 + n / 256.0 } else { n / 512.0 }
    };
    (0..len as u64).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect()
}

/// A case as a checkpoint in a folder, and files made of it.
struct Case {
    name: String,
    expected: Value,
    dir: TempDir,
}

impl Case {
    fn new(all: &Value, name: &str) -> Case {
        let (expected, dir) = (all["cases"][name].clone(), tempfile::tempdir().unwrap());
        let write = |name: &str, json: &Value| fs::write(dir.path().join(name), json.to_string()).unwrap();
        write("config.json", &expected["config"]);
        write("tokenizer.json", &all["tokenizers"][expected["pre"].as_str().unwrap()]["json"]);
        write(
            "tokenizer_config.json",
            &json!({"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": false}),
        );
        let tensors: Vec<(&String, Vec<usize>, Vec<u8>)> = expected["tensors"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, shape)| {
                let shape: Vec<usize> = numbers(shape);
                let bytes = weights(name, shape.iter().product());
                (name, shape, bytes)
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
        fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        Case { name: name.to_owned(), expected, dir }
    }

    fn all(all: &Value) -> Vec<Case> {
        all["cases"].as_object().unwrap().keys().map(|name| Case::new(all, name)).collect()
    }

    /// Files of these types, made in one conversion.
    fn convert<const N: usize>(&self, types: [GgmlType; N]) -> [PathBuf; N] {
        let paths = types.map(|ty| self.dir.path().join(format!("{ty}.gguf")));
        let targets: Vec<_> =
            paths.iter().zip(types).map(|(path, ty)| Target::new(path, Recipe::pure(ty).unwrap())).collect();
        convert(&Input::open(self.dir.path()).unwrap(), &targets, &Options::default(), &Quiet)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        paths
    }
}

fn greatest(logits: &[f32]) -> u32 {
    let greater = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, greater) as u32
}

#[test]
fn logits_and_greedy_text_are_those_of_transformers() {
    let all = expected();
    let (prompt, positions): (Vec<u32>, Vec<usize>) = (numbers(&all["prompt"]), numbers(&all["positions"]));
    for case in Case::all(&all) {
        for path in case.convert([GgmlType::F32, GgmlType::BF16]) {
            let model = open(&path, Isa::best(), 2);
            let vocab = model.hyperparameters().vocab;
            let logits = logits_with(&model, &prompt, prompt.len(), F32).unwrap();
            for (row, position) in case.expected["logits"].as_array().unwrap().iter().zip(&positions) {
                let ours = &logits[position * vocab..(position + 1) * vocab];
                for (ours, theirs) in ours.iter().zip(row.as_array().unwrap()) {
                    let difference = (f64::from(*ours) - theirs.as_f64().unwrap()).abs();
                    assert!(difference <= 2e-3, "{}, position {position}: {ours} and {theirs}", path.display());
                }
            }
            let (mut tokens, mut last) = (prompt.clone(), logits);
            let wanted: Vec<u32> = numbers(&case.expected["greedy"]);
            for _ in &wanted {
                tokens.push(greatest(&last[last.len() - vocab..]));
                last = logits_with(&model, &tokens, 7, F32).unwrap();
            }
            assert_eq!(tokens[prompt.len()..], wanted, "{}: {}", case.name, path.display());
        }
    }
}

#[test]
fn logits_do_not_depend_on_how_they_are_computed() {
    let all = expected();
    let prompt: Vec<u32> = numbers(&all["prompt"]);
    for case in Case::all(&all) {
        let [bf16, q8_0] = case.convert([GgmlType::BF16, GgmlType::Q8_0]);
        for path in [&bf16, &q8_0] {
            let scalar = open(path, Isa::named("scalar").unwrap(), 1);
            let wanted = logits_with(&scalar, &prompt, prompt.len(), CacheTypes::default()).unwrap();
            for (isa, threads, piece) in Isa::available().flat_map(|isa| [(isa, 1, 1), (isa, 3, 5), (isa, 2, 24)]) {
                let what = format!("{} on {}, {threads} threads, {piece} at a time", path.display(), isa.name());
                let got = logits_with(&open(path, isa, threads), &prompt, piece, CacheTypes::default()).unwrap();
                assert_same_bits(&got, &wanted, &what);
            }
        }
        // The checkpoint as it lies there: rows of queries and keys are in another order.
        let folder = Model::new(open_model(case.dir.path(), &Quiet).unwrap(), Cpu::new(Isa::best(), 2)).unwrap();
        let of = |model: &Model| logits_with(model, &prompt, prompt.len(), F32).unwrap();
        assert_same_bits(&of(&folder), &of(&open(&bf16, Isa::best(), 2)), &case.name);
    }
}

#[test]
fn pre_tokenizers_split_as_those_of_hugging_face() {
    let all = expected();
    for (pre, tokenizer) in all["tokenizers"].as_object().unwrap() {
        let cases = all["cases"].as_object().unwrap();
        let (name, _) = cases.iter().find(|(_, case)| case["pre"] == *pre).or(cases.iter().next()).unwrap();
        let mut all = all.clone();
        all["cases"][name]["pre"] = json!(pre);
        let case = Case::new(&all, name);
        let [path] = case.convert([GgmlType::BF16]);
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.str("tokenizer.ggml.pre").unwrap(), Some(pre.as_str()));
        let ours = Tokenizer::from_gguf(&gguf).unwrap();
        for (text, ids) in all["texts"].as_array().unwrap().iter().zip(tokenizer["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let got = ours.encode(text, EncodeOptions::default()).unwrap();
            assert_eq!(got, numbers::<u32>(ids), "{pre}: {text:?}");
        }
    }
}

#[test]
fn vocabularies_too_large_for_the_repository() {
    let Ok(file) = std::env::var("STRATA_TOKENIZERS") else { return };
    let all: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let mut wrong = 0;
    for case in all.as_array().unwrap() {
        let path = case["file"].as_str().unwrap();
        let tokenizer = Tokenizer::from_gguf(&Gguf::open(path).unwrap()).unwrap();
        let options = EncodeOptions { add_special: false, parse_special: true };
        let (texts, mut differ) = (case["texts"].as_array().unwrap(), 0);
        for (text, ids) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let (got, ids) = (tokenizer.encode(text.as_str().unwrap(), options).unwrap(), numbers::<u32>(ids));
            if got != ids {
                differ += 1;
                println!("{path}: {text}: {got:?} and {ids:?}");
            }
        }
        println!("{path}: {differ} of {} texts differ", texts.len());
        wrong += differ;
    }
    assert_eq!(wrong, 0);
}

#[test]
fn normal_form_c_is_what_the_file_says() {
    let mut all = expected();
    all["tokenizers"]["qwen2"]["json"]["normalizer"] = Value::Null;
    all["tokenizers"]["gpt-2"]["json"]["normalizer"] = json!({"type": "NFC"});
    let (decomposed, composed) = ("cafe\u{301}", "caf\u{e9}");
    for (name, nfc) in [("qwen2", false), ("yi", true)] {
        let case = Case::new(&all, name);
        let [path] = case.convert([GgmlType::BF16]);
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.bool("tokenizer.ggml.normalizer.nfc").unwrap(), Some(nfc));
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let ids = |text| tokenizer.encode(text, EncodeOptions::default()).unwrap();
        assert_eq!(ids(decomposed) == ids(composed), nfc, "{name}");
    }
}

/// Keys that llama.cpp reads, and Strata's own where it has none.
#[test]
fn files_say_what_differs_from_llama() {
    let all = expected();
    let inspect = |name: &str, keys: &[(&str, &str)]| {
        let case = Case::new(&all, name);
        let [path] = case.convert([GgmlType::BF16]);
        let gguf = Gguf::open(&path).unwrap();
        for (key, value) in keys {
            let found = gguf.metadata().get(key).map(|value| format!("{:?}", value.to_owned())).unwrap_or_default();
            assert_eq!(found, *value, "{name}: {key}");
        }
    };
    inspect("mistral", &[("general.architecture", "String(\"llama\")"), ("llama.attention.sliding_window", "U32(7)")]);
    inspect("nemo", &[("llama.attention.key_length", "U32(32)"), ("llama.attention.sliding_window", "")]);
    inspect(
        "qwen2_window",
        &[
            ("general.architecture", "String(\"qwen2\")"),
            ("qwen2.attention.sliding_window_pattern", "Array(Bool([false, true, true]))"),
            ("qwen2.rope.scaling.type", "String(\"yarn\")"),
            ("qwen2.rope.scaling.original_context_length", "U32(16)"),
        ],
    );
    inspect("smollm3", &[("smollm3.attention.rope_pattern", "")]);
    inspect("smollm3_listed", &[("smollm3.attention.rope_pattern", "Array(U32([0, 1, 0]))")]);
    inspect("yarn", &[("llama.rope.scaling.factor", "F32(4.0)"), ("llama.rope.scaling.attn_factor", "")]);
    inspect("yarn_mscale", &[("llama.rope.scaling.yarn_beta_fast", "F32(16.0)")]);
    inspect("dynamic", &[("llama.rope.scaling.type", ""), ("llama.rope.scaling.dynamic_factor", "F32(2.0)")]);
    inspect("granite", &[("granite.logit_scale", "F32(8.0)"), ("granite.attention.scale", "F32(0.0625)")]);
}

#[test]
fn what_is_of_another_kind_is_refused_by_name() {
    let mut all = expected();
    let mut refuse = |name: &str, change: Value, words: &[&str]| {
        let config = all["cases"][name]["config"].clone();
        change.as_object().unwrap().iter().for_each(|(key, value)| all["cases"][name]["config"][key] = value.clone());
        let case = Case::new(&all, name);
        let error = Input::open(case.dir.path()).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        all["cases"][name]["config"] = config;
    };
    let class = |name: &str| json!({"architectures": [name]});
    refuse("qwen3", class("Qwen3MoeForCausalLM"), &["Qwen3MoeForCausalLM", "mixture of experts", "dense"]);
    refuse("llama3", class("MixtralForCausalLM"), &["mixture of experts", "llama.cpp"]);
    refuse("granite", class("GraniteMoeHybridForCausalLM"), &["hybrid"]);
    refuse("llama3", class("JambaForCausalLM"), &["hybrid"]);
    refuse("llama3", class("GemmaForCausalLM"), &["GemmaForCausalLM", "not supported", "Qwen3ForCausalLM"]);
    refuse("granite", json!({"logits_scaling": 0}), &["logits_scaling"]);
    refuse("granite", json!({"residual_multiplier": "1"}), &["residual_multiplier"]);
    refuse("smollm3", json!({"no_rope_layers": [1]}), &["no_rope_layers", "5 layers"]);
    refuse("smollm3", json!({"no_rope_layers": ["x", 1, 1, 1, 1]}), &["no_rope_layers", "0 and 1"]);
    refuse(
        "qwen2",
        json!({"layer_types": ["linear_attention", "full_attention"]}),
        &["layer_types", "linear_attention"],
    );
    refuse(
        "qwen2",
        json!({"rope_parameters": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 16}}),
        &["llama3", "qwen2"],
    );
    refuse("yarn", json!({"rope_parameters": {"rope_type": "yarn", "factor": 2, "truncate": false}}), &["truncate"]);
    refuse("yarn", json!({"rope_parameters": {"rope_type": "yarn", "factor": 2, "beta_slow": 64}}), &["beta_slow"]);
    refuse("yarn", json!({"rope_parameters": {"rope_type": "longrope", "factor": 2}}), &["longrope", "yarn"]);
}

/// What a file says of its own is read with the same care.
#[test]
fn files_that_contradict_themselves_are_refused() {
    let all = expected();
    let case = Case::new(&all, "qwen2_window");
    let [path] = case.convert([GgmlType::BF16]);
    let with = |key: &str, value: strata::gguf::Value| -> String {
        let out = case.dir.path().join("changed.gguf");
        rewrite(&path, &out, key, value);
        let result = Gguf::open(&out).and_then(|gguf| Model::new(gguf, Cpu::new(Isa::best(), 1)));
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    use strata::gguf::{Array, Value};
    for (key, value, word) in [
        ("qwen2.attention.sliding_window_pattern", Value::Array(Array::Bool(vec![true])), "3 layers"),
        ("qwen2.attention.sliding_window_pattern", Value::Array(Array::F32(vec![1.0; 3])), "flags"),
        ("qwen2.rope.scaling.factor", Value::F32(0.0), "positive"),
        ("qwen2.rope.scaling.type", Value::String("longrope".into()), "longrope"),
        ("qwen2.rope.scaling.yarn_ext_factor", Value::F32(0.5), "yarn_ext_factor"),
        ("qwen2.rope.freq_base", Value::F32(1.0), "YaRN"),
        ("qwen2.expert_count", Value::U32(8), "mixture of experts"),
        ("general.architecture", Value::String("qwen3moe".into()), "mixture of experts"),
        ("general.architecture", Value::String("jamba".into()), "hybrid"),
    ] {
        assert!(with(key, value).contains(word), "{key}: {word}");
    }
    assert_eq!(with("qwen2.attention.sliding_window_pattern", Value::U32(2)), "");
}

/// A file with another value for a key.
fn rewrite(from: &Path, to: &Path, key: &str, value: strata::gguf::Value) {
    let gguf = Gguf::open(from).unwrap();
    let mut layout = strata::gguf::Layout::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| !key.starts_with("strata.")) {
        layout.set(key, value.to_owned());
    }
    layout.set(key, value);
    for tensor in gguf.tensors() {
        layout.tensor(tensor.name.as_str(), &tensor.dims, tensor.ty);
    }
    let mut writer = layout.create(to).unwrap();
    for tensor in gguf.tensors() {
        writer.begin(&tensor.name).unwrap();
        writer.write(gguf.data(tensor)).unwrap();
    }
    writer.finish().unwrap();
}
