//! What convert accepts, run accepts, and the rest is refused before a weight is read: every JSON file of a checkpoint means what it says,
//! no metadata is written that cannot be read, no tensor is left out, and what is no model is named.

mod common;
mod warnings;

use common::checkpoint;
use serde_json::{Value as Json, json};
use std::fs;
use std::path::{Path, PathBuf};
use strata::arch::{Hyperparameters, rope};
use strata::convert::{Input, Options, Target, convert};
use strata::gguf::{Gguf, Layout, Value};
use strata::model::Model;
use strata::progress::Quiet;
use strata::recipe::Recipe;
use strata::tokenizer::Tokenizer;
use strata::{Cpu, GgmlType, Isa};
use tempfile::TempDir;
use warnings::Warnings;

/// A copy of tiny-rustdoc to be changed.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for entry in fs::read_dir(checkpoint()).unwrap() {
            let path = entry.unwrap().path();
            // Written, not copied: a copy would be as read-only as the original.
            fs::write(folder.path(path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap()).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// With these keys of an object set, or removed where the value is `Json::String("(removed)")`.
    fn set(&self, name: &str, values: &Json) {
        let mut json: Json = serde_json::from_slice(&fs::read(checkpoint().join(name)).unwrap()).unwrap();
        for (key, value) in values.as_object().unwrap() {
            match value {
                Json::String(text) if text == REMOVED => drop(json.as_object_mut().unwrap().remove(key)),
                value => json[key] = value.clone(),
            }
        }
        fs::write(self.path(name), json.to_string()).unwrap();
    }

    fn convert(&self) -> strata::Result<Gguf> {
        let output = self.path("out.gguf");
        convert(&Input::open(self.0.path())?, &[target(&output)], &Options::default(), &Quiet)?;
        Gguf::open(output)
    }

    fn refused(&self, words: &[&str]) {
        let error = self.convert().err().unwrap_or_else(|| panic!("must be refused for {words:?}")).to_string();
        check_words(&error, words);
        assert!(!self.path("out.gguf").exists() && !self.path("out.gguf.partial").exists());
    }
}

const REMOVED: &str = "(removed)";

fn target(output: &Path) -> Target {
    Target::new(output, Recipe::pure(GgmlType::F16).unwrap())
}

fn check_words(error: &str, words: &[&str]) {
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.len() < 3000, "{} bytes", error.len());
    for word in words {
        assert!(error.contains(word), "{error:?} should say {word:?}");
    }
}

/// That a run would open the file; weights are in `tests/decode.rs`.
fn check_readable(gguf: Gguf) {
    Tokenizer::from_gguf(&gguf).unwrap();
    Model::new(gguf, Cpu::new(Isa::best(), 1)).unwrap();
}

#[test]
fn settings_that_mean_nothing_or_something_else_are_refused() {
    let folder = Folder::new();
    let llama3 = |key: &str, value: Json| {
        let mut scaling = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                                 "original_max_position_embeddings": 512});
        match value {
            Json::String(text) if text == REMOVED => drop(scaling.as_object_mut().unwrap().remove(key)),
            value => scaling[key] = value,
        }
        json!({"rope_scaling": scaling})
    };
    let long = "x".repeat(1 << 20);
    let cases = [
        (json!({"rms_norm_eps": 1e-60}), &["config.json", "\"rms_norm_eps\"", "1e-60"][..]),
        (json!({"rms_norm_eps": "1e-5"}), &["\"rms_norm_eps\"", "must be a number", "the text \"1e-5\""]),
        (json!({"rms_norm_eps": null}), &["\"rms_norm_eps\"", "null"]),
        (json!({"rms_norm_eps": -1e-5}), &["\"rms_norm_eps\"", "above 0"]),
        (json!({"rms_norm_eps": 1}), &["\"rms_norm_eps\"", "small"]),
        (json!({"rope_theta": 1e60}), &["\"rope_theta\"", "1e60"]),
        (json!({"rope_theta": "500000"}), &["\"rope_theta\"", "must be a number"]),
        (json!({"rope_theta": null}), &["\"rope_theta\"", "null"]),
        (json!({"rope_theta": 0}), &["\"rope_theta\"", "above 0"]),
        (json!({"rope_theta": [500000.0]}), &["\"rope_theta\"", "a list"]),
        (json!({"rope_scaling": "linear"}), &["\"rope_scaling\"", "must be an object", "linear"]),
        (json!({"rope_scaling": []}), &["\"rope_scaling\"", "a list"]),
        (json!({"rope_scaling": false}), &["\"rope_scaling\"", "false"]),
        (json!({"rope_scaling": {"factor": 8.0}}), &["\"rope_scaling.factor\"", "\"default\""]),
        (json!({"rope_scaling": {"type": "linear", "factor": null}}), &["\"rope_scaling.factor\"", "null"]),
        (json!({"rope_scaling": {"type": 7}}), &["\"rope_scaling.type\"", "must be a text"]),
        (
            json!({"rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 2}}),
            &["rope_scaling.type", "contradicts"],
        ),
        (json!({"rope_scaling": {"type": "linear", "factor": 2, "mscale": 1}}), &["\"rope_scaling.mscale\""]),
        (json!({"rope_scaling": {"type": "ntk", "factor": 2}}), &["ntk", "llama3"]),
        (json!({"rope_parameters": {"rope_theta": 10000.0}}), &["rope_theta", "elsewhere"]),
        (json!({"rope_parameters": {"rope_theta": 500000.0}}), &["rope_scaling", "contradicts"]),
        (json!({"rope_parameters": "default"}), &["\"rope_parameters\"", "must be an object"]),
        (json!({"rope_parameters": {"full_attention": {}}, "rope_scaling": null}), &["rope_parameters.full_attention"]),
        (
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": null}),
            &["partial_rotary_factor", "0.5"],
        ),
        (json!({"partial_rotary_factor": 0.25}), &["\"partial_rotary_factor\"", "0.25"]),
        (llama3("factor", json!("32")), &["\"rope_scaling.factor\"", "the text \"32\""]),
        (llama3("factor", json!(REMOVED)), &["\"rope_scaling.factor\"", "missing"]),
        (llama3("low_freq_factor", json!(REMOVED)), &["\"rope_scaling.low_freq_factor\"", "missing"]),
        (llama3("high_freq_factor", json!(null)), &["\"rope_scaling.high_freq_factor\"", "null"]),
        (llama3("original_max_position_embeddings", json!(REMOVED)), &["original_max_position_embeddings", "missing"]),
        (llama3("high_freq_factor", json!(1)), &["low_freq_factor", "not below"]),
        (llama3("factor", json!(1e39)), &["\"rope_scaling.factor\"", "1e39"]),
        (json!({"hidden_act": ["gelu"]}), &["\"hidden_act\"", "must be a text"]),
        (json!({"hidden_act": null}), &["\"hidden_act\"", "null"]),
        (json!({"hidden_activation": "gelu"}), &["\"hidden_activation\"", "gelu"]),
        (json!({"attention_bias": "true"}), &["\"attention_bias\"", "true or false"]),
        (json!({"mlp_bias": 1}), &["\"mlp_bias\"", "true or false"]),
        (json!({"tie_word_embeddings": null}), &["\"tie_word_embeddings\"", "null"]),
        (json!({"head_dim": 64.0}), &["\"head_dim\"", "64.0"]),
        (json!({"num_key_value_heads": "2"}), &["\"num_key_value_heads\"", "the text \"2\""]),
        (json!({"vocab_size": 4294967300u64}), &["\"vocab_size\"", "4294967300"]),
        (json!({"vocab_size": 1 << 30}), &["\"vocab_size\"", "1073741824"]),
        (json!({"max_position_embeddings": 1e9}), &["\"max_position_embeddings\""]),
        (json!({"sliding_window": "4096"}), &["\"sliding_window\"", "must be a count"]),
        (json!({"quantization_config": {}}), &["\"quantization_config.quant_method\"", "original"]),
        (json!({"architectures": "LlamaForCausalLM"}), &["\"architectures\"", "must be a list"]),
        (json!({"architectures": [7]}), &["\"architectures\"", "7"]),
        (json!({"architectures": [long]}), &["is not supported"]),
        (json!({"model_type": 7}), &["\"model_type\""]),
        (json!({"_name_or_path": 7}), &["\"_name_or_path\"", "must be a text"]),
        (json!({"bos_token_id": 4294967300u64}), &["\"bos_token_id\"", "4294967300"]),
        (json!({"bos_token_id": 4096}), &["\"bos_token_id\"", "from 0 to 4095"]),
        (json!({"eos_token_id": [1, "2"]}), &["\"eos_token_id\"", "the text \"2\""]),
        (json!({"pad_token_id": -1}), &["\"pad_token_id\"", "-1", "null"]),
        (json!({"bos_token_id": 1.0}), &["\"bos_token_id\"", "1.0"]),
        (json!({"bos_token_id": [1]}), &["\"bos_token_id\"", "a list"]),
    ];
    for (values, words) in &cases {
        folder.set("config.json", values);
        folder.refused(words);
    }
    for text in ["[]", "3", "null", "\"config\""] {
        fs::write(folder.path("config.json"), text).unwrap();
        folder.refused(&["config.json", "must be an object"]);
    }
}

#[test]
fn settings_that_say_the_same_give_the_same_file() {
    let folder = Folder::new();
    let facts = |gguf: Gguf| {
        let shape = Hyperparameters::read(&gguf).unwrap();
        let facts =
            (rope::Angles::read(&gguf, &shape).unwrap(), shape.norm_eps, gguf.u32("llama.context_length").unwrap());
        check_readable(gguf);
        facts
    };
    let expected = facts(folder.convert().unwrap());
    let scaling = json!({"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4.0, "original_max_position_embeddings": 512});
    let mut newer = scaling.clone();
    newer["rope_theta"] = 500_000.into();
    for values in [
        json!({"rope_scaling": scaling}),
        json!({"rope_scaling": REMOVED, "rope_theta": REMOVED, "rope_parameters": newer}),
        json!({"rope_parameters": newer}),
        json!({"rope_scaling": null, "rope_parameters": newer, "partial_rotary_factor": 1.0}),
        json!({"hidden_act": REMOVED, "architectures": null, "sliding_window": null, "quantization_config": null}),
        json!({"sliding_window": 4096, "hidden_act": "swish", "pretraining_tp": 2, "unk_token_id": null}),
    ] {
        folder.set("config.json", &values);
        assert!(facts(folder.convert().unwrap()) == expected, "{values}");
    }
}

#[test]
fn sampling_defaults_are_numbers_that_a_sampler_can_use() {
    let folder = Folder::new();
    for (key, value, words) in [
        ("top_p", json!(1e60), &["generation_config.json", "\"top_p\"", "1e60"][..]),
        ("top_p", json!("0.9"), &["\"top_p\"", "must be a number"]),
        ("top_p", json!(2), &["\"top_p\"", "no sampler can use 2", "from 0 to 1"]),
        ("min_p", json!(-0.1), &["\"min_p\"", "-0.1"]),
        ("min_p", json!(1e-60), &["\"min_p\"", "1e-60"]),
        ("temperature", json!(-1), &["\"temperature\"", "at least 0"]),
        ("temperature", json!(true), &["\"temperature\"", "must be a number"]),
        ("top_k", json!(1e12), &["\"top_k\"", "integer of 32 bits"]),
        ("top_k", json!(40.5), &["\"top_k\"", "40.5"]),
        ("top_k", json!(-1), &["\"top_k\"", "at least 0"]),
        ("top_k", json!(4294967300u64), &["\"top_k\"", "4294967300"]),
        ("mirostat", json!(3), &["\"mirostat\"", "from 0 to 2"]),
        ("sequence", json!(["top_k"]), &["\"sequence\"", "must be a text"]),
        ("sequence", json!("top_k;\u{1b}"), &["\"sequence\"", "there is no sampler"]),
        ("penalty_repeat", json!(0), &["\"penalty_repeat\"", "no sampler can use 0"]),
    ] {
        folder.set("generation_config.json", &json!({key: value}));
        folder.refused(words);
    }
    folder.set(
        "generation_config.json",
        &json!({"temperature": 1, "top_p": null, "top_k": 50, "min_p": 0.05, "penalty_repeat": 1.1, "mirostat": 0}),
    );
    let gguf = folder.convert().unwrap();
    let f32 = |key: &str| gguf.f32(&format!("general.sampling.{key}")).unwrap();
    assert_eq!(
        (f32("temp"), f32("top_p"), f32("min_p"), f32("penalty_repeat")),
        (Some(1.0), None, Some(0.05), Some(1.1))
    );
    assert_eq!(gguf.u32("general.sampling.top_k").unwrap(), Some(50));
    fs::remove_file(folder.path("generation_config.json")).unwrap();
    folder.convert().unwrap();
}

#[test]
fn every_json_file_is_a_regular_file_without_duplicate_keys() {
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ] {
        let folder = Folder::new();
        let text = fs::read_to_string(folder.path(name)).unwrap_or_else(|_| "{\"weight_map\": {}}".to_owned());
        let twice = format!("{{\"added\": 1, \"added\": 1, {}", text.trim_start().strip_prefix('{').unwrap());
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 100\n";
        for (text, words) in [
            (twice.as_str(), &[name, "\"added\" is given twice"][..]),
            (pointer, &[name, "Git LFS pointer", "git lfs pull"]),
            ("<html><title>401</title></html>", &[name, "web page"]),
            (&text[..text.len() / 2], &[name, "not valid JSON"]),
            ("", &[name, "not valid JSON"]),
        ] {
            fs::write(folder.path(name), text).unwrap();
            folder.refused(words);
        }
        fs::File::create(folder.path(name)).unwrap().set_len(2 << 30).unwrap();
        folder.refused(&[name, "2147483648 bytes"]);
        #[cfg(unix)]
        {
            fs::remove_file(folder.path(name)).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(folder.path(name)).status().unwrap().success());
            folder.refused(&[name, "not a regular file"]);
            fs::remove_file(folder.path(name)).unwrap();
            std::os::unix::fs::symlink("/dev/zero", folder.path(name)).unwrap();
            folder.refused(&[name, "not a regular file"]);
        }
    }
}

#[test]
fn an_index_names_files_by_texts() {
    let folder = Folder::new();
    for (map, words) in [
        (json!(null), &["weight_map", "null"][..]),
        (json!([]), &["weight_map", "must be an object"]),
        (json!({}), &["weight_map", "no tensors"]),
        (json!({"a": 3}), &["\"weight_map.a\"", "must be a text"]),
        (json!({"a": "../b"}), &["\"weight_map.a\"", "plain file name"]),
    ] {
        fs::write(folder.path("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
        folder.refused(words);
    }
    fs::write(folder.path("model.safetensors.index.json"), "{}").unwrap();
    folder.refused(&["weight_map", "missing"]);
}

#[test]
fn what_is_no_model_is_named() {
    type Change = fn(&Folder);
    let move_to =
        |folder: &Folder, name: &str| fs::rename(folder.path("model.safetensors"), folder.path(name)).unwrap();
    let cases: &[(Change, &[&str])] = &[
        (
            |f| fs::write(f.path("model.safetensors"), "version https://git-lfs.github.com/spec/v1\n").unwrap(),
            &["model.safetensors", "Git LFS"],
        ),
        (
            |f| fs::write(f.path("model.safetensors"), "GGUF\x03\0\0\0").unwrap(),
            &["model.safetensors", "is a GGUF file"],
        ),
        (|f| fs::write(f.path("model.safetensors"), "PK\x03\x04\0\0\0\0").unwrap(), &["model.safetensors", "zip"]),
        (
            |f| fs::rename(f.path("model.safetensors"), f.path("pytorch_model.bin")).unwrap(),
            &["pytorch_model.bin", "is a safetensors file"],
        ),
        (|f| fs::write(f.path("model.safetensors"), "<!doctype html>").unwrap(), &["model.safetensors", "web page"]),
        (
            |f| fs::remove_file(f.path("tokenizer.json")).and(fs::write(f.path("tokenizer.model"), "")).unwrap(),
            &["tokenizer.model", "no pieces"],
        ),
        (
            |f| fs::write(f.path("tokenizer.json"), "version https://git-lfs.github.com/spec/v1\n").unwrap(),
            &["tokenizer.json", "Git LFS"],
        ),
    ];
    for (change, words) in cases {
        let folder = Folder::new();
        change(&folder);
        folder.refused(words);
    }
    for (name, words) in [
        ("consolidated.00.pth", &["consolidated.00.pth", "Hugging Face version"][..]),
        ("elsewhere", &["model.safetensors", "missing"]),
    ] {
        let folder = Folder::new();
        move_to(&folder, name);
        folder.refused(words);
        fs::write(folder.path("adapter_config.json"), r#"{"base_model_name_or_path": "meta-llama/L"}"#).unwrap();
        folder.refused(&["adapter", "\"meta-llama/L\"", "merge"]);
        fs::remove_file(folder.path("config.json")).unwrap();
        folder.refused(&["adapter", "\"meta-llama/L\"", "merge"]);
    }
    // Files in the place of a GGUF file.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let joined = [tiny_gguf(), tiny_gguf()].concat();
    let safetensors = fs::read(checkpoint().join("model.safetensors")).unwrap();
    for (bytes, words) in [
        (&b"version https://git-lfs.github.com/spec/v1\n"[..], &["m.gguf", "Git LFS pointer", "git lfs pull"][..]),
        (b"<!DOCTYPE html>", &["web page", "log in"]),
        (b"PK\x03\x04....", &["zip archive"]),
        (b"\x80\x02}q\0", &["pickle"]),
        (b"\x1f\x8b\x08\0\0", &["compressed (gzip)", "unpack"]),
        (&safetensors, &["safetensors file", "strata convert"]),
        (b"{\"hidden_size\": 1}", &["JSON"]),
        (&joined, &["another GGUF file follows", "strata merge"]),
    ] {
        fs::write(&path, bytes).unwrap();
        check_words(&Gguf::open(&path).unwrap_err().to_string(), words);
        check_words(&Input::open(&path).err().unwrap().to_string(), words);
    }
    #[cfg(unix)]
    check_words(&Input::open(Path::new("/dev/zero")).err().unwrap().to_string(), &["not a regular file"]);
}

/// A whole F16 file of tiny-rustdoc.
fn tiny_gguf() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    convert(&Input::open(checkpoint()).unwrap(), &[target(&path)], &Options::default(), &Quiet).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn overrides_are_readable_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("source.gguf"), tiny_gguf()).unwrap();
    let make = |input: &Input, overrides: &[(&str, Value)]| {
        let mut target = target(&path("out.gguf"));
        target.metadata = overrides.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let options = Options { restart: true, ..Options::default() };
        convert(input, &[target], &options, &Quiet).map(|_| Gguf::open(path("out.gguf")).unwrap())
    };
    let long = "k".repeat(65536);
    let refused: &[(&str, Value, &[&str])] = &[
        ("split.count", 5u32.into(), &["split.count", "how the model is split"]),
        ("split.no", 0u32.into(), &["split.no"]),
        ("split.tensors.count", 1u32.into(), &["split.tensors.count"]),
        ("strata.version", "x".into(), &["strata.version"]),
        ("general.alignment", 7u32.into(), &["7", "power of two"]),
        ("general.alignment", (1u32 << 31).into(), &["2147483648"]),
        ("general.alignment", (-32i32).into(), &["u32"]),
        ("general.alignment", 64f32.into(), &["general.alignment", "integer"]),
        ("general.architecture", "gemma".into(), &["general.architecture", "gemma"]),
        ("general.architecture", "".into(), &["general.architecture"]),
        ("general.file_type", "f16".into(), &["general.file_type", "must be an integer", "a text"]),
        ("general.name", 3u32.into(), &["general.name", "must be a text"]),
        ("general.sampling.temp", 1u32.into(), &["general.sampling.temp", "must be a float"]),
        ("general.sampling.min_p", true.into(), &["general.sampling.min_p", "must be a float"]),
        ("llama.block_count", (-1i32).into(), &["llama.block_count", "-1"]),
        ("llama.block_count", 0u32.into(), &["llama.block_count", "zero"]),
        ("llama.block_count", 6f32.into(), &["llama.block_count", "must be an integer"]),
        ("llama.vocab_size", 4095u32.into(), &["4096 rows", "4095"]),
        ("llama.rope.freq_base", 500000u32.into(), &["llama.rope.freq_base", "must be a float"]),
        ("llama.rope.freq_base", f32::NAN.into(), &["llama.rope.freq_base"]),
        ("llama.rope.dimension_count", 65u32.into(), &["llama.rope.dimension_count"]),
        ("llama.attention.layer_norm_rms_epsilon", 0f32.into(), &["layer_norm_rms_epsilon"]),
        ("llama.attention.head_count_kv", 3u32.into(), &["head_count_kv"]),
        ("llama.attention.sliding_window", (-1i32).into(), &["sliding_window", "-1"]),
        ("llama.expert_count", 8u32.into(), &["expert_count"]),
        ("llama.logit_scale", 0.5f32.into(), &["logit_scale", "0.5"]),
        ("tokenizer.ggml.bos_token_id", 4096u32.into(), &["4096"]),
        ("tokenizer.ggml.bos_token_id", "1".into(), &["bos_token_id", "must be an integer"]),
        ("tokenizer.ggml.add_bos_token", 1u32.into(), &["add_bos_token", "must be a bool"]),
        ("tokenizer.ggml.tokens", "a".into(), &["tokenizer.ggml.tokens", "must be a list"]),
        (&long, 1u32.into(), &["65536 bytes"]),
    ];
    for input in [Input::open(checkpoint()).unwrap(), Input::open(path("source.gguf")).unwrap()] {
        for (key, value, words) in refused {
            let error =
                make(&input, &[(key, value.clone())]).err().unwrap_or_else(|| panic!("{key} {value:?}")).to_string();
            check_words(&error, words);
            assert!(!path("out.gguf").exists() && !path("out.gguf.partial").exists(), "{key}");
        }
        // What other programs may know is written, and said.
        for (key, value) in [
            ("llama.rope.scaling.type", "yarn\x1b"),
            ("tokenizer.ggml.model", "bert"),
            ("tokenizer.ggml.model", "no_vocab"),
            ("tokenizer.ggml.pre", "tekken2"),
        ] {
            let mut target = target(&path("out.gguf"));
            target.metadata = vec![(key.to_owned(), value.into())];
            let warnings = Warnings::default();
            convert(&input, &[target], &Options::default(), &warnings).unwrap();
            let said = warnings.0.into_inner().unwrap().join("\n");
            check_words(&said, &["cannot run", key]);
            assert!(!said.contains('\x1b'), "{said:?}");
            fs::remove_file(path("out.gguf")).unwrap();
        }
        let twice = make(&input, &[("my.key", 1u32.into()), ("my.key", 2u32.into())]);
        check_words(&twice.unwrap_err().to_string(), &["my.key", "twice"]);
        for (key, value) in [
            ("general.alignment", Value::from(64u32)),
            ("general.alignment", 8u32.into()),
            ("general.name", "another".into()),
            ("llama.rope.freq_base", 10000f32.into()),
            ("llama.context_length", 100u32.into()),
            ("llama.attention.sliding_window", 4096u32.into()),
            ("llama.attention.sliding_window", 0u32.into()),
            ("llama.rope.scaling.attn_factor", 1.2f32.into()),
            ("tokenizer.ggml.add_bos_token", false.into()),
            ("tokenizer.chat_template", "".into()),
            ("general.sampling.temp", 0.5f32.into()),
            ("my.key", "".into()),
        ] {
            let gguf = make(&input, &[(key, value.clone())]).unwrap();
            assert_eq!(gguf.metadata().get(key).unwrap().to_owned(), value);
            strata::verify::model(&gguf, None, &Quiet).unwrap();
            check_readable(gguf);
            fs::remove_file(path("out.gguf")).unwrap();
        }
    }
}

/// The tiny model written again with another layout.
fn rewritten(change: impl Fn(&mut Layout), extra: &[(&str, &[u64])], dims: impl Fn(&str, &[u64]) -> Vec<u64>) -> Gguf {
    let source = Gguf::from_bytes(tiny_gguf()).unwrap();
    let mut layout = Layout::new();
    layout.metadata = source.metadata().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    change(&mut layout);
    for tensor in source.tensors() {
        layout.tensor(tensor.name.as_str(), &dims(&tensor.name, &tensor.dims), tensor.ty);
    }
    for (name, dims) in extra {
        layout.tensor(*name, dims, GgmlType::F32);
    }
    let placed = layout.place().unwrap();
    let mut file = placed.header;
    file.resize(placed.file_bytes as usize, 0);
    for (tensor, range) in source.tensors().iter().zip(&placed.tensors) {
        file[range.start as usize..range.end as usize].copy_from_slice(source.data(tensor));
    }
    Gguf::from_bytes(file).unwrap()
}

#[test]
fn a_file_with_tensors_that_nothing_uses_is_not_run() {
    let same = |_: &str, dims: &[u64]| dims.to_vec();
    let open = |gguf: Gguf| Model::new(gguf, Cpu::new(Isa::best(), 1));
    let refused =
        |gguf: Gguf, words: &[&str]| check_words(&open(gguf).err().expect("must be refused").to_string(), words);
    open(rewritten(|_| (), &[], same)).unwrap();
    open(rewritten(
        |_| (),
        &[("blk.0.attn_rot_embd", &[32]), ("output.weight", &[256, 4096]), ("output.bias", &[4096])],
        same,
    ))
    .unwrap();
    for name in [
        "blk.0.attn_q_norm.weight",
        "blk.0.ffn_down.scale",
        "blk.6.attn_norm.weight",
        "blk.00.attn_norm.weight",
        "blk.0.attn_norm.bias",
        "blk.0.attn_q",
        "output.bias",
        "rope_factors_long.weight",
        "token_embd_norm.weight",
        "mm.0.weight",
        "v.blk.0.attn_q.weight",
    ] {
        refused(rewritten(|_| (), &[(name, &[4096])], same), &[&format!("{name:?}"), "1 of"]);
    }
    let many = [("x.0", &[1][..]), ("x.1", &[1]), ("x.2", &[1]), ("x.3", &[1])];
    refused(rewritten(|_| (), &many, same), &["4 of", "\"x.0\", \"x.1\", \"x.2\", ..."]);
    // Too few layers, too many layers.
    refused(rewritten(|l| l.set("llama.block_count", 1u32), &[], same), &["45 of", "blk.1.", "block_count"]);
    refused(rewritten(|l| l.set("llama.block_count", 7u32), &[], same), &["blk.6.", "missing"]);
    // As many values in other dimensions.
    let folded = |name: &str, dims: &[u64]| match name {
        "blk.3.ffn_up.weight" => vec![256, 384, 2],
        _ => dims.to_vec(),
    };
    refused(rewritten(|_| (), &[], folded), &["blk.3.ffn_up.weight", "2 x 384 x 256", "768 x 256"]);
    // A vocabulary of another size.
    refused(rewritten(|l| l.set("llama.vocab_size", 4000u32), &[], same), &["4096 rows", "4000"]);
    refused(
        rewritten(|l| l.set("tokenizer.ggml.tokens", vec!["a".to_owned()]), &[], same),
        &["4096 rows", "vocabulary has 1"],
    );
}

#[test]
fn a_file_that_asks_for_another_computation_is_not_run() {
    let same = |_: &str, dims: &[u64]| dims.to_vec();
    let read = |key: &str, value: Value| {
        let gguf = rewritten(|layout| layout.set(key, value.clone()), &[], same);
        Hyperparameters::read(&gguf).and_then(|of| rope::Angles::read(&gguf, &of))
    };
    for (key, value) in [
        ("llama.attention.scale", Value::from(0.5f32)),
        ("llama.attention.clamp_kqv", 8f32.into()),
        ("llama.attention.max_alibi_bias", 8f32.into()),
        ("llama.attn_logit_softcapping", 50f32.into()),
        ("llama.final_logit_softcapping", f32::NAN.into()),
        ("llama.logit_scale", 0.25f32.into()),
        ("llama.logit_scale", "1".into()),
        ("llama.embedding_scale", 12f32.into()),
        ("llama.residual_scale", 0.22f64.into()),
        ("llama.rope.scaling.attn_factor", (-1.2f32).into()),
        ("llama.attention.causal", false.into()),
        ("llama.attention.sliding_window", "512".into()),
        ("llama.attention.key_length", 32u32.into()),
        ("llama.attention.value_length", 32u32.into()),
        ("llama.rope.scaling.type", "longrope".into()),
        ("llama.rope.scaling.type", 1u32.into()),
        ("llama.rope.scaling.factor", "8".into()),
        ("llama.rope.freq_base", f64::MAX.into()),
        ("llama.expert_count", 8u32.into()),
    ] {
        let error = read(key, value.clone()).err().unwrap_or_else(|| panic!("{key} {value:?}")).to_string();
        check_words(&error, &[key.rsplit('.').next().unwrap()]);
    }
    let error = read("llama.rope.scaling.type", "linear".into()).unwrap_err().to_string();
    check_words(&error, &["llama.rope.scaling.factor", "missing"]);
    for (key, value) in [
        ("llama.attention.scale", Value::from(0.125f32)),
        ("llama.attention.clamp_kqv", 0f32.into()),
        ("llama.logit_scale", 1f32.into()),
        ("llama.rope.scaling.attn_factor", 1f64.into()),
        ("llama.attention.causal", true.into()),
        ("llama.attention.sliding_window", 4096u32.into()),
        ("llama.attention.sliding_window", 0u32.into()),
        ("llama.rope.scaling.attn_factor", 1.2f32.into()),
        ("llama.expert_count", 0u32.into()),
        ("llama.rope.scaling.type", "none".into()),
    ] {
        read(key, value).unwrap();
    }
}

#[test]
fn a_folder_of_the_cache_gives_the_models_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("models--some-org--Tiny-5M-chat/snapshots/0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(checkpoint()).unwrap() {
        let path = entry.unwrap().path();
        fs::write(dir.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
    let input = Input::open(&dir).unwrap();
    assert_eq!(input.name(), "Tiny-5M-chat");
    let path = root.path().join("m.gguf");
    convert(&input, &[target(&path)], &Options::default(), &Quiet).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let text = |key: &str| gguf.str(&format!("general.{key}")).unwrap().unwrap().to_owned();
    assert_eq!(
        ["name", "organization", "basename", "size_label", "finetune"].map(text),
        ["Tiny 5M Chat", "Some Org", "Tiny", "5M", "chat"]
    );
    let error = Input::open(root.path().join("models--some-org--Tiny-5M-chat").as_path()).err().unwrap().to_string();
    check_words(&error, &["cache", "snapshots"]);
}
