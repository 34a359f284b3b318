//! A checkpoint of 63 MB, conversions of it, and what may happen to them.

use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use strata::Error;
use strata::convert::{Input, Options, Target, convert};
use strata::io::hash::Digest;
use strata::progress::Progress;
use strata::recipe::{Mix, Recipe};
use tempfile::TempDir;

pub const LAYERS: usize = 2;
pub const HIDDEN: usize = 1024;
pub const FFN: usize = 2816;
pub const SHARDS: usize = 3;

/// A Llama of 63 MB in BF16, with the tokenizer of tiny-rustdoc; and a folder to write to.
pub struct Fixture {
    pub root: TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        let fixture = Fixture { root: tempfile::tempdir().unwrap() };
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rustdoc");
        fs::create_dir(fixture.checkpoint()).unwrap();
        fs::create_dir(fixture.root.path().join("out")).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::write(fixture.checkpoint().join(name), fs::read(tiny.join(name)).unwrap()).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&fs::read(tiny.join("config.json")).unwrap()).unwrap();
        for (key, value) in [
            ("hidden_size", json!(HIDDEN)),
            ("intermediate_size", json!(FFN)),
            ("num_hidden_layers", json!(LAYERS)),
            ("num_attention_heads", json!(16)),
            ("num_key_value_heads", json!(8)),
            ("tie_word_embeddings", json!(false)),
        ] {
            config[key] = value;
        }
        fs::write(fixture.checkpoint().join("config.json"), config.to_string()).unwrap();
        fixture.weights();
        fixture
    }

    pub fn weights(&self) {
        let mut tensors: Vec<(String, Vec<usize>)> = vec![("model.embed_tokens.weight".into(), vec![4096, HIDDEN])];
        for i in 0..LAYERS {
            for (name, shape) in [
                ("input_layernorm", vec![HIDDEN]),
                ("mlp.down_proj", vec![HIDDEN, FFN]),
                ("mlp.gate_proj", vec![FFN, HIDDEN]),
                ("mlp.up_proj", vec![FFN, HIDDEN]),
                ("post_attention_layernorm", vec![HIDDEN]),
                ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
                ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
                ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
                ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ] {
                tensors.push((format!("model.layers.{i}.{name}.weight"), shape));
            }
        }
        tensors.push(("model.norm.weight".into(), vec![HIDDEN]));
        tensors.push(("lm_head.weight".into(), vec![4096, HIDDEN]));
        let mut random = Random(1);
        let mut map = json!({});
        for (shard, part) in tensors.chunks(tensors.len().div_ceil(SHARDS)).enumerate() {
            let (mut header, mut at, mut data) = (json!({}), 0, Vec::new());
            for (name, shape) in part {
                let n: usize = shape.iter().product();
                header[name] = json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * n]});
                map[name] = shard_name(shard).into();
                at += 2 * n;
                // Of either sign, from 2^-7 to 2^-3.
                let value = |r: u64| (r as u16 & 0x8000) | (0x3c00 + (r >> 16) as u16 % 0x200);
                data.extend((0..n).flat_map(|_| value(random.next()).to_le_bytes()));
            }
            let header = header.to_string();
            let mut file = File::create(self.shard(shard)).unwrap();
            file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
            file.write_all(header.as_bytes()).unwrap();
            file.write_all(&data).unwrap();
        }
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(self.checkpoint().join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.root.path().join("synthetic")
    }

    pub fn shard(&self, i: usize) -> PathBuf {
        self.checkpoint().join(shard_name(i))
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.root.path().join("out").join(name)
    }

    /// Everything in the folder of outputs.
    pub fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.out("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// `strata convert` of the checkpoint with these arguments.
    pub fn convert(&self, args: &[&str]) -> Command {
        let mut command = strata();
        command.arg("convert").arg(self.checkpoint()).args(args);
        command
    }

    /// `strata convert` to Q8_0 at `path`.
    pub fn to(&self, path: &Path) -> Command {
        let mut command = self.convert(&["-t", "q8_0", "-o"]);
        command.arg(path);
        command
    }

    /// The SHA-256 of an undisturbed conversion to Q8_0.
    pub fn expected(&self) -> Digest {
        let path = self.out("undisturbed.gguf");
        succeeds(self.to(&path));
        let digest = hash(&path);
        fs::remove_file(path).unwrap();
        digest
    }

    /// Converts to Q8_0 and stops after about half of the source.
    pub fn half(&self, path: &Path) {
        let half = Stop { after: 32 << 20, ..Stop::default() };
        let result = self.run(&[Target::new(path, recipe("Q8_0"))], &half);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert!(!finished(path).is_empty());
    }

    pub fn run(&self, targets: &[Target], progress: &dyn Progress) -> strata::Result<()> {
        convert(&Input::open(self.checkpoint())?, targets, &Options::default(), progress).map(drop)
    }
}

pub fn shard_name(i: usize) -> String {
    format!("model-{:05}-of-{SHARDS:05}.safetensors", i + 1)
}

pub fn recipe(mix: &str) -> Recipe {
    Recipe::new(Mix::from_name(mix).unwrap())
}

pub fn strata() -> Command {
    Command::new(env!("CARGO_BIN_EXE_strata"))
}

pub fn hash(path: &Path) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

pub fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The error of a command, which must be one line and name all of `words`.
pub fn refused(mut command: Command, words: &[&str]) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    says(error, words);
}

pub fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{error:?} should say {word:?}");
    }
}

/// Lines of the journal about tensors: name and offset in the output.
pub fn finished(path: &Path) -> Vec<(String, u64)> {
    let journal = fs::read_to_string(path.with_extension("gguf.partial.journal")).unwrap();
    let lines: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let offset = |name: &str| {
        let tensors = lines[0]["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["offset"].as_u64().unwrap()
    };
    let names = lines.iter().filter_map(|line| line["tensor"]["name"].as_str());
    names.map(|name| (name.to_owned(), offset(name))).collect()
}

/// Changes a byte in place.
pub fn flip(path: &Path, at: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

/// Stops, or does something else once, after so many bytes.
pub struct Stop<'a> {
    pub after: u64,
    pub instead: Option<&'a (dyn Fn() + Sync)>,
    pub done: AtomicU64,
    pub reached: AtomicBool,
}

impl Default for Stop<'_> {
    fn default() -> Self {
        Stop { after: 0, instead: None, done: AtomicU64::new(0), reached: AtomicBool::new(false) }
    }
}

impl Progress for Stop<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, units: u64) {
        if self.done.fetch_add(units, Ordering::Relaxed) + units > self.after
            && !self.reached.swap(true, Ordering::Relaxed)
            && let Some(act) = self.instead
        {
            act();
        }
    }
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        self.instead.is_none() && self.reached.load(Ordering::Relaxed)
    }
}
