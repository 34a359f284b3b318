//! A conversion that nothing can spoil: killed at any moment, short of space, over a source or a `.partial` that changed meanwhile, it
//! ends in the bytes of an undisturbed run or in one clear line.

#[path = "resume/changed.rs"]
mod changed;
#[path = "resume/fixture.rs"]
mod fixture;
#[path = "../warnings/mod.rs"]
mod warnings;

use fixture::*;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};
use strata::convert::Target;
use strata::gguf::Gguf;
use tempfile::TempDir;

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
    refused(command, &["100000 bytes", "--memory"]);
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
