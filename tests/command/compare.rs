//! `strata compare` on the small model: what programs are promised, parts that are merged, and what is refused.

#[path = "../common/mod.rs"]
mod common;

use common::{checkpoint, mix, model_file};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn strata(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata")).arg("compare").args(args).output().unwrap()
}

/// Its stdout, if it went well.
fn ok(args: &[&str]) -> String {
    let output = strata(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn valid() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().join("tests/data/valid.txt")
}

/// The arguments for three chunks of 64 tokens, with the state in `dir`.
fn args<'a>(reference: &'a str, candidates: &[&'a str], text: &'a str, dir: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![reference];
    args.extend(candidates);
    args.extend(["-f", text, "-c", "64", "--chunks", "3", "--state", dir]);
    args.extend(more);
    args
}

#[test]
fn json_has_the_promised_fields_and_parts_give_the_whole() {
    let (dir, path) = model_file(mix("q4_0"));
    let (reference, text) = (checkpoint().display().to_string(), valid().display().to_string());
    let (file, folder) = (path.display().to_string(), dir.path().display().to_string());
    let all = |more: &[&str]| ok(&args(&reference, &[&file, "q8_0"], &text, &folder, more));
    let whole = all(&["--json", "--both"]);
    let json: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((json["chunks"].as_u64(), json["tokens_scored"].as_u64()), (Some(3), Some(3 * 31)));
    assert_eq!(
        (json["mode"].as_str(), json["other_modes"][0]["mode"].as_str()),
        (Some("as run"), Some("weights only"))
    );
    for candidate in json["candidates"].as_array().unwrap() {
        for key in ["file", "bytes", "bits_per_weight", "perplexity", "mean_kld", "se_kld", "same_top", "rms_dp"] {
            assert!(!candidate[key].is_null(), "{key}");
        }
        assert!(candidate["kld_percentiles"]["99.9"].as_f64() >= candidate["kld_percentiles"]["50"].as_f64());
        let (low, high) = (&candidate["intervals"]["mean_kld"]["low"], &candidate["intervals"]["mean_kld"]["high"]);
        assert!(low.as_f64() < candidate["mean_kld"].as_f64() && candidate["mean_kld"].as_f64() < high.as_f64());
    }
    let pair = &json["pairs"][0];
    assert!(pair["difference"].as_f64().unwrap() > 0.0 && pair["low"].is_number() && pair["high"].is_number());
    let part = |i: usize| {
        let (shard, result) = (format!("{i}/2"), dir.path().join(format!("part{i}")).display().to_string());
        assert!(all(&["--both", "--shard", &shard, "-o", &result]).is_empty());
        result
    };
    assert_eq!(ok(&["--merge", &part(2), &part(1), "--json"]), whole);
    let markdown = all(&["--markdown"]);
    assert!(
        markdown.contains("KLD") && markdown.contains("99.9 % KLD") && markdown.contains("Same Top P"),
        "{markdown}"
    );
    assert!(all(&[]).contains("q8_0 is better than model.gguf"));
    assert_eq!(all(&["--csv"]).lines().count(), 3);
    // A second text, and a cache of its own.
    let other = dir.path().join("other.txt");
    std::fs::write(&other, std::fs::read_to_string(valid()).unwrap().split_off(20_000)).unwrap();
    let (other, more) = (other.display().to_string(), "q8_0+kv=f16/q8_0");
    let several: Value = serde_json::from_str(&ok(&args(
        &reference,
        &["q8_0", more],
        &text,
        &folder,
        &["-f", &other, "--stride", "32", "--json"],
    )))
    .unwrap();
    assert_eq!((several["chunks"].as_u64(), several["tokens_scored"].as_u64()), (Some(6), Some(6 * 32)));
    let [first, second] = [0, 1].map(|text| several["by_text"][text]["candidates"][0]["mean_kld"].as_f64().unwrap());
    let both = several["candidates"][0]["mean_kld"].as_f64().unwrap();
    assert!(first != second && ((first + second) / 2.0 - both).abs() < 1e-12);
    assert_ne!(several["candidates"][0]["mean_kld"], several["candidates"][1]["mean_kld"]);
    assert_eq!(several["candidates"][1]["name"], more);
    let side_by_side = ok(&args(&reference, &["q8_0"], &text, &folder, &["-f", &other]));
    assert!(side_by_side.contains("by text:") && side_by_side.contains("other.txt"), "{side_by_side}");
}

#[test]
fn conversations_are_scored_beside_texts() {
    let (reference, text) = (checkpoint().display().to_string(), valid().display().to_string());
    let dir = tempfile::tempdir().unwrap();
    let [chats, folder] =
        [dir.path().join("chats.jsonl"), dir.path().to_owned()].map(|path| path.display().to_string());
    let line = r#"{"messages": [{"role": "user", "content": "What is a Vec?"}, {"role": "assistant", "content": "A growable array."}]}"#;
    std::fs::write(&chats, format!("{line}\n{}\n", line.replace("Vec", "String"))).unwrap();
    let json = |more: &[&str]| -> Value {
        let more = [&["--chat", chats.as_str(), "--json"], more].concat();
        serde_json::from_str(&ok(&[&[reference.as_str(), "q4_0", "--state", &folder, "-c", "64"], &more[..]].concat()))
            .unwrap()
    };
    let alone = json(&[]);
    assert_eq!(alone["chunks"], 2);
    let scored = alone["tokens_scored"].as_u64().unwrap();
    assert!((6..40).contains(&scored), "{scored}");
    let both = json(&["-f", &text, "--chunks", "2"]);
    assert_eq!((both["chunks"].as_u64(), both["tokens_scored"].as_u64()), (Some(4), Some(scored + 2 * 31)));
    std::fs::write(&chats, format!("{line}\n{{\n")).unwrap();
    let output = strata(&[&reference, "q4_0", "--chat", &chats]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("chats.jsonl: line 2: is not JSON"), "{said}");
}

#[test]
fn a_page_says_what_the_table_says() {
    let (dir, path) = model_file(mix("q4_0"));
    let (reference, text) = (checkpoint().display().to_string(), valid().display().to_string());
    let hostile = dir.path().join("<script>alert(1)<img src=x>.gguf");
    std::fs::copy(&path, &hostile).unwrap();
    let (file, folder) = (hostile.display().to_string(), dir.path().display().to_string());
    let page = dir.path().join("page.html").display().to_string();
    let json = ok(&args(&reference, &[&file, "q8_0"], &text, &folder, &["--html", &page, "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.matches("<script").count() == 1 && html.contains("&lt;script&gt;alert(1)") && !html.contains("<img"));
    for candidate in json["candidates"].as_array().unwrap() {
        assert!(html.contains(&format!("data-v=\"{}\"", candidate["mean_kld"])), "{candidate}");
    }
    // The tokens that are astray: the worst first, each in its text.
    let source = std::fs::read_to_string(valid()).unwrap();
    for candidate in json["astray"].as_array().unwrap() {
        let tokens = candidate["tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), 20, "{candidate}");
        assert!(tokens.is_sorted_by(|a, b| a["kld"].as_f64() >= b["kld"].as_f64()));
        let around =
            |token: &Value| ["before", "text", "after"].map(|key| token[key].as_str().unwrap().to_owned()).concat();
        // The first token of a chunk is the beginning of a text instead of its own.
        let found = tokens.iter().filter(|token| source.contains(&around(token))).count();
        assert!(found >= 10, "{found}: {}", around(&tokens[0]));
        for token in tokens {
            let top = token["reference"]["top"].as_array().unwrap();
            assert!(top.len() == 5 && top.is_sorted_by(|a, b| a["p"].as_f64() >= b["p"].as_f64()), "{token}");
        }
    }
    // Never over an input.
    let before = std::fs::read(&hostile).unwrap();
    let output = strata(&args(&reference, &[&file], &text, &folder, &["--html", &file]));
    assert!(output.status.code() == Some(1) && std::fs::read(&hostile).unwrap() == before);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (dir, path) = model_file(mix("q4_0"));
    let (reference, text) = (checkpoint().display().to_string(), valid().display().to_string());
    let (file, folder) = (path.display().to_string(), dir.path().display().to_string());
    let empty = dir.path().join("empty").display().to_string();
    std::fs::write(&empty, "").unwrap();
    let part = dir.path().join("part").display().to_string();
    std::fs::write(&part, "STRATACR and so on").unwrap();
    let missing = dir.path().join("missing.gguf").display().to_string();
    let of = |candidates: &[&'static str], more: &[&'static str]| (candidates.to_vec(), more.to_vec());
    for ((candidates, more), code, words) in [
        (of(&["q4_0", "q4_0"], &[]), 1, "given twice"),
        (of(&["q9_z"], &[]), 1, "there is no type"),
        (of(&["q4_k_m+imatrix"], &[]), 1, "--imatrix"),
        (of(&["q2_k_s"], &[]), 1, "importance matrix"),
        (of(&["q4_0+kv=q4_0"], &[]), 1, "no type of a KV cache"),
        (of(&["q4_0"], &["--stride", "65"]), 1, "a window of 64 tokens cannot move by 65"),
        (of(&["q4_0"], &["--shard", "3/2"]), 2, "from 1"),
        (of(&["q4_0"], &["--shard", "1/2"]), 2, "--output"),
        (of(&[], &[]), 2, "CANDIDATE"),
    ] {
        let output = strata(&args(&reference, &candidates, &text, &folder, &more));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{candidates:?} {more:?}: {said}");
        assert!(said.contains(words) && output.stdout.is_empty(), "{candidates:?} {more:?}: {said}");
    }
    for (arguments, words) in [
        (args(&reference, &["q4_0"], &empty, &folder, &[]), "1 tokens and a chunk takes 64"),
        (args(&reference, &[&empty], &text, &folder, &[]), "is empty"),
        (args(&missing, &["q4_0"], &text, &folder, &[]), "missing.gguf"),
        (args(&reference, &["q4_0"], &text, &file, &[]), "is not the state of this comparison"),
        (vec!["--merge", &part], "is not a result of strata compare"),
        // Before hours of work, which this state refuses.
        (args(&reference, &["q4_0"], &text, &file, &["-o", "/dev/null/x"]), "/dev/null"),
        (args(&reference, &["q4_0"], &text, &file, &["--html", &text]), "valid.txt"),
    ] {
        let output = strata(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(1) && said.contains(words) && output.stdout.is_empty(),
            "{arguments:?}: {said}"
        );
    }
}
