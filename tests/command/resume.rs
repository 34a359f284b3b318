//! A conversion that nothing can spoil: killed at any moment, short of space, over a source or a `.partial` that changed meanwhile, it
//! ends in the bytes of an undisturbed run or in one clear line.

use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use strata::Error;
use strata::convert::{Input, Options, Target, convert};
use strata::gguf::Gguf;
use strata::io::hash::Digest;
use strata::progress::Progress;
use strata::recipe::{Mix, Recipe};
use tempfile::TempDir;

const LAYERS: usize = 2;
const HIDDEN: usize = 1024;
const FFN: usize = 2816;
const SHARDS: usize = 3;

/// A Llama of 63 MB in BF16, with the tokenizer of tiny-rustdoc; and a folder to write to.
struct Fixture {
    root: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
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

    fn weights(&self) {
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

    fn checkpoint(&self) -> PathBuf {
        self.root.path().join("synthetic")
    }

    fn shard(&self, i: usize) -> PathBuf {
        self.checkpoint().join(shard_name(i))
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join("out").join(name)
    }

    /// Everything in the folder of outputs.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.out("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// `strata convert` of the checkpoint with these arguments.
    fn convert(&self, args: &[&str]) -> Command {
        let mut command = strata();
        command.arg("convert").arg(self.checkpoint()).args(args);
        command
    }

    /// `strata convert` to Q8_0 at `path`.
    fn to(&self, path: &Path) -> Command {
        let mut command = self.convert(&["-t", "q8_0", "-o"]);
        command.arg(path);
        command
    }

    /// The SHA-256 of an undisturbed conversion to Q8_0.
    fn expected(&self) -> Digest {
        let path = self.out("undisturbed.gguf");
        succeeds(self.to(&path));
        let digest = hash(&path);
        fs::remove_file(path).unwrap();
        digest
    }

    /// Converts to Q8_0 and stops after about half of the source.
    fn half(&self, path: &Path) {
        let half = Stop { after: 32 << 20, ..Stop::default() };
        let result = self.run(&[Target::new(path, recipe("Q8_0"))], &half);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert!(!finished(path).is_empty());
    }

    fn run(&self, targets: &[Target], progress: &dyn Progress) -> strata::Result<()> {
        convert(&Input::open(&self.checkpoint())?, targets, &Options::default(), progress).map(drop)
    }
}

fn shard_name(i: usize) -> String {
    format!("model-{:05}-of-{SHARDS:05}.safetensors", i + 1)
}

fn recipe(mix: &str) -> Recipe {
    Recipe::new(Mix::from_name(mix).unwrap())
}

fn strata() -> Command {
    Command::new(env!("CARGO_BIN_EXE_strata"))
}

fn hash(path: &Path) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The error of a command, which must be one line and name all of `words`.
fn refused(mut command: Command, words: &[&str]) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    says(error, words);
}

fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{error:?} should say {word:?}");
    }
}

/// Lines of the journal about tensors: name and offset in the output.
fn finished(path: &Path) -> Vec<(String, u64)> {
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
fn flip(path: &Path, at: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

/// Stops, or does something else once, after so many bytes.
struct Stop<'a> {
    after: u64,
    instead: Option<&'a (dyn Fn() + Sync)>,
    done: AtomicU64,
    reached: AtomicBool,
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

#[test]
fn killed_at_any_moment_it_ends_in_the_same_bytes() {
    let fixture = Fixture::new();
    let run = || fixture.convert(&["-t", "q8_0", "-t", "q4_0", "-t", "bf16", "-o", fixture.out("").to_str().unwrap()]);
    let files = ["synthetic-BF16.gguf", "synthetic-Q4_0.gguf", "synthetic-Q8_0.gguf"];
    let digests = || files.map(|name| hash(&fixture.out(name)));
    let clear = || files.iter().for_each(|name| drop(fs::remove_file(fixture.out(name))));
    let start = Instant::now();
    succeeds(run());
    let (took, expected) = (start.elapsed(), digests());
    assert_eq!(fixture.left(), files);
    clear();

    let seed = std::env::var("STRATA_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let (mut finished, mut resumed) = (0, 0);
    for kill in 0..30 {
        // The first half over the whole run; then short ones, many for one file.
        let span = took.as_micros() as u64 * 12 / 10 / if kill < 15 { 1 } else { 3 };
        let mut child = run().stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.next() % span));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        resumed += usize::from(fixture.left().iter().any(|name| name.ends_with(".partial")));
        if output.status.success() {
            finished += 1;
            assert_eq!(digests(), expected, "seed {seed}, kill {kill}");
            assert_eq!(fixture.left(), files);
            clear();
        }
    }
    println!("seed {seed}: {took:?} undisturbed, 30 kills, {finished} came too late, {resumed} left a .partial");
    succeeds(run());
    assert_eq!(digests(), expected, "seed {seed}");
    assert_eq!(fixture.left(), files);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    for _ in 0..50 {
        let _ = fs::remove_file(&path);
        let mut child = fixture.to(&path).arg("--restart").stderr(std::process::Stdio::piped()).spawn().unwrap();
        let journal = fixture.out("m.gguf.partial.journal");
        let begun = || fs::read_to_string(&journal).is_ok_and(|text| text.contains("{\"tensor\":{"));
        while !begun() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        succeeds({
            let mut kill = Command::new("sh");
            kill.arg("-c").arg(format!("kill -INT {} || true", child.id()));
            kill
        });
        let output = child.wait_with_output().unwrap();
        // Else it was done before.
        if !output.status.success() {
            says(&String::from_utf8(output.stderr).unwrap(), &["stopped", "the same command", "m.gguf.partial"]);
            assert!(succeeds(fixture.to(&path)).contains("by an earlier run"));
            assert_eq!(hash(&path), expected);
            return;
        }
    }
    println!("every run was done before it could be stopped");
}

#[cfg(target_os = "linux")]
mod disk {
    use super::*;

    /// A small disk, gone at the end of a test, also of one that fails.
    struct Disk(TempDir);

    impl Disk {
        fn new() -> Option<Disk> {
            let dir = tempfile::tempdir().unwrap();
            let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()).output();
            if !mount.as_ref().is_ok_and(|output| output.status.success()) {
                println!("skipped: no small disk can be mounted here ({mount:?})");
                return None;
            }
            Some(Disk(dir))
        }

        fn resize(&self, bytes: u64) {
            let option = format!("remount,size={bytes}");
            succeeds({
                let mut mount = Command::new("mount");
                mount.args(["-o", &option]).arg(self.0.path());
                mount
            });
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0.path()).status();
        }
    }

    #[test]
    fn a_full_disk_is_said_and_more_space_is_enough() {
        let fixture = Fixture::new();
        let expected = fixture.expected();
        let Some(disk) = Disk::new() else { return };
        let path = disk.0.path().join("m.gguf");
        // At once, with nothing written.
        refused(fixture.to(&path), &["m.gguf", "bytes are to be written", "are free", "free some space"]);
        assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 0);

        // There would be enough, were there nobody else.
        disk.resize(48 << 20);
        let filler = disk.0.path().join("filler");
        let fill = || {
            let mut file = File::create(&filler).unwrap();
            while file.write(&[0; 1 << 16]).is_ok() {}
        };
        let progress = Stop { after: 20 << 20, instead: Some(&fill), ..Stop::default() };
        let error = fixture.run(&[Target::new(&path, recipe("Q8_0"))], &progress).unwrap_err().to_string();
        says(&error, &["m.gguf.partial", "full", "still to be written", "the same command"]);
        assert!(!finished(&path).is_empty() && !path.exists());
        refused(fixture.to(&path), &["m.gguf", "bytes are to be written"]);

        disk.resize(128 << 20);
        let said = succeeds(fixture.to(&path));
        assert!(said.contains("by an earlier run"), "{said}");
        assert_eq!(hash(&path), expected);
    }
}

#[test]
fn a_source_that_changed_is_noticed() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let len = fs::metadata(fixture.shard(0)).unwrap().len();
    let original = fs::read(fixture.shard(0)).unwrap();
    let name = shard_name(0);
    fixture.half(&path);

    for at in [len - 1, 2 << 20] {
        flip(&fixture.shard(0), at);
        refused(fixture.to(&path), &[&name, "changed", "--restart"]);
        flip(&fixture.shard(0), at);
    }
    flip(&fixture.shard(2), len / 2);
    flip(&fixture.shard(2), len / 2);
    // Of another length, and sound: a space more in the header.
    let header = u64::from_le_bytes(*original.first_chunk().unwrap());
    let mut longer = (header + 1).to_le_bytes().to_vec();
    longer.extend(&original[8..8 + header as usize]);
    longer.push(b' ');
    longer.extend(&original[8 + header as usize..]);
    fs::write(fixture.shard(0), &longer).unwrap();
    refused(fixture.to(&path), &[&name, "changed", &len.to_string(), &(len + 1).to_string()]);
    File::options().write(true).open(fixture.shard(0)).unwrap().set_len(len - 1).unwrap();
    refused(fixture.to(&path), &[&name, "cut off"]);

    // The same contents in another file are as good.
    fs::remove_file(fixture.shard(0)).unwrap();
    fs::write(fixture.shard(0), &original).unwrap();
    let said = succeeds(fixture.to(&path));
    assert!(said.contains("by an earlier run"), "{said}");
    assert_eq!(hash(&path), expected);
}

#[test]
fn a_source_cut_short_while_it_is_read_is_an_error() {
    let fixture = Fixture::new();
    let path = fixture.out("m.gguf");
    let cut = || File::options().write(true).open(fixture.shard(2)).unwrap().set_len(1 << 20).unwrap();
    let progress = Stop { after: 0, instead: Some(&cut), ..Stop::default() };
    let error = fixture.run(&[Target::new(&path, recipe("Q8_0"))], &progress).unwrap_err().to_string();
    says(&error, &[&shard_name(2), "ends", "get the file again"]);
}

#[test]
fn another_recipe_is_refused_and_can_replace_the_first() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let as_type = |ty: &str, more: &[&str]| {
        let mut command = fixture.convert(&[&["-t", ty, "-o", path.to_str().unwrap()], more].concat());
        command.env("STRATA_ISA", "scalar");
        command
    };
    fixture.half(&path);
    refused(as_type("q4_0", &[]), &["type was \"Q8_0\", is \"Q4_0\"", "type of blk.0.attn_k.weight", "--restart"]);
    refused(as_type("q8_0", &["--name", "x"]), &["name was not given, is \"x\"", "--restart"]);
    // A file that goes into the metadata.
    let config = fixture.checkpoint().join("generation_config.json");
    fs::write(&config, "{\"temperature\": 0.5}").unwrap();
    refused(as_type("q8_0", &[]), &["general.sampling.temp was not set"]);
    fs::remove_file(config).unwrap();
    assert!(!finished(&path).is_empty());

    succeeds(as_type("q4_0", &["--restart"]));
    assert_eq!(fixture.left(), ["m.gguf"]);
    assert_ne!(hash(&path), expected);
    succeeds(as_type("q8_0", &[]));
    assert_eq!(hash(&path), expected);
}

#[test]
fn a_partial_that_was_damaged_is_mended() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let (partial, journal) = (fixture.out("m.gguf.partial"), fixture.out("m.gguf.partial.journal"));
    fixture.half(&path);
    let done = finished(&path);
    flip(&partial, done[0].1 + 5);
    flip(&partial, done[done.len() - 1].1);
    // And the last line was not written whole.
    let text = fs::read(&journal).unwrap();
    fs::write(&journal, &text[..text.len() - 7]).unwrap();
    let said = succeeds(fixture.to(&path));
    assert!(said.contains(&format!("({} of them by", done.len() - 2)), "{said}: {} less 2", done.len());
    assert_eq!(hash(&path), expected);
    assert_eq!(fixture.left(), ["m.gguf"]);

    // What is no journal is not believed; without a .partial it does not matter.
    fixture.half(&path);
    fs::write(&journal, "{}\n").unwrap();
    refused(fixture.to(&path), &["m.gguf.partial.journal", "line 1", "--restart"]);
    fs::remove_file(&partial).unwrap();
    succeeds(fixture.to(&path));
    assert_eq!(hash(&path), expected);

    // A .partial shorter than it was.
    fixture.half(&path);
    File::options().write(true).open(&partial).unwrap().set_len(1 << 20).unwrap();
    succeeds(fixture.to(&path));
    assert_eq!(hash(&path), expected);
}

#[test]
fn a_partial_that_another_program_changes_meanwhile_does_not_get_its_name() {
    let fixture = Fixture::new();
    let path = fixture.out("m.gguf");
    let (partial, journal) = (fixture.out("m.gguf.partial"), fixture.out("m.gguf.partial.journal"));
    let cut = |to: u64| File::options().write(true).open(&partial).unwrap().set_len(to).unwrap();
    type Change<'a> = (&'a str, &'a (dyn Fn() + Sync), &'a Path);
    let patch = || {
        // File systems count time in steps of some milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        flip(&partial, 5_000);
    };
    let changes: [Change<'_>; 7] = [
        ("written to", &patch, &partial),
        // What is written after it would make it as long as it was, with zeros where something was.
        ("cut to 1000 bytes", &|| cut(1000), &partial),
        ("cut by one byte", &|| cut(fs::metadata(&partial).unwrap().len() - 1), &partial),
        ("made longer", &|| cut(1 << 30), &partial),
        ("removed", &|| fs::remove_file(&partial).unwrap(), &partial),
        (
            "replaced",
            &|| fs::write(fixture.out("x"), "x").and_then(|()| fs::rename(fixture.out("x"), &partial)).unwrap(),
            &partial,
        ),
        ("the journal cut", &|| File::options().write(true).open(&journal).unwrap().set_len(10).unwrap(), &journal),
    ];
    for (what, change, blamed) in changes {
        for after in [0, 20 << 20, 50 << 20] {
            let progress = Stop { after, instead: Some(change), ..Stop::default() };
            let error = fixture.run(&[Target::new(&path, recipe("Q8_0"))], &progress).unwrap_err().to_string();
            says(&error, &[blamed.to_str().unwrap(), "another program", "start again"]);
            assert!(!path.exists(), "{what} after {after} bytes");
            fixture.left().iter().for_each(|name| drop(fs::remove_file(fixture.out(name))));
        }
    }
}

/// The warnings of a run.
#[derive(Default)]
struct Warnings(std::sync::Mutex<Vec<String>>);

impl Progress for Warnings {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn warn(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn what_another_program_has_changed_in_between_is_said_and_mended() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let (partial, journal) = (fixture.out("m.gguf.partial"), fixture.out("m.gguf.partial.journal"));
    // A digit of the hash of the source up to a tensor's end.
    let digit = || {
        let text = fs::read_to_string(&journal).unwrap();
        let at = text.rfind("\"source\":\"").unwrap() + 10;
        flip(&journal, at as u64);
    };
    let line = || {
        let text = fs::read_to_string(&journal).unwrap();
        let lines: Vec<&str> = text.lines().enumerate().filter(|(i, _)| *i != 1).map(|(_, line)| line).collect();
        fs::write(&journal, lines.join("\n") + "\n").unwrap();
    };
    let data = || flip(&partial, finished(&path)[1].1 + 9);
    let cut = || File::options().write(true).open(&partial).unwrap().set_len(1 << 20).unwrap();
    type Change<'a> = (&'a dyn Fn(), &'a Path, &'a str);
    let changes: [Change<'_>; 4] = [
        (&digit, &journal, "is damaged"),
        (&line, &journal, "line 2 is damaged"),
        (&data, &partial, "1 tensors are not what the journal says"),
        (&cut, &partial, "tensors are not what the journal says"),
    ];
    for (change, blamed, words) in changes {
        fixture.half(&path);
        change();
        let warnings = Warnings::default();
        fixture.run(&[Target::new(&path, recipe("Q8_0"))], &warnings).unwrap();
        let said = warnings.0.into_inner().unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        says(&said[0], &[blamed.to_str().unwrap(), words]);
        assert_eq!(hash(&path), expected);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_stands_between_the_tensors_is_zeros_again() {
    let fixture = Fixture::new();
    // Every tensor here fills whole alignments of 32 bytes, none of 64 KiB.
    let path = fixture.out("m.gguf");
    let target = || {
        let mut target = Target::new(&path, recipe("Q8_0"));
        target.metadata.push(("general.alignment".to_owned(), 65_536u32.into()));
        target
    };
    fixture.run(&[target()], &Stop { after: u64::MAX, ..Stop::default() }).unwrap();
    let (expected, gguf) = (hash(&path), Gguf::open(&path).unwrap());
    let mut ends: Vec<(u64, u64)> = gguf.tensors().iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
    ends.sort_unstable();
    let file_end = fs::metadata(&path).unwrap().len();
    let next = ends.iter().skip(1).map(|(start, _)| *start).chain([file_end]).collect::<Vec<_>>();
    let gaps: Vec<(u64, u64)> = ends.iter().map(|(_, end)| *end).zip(next).filter(|(end, next)| end < next).collect();
    assert!(gaps.len() > 5, "{gaps:?}");
    fs::remove_file(&path).unwrap();

    let half = Stop { after: 32 << 20, ..Stop::default() };
    assert!(matches!(fixture.run(&[target()], &half), Err(Error::Cancelled)));
    let mut partial = OpenOptions::new().write(true).open(fixture.out("m.gguf.partial")).unwrap();
    for (start, end) in gaps {
        partial.seek(SeekFrom::Start(start)).unwrap();
        partial.write_all(&vec![0xaa; (end - start) as usize]).unwrap();
    }
    drop(partial);
    fixture.run(&[target()], &Stop { after: u64::MAX, ..Stop::default() }).unwrap();
    assert_eq!(hash(&path), expected);
}

#[test]
fn of_several_outputs_the_finished_one_is_kept() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let (first, second) = (fixture.out("synthetic-Q4_0.gguf"), fixture.out("synthetic-Q8_0.gguf"));
    let targets = [Target::new(&first, recipe("Q4_0")), Target::new(&second, recipe("Q8_0"))];
    // The second cannot get its name.
    let block = || fs::create_dir_all(second.join("in the way")).unwrap();
    let error = fixture.run(&targets, &Stop { instead: Some(&block), ..Stop::default() }).unwrap_err().to_string();
    says(&error, &["rename", "synthetic-Q8_0.gguf"]);
    fs::remove_dir_all(&second).unwrap();
    let modified = || fs::metadata(&first).unwrap().modified().unwrap();
    let before = modified();
    succeeds(fixture.convert(&["-t", "q4_0", "-t", "q8_0", "-o", fixture.out("").to_str().unwrap()]));
    assert_eq!(modified(), before);
    assert_eq!(hash(&second), expected);
    assert_eq!(fixture.left(), ["synthetic-Q4_0.gguf", "synthetic-Q8_0.gguf"]);
}

#[test]
fn two_processes_do_not_write_the_same_file() {
    let fixture = Fixture::new();
    let path = fixture.out("m.gguf");
    let other = || refused(fixture.to(&path), &["m.gguf", "another strata"]);
    fixture.run(&[Target::new(&path, recipe("Q8_0"))], &Stop { instead: Some(&other), ..Stop::default() }).unwrap();
    assert_eq!(hash(&path), fixture.expected());
}

#[test]
fn threads_memory_and_instructions_change_no_byte() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let info: Value = serde_json::from_str(&succeeds({
        let mut info = strata();
        info.args(["info", "--json"]);
        info
    }))
    .unwrap();
    for isa in info["available"].as_array().unwrap() {
        for args in [&["--threads", "1"][..], &["--threads", "2", "--memory", "700k"], &["--memory", "3M"]] {
            let mut command = fixture.to(&path);
            command.args(args).env("STRATA_ISA", isa.as_str().unwrap());
            succeeds(command);
            assert_eq!(hash(&path), expected, "{isa} {args:?}");
        }
    }
    let mut command = fixture.to(&path);
    command.args(["--threads", "2", "--memory", "100k"]);
    refused(command, &["102400 bytes", "--memory"]);
    assert_eq!(fixture.left(), ["m.gguf"]);
}

#[test]
fn verify_finds_what_was_changed() {
    let fixture = Fixture::new();
    let path = fixture.out("m.gguf");
    succeeds(fixture.to(&path));
    let verify = |source: bool| {
        let mut command = strata();
        command.arg("verify").arg(&path);
        if source {
            command.arg("--source").arg(fixture.checkpoint());
        }
        command
    };
    assert!(succeeds(verify(true)).contains("recorded SHA-256"));
    let gguf = Gguf::open(&path).unwrap();
    let recorded = gguf.array("strata.source.sha256").unwrap().unwrap().to_owned();
    let shards: Vec<String> = (0..SHARDS).map(|i| hash(&fixture.shard(i)).to_string()).collect();
    assert_eq!(recorded, strata::gguf::Array::String(shards));
    for name in ["blk.1.attn_q.weight", "output_norm.weight"] {
        // Past the scale of the first block: every value stays finite.
        let at = gguf.tensor(name).unwrap().offset + 8;
        flip(&path, at);
        refused(verify(false), &[name, "SHA-256"]);
        flip(&path, at);
    }
    flip(&fixture.shard(1), 5 << 20);
    succeeds(verify(false));
    refused(verify(true), &[&shard_name(1), "SHA-256"]);
}
