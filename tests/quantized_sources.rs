//! Checkpoints whose matrices are quantized already, as sources: their values are those that independent programs give
//! (`tests/data/make_quantized.py`), bit for bit, and what contradicts itself is refused.

mod common;
#[allow(dead_code)]
#[path = "convert/folder.rs"]
mod folder;

use common::{StopsAfter, pure};
use folder::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;
use strata::convert::{Input, Options, Target, convert, open_model, plan};
use strata::error::Setting;
use strata::gguf::Gguf;
use strata::progress::Quiet;
use strata::{Error, GgmlType};

const LAYER: &str = "model.layers.0.";

static CASES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_slice(&fs::read(data("quantized.json")).unwrap()).unwrap());
static TENSORS: LazyLock<Tensors> = LazyLock::new(|| read_weights(&data("quantized.safetensors")));

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn cases() -> impl Iterator<Item = (&'static str, &'static Value)> {
    CASES.as_object().unwrap().iter().map(|(name, case)| (name.as_str(), case))
}

/// A model of one layer whose matrices are those of the case, with embeddings and norms of its own.
fn checkpoint(name: &str) -> Folder {
    let (folder, case) = (Folder::new(), &CASES[name]);
    folder.edit("config.json", |json| {
        for (key, value) in [
            ("hidden_size", json!(64)),
            ("num_hidden_layers", json!(1)),
            ("intermediate_size", json!(96)),
            ("head_dim", json!(16)),
            ("rope_scaling", json!({"rope_type": "default"})),
            ("quantization_config", case["quantization_config"].clone()),
        ] {
            json[key] = value;
        }
    });
    if let Some(beside) = case.get("hf_quant_config") {
        fs::write(folder.path("hf_quant_config.json"), beside.to_string()).unwrap();
    }
    folder.weights(|tensors| {
        tensors.clear();
        let floats = |n: usize| (0..n).flat_map(|i| ((i % 512) as f32 / 512.0).to_le_bytes()).collect::<Vec<u8>>();
        tensors.insert("model.embed_tokens.weight".into(), (Dtype::F32, vec![4096, 64], floats(4096 * 64)));
        for norm in [
            "model.norm.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.post_attention_layernorm.weight",
        ] {
            tensors.insert(norm.into(), (Dtype::F32, vec![64], floats(64)));
        }
        let own = |tensor: &&String| tensor.split_once('/').is_some_and(|(case, _)| case == name);
        for tensor in TENSORS.keys().filter(own) {
            tensors.insert(tensor[name.len() + 1..].to_owned(), TENSORS[tensor].clone());
        }
    });
    folder
}

/// The options that take the case: quantized once more where few bits are left.
fn options(lossy: bool) -> Options {
    Options { requantize: lossy, ..Options::default() }
}

fn made(folder: &Folder, ty: GgmlType, options: &Options) -> strata::Result<Gguf> {
    let path = folder._root.path().join(format!("out.{ty}"));
    let options = Options { restart: true, ..options.clone() };
    convert(&Input::open(&folder.dir)?, &[Target::new(&path, pure(ty))], &options, &Quiet)?;
    Gguf::open(path)
}

#[test]
fn values_are_those_of_independent_programs() {
    for (name, case) in cases() {
        let (folder, lossy) = (checkpoint(name), case["lossy"] == true);
        let gguf = made(&folder, GgmlType::F32, &options(lossy)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let bf16 = made(&folder, GgmlType::BF16, &options(lossy)).unwrap();
        let little = Options { memory: Some(700 << 10), threads: Some(3), ..options(lossy) };
        let again = made(&folder, GgmlType::Q8_0, &little).unwrap_or_else(|error| panic!("{name}: {error}"));
        let wide = made(&folder, GgmlType::Q8_0, &options(lossy)).unwrap();
        for (tensor, golden) in case["values"].as_object().unwrap() {
            let bytes = gguf.data(gguf.required_tensor(tensor).unwrap());
            let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(golden["sha256"], hash, "{name}: {tensor}: {:?} {}", &values[..4], golden["first"]);
            // BF16 is rounded once, from the exact product, to the nearest and to even.
            let rounded = |value: &f32| {
                let bits = value.to_bits();
                ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
            };
            let expected: Vec<u8> = values.iter().flat_map(|value| rounded(value).to_le_bytes()).collect();
            assert!(bf16.data(bf16.required_tensor(tensor).unwrap()) == expected, "{name}: {tensor}");
            let blocks = |gguf: &Gguf| gguf.data(gguf.required_tensor(tensor).unwrap()).to_vec();
            assert!(blocks(&again) == blocks(&wide), "{name}: {tensor}");
        }
    }
}

#[test]
fn few_bits_are_quantized_again_only_on_demand() {
    for (name, case) in cases() {
        let folder = checkpoint(name);
        let input = Input::open(&folder.dir).unwrap();
        let target = Target::new(folder._root.path().join("out.gguf"), pure(GgmlType::F32));
        let planned = plan(&input, &target, &Options::default());
        if case["lossy"] == true {
            let error = planned.unwrap_err();
            assert!(matches!(&error, Error::Invalid { setting: Some(Setting::Requantize), .. }), "{name}: {error}");
            assert!(error.to_string().contains("is quantized already"), "{error}");
        }
        let planned = plan(&input, &target, &options(true)).unwrap();
        let q = planned.tensors.iter().find(|tensor| tensor.name == "blk.0.attn_q.weight").unwrap();
        assert!(q.from != "F32" && q.bytes_from < q.bytes_to, "{name}: {} {}", q.from, q.bytes_from);
        let error = open_model(&folder.dir, &Quiet).unwrap_err().to_string();
        assert!(error.contains(&q.from) && error.contains("convert"), "{name}: {error}");
    }
}

/// The error of a conversion to F32 of the case with a change.
fn refused(name: &str, change: impl FnOnce(&Folder)) -> String {
    let folder = checkpoint(name);
    change(&folder);
    let error = made(&folder, GgmlType::F32, &options(true)).err().unwrap_or_else(|| panic!("{name} is taken"));
    let error = error.to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn refused_for(name: &str, words: &[&str], change: impl FnOnce(&Folder)) {
    let error = refused(name, change);
    assert!(words.iter().all(|word| error.contains(word)), "{name}: {error:?} should say {words:?}");
}

/// Changes the tensor of a layer with this name.
fn tensor(name: &'static str, change: impl Fn(&mut Stored) + 'static) -> impl FnOnce(&Folder) {
    move |folder| folder.weights(|tensors| change(tensors.get_mut(&format!("{LAYER}{name}")).unwrap()))
}

fn without(name: &'static str) -> impl FnOnce(&Folder) {
    move |folder| folder.weights(|tensors| drop(tensors.remove(&format!("{LAYER}{name}")).unwrap()))
}

/// Sets a value in `quantization_config`.
fn setting(path: &str, value: Value) -> impl FnOnce(&Folder) {
    let path = path.to_owned();
    move |folder| {
        folder.edit("config.json", |json| {
            *json["quantization_config"].pointer_mut(&path).expect("the key is there") = value
        })
    }
}

/// Sets a value of the weights of the only group of compressed-tensors.
fn group(key: &'static str, value: Value) -> impl FnOnce(&Folder) {
    move |folder| {
        folder.edit("config.json", |json| {
            json["quantization_config"]["config_groups"]["group_0"]["weights"][key] = value;
        })
    }
}

const UP: &str = "mlp.up_proj.weight";

#[test]
fn blocks_of_float8_have_128_rows_and_columns_where_nothing_else_is_said() {
    let folder = checkpoint("fp8_matrix");
    let matrix = made(&folder, GgmlType::F32, &Options::default()).unwrap();
    folder.config("quantization_config", json!({"quant_method": "fp8"}));
    folder.weights(|tensors| {
        for (_, scale) in tensors.iter_mut().filter(|(name, _)| name.ends_with("_scale_inv")) {
            scale.1 = vec![1, 1];
        }
    });
    let blocks = made(&folder, GgmlType::F32, &Options::default()).unwrap();
    for tensor in matrix.tensors() {
        assert!(matrix.data(tensor) == blocks.data(blocks.required_tensor(&tensor.name).unwrap()), "{}", tensor.name);
    }
}

#[test]
fn float8_that_contradicts_itself_is_refused() {
    let scale = "mlp.up_proj.weight_scale";
    refused_for("fbgemm", &[scale, "is missing"], without(scale));
    refused_for("fbgemm", &[scale, "[48, 2]", "[96, 1]"], tensor(scale, |scale| scale.1 = vec![48, 2]));
    refused_for("fbgemm", &[scale, "I32"], tensor(scale, |scale| scale.0 = Dtype::I32));
    refused_for("fbgemm", &[UP, "[64, 96]", "[96, 64]"], tensor(UP, |weight| weight.1 = vec![64, 96]));
    refused_for("fbgemm", &[UP, "F8_E4M3FNUZ"], tensor(UP, |weight| weight.0 = Dtype::F8_E4M3FNUZ));
    refused_for("fbgemm", &[UP, "row 1, column 3", "NaN"], tensor(UP, |weight| weight.2[64 + 3] = 0x7f));
    refused_for("fp8_e5m2", &[UP, "row 1, column 3", "-inf"], tensor(UP, |weight| weight.2[64 + 3] = 0xfc));
    let put = |value: f32| move |scale: &mut Stored| scale.2[40..44].copy_from_slice(&value.to_le_bytes());
    refused_for("fbgemm", &[scale, "scale 10", "NaN"], tensor(scale, put(f32::NAN)));
    refused_for("fbgemm", &[scale, "scale 10", "inf"], tensor(scale, put(f32::INFINITY)));
    refused_for("fbgemm", &[UP, "row 10", "inf"], tensor(scale, put(3e38)));
    refused_for("fp8_e5m2", &["E5M2", "E4M3"], setting("/fmt", json!("e4m3")));
    refused_for("fp8_blocks", &["weight_block_size", "two counts"], setting("/weight_block_size", json!([0, 128])));
    refused_for("fp8_blocks", &["weight_block_size", "two counts"], setting("/weight_block_size", json!([128])));
    refused_for("fp8_blocks", &["weight_block_size", "list"], setting("/weight_block_size", json!(128)));
    refused_for(
        "fp8_blocks",
        &["weight_scale_inv", "[1, 1]"],
        setting("/weight_block_size", json!([128, 2147483648u32])),
    );
    refused_for("modelopt", &["quant_algo", "NVFP4", "original"], setting("/quant_algo", json!("NVFP4")));
    refused_for("cast", &[scale, "not part of"], |folder: &Folder| {
        let one: Stored = (Dtype::F32, vec![1], vec![0; 4]);
        folder.weights(|tensors| drop(tensors.insert(format!("{LAYER}{scale}"), one)));
    });
    // A second scale would have to be ignored.
    refused_for("fp8_blocks", &[scale, "second"], |folder: &Folder| {
        let one: Stored = (Dtype::F32, vec![1], vec![0; 4]);
        folder.weights(|tensors| drop(tensors.insert(format!("{LAYER}{scale}"), one)));
    });
}

#[test]
fn compressed_tensors_that_contradict_themselves_are_refused() {
    refused_for("ct_fp8_group", &["weight_scale", "[64, 3]", "[64, 6]"], group("group_size", json!(16)));
    refused_for("ct_fp8_group", &["group_size", "0"], group("group_size", json!(0)));
    refused_for("ct_fp8_group", &["strategy", "tensor_group"], group("strategy", json!("tensor_group")));
    refused_for("ct_fp8_group", &["num_bits", "4 bits", "float"], group("num_bits", json!(4)));
    refused_for("ct_fp8_group", &["dynamic"], group("dynamic", json!(true)));
    refused_for("ct_fp8_block", &["block_structure"], group("block_structure", json!([0, 0])));
    refused_for(
        "ct_fp8_block",
        &["format", "nvfp4-pack-quantized", "original"],
        setting("/format", json!("nvfp4-pack-quantized")),
    );
    refused_for("ct_fp8_block", &["config_groups"], setting("/config_groups", json!({})));
    refused_for("ct_fp8_block", &["transform_config"], |folder: &Folder| {
        folder.edit("config.json", |json| {
            json["quantization_config"]["transform_config"] = json!({"config_groups": {"R1": {}}})
        });
    });
    refused_for("ct_fp8_block", &["sparsity_config", "sparse-24-bitmask"], |folder: &Folder| {
        folder.edit("config.json", |json| {
            json["quantization_config"]["sparsity_config"] = json!({"format": "sparse-24-bitmask"})
        });
    });
}

#[test]
fn compressed_whole_numbers_that_contradict_themselves_are_refused() {
    let packed = "mlp.up_proj.weight_packed";
    let (shape, zeros) = ("mlp.up_proj.weight_shape", "mlp.up_proj.weight_zero_point");
    let (scale, index) = ("mlp.up_proj.weight_scale", "mlp.up_proj.weight_g_idx");
    let infinite = |scale: &mut Stored| scale.2[14..16].copy_from_slice(&[0, 0x7c]);
    refused_for("ct_int4", &[shape, "is missing"], without(shape));
    refused_for("ct_int4", &[shape, "[64, 64]", "[96, 64]"], tensor(shape, |shape| shape.2[0] = 64));
    refused_for("ct_int4", &["weight_packed", "12]", "24]"], group("num_bits", json!(8)));
    refused_for("ct_int4", &["num_bits", "9 bits"], group("num_bits", json!(9)));
    refused_for("ct_int4", &[packed, "F32", "I32"], tensor(packed, |codes| codes.0 = Dtype::F32));
    refused_for("ct_int4", &[scale, "scale 7", "inf"], tensor(scale, infinite));
    refused_for("ct_int4_zeros", &[zeros, "is missing"], without(zeros));
    refused_for("ct_int4_zeros", &[zeros, "[6, 8]", "[12, 4]"], tensor(zeros, |zeros| zeros.1 = vec![6, 8]));
    refused_for("ct_int8_zeros", &[zeros, "[1, 96]"], tensor(zeros, |zeros| zeros.1 = vec![1, 96]));
    let far = tensor(index, |index| index.2[4] = 2);
    refused_for("ct_int4_act_order", &[index, "column 1", "group 2", "of 2"], far);
    refused_for("ct_int8", &["weight", "I8", "no group"], |folder: &Folder| {
        folder.config("quantization_config", CASES["ct_fp8_channel"]["quantization_config"].clone());
    });
}

#[test]
fn words_that_contradict_themselves_are_refused() {
    let (codes, zeros) = ("mlp.up_proj.qweight", "mlp.up_proj.qzeros");
    let (scales, index) = ("mlp.up_proj.scales", "mlp.up_proj.g_idx");
    for name in [zeros, scales] {
        refused_for("gptq4", &[name, "is missing"], without(name));
        refused_for("awq", &[name, "is missing"], without(name));
        refused_for("gptq4", &[name, "[2, "], tensor(name, |stored| stored.1.reverse()));
    }
    refused_for("gptq4", &[UP, "is missing"], without(codes));
    refused_for("gptq4", &["qweight", "[12, ", "[24, "], setting("/bits", json!(8)));
    refused_for("gptq4", &["bits", "5 bits"], setting("/bits", json!(5)));
    refused_for("gptq4", &["group_size", "0"], setting("/group_size", json!(0)));
    refused_for("gptq4", &["qzeros", "[1, "], setting("/group_size", json!(2147483647)));
    refused_for("gptq4", &["group_size", "integer"], setting("/group_size", json!(2147483648u32)));
    refused_for("gptq4_zeros", &["checkpoint_format", "marlin"], setting("/checkpoint_format", json!("marlin")));
    refused_for("gptq4_act_order", &[index, "is missing"], without(index));
    for group in [2, -1] {
        let put = move |index: &mut Stored| index.2[4..8].copy_from_slice(&i32::to_le_bytes(group));
        let said = format!("group {group}, of 2");
        refused_for("gptq4_act_order", &[index, "column 1", &said], tensor(index, put));
    }
    refused_for("gptq4", &[scales, "I16"], tensor(scales, |scales| scales.0 = Dtype::I16));
    refused_for("awq", &["version", "gemv"], setting("/version", json!("gemv")));
    refused_for("awq", &["qweight", "[64, 12]"], tensor(codes, |codes| codes.1.reverse()));
    // Zeros in place of a bias are no bias.
    let bias = |byte: u8| {
        move |folder: &Folder| {
            let bias: Stored = (Dtype::F16, vec![96], vec![byte; 192]);
            folder.weights(|tensors| drop(tensors.insert(format!("{LAYER}mlp.up_proj.bias"), bias)));
        }
    };
    let folder = checkpoint("gptq4");
    bias(0)(&folder);
    made(&folder, GgmlType::Q8_0, &options(true)).unwrap();
    refused_for("gptq4", &["mlp.up_proj.bias", "not part of"], bias(1));
}

#[test]
fn states_of_bitsandbytes_that_contradict_themselves_are_refused() {
    const STATE: &str = "mlp.up_proj.weight.quant_state.bitsandbytes__nf4";
    let (absmax, map) = ("mlp.up_proj.weight.absmax", "mlp.up_proj.weight.quant_map");
    let state = |key: &'static str, value: Value| {
        tensor(STATE, move |state| {
            let mut json: Value = serde_json::from_slice(&state.2).unwrap();
            json[key] = value.clone();
            state.2 = json.to_string().into_bytes();
            state.1 = vec![state.2.len()];
        })
    };
    for name in [absmax, map] {
        refused_for("nf4", &[name, "is missing"], without(name));
    }
    refused_for("nf4", &[UP, "[3072, 1]", "[96, 64]"], without(STATE));
    refused_for("nf4", &[STATE, "not valid JSON"], tensor(STATE, |state| state.2[0] = b'['));
    refused_for("nf4", &["quant_type", "nf4"], state("quant_type", json!("fp4")));
    refused_for("nf4", &["shape", "[96, 64]"], state("shape", json!([64, 96])));
    refused_for("nf4", &["blocksize", "count"], state("blocksize", json!(0)));
    refused_for("nf4", &["absmax", "[96]", "[48]"], state("blocksize", json!(128)));
    refused_for("nf4", &["nested_offset", "is missing"], state("nested_blocksize", json!(256)));
    refused_for("nf4_double", &["nested_offset", "float"], state("nested_offset", json!(1e300)));
    refused_for("nf4_double", &["nested_absmax", "[96]"], state("nested_blocksize", json!(1)));
    let nan = |floats: &mut Stored| floats.2[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    refused_for("nf4", &[map, "NaN"], tensor(map, nan));
    refused_for("nf4", &[absmax, "scale 2", "NaN"], tensor(absmax, nan));
    let short = |codes: &mut Stored| (codes.1, codes.2) = (vec![3070, 1], codes.2[2..].to_vec());
    refused_for("nf4", &[UP, "3070 bytes"], tensor(UP, short));
    let scb = "mlp.up_proj.SCB";
    refused_for("bnb_int8", &[scb, "is missing"], without(scb));
    refused_for("bnb_int8", &[scb, "[1, 96]"], tensor(scb, |scb| scb.1 = vec![1, 96]));
    let format = "mlp.up_proj.weight_format";
    refused_for("bnb_int8", &["weight_format", "rows"], tensor(format, |format| format.2[0] = 2));
}

#[test]
fn methods_that_are_not_known_are_named() {
    for method in
        ["hqq", "aqlm", "eetq", "quanto", "bitnet", "mxfp4", "auto-round", "torchao", "vptq", "spqr", "higgs", "quark"]
    {
        refused_for("fbgemm", &["quant_method", method, "original"], setting("/quant_method", json!(method)));
    }
    refused_for("fbgemm", &["quant_method", "is missing"], |folder: &Folder| {
        folder.config("quantization_config", json!({"bits": 4}));
    });
}

#[test]
fn damaged_sources_are_refused_or_converted() {
    let mut state = 18u64;
    // Knuth's MMIX generator.
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let values =
        [json!(0), json!(-1), json!(1), json!(3), json!(1u64 << 31), json!(u64::MAX), json!(1e300), json!(null)];
    let others = [json!("x"), json!([]), json!({}), json!(true), json!([0, 0]), json!([1, 1]), json!("gptq_v2")];
    let values = [&values[..], &others[..]].concat();
    for (name, case) in cases() {
        for _ in 0..6 {
            let folder = checkpoint(name);
            if let Some(config) = case["quantization_config"].as_object() {
                let key = config.keys().nth(random(config.len())).unwrap();
                if random(2) == 0 {
                    setting(&format!("/{key}"), values[random(values.len())].clone())(&folder);
                }
            }
            folder.weights(|tensors| {
                for _ in 0..random(3) {
                    let quantized: Vec<_> = tensors.keys().filter(|name| name.contains("_proj")).cloned().collect();
                    let tensor = tensors.get_mut(&quantized[random(quantized.len())]).unwrap();
                    match random(3) {
                        0 => tensor.1.reverse(),
                        1 => {
                            let at = random(tensor.2.len());
                            tensor.2[at] = random(256) as u8;
                        }
                        _ => tensor.1 = vec![tensor.1.iter().product()],
                    }
                }
            });
            if let Err(error) = made(&folder, GgmlType::Q8_0, &options(true)) {
                assert!(
                    error.to_string().lines().count() == 1 && !matches!(error, Error::Internal(_)),
                    "{name}: {error}"
                );
            }
        }
    }
}

/// The scales of the case in a second file behind more than what is compared when a conversion is resumed.
fn scales_in_a_second_file(folder: &Folder) {
    let tensors = read_weights(&folder.path("model.safetensors"));
    fs::remove_file(folder.path("model.safetensors")).unwrap();
    let second = |name: &str| name.contains("scale") || name.contains("embed");
    for (shard, part) in SHARDS.iter().zip([false, true]) {
        let of = tensors
            .iter()
            .filter(|(name, _)| second(name) == part)
            .map(|(name, tensor)| (name.clone(), tensor.clone()));
        write_weights(&folder.path(shard), &of.collect());
    }
}

#[test]
fn a_resumed_conversion_sees_that_a_scale_has_changed() {
    let folder = checkpoint("fbgemm");
    scales_in_a_second_file(&folder);
    let path = folder._root.path().join("out.gguf");
    let run = |progress: &dyn strata::progress::Progress| {
        let target = Target::new(&path, pure(GgmlType::Q8_0));
        convert(&Input::open(&folder.dir)?, &[target], &Options::default(), progress)
    };
    let journal = folder._root.path().join("out.gguf.partial.journal");
    let written = || {
        fs::read_to_string(&journal).is_ok_and(|text| text.contains("{\"tensor\":{\"name\":\"blk.0.ffn_up.weight\""))
    };
    let stops = (1..400).find(|&n| run(&StopsAfter(AtomicUsize::new(n))).is_ok() || written());
    assert!(stops.is_some() && !path.exists(), "it was never stopped behind the tensor");
    folder_scale(&folder, 4);
    let error = run(&Quiet).unwrap_err().to_string();
    assert!(error.contains("SHA-256"), "{error}");
    folder_scale(&folder, 4);
    run(&Quiet).unwrap();
    let undisturbed = made(&folder, GgmlType::Q8_0, &Options::default()).unwrap();
    let resumed = Gguf::open(&path).unwrap();
    for tensor in resumed.tensors() {
        assert!(
            resumed.data(tensor) == undisturbed.data(undisturbed.required_tensor(&tensor.name).unwrap()),
            "{}",
            tensor.name
        );
    }
}

/// Flips a bit of a scale in the second file.
fn folder_scale(folder: &Folder, at: usize) {
    let mut tensors = read_weights(&folder.path(SHARDS[1]));
    tensors.get_mut(&format!("{LAYER}mlp.up_proj.weight_scale")).unwrap().2[at] ^= 1;
    write_weights(&folder.path(SHARDS[1]), &tensors);
}
