//! Conversion from the outside (what becomes of the weights is in `quantizers.rs`): every way of storing
//! the same checkpoint gives the same file, and what cannot be converted is refused in one line and leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use strata::convert::{Input, Options, Report, Target};
use strata::gguf::Gguf;
use strata::progress::{Progress, Quiet};
use strata::recipe::Recipe;
use strata::{Error, GgmlType};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-rustdoc")
}

/// Converts to one file.
fn convert(dir: &Path, output: &Path, ty: GgmlType, progress: &dyn Progress) -> strata::Result<Report> {
    let options = Options { name: Some("fixture".to_owned()), ..Options::default() };
    let reports =
        strata::convert::convert(&Input::open(dir)?, &[Target::new(output, Recipe::pure(ty)?)], &options, progress)?;
    Ok(reports.into_iter().next().unwrap())
}

/// A tensor of a checkpoint: type, shape, bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Stored>;

fn read_weights(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, v)| (name.to_owned(), (v.dtype(), v.shape().to_vec(), v.data().to_vec()))).collect()
}

fn write_weights(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of tiny-rustdoc to be changed.
struct Folder {
    dir: PathBuf,
    _root: TempDir,
}

impl Folder {
    fn new() -> Folder {
        let root = tempfile::tempdir().unwrap();
        // Of the same name: it goes into the metadata.
        let dir = root.path().join("tiny-rustdoc");
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(tiny()).unwrap() {
            let path = entry.unwrap().path();
            // Written, not copied: a copy would be as read-only as the original.
            fs::write(dir.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
        }
        Folder { dir, _root: root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut json);
        fs::write(self.path(name), json.to_string()).unwrap();
    }

    fn config(&self, key: &str, value: Value) {
        self.edit("config.json", |json| json[key] = value);
    }

    fn weights(&self, change: impl FnOnce(&mut Tensors)) {
        let mut tensors = read_weights(&self.path("model.safetensors"));
        change(&mut tensors);
        write_weights(&self.path("model.safetensors"), &tensors);
    }

    /// In two shards instead of one; the index too if wanted.
    fn shard(&self, with_index: bool) {
        let tensors = read_weights(&self.path("model.safetensors"));
        fs::remove_file(self.path("model.safetensors")).unwrap();
        let (mut parts, mut map) = ([Tensors::new(), Tensors::new()], json!({}));
        for (i, (name, tensor)) in tensors.into_iter().enumerate() {
            map[&name] = SHARDS[i % 2].into();
            parts[i % 2].insert(name, tensor);
        }
        for (shard, part) in SHARDS.iter().zip(&parts) {
            write_weights(&self.path(shard), part);
        }
        if with_index {
            fs::write(self.path(INDEX), json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
        }
    }

    fn convert(&self, ty: GgmlType) -> Converted {
        Converted::of(&self.dir, ty)
    }

    /// The error of a conversion to `ty`, which must be one line and leave nothing.
    fn refused_as(&self, ty: GgmlType, words: &[&str]) {
        let out = tempfile::tempdir().unwrap();
        let result = convert(&self.dir, &out.path().join("m.gguf"), ty, &Quiet);
        check_error(result, words);
        // The work done so far may stay; under the name there is nothing.
        let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let known = |name: &std::ffi::OsString| name == "m.gguf.partial" || name == "m.gguf.partial.journal";
        assert!(left.len() != 1 && left.iter().all(known), "{words:?} left {left:?}");
    }

    fn refused(&self, words: &[&str]) {
        self.refused_as(GgmlType::F16, words);
    }
}

fn check_error(result: strata::Result<Report>, words: &[&str]) {
    let error = result.err().unwrap_or_else(|| panic!("must be refused for {words:?}")).to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} should say {word:?}");
    }
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &str = "model.safetensors.index.json";

/// A finished file.
struct Converted {
    out: TempDir,
    report: Report,
}

impl Converted {
    fn of(dir: &Path, ty: GgmlType) -> Converted {
        let out = tempfile::tempdir().unwrap();
        let report = convert(dir, &out.path().join("m.gguf"), ty, &Quiet).unwrap();
        let files: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["m.gguf"]);
        // CI shows every file that is made here to a second reader.
        if let Ok(keep) = std::env::var("STRATA_KEEP") {
            let bytes = fs::read(out.path().join("m.gguf")).unwrap();
            let name: String = Sha256::digest(&bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(Path::new(&keep).join(name + ".gguf"), bytes).unwrap();
        }
        Converted { out, report }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.out.path().join("m.gguf")).unwrap()
    }

    /// All but what the file says of the source's files.
    fn contents(&self) -> Vec<u8> {
        let (mut bytes, gguf) = (self.bytes(), self.open());
        let data = gguf.tensors().iter().map(|tensor| tensor.offset).min().unwrap() as usize;
        let mut contents = bytes.split_off(data);
        for (key, value) in gguf.metadata().iter().filter(|(key, _)| !key.starts_with("strata.source.")) {
            contents.extend(format!("{key}: {value:?}\n").into_bytes());
        }
        contents
    }

    fn open(&self) -> Gguf {
        Gguf::open(self.out.path().join("m.gguf")).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let gguf = self.open();
        let tensor = gguf.tensor(name).unwrap();
        assert_eq!(tensor.ty, GgmlType::F32);
        gguf.data(tensor).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

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
    let reports = strata::convert::convert(&Input::open(&tiny()).unwrap(), &targets, &options, &Quiet).unwrap();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), types.len());
    for ((ty, target), report) in types.into_iter().zip(&targets).zip(reports) {
        assert_eq!(report.path, target.path);
        assert!(fs::read(&target.path).unwrap() == Converted::of(&tiny(), ty).bytes(), "{ty}");
    }
    for (paths, words) in
        [(["a", "a"], "two outputs"), (["a", "./a"], "two outputs"), (["a", "a.partial"], "two outputs")]
    {
        let targets = paths.map(|name| Target::new(out.path().join(name), Recipe::pure(GgmlType::F16).unwrap()));
        let result = strata::convert::convert(&Input::open(&tiny()).unwrap(), &targets, &options, &Quiet);
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
    check_error(refused, &["quantized already (Q8_0)", "--allow-requantize"]);
    check_error(convert(&path("q8.gguf"), &path("q8.gguf"), GgmlType::Q8_0, &Quiet), &["is the model itself"]);
    fs::hard_link(path("q8.gguf"), path("link.gguf")).unwrap();
    check_error(convert(&path("q8.gguf"), &path("link.gguf"), GgmlType::Q8_0, &Quiet), &["is the model itself"]);
    // The same type is no loss.
    convert(&path("q8.gguf"), &path("copy.gguf"), GgmlType::Q8_0, &Quiet).unwrap();
    let [q8, copy] = ["q8.gguf", "copy.gguf"].map(|name| Gguf::open(path(name)).unwrap());
    assert!(tensors(&q8) == tensors(&copy));
    let options = Options { requantize: true, ..Options::default() };
    let target = Target::new(path("q4.gguf"), Recipe::pure(GgmlType::Q4_0).unwrap());
    strata::convert::convert(&Input::open(&path("q8.gguf")).unwrap(), &[target], &options, &Quiet).unwrap();
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

/// A model of one layer with all that tiny-rustdoc lacks: `head_dim` implied (16), untied, biases, linear scaling, F32, and rows of
/// 100 values in `down_proj`. Values count up from 0 in each tensor.
fn small() -> Folder {
    let folder = Folder::new();
    folder.edit("config.json", |json| {
        let object = json.as_object_mut().unwrap();
        object.remove("head_dim");
        for (key, value) in [
            ("hidden_size", json!(64)),
            ("num_hidden_layers", json!(1)),
            ("intermediate_size", json!(100)),
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("tie_word_embeddings", json!(false)),
            ("rope_scaling", json!({"type": "linear", "factor": 4.0})),
        ] {
            object.insert(key.to_owned(), value);
        }
    });
    folder.weights(|tensors| {
        tensors.clear();
        let mut add = |name: &str, shape: &[usize]| {
            let n: usize = shape.iter().product();
            let bytes = (0..n).flat_map(|i| ((i % 4096) as f32 / 64.0).to_le_bytes()).collect();
            tensors.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
        };
        add("model.embed_tokens.weight", &[4096, 64]);
        add("lm_head.weight", &[4096, 64]);
        add("model.norm.weight", &[64]);
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("model.layers.0.{norm}.weight"), &[64]);
        }
        for (module, rows, cols) in [
            ("self_attn.q_proj", 64, 64),
            ("self_attn.k_proj", 32, 64),
            ("self_attn.v_proj", 32, 64),
            ("self_attn.o_proj", 64, 64),
            ("mlp.gate_proj", 100, 64),
            ("mlp.up_proj", 100, 64),
            ("mlp.down_proj", 64, 100),
        ] {
            add(&format!("model.layers.0.{module}.weight"), &[rows, cols]);
            add(&format!("model.layers.0.{module}.bias"), &[rows]);
        }
        // Not part of the model, and in many older checkpoints.
        add("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]);
    });
    folder
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
        ("architectures", json!(["Qwen2ForCausalLM"]), &["Qwen2ForCausalLM", "LlamaForCausalLM"]),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4}), &["rope", "yarn", "llama3"]),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 4}), &["longrope"]),
        ("rope_scaling", json!({"type": "dynamic", "factor": 4}), &["dynamic"]),
        ("rope_scaling", json!({"type": "linear"}), &["factor"]),
        ("quantization_config", json!({"quant_method": "gptq"}), &["quantization_config", "original"]),
        ("sliding_window", json!(1024), &["sliding_window", "1024"]),
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
