//! Conversations at the command line: `strata template`.

#[path = "../common/mod.rs"]
mod common;

use common::checkpoint;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn strata(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails before it reads has closed the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What went to stdout, if it went well.
fn told(args: &[&str], input: &str) -> String {
    let output = strata(args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it said when it failed.
fn failed(args: &[&str], input: &str, code: i32) -> String {
    let output = strata(args, input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(code) && output.stdout.is_empty(), "{args:?}: {said}");
    said
}

/// The conversations of `tests/data/chat_templates.json`, whose texts are of transformers.
#[test]
fn the_rendered_text_is_printed_and_nothing_else() {
    let data: Value = serde_json::from_str(include_str!("../data/chat_templates.json")).unwrap();
    let (folder, model) = (tempfile::tempdir().unwrap(), checkpoint().display().to_string());
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut rendered = [0, 0];
    for (f, family) in data["templates"].as_array().unwrap().iter().enumerate() {
        let template = file("template.jinja", family["template"].as_str().unwrap());
        let conversations =
            data["conversations"].as_array().unwrap().iter().zip(family["rendered"].as_array().unwrap());
        for (i, (conversation, expected)) in conversations.enumerate().filter(|(i, _)| i % 4 == f % 4) {
            let mut kwargs =
                json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"});
            for (name, value) in conversation["variables"].as_object().into_iter().flatten() {
                kwargs[name] = value.clone();
            }
            let kwargs = kwargs.to_string();
            let whole =
                json!({"messages": conversation["messages"], "documents": conversation["documents"]}).to_string();
            let mut args = vec!["template", "-m", &model, "--messages", "-", "--date", "2024-07-26T12:00"];
            args.extend(["--chat-template-file", &template, "--chat-template-kwargs", &kwargs]);
            let tools = file("tools.json", &conversation["tools"].to_string());
            if conversation["tools"].is_array() {
                args.extend(["--tools", &tools]);
            }
            if conversation["add_generation_prompt"] != json!(true) {
                args.push("--no-generation-prompt");
            }
            rendered[usize::from(expected["text"].is_string())] += 1;
            match expected["text"].as_str() {
                Some(text) => assert_eq!(told(&args, &whole), text, "{} {i}", family["name"]),
                None => assert!(failed(&args, &whole, 1).contains("template.jinja: "), "{} {i}", family["name"]),
            }
        }
    }
    assert!(rendered[0] > 2 && rendered[1] > 40, "{rendered:?}");
}

#[test]
fn a_template_is_the_files_or_given_by_name_or_as_text() {
    let model = checkpoint().display().to_string();
    let base = ["template", "-m", &model, "--messages", "-"];
    let hi = r#"[{"role": "user", "content": "Hi"}]"#;
    let with = |more: &[&str]| told(&[&base, more].concat(), hi);
    let own = with(&["--date", "2030-01-31"]);
    assert!(own.contains("Hi<|eot_id|>") && own.ends_with("assistant<|end_header_id|>\n\n"), "{own:?}");
    assert_eq!(with(&["--chat-template", "default", "--date", "2030-01-31"]), own);
    assert_eq!(with(&["--chat-template", "{{ messages[0].content }}!"]), "Hi!");
    let dates = "{{ strftime_now('%Y-%m-%d') }} {{ date_string }}";
    assert_eq!(with(&["--chat-template", dates, "--date", "2030-01-31"]), "2030-01-31 31 Jan 2030");
    assert_eq!(with(&["--chat-template", "{{ date_string is defined }}"]), "False");
    let fails = |more: &[&str], input: &str, code| failed(&[&base, more].concat(), input, code);
    assert!(fails(&["--chat-template", "rag"], hi, 1).contains("(--chat-template-file)"));
    assert!(fails(&["--chat-template", "{% if %}"], hi, 1).contains("--chat-template: text, line 1: is no template"));
    assert!(fails(&["--date", "31.01.2030"], hi, 2).contains("--date"));
    assert!(fails(&[], "[{\"role\": \"user\"", 1).contains("standard input: JSON: is not valid"));
    assert!(fails(&["--tools", "-"], hi, 1).contains("standard input"));
}
