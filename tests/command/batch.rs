//! `strata batch`: every request has its answer once, whatever is answered beside it, however often the run is killed, and in whichever
//! shard it is.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-rustdoc"))
}

fn command(input: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.arg("batch").arg(input).arg("-m").arg(model()).arg("-o").arg(output).args(["--threads", "2"]).args(more);
    command.env("STRATA_CACHE_DISK", "0").stdin(Stdio::null());
    command
}

fn run(input: &Path, output: &Path, more: &[&str]) -> Output {
    command(input, output, more).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Requests of all lengths, each with its own settings; the last is one that no model can answer.
fn requests(n: usize) -> Vec<Value> {
    let completion = |i: usize| {
        json!({"custom_id": format!("request {i}"), "method": "POST", "url": "/v1/completions", "body": {
            "prompt": "Returns the number of elements in the ".repeat(i % 7 + 1), "max_tokens": 3 + 5 * (i % 11),
            "temperature": (i % 3) as f64 / 2.0, "model": "whatever",
        }})
    };
    let mut requests: Vec<_> = (0..n).map(completion).collect();
    requests.push(json!({"custom_id": "wrong", "method": "POST", "url": "/v1/completions", "body": {"prompt": 7}}));
    let embedding = json!({"input": ["An iterator", "A string"]});
    requests.push(json!({"custom_id": "vector", "method": "POST", "url": "/v1/embeddings", "body": embedding}));
    requests
}

fn write(path: &Path, requests: &[Value]) {
    fs::write(path, requests.iter().map(|request| format!("{request}\n")).collect::<String>()).unwrap();
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_result_is_the_same_alone_together_in_shards_and_after_kills() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let requests = requests(40);
    write(&at("in.jsonl"), &requests);
    let whole = run(&at("in.jsonl"), &at("out.jsonl"), &[]);
    assert!(whole.status.success(), "{}", said(&whole));
    assert!(said(&whole).contains("1 of 42 requests were refused"), "{}", said(&whole));
    assert!(!at("out.jsonl.results").exists());
    let results = lines(&at("out.jsonl"));
    for (request, result) in requests.iter().zip(&results) {
        assert_eq!(request["custom_id"], result["custom_id"]);
        let status = if request["custom_id"] == "wrong" { 400 } else { 200 };
        assert_eq!(result["response"]["status_code"], status, "{result}");
    }
    assert_eq!(results.len(), requests.len());
    let text = |i: usize| &results[i]["response"]["body"]["choices"][0]["text"];
    assert!(text(0).as_str().unwrap() != text(1).as_str().unwrap());
    assert_eq!(results[41]["response"]["body"]["data"].as_array().unwrap().len(), 2);

    let bytes = fs::read(at("out.jsonl")).unwrap();
    let alone = run(&at("in.jsonl"), &at("alone.jsonl"), &["--slots", "1"]);
    assert!(alone.status.success() && fs::read(at("alone.jsonl")).unwrap() == bytes, "{}", said(&alone));

    // Within a budget as small as the model can have: as many slots as it holds, and weights from disk.
    let streamed = run(&at("in.jsonl"), &at("streamed.jsonl"), &["--ram", "84M"]);
    assert!(streamed.status.success() && fs::read(at("streamed.jsonl")).unwrap() == bytes, "{}", said(&streamed));

    let mut parts = Vec::new();
    for i in 1..=3 {
        let name = format!("part{i}.jsonl");
        assert!(run(&at("in.jsonl"), &at(&name), &["--shard", &format!("{i}/3")]).status.success());
        parts.push(fs::read_to_string(at(&name)).unwrap());
    }
    let joined: Vec<_> = parts.iter().map(|part| part.lines().collect::<Vec<_>>()).collect();
    let in_turn: String = (0..requests.len()).map(|i| format!("{}\n", joined[i % 3][i / 3])).collect();
    assert!(in_turn.as_bytes() == bytes);

    // Killed when it has answered a few requests more than before, until it has answered all.
    let kept = at("killed.jsonl.results");
    let count = || fs::read_to_string(&kept).map_or(0, |text| text.matches('\n').count());
    let mut kills = 0;
    loop {
        let before = count();
        let mut child =
            command(&at("in.jsonl"), &at("killed.jsonl"), &["--slots", "3"]).stderr(Stdio::null()).spawn().unwrap();
        while count() < before + 4 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let ended = end(&mut child);
        if ended {
            break;
        }
        kills += 1;
        // As if the last line had been cut.
        if kills == 2 {
            let text = fs::read(&kept).unwrap();
            fs::write(&kept, [&text[..], b"{\"id\": \"batch_req"].concat()).unwrap();
        }
    }
    assert!(kills >= 3, "it was killed {kills} times only");
    assert!(fs::read(at("killed.jsonl")).unwrap() == bytes && !kept.exists());
}

/// Kills a child; true if it had ended well before.
fn end(child: &mut Child) -> bool {
    let ended = child.try_wait().unwrap();
    let _ = child.kill();
    let _ = child.wait();
    // One that failed would fail again, for ever.
    assert!(ended.is_none_or(|status| status.success()));
    ended.is_some()
}

#[test]
fn what_cannot_be_a_batch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let requests = requests(2);
    write(&at("in.jsonl"), &requests);
    // Results of another batch are not mixed with these.
    fs::write(at("out.jsonl.results"), "{\"id\": \"batch_req_0\"}\n").unwrap();
    let output = run(&at("in.jsonl"), &at("out.jsonl"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("another batch"), "{}", said(&output));
    assert_eq!(fs::read_to_string(at("out.jsonl.results")).unwrap(), "{\"id\": \"batch_req_0\"}\n");
    // The output is no input.
    let output = run(&at("in.jsonl"), &at("in.jsonl"), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(lines(&at("in.jsonl")).len(), 4);
    write(&at("twice.jsonl"), &[requests[0].clone(), requests[0].clone()]);
    let output = run(&at("twice.jsonl"), &at("out2.jsonl"), &[]);
    assert!(said(&output).contains("same custom_id") && output.status.code() == Some(1), "{}", said(&output));
    assert_eq!(run(&at("in.jsonl"), &at("o"), &["--shard", "3/2"]).status.code(), Some(2));
}
