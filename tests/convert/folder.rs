//! Copies of tiny-rustdoc to be changed, a small model of another kind, and what becomes of them.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use strata::GgmlType;
use strata::convert::{Input, Options, Report, Target};
use strata::gguf::Gguf;
use strata::progress::{Progress, Quiet};
use strata::recipe::Recipe;
use tempfile::TempDir;

pub use crate::common::checkpoint as tiny;

/// Converts to one file.
pub fn convert(dir: &Path, output: &Path, ty: GgmlType, progress: &dyn Progress) -> strata::Result<Report> {
    let options = Options { name: Some("fixture".to_owned()), ..Options::default() };
    let reports =
        strata::convert::convert(&Input::open(dir)?, &[Target::new(output, Recipe::pure(ty)?)], &options, progress)?;
    Ok(reports.into_iter().next().unwrap())
}

/// A tensor of a checkpoint: type, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);
pub type Tensors = BTreeMap<String, Stored>;

pub fn read_weights(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, v)| (name.to_owned(), (v.dtype(), v.shape().to_vec(), v.data().to_vec()))).collect()
}

pub fn write_weights(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of tiny-rustdoc to be changed.
pub struct Folder {
    pub dir: PathBuf,
    pub _root: TempDir,
}

impl Folder {
    pub fn new() -> Folder {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut json);
        fs::write(self.path(name), json.to_string()).unwrap();
    }

    pub fn config(&self, key: &str, value: Value) {
        self.edit("config.json", |json| json[key] = value);
    }

    pub fn weights(&self, change: impl FnOnce(&mut Tensors)) {
        let mut tensors = read_weights(&self.path("model.safetensors"));
        change(&mut tensors);
        write_weights(&self.path("model.safetensors"), &tensors);
    }

    /// In two shards instead of one; the index too if wanted.
    pub fn shard(&self, with_index: bool) {
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

    pub fn convert(&self, ty: GgmlType) -> Converted {
        Converted::of(&self.dir, ty)
    }

    /// The error of a conversion to `ty`, which must be one line and leave nothing.
    pub fn refused_as(&self, ty: GgmlType, words: &[&str]) {
        let out = tempfile::tempdir().unwrap();
        let result = convert(&self.dir, &out.path().join("m.gguf"), ty, &Quiet);
        check_error(result, words);
        // The work done so far may stay; under the name there is nothing.
        let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let known = |name: &std::ffi::OsString| name == "m.gguf.partial" || name == "m.gguf.partial.journal";
        assert!(left.len() != 1 && left.iter().all(known), "{words:?} left {left:?}");
    }

    pub fn refused(&self, words: &[&str]) {
        self.refused_as(GgmlType::F16, words);
    }
}

pub fn check_error(result: strata::Result<Report>, words: &[&str]) {
    let error = result.err().unwrap_or_else(|| panic!("must be refused for {words:?}")).to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} should say {word:?}");
    }
}

pub const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
pub const INDEX: &str = "model.safetensors.index.json";

/// A finished file.
pub struct Converted {
    pub out: TempDir,
    pub report: Report,
}

impl Converted {
    pub fn of(dir: &Path, ty: GgmlType) -> Converted {
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

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.out.path().join("m.gguf")).unwrap()
    }

    /// All but what the file says of the source's files.
    pub fn contents(&self) -> Vec<u8> {
        let (mut bytes, gguf) = (self.bytes(), self.open());
        let data = gguf.tensors().iter().map(|tensor| tensor.offset).min().unwrap() as usize;
        let mut contents = bytes.split_off(data);
        for (key, value) in gguf.metadata().iter().filter(|(key, _)| !key.starts_with("strata.source.")) {
            contents.extend(format!("{key}: {value:?}\n").into_bytes());
        }
        contents
    }

    pub fn open(&self) -> Gguf {
        Gguf::open(self.out.path().join("m.gguf")).unwrap()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let gguf = self.open();
        let tensor = gguf.tensor(name).unwrap();
        assert_eq!(tensor.ty, GgmlType::F32);
        gguf.data(tensor).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// A model of one layer with all that tiny-rustdoc lacks: `head_dim` implied (16), untied, biases, linear scaling, F32, and rows of
/// 100 values in `down_proj`. Values count up from 0 in each tensor.
pub fn small() -> Folder {
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
