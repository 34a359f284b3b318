//! `strata tokenize` beside transformers' tokenizer: the golden texts and ids of the small model.

#[path = "../common/mod.rs"]
mod common;

use serde_json::Value as Json;
use std::fs;
use std::process::{Command, Output, Stdio};

fn strata(args: &[&str], stdin: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    let model = common::checkpoint();
    command.args(["tokenize", "-m", model.to_str().unwrap()]).args(args).env("STRATA_CONFIG", "").stdin(stdin);
    command.output().unwrap()
}

fn prints(args: &[&str]) -> String {
    let output = strata(args, Stdio::null());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ids_are_those_of_transformers() {
    let golden: Vec<Json> = serde_json::from_str(include_str!("../data/tiny-rustdoc/tokenize.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    assert!(golden.len() > 10);
    for case in golden.iter().step_by(golden.len().div_ceil(25)) {
        let text = case["text"].as_str().unwrap();
        fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let json: Json = serde_json::from_str(&prints(&["--json", "-f", path])).unwrap();
        assert_eq!(
            (&json["ids"], json["count"].as_u64()),
            (&case["ids"], json["tokens"].as_array().map(|all| all.len() as u64)),
            "{text:?}"
        );
        let ids = prints(&["--ids", "--no-bos", "-f", path]);
        assert_eq!(serde_json::from_str::<Json>(&ids).unwrap(), case["ids_without_bos"], "{text:?}");
        assert_eq!(prints(&["--count", "-f", path]).trim(), case["ids"].as_array().unwrap().len().to_string());
        let back = prints(&["--detokenize", "-p", &ids]);
        assert_eq!(back.strip_suffix('\n'), case["decoded"].as_str(), "{text:?}");
    }
}

#[test]
fn lines_are_those_of_llama_tokenize() {
    let lines = prints(&["-p", "Hello, world!", "--no-bos", "--show-count"]);
    assert_eq!(
        lines,
        "  2381 -> 'Hello'\n    11 -> ','\n  3371 -> ' world'\n     0 -> '!'\nTotal number of tokens: 4\n"
    );
    let escaped = prints(&["-p", "\n", "--no-bos"]);
    assert!(escaped.ends_with("-> '\\n'\n"), "{escaped}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    fs::write(&file, "Hello, world!").unwrap();
    let stdin = || Stdio::from(fs::File::open(&file).unwrap());
    for args in [&["--stdin", "--ids"][..], &["-f", "-", "--ids"], &["--ids"]] {
        assert_eq!(String::from_utf8(strata(args, stdin()).stdout).unwrap(), "[3840, 2381, 11, 3371, 0]\n");
    }
}

#[test]
fn control_tokens_are_parsed_unless_they_are_text() {
    let json: Json = serde_json::from_str(&prints(&["--json", "-p", "a"])).unwrap();
    let bos = &json["tokens"][0];
    assert_eq!((&bos["control"], &bos["id"]), (&Json::from(true), &Json::from(3840)));
    let piece = bos["piece"].as_str().unwrap();
    assert_eq!(prints(&["--ids", "--no-bos", "-p", piece]), "[3840]\n");
    assert!(prints(&["--count", "--no-bos", "--no-parse-special", "-p", piece]).trim().parse::<u32>().unwrap() > 1);
}

#[test]
fn ids_that_are_none_are_refused() {
    for (args, words) in [
        (&["--detokenize", "-p", "1,x"][..], "\"x\" is no id"),
        (&["--detokenize", "-p", "4000000000"], "4000000000"),
        (&["-e", "-p", "\\xff"], "UTF-8"),
    ] {
        let output = strata(args, Stdio::null());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(words), "{args:?}: {said}");
    }
}
