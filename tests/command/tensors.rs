//! `strata compare --tensors` on the small model: what programs are promised, and what is refused.

#[path = "../common/mod.rs"]
mod common;

use common::checkpoint;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Two chunks of 64 tokens and one candidate.
fn strata(more: &[&str]) -> Output {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/data/valid.txt");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.arg("compare").arg(checkpoint()).args(["q4_k_m", "-c", "64", "--chunks", "2", "-f"]).arg(text);
    command.arg("--state").arg(dir.path()).args(more).output().unwrap()
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
    for key in ["measured_kld", "sum_kld", "joint_kld", "sampling_error"] {
        assert!(of[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let (layers, tensors) = (of["layers"].as_array().unwrap(), of["tensors"].as_array().unwrap());
    assert_eq!((layers.len(), tensors.len()), (6, 6 * 7 + 1));
    assert!(layers[5]["local"].is_number() && layers[5]["accumulated"].is_number() && layers[5]["layer"] == 5);
    for tensor in tensors {
        assert!(tensor["name"].is_string() && tensor["role"].is_string() && tensor["type"].is_string());
        for key in ["bytes", "weight_error", "output_error", "kld"] {
            assert!(tensor[key].as_f64().unwrap() > 0.0, "{tensor} {key}");
        }
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
    assert_eq!((csv.lines().count(), csv.lines().next().unwrap().split(',').count()), (1 + 43, 10));
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
