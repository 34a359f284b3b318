//! `--size`, `--bpw` and `--recipe` on the small model: the size that was asked for, less divergence than the mix of that size, the same choice
//! however it is made, and what is refused.

#[path = "../common/mod.rs"]
mod common;

use common::calibrated::{self, killed_until_done, ok, texts};
use common::checkpoint;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use strata::GgmlType;
use strata::gguf::Gguf;
use tempfile::TempDir;

fn strata(dir: &TempDir, args: &[&str]) -> Command {
    calibrated::strata(env!("CARGO_BIN_EXE_strata"), dir, args)
}

/// A conversion whose types are chosen on so many chunks.
fn chosen(dir: &TempDir, out: &str, chunks: &str, more: &[&str]) -> Command {
    calibrated::calibrated(env!("CARGO_BIN_EXE_strata"), dir, out, chunks, more)
}

fn types(path: &Path) -> Vec<(String, GgmlType)> {
    Gguf::open(path).unwrap().tensors().iter().map(|tensor| (tensor.name.clone(), tensor.ty)).collect()
}

#[test]
fn as_large_as_asked_for_and_better_than_the_mix() {
    let (dir, source) = (texts(), checkpoint());
    let (source, path) = (source.to_str().unwrap(), |name: &str| dir.path().join(name));
    let importance = ["calibrate", "-m", source, "-f", "learn.txt", "-c", "128", "--chunks", "8", "-o", "im.gguf"];
    ok(&mut strata(&dir, &importance));
    ok(&mut strata(&dir, &["convert", source, "-t", "q4_k_m", "-o", "mix.gguf", "--imatrix", "im.gguf"]));
    let size = fs::metadata(path("mix.gguf")).unwrap().len();
    let asked = size.to_string();
    ok(&mut chosen(&dir, "sized.gguf", "8", &["--size", &asked]));
    let got = fs::metadata(path("sized.gguf")).unwrap().len();
    assert!(got <= size && got > size - size / 200, "{got} of {size}");
    let compare = ["compare", source, "mix.gguf", "sized.gguf", "-f", "judge.txt", "-c", "128", "--weights-only"];
    let output = ok(&mut strata(&dir, &[&compare[..], &["--json"]].concat()));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [mix, sized] = [0, 1].map(|i| json["candidates"][i]["mean_kld"].as_f64().unwrap());
    assert!(sized < 0.95 * mix, "{sized} of {mix}");

    // What is planned is what is made, from the plan as well.
    let plan = ok(&mut chosen(&dir, "plan.gguf", "8", &["--size", &asked, "--plan-only"])).stdout;
    assert!(!path("plan.gguf").exists());
    fs::write(path("recipe.txt"), &plan).unwrap();
    ok(&mut strata(&dir, &["convert", source, "--recipe", "recipe.txt", "-o", "again.gguf", "--imatrix", "im.gguf"]));
    assert_eq!(types(&path("again.gguf")), types(&path("sized.gguf")));
    let gguf = Gguf::open(path("again.gguf")).unwrap();
    let record: Value = serde_json::from_str(gguf.required_str("strata.recipe").unwrap()).unwrap();
    for (name, ty) in types(&path("again.gguf")).into_iter().filter(|(_, ty)| *ty != GgmlType::F32) {
        assert_eq!(record["types"][&name], ty.name());
    }
    let left = |end: &str| {
        fs::read_dir(dir.path()).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|of| of == end))
    };
    assert!(left("gguf") && !left("state"));
}

#[test]
fn the_same_choice_on_any_processor_and_within_any_budget() {
    let dir = texts();
    let plan = |variable: Option<(&str, &str)>, more: &[&str]| {
        let mut command = chosen(&dir, "m.gguf", "2", &[&["--bpw", "4.6", "--plan-only"], more].concat());
        ok(command.envs(variable)).stdout
    };
    let expected = plan(None, &[]);
    assert!(String::from_utf8_lossy(&expected).contains("\ntoken_embd.weight="));
    for (variable, more) in [
        (None, &["--threads", "1"][..]),
        (Some(("STRATA_ISA", "scalar")), &["--threads", "3"]),
        (None, &["--ram", "300M"]),
    ] {
        assert!(plan(variable, more) == expected, "{variable:?} {more:?}");
    }
}

#[test]
fn killed_at_any_moment_it_ends_in_the_same_choice() {
    let dir = texts();
    let plan = || chosen(&dir, "m.gguf", "4", &["--bpw", "4.6", "--plan-only"]);
    let expected = ok(&mut plan()).stdout;
    let state = || {
        fs::read_dir(dir.path())
            .unwrap()
            .any(|entry| entry.unwrap().path().extension().is_some_and(|end| end == "state"))
    };
    assert!(killed_until_done(plan, state).stdout == expected);
    assert!(!state());
}

#[test]
fn bits_per_weight_are_kept_with_feedback_too() {
    let (dir, more) = (texts(), ["--bpw", "4.3", "--method", "feedback", "--json"]);
    let output = ok(&mut chosen(&dir, "m.gguf", "8", &more));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let got = json[0]["bits_per_weight"].as_f64().unwrap();
    assert!(got <= 4.3 && got > 4.27, "{got}");
}

#[test]
fn what_cannot_be_is_said() {
    let (dir, source) = (texts(), checkpoint());
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("other.txt", "file_type=Q4_0\nblk.99.attn_q.weight=Q4_0\n");
    write("none.txt", "no recipe\n");
    let learn = ["--calibration", "learn.txt", "--calibration-context", "128", "--calibration-chunks", "2"];
    let with = |more: &[&'static str]| [&learn[..], more].concat();
    for (args, code, words) in [
        (with(&["--size", "10K"]), 1, "give a larger --size"),
        (with(&["--bpw", "1.5"]), 1, "or more"),
        (with(&["--bpw", "0.5"]), 2, "from 1 to 32"),
        (with(&["--bpw", "4.5", "--size", "1G"]), 2, "cannot be used with"),
        (with(&["--bpw", "4.5", "-t", "q4_0"]), 1, "leave out the type"),
        (vec!["--bpw", "4.5"], 1, "needs text"),
        (vec!["--plan-only"], 1, "add one"),
        (vec!["--recipe", "other.txt"], 1, "blk.99.attn_q.weight"),
        (vec!["--recipe", "none.txt"], 1, "line 1"),
        (vec!["--recipe", "missing.txt"], 1, "missing.txt"),
    ] {
        let output = strata(&dir, &[&["convert", source.to_str().unwrap(), "-o", "m.gguf"], &args[..]].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert!(!dir.path().join("m.gguf").exists());
}
