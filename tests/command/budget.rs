//! The command keeps the budget that it is given: the memory that the kernel saw, the bytes that it read, the same tokens; and what
//! `strata plan` says beforehand is what `strata run` does.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use strata::progress::Quiet;
use strata::recipe::{Mix, Recipe};
use strata::synthetic::{Preset, Synthetic};
use tempfile::TempDir;

/// A model of 100 MB in layers, without a vocabulary.
fn model(dir: &TempDir) -> PathBuf {
    let shape = Preset::llama_3("test", 8, (1024, 2816), (16, 8), false);
    let recipe = Recipe::new(Mix::from_name("q8_0").unwrap());
    let path = dir.path().join("model.gguf");
    Synthetic { preset: shape.with_vocab(2048), recipe, seed: 3 }.write(&path, &Quiet).unwrap();
    path
}

fn strata(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(args)
        .args(["--threads", "2"])
        .env("STRATA_CACHE_DISK", "0")
        .output()
        .unwrap()
}

/// What `strata run --json` says of three tokens after `prompt`.
fn run(model: &Path, prompt: &str, tokens: &str, more: &[&str]) -> Value {
    let args = ["run", "-m", model.to_str().unwrap(), "--tokens", prompt, "-n", tokens, "--temp", "0", "--json"];
    let output = strata(&[&args, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_budget_is_kept_and_the_tokens_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(&dir);
    let resident = run(&model, "1,2,3", "4", &[]);
    assert_eq!(resident["streamed_bytes_per_pass"], 0);
    for budget in [63_000_000u64, 80_000_000, 105_000_000] {
        for reader in ["auto", "pread", "buffered"] {
            let streamed = run(&model, "1,2,3", "4", &["--ram", &budget.to_string(), "--reader", reader]);
            assert_eq!(streamed["tokens"], resident["tokens"]);
            let peak = streamed["peak_rss_bytes"].as_u64().unwrap();
            assert!(peak <= budget + budget / 100, "{peak} of {budget} by {reader}");
            let share = streamed["streamed_bytes_per_pass"].as_u64().unwrap() as f64 / 100e6;
            assert!(share > (112e6 - budget as f64) / 100e6 && share < 0.95, "{share} of the layers at {budget}");
        }
    }
}

#[test]
fn a_long_prompt_costs_one_pass_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(&dir);
    let prompt: Vec<String> = (0..512).map(|i| (i * 37 % 2048).to_string()).collect();
    let said = run(&model, &prompt.join(","), "1", &["--ram", "110M"]);
    let number = |key: &str| said[key].as_u64().unwrap();
    let read = number("bytes_read") - number("bytes_read_before_prompt");
    // Each embedding row is a page or two, once.
    let rows = 512 * 2 * 4096;
    assert!(read <= number("streamed_bytes_per_pass") * 102 / 100 + rows, "{said}");
    assert!(number("peak_rss_bytes") <= 111_100_000, "{said}");
}

#[test]
fn a_plan_is_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(&dir);
    let rates = ["--disk", "2G", "--memory-bandwidth", "20G", "--macs", "100G", "--json"];
    let args = ["plan", "-m", model.to_str().unwrap(), "-c", "7", "-p", "3", "--ram", "60M"];
    let output = strata(&[&args[..], &rates].concat());
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in [
        "layers",
        "budget_bytes",
        "pinned_bytes",
        "streamed_bytes_per_pass",
        "ring_bytes",
        "kv_bytes",
        "scratch_bytes",
        "seconds_per_token",
        "seconds_to_first_token",
    ] {
        assert!(planned[key].is_number(), "{key}");
    }
    let streamed = planned["streamed_bytes_per_pass"].as_f64().unwrap();
    assert_eq!((planned["layers"].as_u64(), planned["bound_by"].as_str()), (Some(8), Some("disk")));
    // That the seconds are those of a drive of this rate is in tests/predicted.rs.
    // What the two programs have in memory before they plan differs a little.
    let said = run(&model, "1,2,3", "4", &["--ram", "60M"]);
    let ran = said["streamed_bytes_per_pass"].as_f64().unwrap();
    assert!((ran / streamed - 1.0).abs() < 0.05, "{ran} instead of {streamed}");
}

#[test]
fn the_405b_is_known_before_it_is_there() {
    let rates = ["--disk", "7G", "--memory-bandwidth", "60G", "--macs", "500G", "--json"];
    let args = ["plan", "--shape", "405b", "--type", "q4_k_m", "--ram", "128G"];
    let planned: Value = serde_json::from_slice(&strata(&[&args[..], &rates].concat()).stdout).unwrap();
    let file = planned["file_bytes"].as_f64().unwrap();
    assert!((file / 243.1e9 - 1.0).abs() < 0.002, "{file}");
    let token = planned["seconds_per_token"].as_f64().unwrap();
    assert!((16.0..18.0).contains(&token), "{token}");
    let used: f64 = ["pinned_bytes", "ring_bytes", "kv_bytes", "scratch_bytes", "program_bytes"]
        .iter()
        .map(|key| planned[key].as_f64().unwrap())
        .sum();
    assert!(used <= 128e9 && used > 127e9, "{used}");
}

#[test]
fn nonsense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(&dir);
    let model = model.to_str().unwrap();
    for (args, code, words) in [
        (&["run", "-m", model, "--tokens", "1", "-n", "1", "--ram", "0"][..], 2, "is not a valid size"),
        (&["run", "-m", model, "--tokens", "1", "-n", "1", "--ram", "64GX"], 2, "is not a valid size"),
        (&["run", "-m", model, "--tokens", "1", "-n", "1", "--ram", "20M"], 1, "is too small"),
        (&["run", "-m", model, "--tokens", "1", "-n", "1", "-c", "100000", "--ram", "60M"], 1, "smaller context (-c)"),
        (&["run", "-m", model, "--tokens", "1", "-n", "1", "--reader", "fast"], 2, "auto, uring, pread, buffered"),
        (&["plan", "--shape", "405b", "--type", "q4_k_m", "--disk", "80%"], 2, "is not a valid size"),
        (&["plan", "--shape", "405b"], 2, "--type"),
        (&["plan", "--shape", "405b", "--type", "q4_k_m", "--ram", "128G"], 1, "--disk 7G"),
        (&["plan", "--shape", "7b", "--type", "q4_k_m", "--disk", "7G"], 1, "8b"),
    ] {
        let output = strata(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words) && output.stdout.is_empty(), "{args:?}: {said}");
    }
}
