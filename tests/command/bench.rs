//! `strata bench` on the small model: what it prints is what programs are promised, and its bytes are those of the file.

#[path = "../common/mod.rs"]
mod common;

use common::{mix, model_file};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use strata::gguf::Gguf;
use tempfile::TempDir;

/// The small model as Q8_0.
fn model() -> (TempDir, PathBuf) {
    model_file(mix("q8_0"))
}

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata")).arg("bench").args(args).output().unwrap()
}

/// Its stdout, if it went well.
fn ok(args: &[&str]) -> String {
    let output = bench(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn json_has_the_promised_fields_and_exact_bytes() {
    let (_dir, path) = model();
    let file = path.to_str().unwrap();
    let args = ["-m", file, "-p", "8,16", "-n", "4", "-d", "0,300", "--batch", "1,3", "-r", "2", "--threads", "2"];
    let json: Value = serde_json::from_str(&ok(&[&args[..], &["--json"]].concat())).unwrap();
    let machine = &json["machine"];
    assert_eq!(machine["threads"], 2);
    assert!(machine["isa"].is_string());
    assert!(machine["read_bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(machine["int8_macs_per_second"].as_f64().unwrap() > 0.0);
    assert!(machine["disk_bytes_per_second"].is_null(), "the file is too small");

    let results = json["results"].as_array().unwrap();
    let key = |r: &Value| (r["test"].as_str().unwrap().to_owned(), r["depth"].as_u64(), r["batch"].as_u64());
    let all: Vec<_> = results.iter().map(key).collect();
    let mut expected = Vec::new();
    for depth in [0, 300] {
        for (test, batch) in [("pp8", 1), ("pp16", 1), ("tg4", 1), ("tg4", 3)] {
            expected.push((test.to_owned(), Some(depth), Some(batch)));
        }
    }
    assert_eq!(all, expected);

    let gguf = Gguf::open(&path).unwrap();
    let output = if gguf.tensor("output.weight").is_some() { "output.weight" } else { "token_embd.weight" };
    let read = gguf.tensors().iter().filter(|t| t.name.starts_with("blk.") || t.name == output);
    let weights: u64 = read.map(|t| t.bytes).sum();
    let count = |key: &str| gguf.required_u64(key).unwrap();
    let head_dim = count("llama.embedding_length") / count("llama.attention.head_count");
    // Keys and values of all layers in half precision, heads filled up to whole lanes.
    let kv =
        2 * 2 * count("llama.block_count") * count("llama.attention.head_count_kv") * head_dim.next_multiple_of(16);
    for result in results {
        let number = |name: &str| result[name].as_f64().unwrap();
        assert_eq!(result["type"], "Q8_0");
        for name in ["tokens_per_second", "limit_tokens_per_second", "share_of_limit"] {
            assert!(number(name) > 0.0, "{name}");
        }
        assert!(number("min_tokens_per_second") <= number("tokens_per_second"));
        assert!(number("tokens_per_second") <= number("max_tokens_per_second"));
        if cfg!(target_os = "linux") {
            assert!(number("peak_rss_bytes") > gguf.file_bytes() as f64);
        }
        let (depth, batch) = (number("depth"), number("batch"));
        let test = result["test"].as_str().unwrap();
        let (tokens, attended) = match test.strip_prefix("pp") {
            // One pass: all its tokens, and what was there before, once.
            Some(n) => (n.parse().unwrap(), depth + n.parse::<f64>().unwrap()),
            // The mean of four passes over depth + 1 to depth + 4 tokens.
            None => (batch, batch * (depth + 2.5)),
        };
        let expected = (weights as f64 + kv as f64 * attended) / tokens;
        assert!((number("bytes_per_token") / expected - 1.0).abs() < 1e-9, "{test} at {depth}, batch {batch}");
    }

    let args = ["-m", file, "-p", "8", "-n", "1", "-r", "1"];
    let csv = ok(&[&args[..], &["--csv"]].concat());
    let fields: Vec<_> = results[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(csv.lines().next().unwrap(), fields.join(","));
    assert_eq!(csv.lines().count(), 1 + 2);
    assert!(csv.lines().all(|line| line.split(',').count() == fields.len()));
    assert!(ok(&args).lines().any(|line| line.contains("| Q8_0 | pp8  |")));
}

#[test]
fn lengths_of_zero_are_no_tests() {
    let (_dir, path) = model();
    let json = ok(&["-m", path.to_str().unwrap(), "-p", "0", "-n", "0", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["results"], Value::Array(Vec::new()));
    assert!(json["machine"]["read_bytes_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn bad_arguments_are_said_clearly() {
    for (args, code, text) in [
        (&["--synthetic", "2b"][..], 2, "there is no shape \"2b\"; choose one of 1b, 3b, 8b, 70b, 405b"),
        (&["--synthetic", "1b", "-t", "q4_k,q9"], 2, "there is no type \"q9\""),
        (&["--synthetic", "1b", "-t", "iq2_xs"], 2, "exists in ggml, but Strata cannot write it"),
        (&["--synthetic", "1b", "--layers", "0"], 2, "--layers"),
        (&["--synthetic", "1b", "-m", "a.gguf"], 2, "cannot be used with"),
        (&["-m", "a.gguf", "--layers", "1"], 2, "cannot be used with"),
        (&["--layers", "1"], 2, "--synthetic"),
        (&["-m", "a.gguf", "-p", "many"], 2, "-p"),
        (&["-m", "a.gguf", "--batch", "0"], 2, "--batch"),
        (&["-m", "a.gguf", "-r", "0"], 2, "-r"),
        (&["-m", "a.gguf", "--json", "--csv"], 2, "cannot be used with"),
        (&["-m", "no/such.gguf"], 1, "no/such.gguf"),
        (&["--synthetic", "1b", "--layers", "1", "--dir", "no/such"], 1, "no/such"),
    ] {
        let output = bench(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(text), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

/// Refused before anything is measured.
#[test]
#[cfg(target_os = "linux")]
fn more_than_memory_holds_is_refused() {
    let (_dir, path) = model();
    let output = bench(&["-m", path.to_str().unwrap(), "-p", "0", "-n", "1", "-d", "4000000000", "--batch", "1024"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("choose a smaller -p, -n, -d or --batch"), "{said}");
}

/// A damaged model has no result: exit code 1, nothing on stdout, and the tensor by name.
#[test]
fn no_command_makes_a_result_of_weights_that_are_not_finite() {
    let (dir, path) = model();
    let (file, text) = (path.to_str().unwrap(), dir.path().join("text"));
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(50)).unwrap();
    let (text, matrix) = (text.to_str().unwrap(), dir.path().join("im.gguf"));
    for (name, row) in [("blk.0.attn_q.weight", 0), ("blk.4.ffn_down.weight", 7), ("output_norm.weight", 0)] {
        let gguf = Gguf::open(&path).unwrap();
        let tensor = gguf.tensor(name).unwrap();
        let at = (tensor.offset + tensor.bytes / tensor.rows() * row) as usize;
        drop(gguf);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        // NaN in half and in single precision.
        damaged[at..at + 4].copy_from_slice(&[0, 0x7e, 0xc0, 0x7f]);
        std::fs::write(&path, damaged).unwrap();
        for args in [
            &["bench", "-p", "8", "-n", "2", "-r", "1", "-m", file, "--json"][..],
            &["run", "-p", "The", "-n", "3", "-m", file, "--json"],
            &["perplexity", "-c", "32", "-f", text, "-m", file, "--json"],
            &["calibrate", "-c", "32", "-f", text, "-m", file, "-o", matrix.to_str().unwrap(), "--json"],
        ] {
            let output = Command::new(env!("CARGO_BIN_EXE_strata")).args(args).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
            assert!(output.stdout.is_empty() && !matrix.exists(), "{args:?}");
            for words in [file, name, &format!("row {row}, column "), "damaged"] {
                assert!(said.contains(words), "{args:?}: {words:?} is not in: {said}");
            }
        }
        std::fs::write(&path, whole).unwrap();
    }
}
