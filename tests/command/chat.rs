//! Conversations at the command line: `strata template`, and `strata chat` with its messages from a pipe.

#[path = "../common/mod.rs"]
mod common;

use common::checkpoint;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn strata(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    let mut child = command
        .args(args)
        .env("STRATA_CACHE_DISK", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
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

/// A conversation in a pipe: what the model says, and what else was said.
fn chat(folder: &Path, more: &[&str], input: &str) -> (String, String) {
    let (model, cache) = (checkpoint().display().to_string(), folder.join("cache").display().to_string());
    let args = ["chat", "-m", &model, "--temp", "0", "--cache-dir", &cache];
    let output = strata(&[&args, more].concat(), input);
    let [out, said] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{input}: {said}");
    (out, said)
}

fn saved(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("c.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["messages"].as_array().unwrap().clone()
}

/// The contents of messages of one role.
fn of(role: &str, messages: &[Value]) -> Vec<String> {
    let contents = messages.iter().filter(|message| message["role"] == role).map(|message| &message["content"]);
    contents.map(|content| content.as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_line_is_a_turn_and_the_model_sees_those_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json").display().to_string();
    let save = format!("/save {file}\n");
    let n = ["-n", "6"];
    let (out, said) = chat(folder.path(), &n, &format!("Hi\n\nAnd\\\nnow?\n\"\"\"a\n/b\n\"\"\"\n{save}"));
    let messages = saved(folder.path());
    assert_eq!(of("user", &messages), ["Hi", "And\nnow?", "a\n/b"]);
    let answers = of("assistant", &messages);
    let printed: String =
        answers.iter().map(|answer| format!("{answer}{}", if answer.ends_with('\n') { "" } else { "\n" })).collect();
    assert_eq!((out.as_str(), answers.len()), (printed.as_str(), 3));
    assert!(said.contains("6 messages are in"), "{said}");

    // The first answer is that of run, with the same template.
    let model = checkpoint().display().to_string();
    let run = ["run", "--chat", "-m", &model, "-p", "Hi", "-n", "6", "--temp", "0", "--cache-disk", "0"];
    assert_eq!(told(&run, "").trim_end_matches('\n'), answers[0].trim_end_matches('\n'));
    // A conversation that is loaded goes on as if it had never been left; that of the last message is the same again.
    fs::write(folder.path().join("c.json"), json!({"messages": messages[..4]}).to_string()).unwrap();
    let (out, _) =
        chat(folder.path(), &[&n[..], &["--load", &file, "--cache-disk", "0"]].concat(), "\"\"\"a\n/b\"\"\"\n/regen\n");
    let last = answers[2].trim_end_matches('\n');
    assert_eq!(out.trim_end_matches('\n'), format!("{last}\n{last}"));
    // One message, from an argument, a file and a pipe.
    let once = [&n[..], &["-p", "Hi"]].concat();
    assert_eq!(chat(folder.path(), &once, "ignored\n").0.trim_end_matches('\n'), answers[0].trim_end_matches('\n'));
    let piped = [&n[..], &["-f", "-"]].concat();
    assert_eq!(chat(folder.path(), &piped, "Hi").0, chat(folder.path(), &once, "").0);
}

#[test]
fn commands_change_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let (file, text) = (folder.path().join("c.json").display().to_string(), folder.path().join("note.txt"));
    fs::write(&text, "one ``` two\n").unwrap();
    let n = ["-n", "3", "--system", "Be kind"];
    let save = format!("/save {file}\n");
    let after = |commands: &str| {
        let (_, said) = chat(folder.path(), &n, &format!("Hi\nHo\n{commands}{save}"));
        (saved(folder.path()), said)
    };
    let (messages, _) = after("/edit Hey\n");
    assert_eq!(
        (of("user", &messages), of("system", &messages)),
        (vec!["Hi".to_owned(), "Hey".to_owned()], vec!["Be kind".to_owned()])
    );
    let (messages, said) = after("/clear\n/system Be short\n/system\n//x\n/stats\n");
    assert_eq!((of("user", &messages), of("system", &messages)), (vec!["/x".to_owned()], vec!["Be short".to_owned()]));
    assert!(
        said.contains("Be short") && said.contains("2 messages, ") && said.contains("the last answer: prompt "),
        "{said}"
    );
    let (messages, said) = after(&format!("/system -\n/read {}\nWhat?\nNo\n/set temp 0.5\n/set n 1\n", text.display()));
    assert_eq!(of("user", &messages)[2..], ["note.txt:\n````\none ``` two\n````\n\nWhat?".to_owned(), "No".to_owned()]);
    assert!(of("system", &messages).is_empty() && said.contains("12 B of note.txt go with the next message"), "{said}");
    assert!(after("/help\n").1.contains("/regen"));
    // Leaving ends the program, whatever follows.
    assert!(chat(folder.path(), &n, "/exit\n/nonsense\n").0.is_empty());
    let model = checkpoint().display().to_string();
    for (line, words) in [
        ("/nonsense", "is no command; /help"),
        ("/load /nowhere/x.json", "check the path"),
        ("/save /nowhere/x.json", "run `mkdir -p /nowhere`"),
        ("/set temp hot", "temp: give a number"),
        ("/set what 1", "what cannot be set"),
        ("/regen", "say something first"),
        ("/edit x", "say something first"),
    ] {
        let said = failed(&["chat", "-m", &model, "--cache-disk", "0"], line, 1);
        assert!(said.contains(words), "{line}: {said}");
    }
    let said = failed(&["chat", "-m", &model, "--chat-template", "none"], "Hi", 1);
    assert!(said.contains("(--chat-template-file)"), "{said}");
}

#[test]
fn a_full_context_drops_the_oldest_turns_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json").display().to_string();
    let lines: String = (0..5).map(|i| format!("{i} {}\n", "word ".repeat(12))).collect();
    let small = ["-n", "2", "-c", "96", "--system", "S"];
    let (_, said) = chat(folder.path(), &small, &format!("{lines}/save {file}\n"));
    assert!(said.contains("the context of 96 tokens is full: the model no longer sees the oldest "), "{said}");
    // What was said is all kept, and the last answer is that to the turns that still fit.
    let messages = saved(folder.path());
    assert_eq!((of("user", &messages).len(), of("system", &messages).len()), (5, 1));
    let left = |said: &str| {
        said.rsplit_once("sees the oldest ").unwrap().1.split_once(' ').unwrap().0.parse::<usize>().unwrap()
    };
    let mut rest = vec![messages[0].clone()];
    rest.extend_from_slice(&messages[1 + left(&said)..messages.len() - 2]);
    fs::write(&file, json!(rest).to_string()).unwrap();
    let last = of("user", &messages)[4].clone();
    let (out, said) = chat(folder.path(), &["-n", "2", "-c", "96", "--load", &file], &last);
    assert_eq!(out.trim_end_matches('\n'), of("assistant", &messages)[4].trim_end_matches('\n'));
    assert!(!said.contains("no longer sees"), "{said}");
    let model = checkpoint().display().to_string();
    let said = failed(&["chat", "-m", &model, "-c", "32", "--cache-disk", "0"], &"word ".repeat(100), 1);
    assert!(said.contains("and the context has 32; shorten it, or choose a larger -c"), "{said}");
}
