//! `strata compare --tensors` on the small model: what programs are promised, and what is refused.

#[path = "../common/mod.rs"]
mod common;

use common::checkpoint;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Two chunks of 64 tokens and one candidate, with the state in `dir`.
fn command(dir: &Path, more: &[&str]) -> Command {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/data/valid.txt");
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.arg("compare").arg(checkpoint()).args(["q4_k_m", "-c", "64", "--chunks", "2", "-f"]).arg(text);
    command.arg("--state").arg(dir).args(more);
    command
}

fn strata(more: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    command(dir.path(), more).output().unwrap()
}

fn ok(more: &[&str]) -> String {
    let output = strata(more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn programs_get_what_they_are_promised() {
    let json: Value = serde_json::from_str(&ok(&["--tensors", "--verify-tensors", "2", "--json"])).unwrap();
    let of = &json["candidates"][0]["tensors"];
    for key in ["measured_kld", "sum_kld", "alone_kld", "sampling_error"] {
        assert!(of[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let (layers, tensors) = (of["layers"].as_array().unwrap(), of["tensors"].as_array().unwrap());
    assert_eq!((layers.len(), tensors.len()), (6, 6 * 7 + 1));
    assert!(layers[5]["local"].is_number() && layers[5]["accumulated"].is_number() && layers[5]["layer"] == 5);
    for tensor in tensors {
        assert!(tensor["name"].is_string() && tensor["role"].is_string() && tensor["type"].is_string());
        for key in ["bytes", "weight_error", "output_error", "alone_kld"] {
            assert!(tensor[key].as_f64().unwrap() > 0.0, "{tensor} {key}");
        }
        assert!(tensor["kld"].is_number());
    }
    assert!(tensors[1]["verified"].is_number() && tensors[2]["verified"].is_null());
    assert!(tensors.iter().any(|tensor| tensor["name"] == "token_embd.weight" && tensor["layer"].is_null()));
    let upgrade = &of["upgrades"][0];
    assert!(upgrade["saves_kld"].as_f64().unwrap() > 0.0 && upgrade["extra_bytes"].as_u64().unwrap() > 0);
    assert!(upgrade["from"] != upgrade["to"] && upgrade["name"].is_string());
}

#[test]
fn people_get_tables_and_what_cannot_be_is_refused() {
    let csv = ok(&["--tensors", "--csv"]);
    assert_eq!((csv.lines().count(), csv.lines().next().unwrap().split(',').count()), (1 + 43, 11));
    let text = ok(&["--tensors", "--markdown"]);
    for words in
        ["| q4_k_m", "shares of all tensors", "weight error", "accumulated error", "with 1 % more bytes:", "28 more"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    for more in [&["--tensors", "--shard", "1/2", "-o", "part"][..], &["--verify-tensors", "2"]] {
        let output = strata(more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--tensors"), "{more:?}: {said}");
    }
}

#[test]
fn killed_again_and_again_it_ends_in_the_same_figures() {
    let more = ["--tensors", "--verify-tensors", "16", "--json"];
    let dir = tempfile::tempdir().unwrap();
    // The name and the bytes of the file that begins so.
    let state = |kind: &str| -> Option<Vec<u8>> {
        let mut files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(kind) && name.ends_with(".state")
        })?;
        std::fs::read(file).ok()
    };
    let whole = command(dir.path(), &more).output().unwrap();
    assert!(whole.status.success() && std::fs::read_dir(dir.path()).unwrap().count() == 0);
    // Each run is killed when it has saved more than the one before: first the comparison, then the attribution.
    let mut kills = 0;
    for kind in ["strata-compare-", "strata-tensors-", "strata-tensors-", "strata-tensors-"] {
        let before = state(kind);
        let mut child = command(dir.path(), &more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while state(kind) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        // The result of the comparison stays until the tensors are done too.
        assert!(state("strata-compare-").is_some() || state("strata-tensors-").is_none(), "{kind}");
    }
    assert!(kills >= 2, "{kills} kills");
    let resumed = command(dir.path(), &more).output().unwrap();
    assert!(resumed.status.success() && resumed.stdout == whole.stdout);
    assert!(state("strata-compare-").is_none() && state("strata-tensors-").is_none());
}
