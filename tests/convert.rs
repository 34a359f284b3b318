//! Conversion from the outside (what becomes of the weights is in `quantizers.rs`): every way of storing
//! the same checkpoint gives the same file, and what cannot be converted is refused in one line and leaves nothing behind.

mod common;
#[path = "convert/folder.rs"]
mod folder;
#[path = "convert/refused.rs"]
mod refused;
#[path = "convert/runs.rs"]
mod runs;
mod warnings;

use folder::*;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use warnings::Warnings;

use safetensors::Dtype;
use serde_json::json;
use strata::convert::{Input, Options, Target};
use strata::error::Setting;
use strata::gguf::Gguf;
use strata::progress::{Progress, Quiet};
use strata::recipe::Recipe;
use strata::{Error, GgmlType};

/// Types, bytes and order of all tensors.
fn tensors(gguf: &Gguf) -> Vec<(&str, GgmlType, &[u64], &[u8])> {
    gguf.tensors().iter().map(|t| (t.name.as_str(), t.ty, t.dims.as_slice(), gguf.data(t))).collect()
}

#[test]
fn several_outputs_are_those_of_several_runs() {
    let out = tempfile::tempdir().unwrap();
    let types = [GgmlType::Q4_0, GgmlType::BF16, GgmlType::F32, GgmlType::Q8_0];
    let targets = types.map(|ty| Target::new(out.path().join(ty.name()), Recipe::pure(ty).unwrap()));
    let options = Options { name: Some("fixture".to_owned()), ..Options::default() };
    let reports = strata::convert::convert(&Input::open(tiny()).unwrap(), &targets, &options, &Quiet).unwrap();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), types.len());
    for ((ty, target), report) in types.into_iter().zip(&targets).zip(reports) {
        assert_eq!(report.path, target.path);
        assert!(fs::read(&target.path).unwrap() == Converted::of(&tiny(), ty).bytes(), "{ty}");
    }
    for (paths, words) in
        [(["a", "a"], "two outputs"), (["a", "./a"], "two outputs"), (["a", "a.partial"], "two outputs")]
    {
        let targets = paths.map(|name| Target::new(out.path().join(name), Recipe::pure(GgmlType::F16).unwrap()));
        let result = strata::convert::convert(&Input::open(tiny()).unwrap(), &targets, &options, &Quiet);
        check_error(result.map(|mut reports| reports.remove(0)), &[words]);
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), types.len());
}

#[test]
fn a_gguf_file_is_a_source_like_the_checkpoint() {
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name);
    convert(&tiny(), &path("bf16.gguf"), GgmlType::BF16, &Quiet).unwrap();
    for ty in [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::F32, GgmlType::BF16] {
        convert(&path("bf16.gguf"), &path("again.gguf"), ty, &Quiet).unwrap();
        let (direct, again) = (Converted::of(&tiny(), ty).open(), Gguf::open(path("again.gguf")).unwrap());
        assert!(tensors(&direct) == tensors(&again), "{ty}");
        let metadata = |gguf: &Gguf| -> Vec<String> {
            let pairs = gguf.metadata().iter().filter(|(key, _)| !key.starts_with("strata.source."));
            pairs.map(|(key, value)| format!("{key}: {value:?}")).collect()
        };
        assert_eq!(metadata(&direct), metadata(&again), "{ty}");
        assert_eq!(again.array("strata.source.files").unwrap().unwrap().len(), 1);
    }

    convert(&tiny(), &path("q8.gguf"), GgmlType::Q8_0, &Quiet).unwrap();
    let refused = convert(&path("q8.gguf"), &path("q4.gguf"), GgmlType::Q4_0, &Quiet);
    assert!(matches!(&refused, Err(Error::Invalid { setting: Some(Setting::Requantize), .. })));
    check_error(refused, &["quantized already (Q8_0)"]);
    check_error(convert(&path("q8.gguf"), &path("q8.gguf"), GgmlType::Q8_0, &Quiet), &["is the model itself"]);
    fs::hard_link(path("q8.gguf"), path("link.gguf")).unwrap();
    check_error(convert(&path("q8.gguf"), &path("link.gguf"), GgmlType::Q8_0, &Quiet), &["is the model itself"]);
    // The same type is no loss.
    convert(&path("q8.gguf"), &path("copy.gguf"), GgmlType::Q8_0, &Quiet).unwrap();
    let [q8, copy] = ["q8.gguf", "copy.gguf"].map(|name| Gguf::open(path(name)).unwrap());
    assert!(tensors(&q8) == tensors(&copy));
    let options = Options { requantize: true, ..Options::default() };
    let target = Target::new(path("q4.gguf"), Recipe::pure(GgmlType::Q4_0).unwrap());
    strata::convert::convert(&Input::open(path("q8.gguf")).unwrap(), &[target], &options, &Quiet).unwrap();
    strata::verify::model(&Gguf::open(path("q4.gguf")).unwrap(), None, &Quiet).unwrap();
}

/// Where the tensor of the file comes from, and how many heads its rows have if they are reordered.
fn origin(name: &str) -> (String, Option<usize>) {
    let (stem, part) = name.rsplit_once('.').unwrap();
    let Some(stem) = stem.strip_prefix("blk.") else {
        let module = match stem {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            other => panic!("{other}"),
        };
        return (format!("{module}.{part}"), None);
    };
    let (layer, module) = stem.split_once('.').unwrap();
    let (module, heads) = match module {
        "attn_norm" => ("input_layernorm", None),
        "attn_q" => ("self_attn.q_proj", Some(4)),
        "attn_k" => ("self_attn.k_proj", Some(2)),
        "attn_v" => ("self_attn.v_proj", None),
        "attn_output" => ("self_attn.o_proj", None),
        "ffn_norm" => ("post_attention_layernorm", None),
        "ffn_gate" => ("mlp.gate_proj", None),
        "ffn_up" => ("mlp.up_proj", None),
        "ffn_down" => ("mlp.down_proj", None),
        other => panic!("{other}"),
    };
    (format!("model.layers.{layer}.{module}.{part}"), heads)
}

/// The rows in the order of GGUF: of each head the first of the one half, the first of the other, the second of the one, ...
fn interleaved(rows: &[u8], heads: usize, count: usize) -> Vec<u8> {
    let row = rows.len() / count;
    let head = rows.len() / heads;
    let pairs = |head: &[u8]| -> Vec<u8> {
        let (first, second) = head.split_at(head.len() / 2);
        first.chunks(row).zip(second.chunks(row)).flat_map(|(a, b)| [a, b].concat()).collect()
    };
    rows.chunks(head).flat_map(pairs).collect()
}

#[test]
fn bf16_and_f32_lose_nothing() {
    let source = read_weights(&tiny().join("model.safetensors"));
    for ty in [GgmlType::BF16, GgmlType::F32] {
        let converted = Converted::of(&tiny(), ty);
        let gguf = converted.open();
        for tensor in gguf.tensors().iter().filter(|tensor| tensor.name != "rope_freqs.weight") {
            let (name, heads) = origin(&tensor.name);
            let (dtype, shape, bytes) = &source[&name];
            assert_eq!(*dtype, Dtype::BF16);
            let mut bytes = heads.map_or(bytes.clone(), |heads| interleaved(bytes, heads, shape[0]));
            assert_eq!(tensor.ty, if shape.len() == 2 { ty } else { GgmlType::F32 }, "{name}");
            if tensor.ty == GgmlType::F32 {
                bytes = bytes.chunks(2).flat_map(|half| [0, 0, half[0], half[1]]).collect();
            }
            assert!(gguf.data(tensor) == bytes, "{name} as {ty}");
        }
    }
}

#[test]
fn the_metadata_is_that_of_the_reference_converter() {
    let converted = Converted::of(&tiny(), GgmlType::Q8_0);
    let gguf = converted.open();
    for (key, value) in [
        ("llama.block_count", 6),
        ("llama.context_length", 4096),
        ("llama.embedding_length", 256),
        ("llama.feed_forward_length", 768),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("llama.attention.key_length", 64),
        ("llama.rope.dimension_count", 64),
        ("llama.vocab_size", 4096),
        ("general.file_type", 7),
        ("general.quantization_version", 2),
        ("tokenizer.ggml.bos_token_id", 3840),
        ("tokenizer.ggml.eos_token_id", 3841),
    ] {
        assert_eq!(gguf.u32(key).unwrap(), Some(value), "{key}");
    }
    for (key, value) in [
        ("general.architecture", "llama"),
        ("general.type", "model"),
        ("general.name", "fixture"),
        ("general.size_label", "5.8M"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "llama-bpe"),
    ] {
        assert_eq!(gguf.str(key).unwrap(), Some(value), "{key}");
    }
    assert_eq!(gguf.f32("general.sampling.temp").unwrap(), Some(0.6));
    assert_eq!(gguf.f32("llama.rope.freq_base").unwrap(), Some(500000.0));
    assert_eq!(gguf.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert!(gguf.str("tokenizer.chat_template").unwrap().is_some());
    assert_eq!(gguf.str("llama.rope.scaling.type").unwrap(), None);
    assert_eq!(converted.report.bytes, gguf.file_bytes());
    assert!((8.5..8.6).contains(&converted.report.bits_per_weight));
}

#[test]
fn shards_with_and_without_index_give_the_same_bytes() {
    let whole = Converted::of(&tiny(), GgmlType::Q4_0).contents();
    for with_index in [true, false] {
        let folder = Folder::new();
        folder.shard(with_index);
        assert!(folder.convert(GgmlType::Q4_0).contents() == whole, "index: {with_index}");
    }
}

#[test]
fn biases_linear_scaling_and_an_output_of_its_own() {
    let converted = small().convert(GgmlType::Q8_0);
    let gguf = converted.open();
    assert_eq!(gguf.str("llama.rope.scaling.type").unwrap(), Some("linear"));
    assert_eq!(gguf.f32("llama.rope.scaling.factor").unwrap(), Some(4.0));
    assert_eq!(gguf.u32("llama.rope.dimension_count").unwrap(), Some(16));
    assert_eq!(gguf.u32("llama.attention.key_length").unwrap(), None);
    let ty = |name: &str| gguf.tensor(name).map(|tensor| tensor.ty);
    assert_eq!(ty("rope_freqs.weight"), None);
    assert_eq!(ty("output.weight"), Some(GgmlType::Q8_0));
    assert_eq!(ty("blk.0.ffn_down.weight"), Some(GgmlType::F16), "rows of 100 values are no whole blocks");
    assert_eq!(gguf.tensors().len(), 3 + 2 + 2 * 7);
    for (name, rows, rotated) in
        [("attn_q", 64, true), ("attn_k", 32, true), ("attn_v", 32, false), ("ffn_up", 100, false)]
    {
        let expected: Vec<f32> = (0..rows)
            .map(|row| match rotated {
                true => row / 16 * 16 + row % 2 * 8 + row % 16 / 2,
                false => row,
            })
            .map(|row| row as f32 / 64.0)
            .collect();
        assert_eq!(converted.floats(&format!("blk.0.{name}.bias")), expected, "{name}");
    }
}

#[test]
fn paths_that_cannot_be_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let missing = out.path().join("no/such");
    let to = |output: &Path| convert(&tiny(), output, GgmlType::F16, &Quiet);
    check_error(to(&missing.join("m.gguf")), &["folder", "mkdir -p"]);
    check_error(to(out.path()), &["folder"]);
    check_error(convert(&missing, &out.path().join("m.gguf"), GgmlType::F16, &Quiet), &["no/such"]);
    check_error(convert(&tiny(), &out.path().join("m.gguf"), GgmlType::TQ1_0, &Quiet), &["TQ1_0", "Q8_0"]);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);

    // A file of the checkpoint itself, also by another name.
    let folder = Folder::new();
    fs::create_dir(folder.path("sub")).unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "sub/../model.safetensors"] {
        let before = fs::read(folder.path(name)).unwrap();
        let result = convert(&folder.dir, &folder.path(name), GgmlType::F16, &Quiet);
        check_error(result, &["checkpoint", "another"]);
        assert!(fs::read(folder.path(name)).unwrap() == before);
    }
}

/// Asks to stop after the first step.
struct Impatient(AtomicBool);

impl Progress for Impatient {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {
        self.0.store(true, Ordering::Relaxed);
    }
    fn end(&self) {
        panic!("it did not end well");
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn stopping_leaves_the_old_file() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("m.gguf");
    fs::write(&path, "old").unwrap();
    let result = convert(&tiny(), &path, GgmlType::F16, &Impatient(AtomicBool::new(false)));
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

/// Unmounts at the end of a test, also of one that fails.
#[cfg(target_os = "linux")]
struct Mounted<'a>(&'a Path);

#[cfg(target_os = "linux")]
impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_cleaned() {
    let disk = tempfile::tempdir().unwrap();
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(disk.path()).output();
    if !mount.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: no small disk can be mounted here ({mount:?})");
        return;
    }
    let _mounted = Mounted(disk.path());
    let result = convert(&tiny(), &disk.path().join("m.gguf"), GgmlType::F16, &Quiet);
    check_error(result, &["m.gguf", "free some space"]);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

/// What of a tokenizer is taken otherwise than its files say reaches the user, once.
#[test]
fn what_is_taken_otherwise_is_said() {
    let folder = Folder::new();
    folder.edit("tokenizer_config.json", |json| json["add_bos_token"] = json!(false));
    let warned = Warnings::default();
    let out = tempfile::tempdir().unwrap();
    convert(&folder.dir, &out.path().join("m.gguf"), GgmlType::Q8_0, &warned).unwrap();
    let warned = warned.0.into_inner().unwrap();
    assert_eq!(warned.iter().filter(|what| what.contains("\"add_bos_token\" is false")).count(), 1, "{warned:?}");
}
