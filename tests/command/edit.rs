//! `strata set` and `strata diff`: metadata of a file that exists, and what two files differ in.

#[path = "../common/mod.rs"]
mod common;

use serde_json::Value as Json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use strata::gguf::{Gguf, ValueRef};

/// A folder with the model as `m.gguf`, and a copy.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        common::write_model(&folder.at("m.gguf"), common::mix("q4_0"));
        fs::copy(folder.at("m.gguf"), folder.at("c.gguf")).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn strata(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.current_dir(self.0.path()).args(args).env("STRATA_CONFIG", "").stdin(Stdio::null()).output().unwrap()
    }

    fn prints(&self, args: &[&str]) -> String {
        let output = self.strata(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.strata(args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The differences of two files: the exit code, and the JSON.
    fn diff(&self, a: &str, b: &str) -> (i32, Json) {
        let output = self.strata(&["diff", a, b, "--json"]);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn tensors_are_those_of(a: &Gguf, b: &Gguf) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for tensor in a.tensors() {
        assert!(a.data(tensor) == b.data(b.tensor(&tensor.name).unwrap()), "{}", tensor.name);
    }
}

#[test]
fn a_value_of_the_same_length_is_changed_in_place() {
    let folder = Folder::new();
    let inode = |name: &str| fs::metadata(folder.at(name)).unwrap().ino();
    let before = inode("m.gguf");
    let said = folder.prints(&["set", "m.gguf", "tokenizer.ggml.eos_token_id=int:5", "--dry-run"]);
    assert!(said.contains("would be changed in place"), "{said}");
    assert_eq!(folder.diff("m.gguf", "c.gguf").0, 0);
    let said = folder.prints(&["set", "m.gguf", "tokenizer.ggml.eos_token_id=int:5"]);
    assert!(said.contains("changed in place") && inode("m.gguf") == before, "{said}");
    let (a, b) = (fs::read(folder.at("m.gguf")).unwrap(), fs::read(folder.at("c.gguf")).unwrap());
    assert!(a.len() == b.len() && a.iter().zip(&b).filter(|(a, b)| a != b).count() <= 4);
    assert_eq!(Gguf::open(folder.at("m.gguf")).unwrap().u32("tokenizer.ggml.eos_token_id").unwrap(), Some(5));
    assert!(folder.prints(&["set", "m.gguf", "tokenizer.ggml.eos_token_id=u32:5"]).contains("already"));
    // A second name would be changed with it: then the file is written anew, and the other stays.
    fs::hard_link(folder.at("m.gguf"), folder.at("link.gguf")).unwrap();
    folder.prints(&["set", "m.gguf", "tokenizer.ggml.eos_token_id=u32:6"]);
    assert_ne!(inode("m.gguf"), inode("link.gguf"));
    assert_eq!(Gguf::open(folder.at("link.gguf")).unwrap().u32("tokenizer.ggml.eos_token_id").unwrap(), Some(5));
}

#[test]
fn other_changes_make_a_new_file_with_the_same_tensors() {
    let folder = Folder::new();
    fs::set_permissions(folder.at("m.gguf"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.at("t.jinja"), "{{ messages }}\n").unwrap();
    folder.prints(&[
        "set",
        "m.gguf",
        "general.name=str:A longer name than the old one",
        "my.list=str[]:[\"a\",\"b\"]",
        "my.floats=f32[]:[0.5,1]",
        "my.wide=u64:7",
        "--from-file",
        "tokenizer.chat_template=t.jinja",
        "--delete",
        "general.size_label",
        "general.alignment=u32:64",
    ]);
    let (old, new) = (Gguf::open(folder.at("c.gguf")).unwrap(), Gguf::open(folder.at("m.gguf")).unwrap());
    tensors_are_those_of(&old, &new);
    assert_eq!(fs::metadata(folder.at("m.gguf")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(new.str("general.name").unwrap(), Some("A longer name than the old one"));
    assert_eq!(new.str("tokenizer.chat_template").unwrap(), Some("{{ messages }}\n"));
    assert_eq!(new.metadata().get("my.wide"), Some(ValueRef::U64(7)));
    assert_eq!(new.array("my.floats").unwrap().unwrap().len(), 2);
    assert!(new.metadata().get("general.size_label").is_none());
    assert!(new.tensors().iter().all(|tensor| tensor.offset.is_multiple_of(64)));
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 3, "nothing is left behind");
    folder.prints(&["set", "m.gguf", "--delete", "general.alignment"]);
    tensors_are_those_of(&old, &Gguf::open(folder.at("m.gguf")).unwrap());
    assert!(folder.prints(&["verify", "m.gguf"]).contains("m.gguf"));
}

#[test]
fn what_would_end_the_model_is_refused() {
    let folder = Folder::new();
    for (args, words) in [
        (&["general.name=int:5"][..], "must be a text"),
        (&["split.count=u16:2"], "how the model is split"),
        (&["strata.recipe=str:x"], "strata writes it itself"),
        (&["general.alignment=u32:3"], "power of two"),
        (&["--delete", "no.such"], "no such key"),
        (&["--delete", "general.architecture"], "could not be run any more"),
        (&["llama.block_count=u32:0"], "could not be run any more"),
        (&["tokenizer.ggml.eos_token_id=u32:4000000000"], "could not be run any more"),
        (&["a=u8:1", "a=u8:2"], "given twice"),
        (&["general.name=str:x", "--delete", "general.name"], "both set and deleted"),
        (&["a=u8:256"], "u8:256"),
        (&[], "nothing is to be changed"),
    ] {
        let said = folder.refused(&[&["set", "m.gguf"], args].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert!(fs::read(folder.at("m.gguf")).unwrap() == fs::read(folder.at("c.gguf")).unwrap());
    // Another conversion's work is not thrown away.
    fs::write(folder.at("m.gguf.partial"), "hours").unwrap();
    let said = folder.refused(&["set", "m.gguf", "general.name=str:A longer name than the old one"]);
    assert!(said.contains("move it away"), "{said}");
    assert_eq!(fs::read(folder.at("m.gguf.partial")).unwrap(), b"hours");
}

#[test]
fn differences_are_found_in_headers_and_in_tensors() {
    let folder = Folder::new();
    let (code, json) = folder.diff("m.gguf", "c.gguf");
    assert_eq!((code, &json["equal"]), (0, &Json::from(true)));
    folder.prints(&["set", "m.gguf", "general.name=str:another", "my.key=bool:true", "--delete", "general.size_label"]);
    let mut bytes = fs::read(folder.at("m.gguf")).unwrap();
    let at = Gguf::open(folder.at("m.gguf")).unwrap().tensor("blk.1.ffn_up.weight").unwrap().offset as usize;
    bytes[at + 5] ^= 1;
    fs::write(folder.at("m.gguf"), &bytes).unwrap();
    let (code, json) = folder.diff("m.gguf", "c.gguf");
    assert_eq!((code, &json["equal"]), (1, &Json::from(false)));
    assert_eq!(json["metadata"]["only_a"], serde_json::json!(["my.key"]));
    assert_eq!(json["metadata"]["only_b"], serde_json::json!(["general.size_label"]));
    assert_eq!(json["metadata"]["different"][0]["key"], "general.name");
    let tensors = &json["tensors"];
    assert_eq!((tensors["different"].as_array().unwrap().len(), &tensors["only_a"]), (1, &serde_json::json!([])));
    assert_eq!(tensors["different"][0]["name"], "blk.1.ffn_up.weight");
    assert_ne!(tensors["different"][0]["a"]["sha256"], tensors["different"][0]["b"]["sha256"]);
    let text = String::from_utf8(folder.strata(&["diff", "m.gguf", "c.gguf"]).stdout).unwrap();
    assert!(text.contains("~ blk.1.ffn_up.weight") && text.contains("3 keys and 1 tensors differ"), "{text}");
    let headers = String::from_utf8(folder.strata(&["diff", "m.gguf", "c.gguf", "--header-only"]).stdout).unwrap();
    assert!(headers.contains("3 keys and 0 tensors differ"), "{headers}");
    // Other types, other tensors.
    common::write_model(&folder.at("q8.gguf"), common::mix("q8_0"));
    let (_, json) = folder.diff("q8.gguf", "c.gguf");
    let ty = |side: &str| json["tensors"]["different"][0][side]["type"].clone();
    assert!(ty("a") == "Q8_0" && json["tensors"]["different"][0]["a"]["sha256"].is_null(), "{json}");
}

#[test]
fn a_split_model_is_one_model() {
    let folder = Folder::new();
    folder.prints(&["split", "c.gguf", "p", "--split-max-tensors", "20"]);
    let first = folder.at("p-00001-of-00003.gguf");
    let others: Vec<_> = (2..4).map(|no| folder.at(&format!("p-0000{no}-of-00003.gguf"))).collect();
    let before: Vec<_> = others.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(folder.diff("m.gguf", "p-00002-of-00003.gguf").0, 0);
    // Any part stands for all; the first is changed.
    let said = folder.prints(&["set", "p-00003-of-00003.gguf", "general.name=str:A longer name than the old one"]);
    assert!(said.contains("p-00001-of-00003.gguf"), "{said}");
    assert!(others.iter().map(|path| fs::read(path).unwrap()).eq(before));
    let whole = Gguf::open(&first).unwrap();
    tensors_are_those_of(&Gguf::open(folder.at("c.gguf")).unwrap(), &whole);
    assert_eq!(whole.str("general.name").unwrap(), Some("A longer name than the old one"));
    assert!(folder.refused(&["set", "p-00001-of-00003.gguf", "--delete", "split.count"]).contains("strata merge"));
    let (code, json) = folder.diff("p-00001-of-00003.gguf", "c.gguf");
    assert_eq!((code, json["metadata"]["different"].as_array().unwrap().len()), (1, 1));
}
