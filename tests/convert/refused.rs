//! What cannot be converted: weights, settings and files, each refused in one line.

use crate::folder::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use strata::GgmlType;

#[test]
fn weights_that_a_type_cannot_hold_are_found() {
    let put = |value: f32| {
        let folder = small();
        folder.weights(|tensors| {
            let (_, _, bytes) = tensors.get_mut("model.layers.0.self_attn.k_proj.weight").unwrap();
            bytes[(5 * 64 + 7) * 4..][..4].copy_from_slice(&value.to_le_bytes());
        });
        folder
    };
    let place = ["k_proj.weight", "row 5", "column 7"];
    let with = |word: &'static str| [place.as_slice(), &[word]].concat();
    for ty in [GgmlType::F32, GgmlType::BF16, GgmlType::Q4_0] {
        put(f32::NAN).refused_as(ty, &with("NaN"));
        put(f32::NEG_INFINITY).refused_as(ty, &with("-inf"));
    }
    put(70000.0).refused_as(GgmlType::F16, &with("bf16"));
    put(70000.0).convert(GgmlType::Q8_0);
    put(1e30).refused_as(GgmlType::Q8_0, &with("bf16"));
    put(-1e30).refused_as(GgmlType::Q4_0, &with("bf16"));
    put(1e30).convert(GgmlType::BF16);
    put(f32::MAX).refused_as(GgmlType::BF16, &with("f32"));
}

#[test]
fn configurations_that_cannot_be_converted_are_refused() {
    let cases = [
        ("num_attention_heads", Value::Null, &["config.json", "num_attention_heads", "count", "null"][..]),
        ("num_attention_heads", json!("four"), &["num_attention_heads", "four"]),
        ("num_key_value_heads", json!(3), &["num_key_value_heads", "3"]),
        ("num_hidden_layers", json!(0), &["num_hidden_layers"]),
        ("num_hidden_layers", json!(513), &["num_hidden_layers", "513"]),
        ("num_hidden_layers", json!(7), &["model.layers.6", "missing"]),
        ("num_hidden_layers", json!(5), &["model.layers.5"]),
        ("head_dim", json!(33), &["head_dim", "33"]),
        ("hidden_size", json!(-256), &["hidden_size"]),
        ("intermediate_size", json!(512), &["mlp.", "768", "512"]),
        ("vocab_size", json!(0), &["vocab_size"]),
        ("rms_norm_eps", json!(0.0), &["rms_norm_eps"]),
        ("hidden_act", json!("gelu"), &["hidden_act", "gelu", "silu"]),
        ("architectures", json!(["GemmaForCausalLM"]), &["GemmaForCausalLM", "LlamaForCausalLM"]),
        ("architectures", json!(["Qwen2ForCausalLM"]), &["rope_scaling", "llama3", "qwen2"]),
        ("rope_scaling", json!({"rope_type": "su", "factor": 4}), &["rope", "yarn", "llama3"]),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 4}), &["longrope"]),
        ("rope_scaling", json!({"type": "dynamic"}), &["factor"]),
        ("rope_scaling", json!({"type": "linear"}), &["factor"]),
        ("quantization_config", json!({"quant_method": "hqq"}), &["quantization_config", "hqq", "original"]),
        ("sliding_window", json!("1024"), &["sliding_window", "1024"]),
        ("attention_bias", json!(true), &["self_attn.", "_proj.bias", "missing"]),
        ("mlp_bias", json!(true), &["mlp.", "_proj.bias", "missing"]),
        ("tie_word_embeddings", json!(false), &["lm_head.weight", "missing"]),
    ];
    let folder = Folder::new();
    let original = fs::read(folder.path("config.json")).unwrap();
    for (key, value, words) in cases {
        folder.config(key, value);
        folder.refused(words);
        fs::write(folder.path("config.json"), &original).unwrap();
    }
    fs::write(folder.path("config.json"), "{\"hidden_size\": ").unwrap();
    folder.refused(&["config.json", "line 1"]);
    fs::remove_file(folder.path("config.json")).unwrap();
    folder.refused(&["config.json", "missing"]);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let norm = "model.norm.weight";
    let case = |change: &dyn Fn(&mut Tensors), words: &[&str]| {
        let folder = Folder::new();
        folder.weights(|tensors| change(tensors));
        folder.refused(words);
    };
    case(&|tensors| drop(tensors.remove(norm)), &[norm, "missing", "download"]);
    case(&|tensors| tensors.get_mut(norm).unwrap().0 = Dtype::I16, &[norm, "I16", "BF16"]);
    case(&|tensors| tensors.get_mut(norm).unwrap().1 = vec![16, 16], &[norm, "[16, 16]", "[256]"]);
    let extra: Stored = (Dtype::F32, vec![1], vec![0; 4]);
    case(&|tensors| drop(tensors.insert("model.extra".into(), extra.clone())), &["model.extra"]);
    // A bias that config.json does not announce would change the results.
    let bias: Stored = (Dtype::F32, vec![256], vec![0; 1024]);
    let name = "model.layers.0.self_attn.q_proj.bias";
    case(&|tensors| drop(tensors.insert(name.into(), bias.clone())), &[name]);
    // Tied, with the output stored all the same.
    let folder = Folder::new();
    folder.weights(|tensors| {
        let output = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), output);
    });
    assert!(folder.convert(GgmlType::Q4_0).contents() == Converted::of(&tiny(), GgmlType::Q4_0).contents());
}

#[test]
fn broken_files_are_refused() {
    let folder = Folder::new();
    let whole = fs::read(folder.path("model.safetensors")).unwrap();
    let len = whole.len();
    fs::write(folder.path("model.safetensors"), &whole[..len - 1000]).unwrap();
    folder.refused(&["model.safetensors", "cut off", &len.to_string(), &(len - 1000).to_string()]);
    for len in [0, 7, 8, 100] {
        fs::write(folder.path("model.safetensors"), &whole[..len]).unwrap();
        folder.refused(&["model.safetensors", "again"]);
    }
    let mut noise = whole.clone();
    noise[8..64].fill(0xff);
    fs::write(folder.path("model.safetensors"), noise).unwrap();
    folder.refused(&["model.safetensors", "header"]);
    fs::remove_file(folder.path("model.safetensors")).unwrap();
    folder.refused(&["model.safetensors", "download"]);

    let folder = Folder::new();
    fs::remove_file(folder.path("tokenizer.json")).unwrap();
    folder.refused(&["tokenizer.json", "missing"]);
    let folder = Folder::new();
    folder.edit("tokenizer.json", |json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("x+"));
    folder.refused(&["tokenizer.json", "pre_tokenizer", "x+"]);
    let folder = Folder::new();
    folder.edit("tokenizer.json", |json| json["model"]["vocab"]["too far"] = json!(4096));
    folder.refused(&["tokenizer.json", "too far", "4096"]);
}

#[test]
fn shards_that_do_not_fit_are_refused() {
    for with_index in [true, false] {
        let folder = Folder::new();
        folder.shard(with_index);
        fs::remove_file(folder.path(SHARDS[1])).unwrap();
        folder.refused(&[SHARDS[1], "missing", "download"]);
    }
    let folder = Folder::new();
    folder.shard(true);
    folder.edit(INDEX, |json| json["weight_map"]["model.absent"] = json!(SHARDS[0]));
    folder.refused(&[INDEX, "model.absent", SHARDS[0]]);
    for name in ["../model.safetensors", "/etc/passwd", "a\\b", "..", ""] {
        let folder = Folder::new();
        folder.shard(true);
        folder.edit(INDEX, |json| json["weight_map"]["model.norm.weight"] = json!(name));
        folder.refused(&[INDEX, "plain file name"]);
    }
    let folder = Folder::new();
    folder.shard(false);
    let mut tensors = read_weights(&folder.path(SHARDS[1]));
    tensors.extend(read_weights(&folder.path(SHARDS[0])).into_iter().take(1));
    write_weights(&folder.path(SHARDS[1]), &tensors);
    folder.refused(&[SHARDS[1], SHARDS[0], "too"]);
}
