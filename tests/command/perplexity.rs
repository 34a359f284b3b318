//! `strata perplexity` beside llama-perplexity: base files, their statistics, and tasks. `tests/data/llama_perplexity.sh` made the golden
//! files. And the same tasks in `strata compare`.

#[path = "../common/mod.rs"]
mod common;

use common::{checkpoint, mix, model_file};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn strata(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata")).args(args).output().unwrap()
}

/// Its stdout and stderr, if it went well.
fn ok(args: &[&str]) -> (String, String) {
    let output = strata(args);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{args:?}: {err}");
    (out, err)
}

/// What it said when it failed.
fn failed(args: &[&str], code: i32) -> String {
    let output = strata(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(code) && output.stdout.is_empty(), "{args:?}: {said}");
    said
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/data").join(name)
}

fn path(name: &str) -> String {
    data(name).display().to_string()
}

fn golden(name: &str) -> String {
    fs::read_to_string(data("tiny-rustdoc/llama-perplexity").join(name)).unwrap()
}

const BASE: &str = "tiny-rustdoc/llama-perplexity/base-Q4_0.bin";

/// The words of a line, and its numbers with the size of their last digit.
fn parts(line: &str) -> (String, Vec<(f64, f64)>) {
    let (mut words, mut numbers) = (String::new(), Vec::new());
    for word in line.split_whitespace() {
        match word.trim_end_matches('%').parse::<f64>() {
            Ok(number) => {
                let digits = word.trim_end_matches('%').split_once('.').map_or(0, |(_, digits)| digits.len());
                numbers.push((number, 0.1f64.powi(digits as i32)));
                words += if word.ends_with('%') { " N%" } else { " N" };
            }
            Err(_) => words += &format!(" {word}"),
        }
    }
    (words, numbers)
}

/// The model in F32 computed in F32 by both, on the same base file: line by line the same words, and the same numbers but for rounding.
#[test]
fn the_statistics_of_a_base_file_are_those_of_llama_perplexity() {
    let (_dir, model) = model_file(mix("f32"));
    let (model, base) = (model.display().to_string(), path(BASE));
    let args = ["perplexity", "-m", &model, "--kl-divergence-base", &base, "--kl-divergence"];
    let f32_cache = ["--cache-type-k", "f32", "--cache-type-v", "f32"];
    let (ours, said) = ok(&[&args[..], &f32_cache].concat());
    assert!(said.contains("16 bits"), "{said}");
    let golden = golden("kl-F32.txt");
    let theirs: Vec<&str> = golden.trim_end().lines().skip_while(|line| !line.starts_with("chunk")).collect();
    let ours: Vec<&str> = ours.lines().skip_while(|line| !line.starts_with("chunk")).collect();
    assert_eq!(ours.len(), theirs.len(), "{ours:#?}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        let ((words, a), (their_words, b)) = (parts(ours), parts(theirs));
        assert_eq!(words, their_words);
        for ((a, digit), (b, _)) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1.01 * digit + 2e-5 * b.abs(), "{ours}\n{theirs}");
        }
    }
    let json: Value = serde_json::from_str(&ok(&[&args[..], &f32_cache, &["--json"]].concat()).0).unwrap();
    assert_eq!((json["tokens_scored"].as_u64(), json["chunks"].as_u64()), (Some(105), Some(7)));
    let percentile = |of: &str, p: &str| json[of][p].as_f64().unwrap();
    assert!(percentile("kld_percentiles", "99.9") < percentile("kld_percentiles", "100"));
    assert!(percentile("dp_percentiles", "0.1") > percentile("dp_percentiles", "0"));
    assert!(json["mean_kld"].as_f64().unwrap() > json["se_mean_kld"].as_f64().unwrap());
}

/// Where llama-perplexity has activations of other blocks, figures are near.
#[test]
fn quantized_models_are_near_llama_perplexity() {
    let (_dir, model) = model_file(mix("q8_0"));
    let model = model.display().to_string();
    let args = ["perplexity", "-m", &model, "--kl-divergence-base", &path(BASE), "--kl-divergence"];
    let number = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        parts(line.split_once(':').unwrap().1).1[0].0
    };
    let (ours, theirs) = (ok(&args).0, golden("kl-Q8_0.txt"));
    for (name, share) in
        [("Mean PPL(Q)", 0.003), ("Mean PPL(base)", 1e-6), ("Mean    KLD", 0.03), ("Same top p", 0.003)]
    {
        let (ours, theirs) = (number(&ours, name), number(&theirs, name));
        assert!((ours / theirs - 1.0).abs() <= share, "{name}: {ours} {theirs}");
    }
}

/// What is written is what llama-perplexity would write, but for the rounding of other activations.
#[test]
fn a_base_file_is_written_as_llama_perplexity_writes_it() {
    let (dir, model) = model_file(mix("q4_0"));
    let (model, text) = (model.display().to_string(), path("valid.txt"));
    let file = dir.path().join("base.bin");
    let base = file.display().to_string();
    let args = ["perplexity", "-m", &model, "-f", &text, "-c", "32", "--chunks", "7"];
    let (plain, _) = ok(&args);
    let (with_file, said) = ok(&[&args[..], &["--kl-divergence-base", &base]].concat());
    assert_eq!(plain, with_file);
    assert!(said.contains("16 bits"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    let (ours, theirs) = (fs::read(&file).unwrap(), fs::read(data(BASE)).unwrap());
    let tokens = 20 + 4 * 7 * 32;
    assert_eq!((ours.len(), &ours[..tokens]), (theirs.len(), &theirs[..tokens]));
    let vocab = u32::from_le_bytes(ours[12..16].try_into().unwrap()) as usize;
    let row_bytes = 8 + 2 * vocab.next_multiple_of(2);
    for (ours, theirs) in ours[tokens..].chunks(row_bytes).zip(theirs[tokens..].chunks(row_bytes)) {
        let log_p = |row: &[u8], v: usize| {
            let [scale, lowest] = [0, 4].map(|at| f32::from_le_bytes(row[at..at + 4].try_into().unwrap()));
            scale * f32::from(u16::from_le_bytes([row[8 + 2 * v], row[9 + 2 * v]])) + lowest
        };
        let difference: f32 = (0..vocab).map(|v| (log_p(ours, v).exp() - log_p(theirs, v).exp()).abs()).sum();
        assert!(difference < 0.1, "{difference}");
    }
    // The model beside itself: all that is left is the rounding to 16 bits, and what is cut off.
    let read = ["perplexity", "-m", &model, "--kl-divergence-base", &base, "--kl-divergence", "--json"];
    let json: Value = serde_json::from_str(&ok(&read).0).unwrap();
    assert_eq!(json["same_top"].as_f64(), Some(1.0));
    assert!(json["mean_kld"].as_f64().unwrap().abs() < 1e-5 && json["rms_dp"].as_f64().unwrap() < 1e-4, "{json}");
    // A run that was stopped leaves a part of the file.
    fs::write(&file, &ours[..ours.len() - 7]).unwrap();
    assert!(failed(&read, 1).contains("90 scored tokens are too few"));
    let partly = ok(&[&args[..5], &["-c", "64", "--chunks", "5", "--kl-divergence-base", &base]].concat());
    assert!(partly.0.contains("5 chunks of 64"));
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 7]).unwrap();
    let (out, said) = ok(&read);
    assert!(said.contains("ends after 4 of 5 chunks: the run that wrote it was stopped"), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["tokens_scored"].as_u64(), Some(124));
}

#[test]
fn what_is_no_base_file_is_refused() {
    let (dir, model) = model_file(mix("q8_0"));
    let (model, base) = (model.display().to_string(), path(BASE));
    let file = dir.path().join("f").display().to_string();
    let read = ["perplexity", "-m", &model, "--kl-divergence-base", &file, "--kl-divergence"];
    for (bytes, words) in [(&b"GGUF"[..], "does not begin with _logits_"), (b"", "does not begin with _logits_")] {
        fs::write(&file, bytes).unwrap();
        assert!(failed(&read, 1).contains(words), "{words}");
    }
    let of =
        |more: &[&str]| [&["perplexity", "-m", &model, "--kl-divergence-base", &base][..], more].concat().join("\n");
    for (args, code, words) in [
        (of(&["--kl-divergence", "-c", "64"]), 1, "leave out -c"),
        (of(&["--kl-divergence", "--chunks", "0"]), 1, "--chunks of at least 1"),
        (of(&["--kl-divergence", "--hellaswag"]), 2, "cannot be used with"),
        (of(&[]), 2, "--file"),
    ] {
        let said = failed(&args.split('\n').collect::<Vec<_>>(), code);
        assert!(said.contains(words), "{args}: {said}");
    }
    let text = path("valid.txt");
    let over = ["perplexity", "-m", &model, "-f", &text, "-c", "32", "--chunks", "1", "--kl-divergence-base"];
    assert!(failed(&[&over[..], &[&text]].concat(), 1).contains("is the text itself"));
    assert!(failed(&[&over[..], &[&model]].concat(), 1).contains("is the model itself"));
}

/// The lines of tasks: their numbers.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.split_once('\t').is_some_and(|(number, _)| number.parse::<u32>().is_ok())).collect()
}

/// All answers of two models, of all tasks of each file and of a choice of ten.
#[test]
fn answers_are_those_of_llama_perplexity() {
    for ty in ["F16", "Q4_0"] {
        let (_dir, model) = model_file(mix(&ty.to_lowercase()));
        let model = model.display().to_string();
        for (option, file, name) in [
            ("hellaswag", "hellaswag.txt", "hellaswag"),
            ("winogrande", "winogrande.csv", "winogrande"),
            ("multiple-choice", "multiple_choice.bin", "multiple_choice"),
        ] {
            for ten in [false, true] {
                let (of, file) = (format!("--{option}"), path(&format!("tiny-rustdoc/tasks/{file}")));
                let (at_most, n) = (format!("--{option}-tasks"), ["", "10"][usize::from(ten)]);
                let mut args = vec!["perplexity", "-m", &model, &of, "-f", &file];
                if ten {
                    args.extend([&at_most, "10"]);
                }
                let (out, said) = ok(&args);
                assert_eq!(said.contains("line 16, the last, is left out"), option == "winogrande", "{said}");
                let minus = if ten { "-" } else { "" };
                let golden = golden(&format!("{name}{minus}{n}-{ty}.txt"));
                let (ours, theirs) = (lines(&out), lines(&golden));
                let count = if ten { 10 } else { 16 - usize::from(option == "winogrande") };
                assert_eq!((ours.len(), theirs.len()), (count, count), "{ty} {option}: {out}\n{golden}");
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    let ((_, a), (_, b)) = (parts(ours), parts(theirs));
                    // Winogrande's lines have the scores of both choices.
                    let scores = if option == "winogrande" { 2..4 } else { 0..0 };
                    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                        let near = if scores.contains(&i) { 0.15 } else { 1e-9 };
                        assert!((a.0 - b.0).abs() < near, "{ty} {option}:\n{ours}\n{theirs}");
                    }
                }
            }
        }
    }
}

/// One task file in each format, in one comparison.
#[test]
fn candidates_are_compared_by_their_answers() {
    let (dir, file) = model_file(mix("q4_0"));
    let (reference, file) = (checkpoint().display().to_string(), file.display().to_string());
    let folder = dir.path().display().to_string();
    let [hellaswag, winogrande, multiple] = ["hellaswag.txt", "winogrande.csv", "multiple_choice.bin"]
        .map(|name| path(&format!("tiny-rustdoc/tasks/{name}")));
    let tasks = ["--hellaswag", &hellaswag, "--winogrande", &winogrande, "--multiple-choice", &multiple];
    let all = |more: &[&str]| {
        ok(&[&["compare", &reference, &file, "q2_k", "bf16", "--state", &folder], &tasks[..], more].concat()).0
    };
    let whole = all(&["--json"]);
    let json: Value = serde_json::from_str(&whole).unwrap();
    for (i, (option, path)) in
        [("--hellaswag", &hellaswag), ("--winogrande", &winogrande), ("--multiple-choice", &multiple)]
            .iter()
            .enumerate()
    {
        let section = &json["tasks"][i];
        let [q4_0, q2_k, bf16] = [0, 1, 2].map(|c| &section["candidates"][c]);
        // One model in passes answers as several do in lock step.
        for (model, answers) in [(&reference, &section["reference"]), (&file, q4_0)] {
            let alone: Value =
                serde_json::from_str(&ok(&["perplexity", "-m", model, option, "-f", path, "--json"]).0).unwrap();
            assert_eq!(alone["accuracy"], answers["accuracy"]["value"]);
            let alone = alone["answers"].as_array().unwrap().iter().map(|task| task["answer"].clone());
            assert_eq!(Value::Array(alone.collect()), answers["answers"], "{option}");
        }
        // The checkpoint is BF16.
        assert_eq!((bf16["changed"]["value"].as_f64(), &bf16["accuracy_change"]["value"]), (Some(0.0), &0.0.into()));
        let n = section["tasks"].as_f64().unwrap();
        let count = |key: &str| q2_k[key].as_f64().unwrap();
        let [accuracy, before] = [q2_k, &section["reference"]].map(|of| of["accuracy"]["value"].as_f64().unwrap());
        assert!((accuracy - before - (count("wrong_to_right") - count("right_to_wrong")) / n).abs() < 1e-12);
        let changed = &q2_k["changed"];
        assert!(changed["value"].as_f64().unwrap() * n + 1e-9 > count("wrong_to_right") + count("right_to_wrong"));
        assert!(
            changed["low"].as_f64() <= changed["value"].as_f64()
                && changed["value"].as_f64() <= changed["high"].as_f64()
        );
    }
    let changed = json["tasks"].as_array().unwrap().iter().map(|of| of["candidates"][1]["changed"]["value"].as_f64());
    assert!(changed.flatten().sum::<f64>() > 0.0, "two bits change no answer");
    let part = |i: usize| {
        let (shard, result) = (format!("{i}/3"), dir.path().join(format!("part{i}")).display().to_string());
        assert!(all(&["--shard", &shard, "-o", &result]).is_empty());
        result
    };
    let [a, b, c] = [1, 2, 3].map(part);
    assert_eq!(ok(&["compare", "--merge", &c, &a, &b, "--json"]).0, whole);
    assert!(failed(&["compare", "--merge", &a, &b], 1).contains("merge all parts"));
    let table = all(&[]);
    assert!(table.contains("HellaSwag, 16 tasks, as run") && table.contains("right to wrong"), "{table}");
    assert_eq!(all(&["--csv"]).lines().count(), 1 + 3 * 4);
    let text = path("valid.txt");
    let both = ["compare", &reference, "q8_0", "-f", &text, "--hellaswag", &hellaswag];
    assert!(failed(&both, 2).contains("cannot be used with"));
}

#[test]
fn malformed_tasks_are_refused_where_they_are_wrong() {
    let (dir, model) = model_file(mix("q8_0"));
    let (model, file) = (model.display().to_string(), dir.path().join("tasks"));
    let name = file.display().to_string();
    let words_of = |option: &str, bytes: &[u8], more: &[&str]| {
        fs::write(&file, bytes).unwrap();
        failed(&[&["perplexity", "-m", &model, option, "-f", &name], more].concat(), 1)
    };
    let hellaswag = fs::read_to_string(data("tiny-rustdoc/tasks/hellaswag.txt")).unwrap();
    let cut = hellaswag.rsplit_once(' ').unwrap().0;
    for (text, words) in [
        (String::new(), "0 lines"),
        (hellaswag.clone() + "one more\n", "97 lines"),
        (hellaswag.replacen("\n3\n", "\n4\n", 1), "line 2: \"4\" is not the number of an ending"),
        (hellaswag.replacen("\n3\n", "\nx\n", 1), "line 2"),
        (hellaswag.replacen("threads may be forcibly terminated.", "", 1), "line 6: an ending is empty"),
    ] {
        let said = words_of("--hellaswag", text.as_bytes(), &[]);
        assert!(said.contains(words) && said.contains(&name), "{words}: {said}");
    }
    let mut bad = cut.as_bytes().to_vec();
    bad[3] = 0xff;
    assert!(words_of("--hellaswag", &bad, &[]).contains("line 1: is not UTF-8 from its byte 3"));
    assert!(words_of("--hellaswag", hellaswag.as_bytes(), &["-c", "8"]).contains("the context is 8"));
    for (text, words) in [
        ("", "no task"),
        ("0,The _ is,a,b,1\n", "no task"),
        ("0,The _ is,a,b\n\n", "line 1: 3 commas"),
        ("0,The _ is.,a,b,1\n1,\"The _, is,a,b,1\n\n", "line 2: 1 commas"),
        ("0,The gap is.,a,b,1\n\n", "line 1: no _ in the sentence"),
        ("0,The _ is.,a,b,3\n\n", "line 1: the right choice is \"3\""),
    ] {
        assert!(words_of("--winogrande", text.as_bytes(), &[]).contains(words), "{words}");
    }
    let choices = fs::read(data("tiny-rustdoc/tasks/multiple_choice.bin")).unwrap();
    let with = |at: usize, value: u32| {
        let mut bytes = choices.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let first = 4 + 4 * 16;
    let question = u32::from_le_bytes(choices[first..first + 4].try_into().unwrap()) as usize;
    for (bytes, words) in [
        (vec![], "byte 0: the number of tasks"),
        (with(0, 0), "there is no task"),
        (with(0, u32::MAX), "the table of tasks would take 17179869180 bytes"),
        (with(first, u32::MAX), "a question would take 4294967295 bytes"),
        (with(first, 0), "byte"),
        (with(first + 4 + question, 1 << 30), "1073741824 answers"),
        (with(first + 4, u32::MAX), "is not UTF-8 from its byte 0"),
        (choices[..choices.len() - 1].to_vec(), "the labels of answers would take"),
    ] {
        let said = words_of("--multiple-choice", &bytes, &[]);
        assert!(said.contains(words) && said.contains(&name), "{words}: {said}");
    }
    let beyond = words_of("--multiple-choice", &with(4 + 4 * 9, u32::MAX), &["--multiple-choice-tasks", "15"]);
    assert!(beyond.contains("byte 4294967295"), "{beyond}");
}
