//! `--method feedback` on the small model: less divergence in as many bytes, the same bytes however they are made, and what is refused.

#[path = "../common/mod.rs"]
mod common;

use common::calibrated::{self, killed_until_done, ok, texts};
use common::checkpoint;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

fn strata(dir: &TempDir, args: &[&str]) -> Command {
    calibrated::strata(env!("CARGO_BIN_EXE_strata"), dir, args)
}

/// A conversion with feedback on so many chunks.
fn feedback(dir: &TempDir, ty: &str, out: &str, chunks: &str, more: &[&str]) -> Command {
    // The embedding, which gives the logits too, is left as it is: only the layers differ.
    let args = ["-t", ty, "--method", "feedback", "--token-embedding-type", "bf16"];
    calibrated::calibrated(env!("CARGO_BIN_EXE_strata"), dir, out, chunks, &[&args[..], more].concat())
}

#[test]
fn it_diverges_less_in_as_many_bytes() {
    let (dir, source) = (texts(), checkpoint());
    let source = source.to_str().unwrap();
    ok(&mut strata(
        &dir,
        &["calibrate", "-m", source, "-f", "learn.txt", "-c", "128", "--chunks", "40", "-o", "im.gguf"],
    ));
    let types = ["-t", "q4_0", "-t", "q4_k_m", "-t", "q8_0"];
    let plain = ["-o", "plain-{type}.gguf", "--imatrix", "im.gguf", "--token-embedding-type", "bf16"];
    ok(&mut strata(&dir, &[&["convert", source], &plain[..], &types].concat()));
    ok(&mut feedback(&dir, "q4_0", "feedback-{type}.gguf", "40", &types[2..]));
    ok(&mut feedback(&dir, "q4_0", "propagated-{type}.gguf", "40", &[&types[2..], &["--propagate"]].concat()));
    let better = ["Q4_0", "Q4_K_M", "Q8_0"].map(|ty| ["feedback", "propagated"].map(|how| (ty, how)));
    let pairs = better.as_flattened().iter().map(|(ty, how)| ["plain", how].map(|how| format!("{how}-{ty}.gguf")));
    let pairs: Vec<_> = pairs.collect();
    let files: std::collections::BTreeSet<&str> = pairs.as_flattened().iter().map(String::as_str).collect();
    let args = ["compare", source, "-f", "judge.txt", "-c", "128", "--chunks", "12", "--weights-only", "--json"];
    let files: Vec<&str> = args.into_iter().chain(files).collect();
    let json: Value = serde_json::from_slice(&ok(&mut strata(&dir, &files)).stdout).unwrap();
    let mean = |file: &String| {
        let of = json["candidates"].as_array().unwrap().iter().find(|candidate| candidate["file"] == **file);
        of.unwrap()["mean_kld"].as_f64().unwrap()
    };
    let tensors = |file: &String| {
        let gguf = strata::gguf::Gguf::open(dir.path().join(file)).unwrap();
        gguf.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.ty, tensor.bytes)).collect::<Vec<_>>()
    };
    for [plain, better] in &pairs {
        let [of_plain, of_better] = [plain, better].map(mean);
        assert!(of_better < 0.85 * of_plain, "{better}: {of_better} of {of_plain}");
        assert!(tensors(better) == tensors(plain), "{better}: the same types and bytes");
    }
}

#[test]
fn the_same_bytes_on_any_processor_and_within_any_budget() {
    let dir = texts();
    for more in [&[][..], &["--propagate"]] {
        let first = dir.path().join("first.gguf");
        ok(&mut feedback(&dir, "q4_k_m", "first.gguf", "3", more));
        let expected = fs::read(&first).unwrap();
        let scalar = Some(("STRATA_ISA", "scalar"));
        for (variable, also) in
            [(None, &["--threads", "1"][..]), (scalar, &["--threads", "3"]), (None, &["--ram", "200M"])]
        {
            let mut command = feedback(&dir, "q4_k_m", "again.gguf", "3", &[more, also].concat());
            ok(command.envs(variable));
            let again = dir.path().join("again.gguf");
            assert!(fs::read(&again).unwrap() == expected, "{more:?} {also:?}");
            fs::remove_file(again).unwrap();
        }
        fs::remove_file(first).unwrap();
    }
}

#[test]
fn killed_at_any_moment_it_ends_in_the_same_bytes() {
    let dir = texts();
    let run = |out: &str| feedback(&dir, "q4_0", out, "12", &["--propagate"]);
    ok(&mut run("whole.gguf"));
    let (whole, killed) = (dir.path().join("whole.gguf"), dir.path().join("killed.gguf"));
    killed_until_done(|| run("killed.gguf"), || dir.path().join("killed.gguf.partial").exists());
    assert!(fs::read(whole).unwrap() == fs::read(killed).unwrap());
}

#[test]
fn a_text_of_more_weight_is_what_codes_are_made_for() {
    let (dir, source) = (texts(), checkpoint());
    let more = ["-t", "q4_0", "--method", "feedback", "--calibration", "judge.txt", "--token-embedding-type", "bf16"];
    for (out, weights) in [("learn.gguf", "1000,1"), ("judge.gguf", "1,1000")] {
        let weighted = [&more[..], &["--calibration-weights", weights]].concat();
        ok(&mut calibrated::calibrated(env!("CARGO_BIN_EXE_strata"), &dir, out, "12", &weighted));
    }
    let kld = |text: &str| {
        let args = ["compare", source.to_str().unwrap(), "learn.gguf", "judge.gguf", "-f", text, "-c", "128"];
        let more = ["--chunks", "12", "--weights-only", "--json"];
        let json: Value = serde_json::from_slice(&ok(&mut strata(&dir, &[&args[..], &more].concat())).stdout).unwrap();
        [0, 1].map(|i| json["candidates"][i]["mean_kld"].as_f64().unwrap())
    };
    let [learn, judge] = ["learn.txt", "judge.txt"].map(kld);
    assert!(learn[0] < learn[1] && judge[1] < judge[0], "{learn:?} {judge:?}");
}

/// A copy of the small model in the folder, with other weights: `change` gets the header of its safetensors file, and the data.
fn changed(dir: &TempDir, name: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> PathBuf {
    let to = dir.path().join(name);
    fs::create_dir(&to).unwrap();
    for file in fs::read_dir(checkpoint()).unwrap().map(|entry| entry.unwrap().path()) {
        // Written, not copied: a copy would be as read-only as the original.
        fs::write(to.join(file.file_name().unwrap()), fs::read(&file).unwrap()).unwrap();
    }
    // Of a safetensors file: the length of the header, the header, the data.
    let file = fs::read(to.join("model.safetensors")).unwrap();
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_vec());
    change(&mut header, &mut data);
    let header = header.to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(to.join("model.safetensors"), file).unwrap();
    to
}

/// Where the data of a tensor begin and end.
fn place(tensor: &Value) -> std::ops::Range<usize> {
    let [start, end] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap() as usize);
    start..end
}

/// The small model with an output matrix of its own, equal to the embedding.
fn untied(dir: &TempDir) -> String {
    let to = changed(dir, "untied", |header, data| {
        let mut output = header["model.embed_tokens.weight"].clone();
        let embedding = place(&output);
        output["data_offsets"] = serde_json::json!([data.len(), data.len() + embedding.len()]);
        header["lm_head.weight"] = output;
        data.extend_from_within(embedding);
    });
    let mut config: Value = serde_json::from_slice(&fs::read(to.join("config.json")).unwrap()).unwrap();
    config["tie_word_embeddings"] = false.into();
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    to.to_str().unwrap().to_owned()
}

#[test]
fn a_value_too_large_for_the_type_is_an_error() {
    let dir = texts();
    let name = "model.layers.1.mlp.down_proj.weight";
    let source = changed(&dir, "huge", |header, data| {
        assert_eq!(header[name]["dtype"], "BF16");
        let first = place(&header[name]).start;
        data[first..first + 2].copy_from_slice(&[0x6e, 0x4e]); // 10^9
    });
    let args = ["convert", source.to_str().unwrap(), "-t", "q4_0", "-o", "m.gguf", "--method", "feedback"];
    let more = ["--calibration", "learn.txt", "--calibration-context", "128", "--calibration-chunks", "3"];
    for how in [&[][..], &["--propagate", "--restart"]] {
        let output = strata(&dir, &[&args[..], &more, how].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for words in ["blk.1.ffn_down.weight", "row 0, columns from 0 on: no finite scale of Q4_0", "bf16"] {
            assert!(said.contains(words), "{said}");
        }
        assert!(!dir.path().join("m.gguf").exists());
    }
}

#[test]
fn an_output_matrix_of_its_own_is_rounded_with_feedback_too() {
    let dir = texts();
    let source = untied(&dir);
    // All but the output matrix stays as it is.
    let kept = ["-t", "bf16", "--output-tensor-type", "q4_0"];
    let convert = |out: &str, more: &[&str]| {
        ok(&mut strata(&dir, &[&["convert", source.as_str(), "-o", out], &kept[..], more].concat()));
    };
    let calibration = ["--method", "feedback", "--calibration", "learn.txt", "--calibration-context", "128"];
    let few = ["--calibration-chunks", "24"];
    convert("plain.gguf", &[]);
    convert("feedback.gguf", &[&calibration[..], &few].concat());
    convert("propagated.gguf", &[&calibration[..], &few, &["--propagate"]].concat());
    let args = ["compare", source.as_str(), "plain.gguf", "feedback.gguf", "propagated.gguf", "-f", "judge.txt"];
    let more = ["-c", "128", "--chunks", "12", "--weights-only", "--json"];
    let json: Value = serde_json::from_slice(&ok(&mut strata(&dir, &[&args[..], &more].concat())).stdout).unwrap();
    let [plain, fed_back, propagated] = [0, 1, 2].map(|i| json["candidates"][i]["mean_kld"].as_f64().unwrap());
    assert!(fed_back < 0.8 * plain && propagated < 0.8 * plain, "{fed_back} and {propagated} of {plain}");
}

#[test]
fn what_cannot_be_is_said() {
    let (dir, source) = (texts(), checkpoint());
    let source = source.to_str().unwrap();
    let text: PathBuf = dir.path().join("short.txt");
    fs::write(&text, "Too short.").unwrap();
    for (more, words) in [
        (&["--method", "feedback"][..], "--method feedback needs text"),
        (&["--calibration", "learn.txt"], "add one"),
        (&["--propagate"], "add that"),
        (&["--calibration-weights", "1"], "add that"),
        (
            &["--method", "feedback", "--calibration", "learn.txt", "--calibration-weights", "1,2"],
            "2 numbers for 1 texts",
        ),
        (&["--method", "feedback", "--calibration", "learn.txt", "--calibration-weights", "NaN"], "NaN is not between"),
        (&["--method", "feedback", "--calibration", "short.txt"], "short.txt"),
        (&["--method", "feedback", "--calibration", "none.txt"], "none.txt"),
    ] {
        let output =
            strata(&dir, &[&["convert", source, "-t", "q4_0", "-o", "m.gguf"], more].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{more:?}: {said}");
        assert!(said.contains(words), "{more:?}: {said}");
    }
    assert!(!dir.path().join("m.gguf").exists());
}

#[test]
fn several_texts_are_one_calibration() {
    let (dir, source) = (texts(), checkpoint());
    let calibrate = |more: &[&str], out: &str| {
        let args = ["calibrate", "-m", source.to_str().unwrap(), "-c", "128", "--chunks", "3", "-o", out];
        ok(&mut strata(&dir, &[&args[..], more].concat()));
        strata::imatrix::Imatrix::open(dir.path().join(out)).unwrap()
    };
    calibrate(&["-f", "learn.txt"], "first.gguf");
    let merged = calibrate(&["-f", "judge.txt", "--in-file", "first.gguf"], "merged.gguf");
    let both = calibrate(&["-f", "learn.txt", "-f", "judge.txt"], "both.gguf");
    assert_eq!(both.datasets, merged.datasets);
    assert_eq!((both.chunk_count, both.chunk_size), (6, Some(128)));
    for (name, entry) in &both.entries {
        assert_eq!(entry.counts, merged.entries[name].counts, "{name}");
        for (a, b) in entry.in_sum2.iter().zip(&merged.entries[name].in_sum2) {
            assert!((a - b).abs() <= 1e-4 * b, "{name}: {a} {b}");
        }
    }
    let talk = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello there\"}]}\n";
    fs::write(dir.path().join("talk.jsonl"), talk.repeat(2)).unwrap();
    let talks = calibrate(&["--chat", "talk.jsonl"], "talks.gguf");
    let tokens: Vec<u64> = talks.entries.values().map(|entry| entry.counts[0]).collect();
    assert!(tokens.iter().all(|&n| n == tokens[0] && n > 8 && n % 2 == 0), "{tokens:?}");
}
