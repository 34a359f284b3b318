//! Chat templates against transformers: `tests/data/make_chat_templates.py` made the expected texts.

use serde_json::{Map, Value};
use std::path::Path;
use strata::Result;
use strata::engine::template::{ChatInput, ChatTemplate, Marked};

fn data() -> Value {
    serde_json::from_str(include_str!("data/chat_templates.json")).unwrap()
}

fn template(source: &str) -> Result<ChatTemplate> {
    let template = ChatTemplate::new(Path::new("chat.jinja"), "template", source)?;
    let special = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
    Ok(special.into_iter().fold(template, |template, (name, text)| template.with_special(name, text)))
}

fn list(value: &Value) -> Option<&[Value]> {
    value.as_array().map(Vec::as_slice)
}

fn input(conversation: &Value) -> ChatInput<'_> {
    ChatInput {
        tools: list(&conversation["tools"]),
        documents: list(&conversation["documents"]),
        add_generation_prompt: conversation["add_generation_prompt"].as_bool().unwrap_or(false),
        variables: conversation["variables"].as_object().cloned().unwrap_or_default(),
        ..ChatInput::of(list(&conversation["messages"]).unwrap())
    }
}

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let (data, mut texts, mut errors) = (data(), 0, 0);
    for family in data["templates"].as_array().unwrap() {
        let template = template(family["template"].as_str().unwrap()).unwrap();
        for (i, (conversation, expected)) in
            data["conversations"].as_array().unwrap().iter().zip(family["rendered"].as_array().unwrap()).enumerate()
        {
            let (name, rendered) = (format!("{} {i}", family["name"]), template.render_marked(&input(conversation)));
            let Some(text) = expected["text"].as_str() else {
                assert!(rendered.is_err(), "{name}: {rendered:?}, expected {expected}");
                errors += 1;
                continue;
            };
            let Marked { text: rendered, answers } = rendered.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(rendered, text, "{name}");
            assert_eq!(template.render(&input(conversation)).unwrap(), text, "{name}");
            if let Some(spans) = list(&expected["spans"]) {
                let characters = |at: usize| Value::from(text[..at].chars().count());
                let answers: Vec<Value> = answers
                    .iter()
                    .map(|answer| vec![characters(answer.start), characters(answer.end)].into())
                    .collect();
                assert_eq!(answers, spans, "{name}");
            }
            texts += 1;
        }
    }
    assert!(texts > 200 && errors > 10, "{texts} texts and {errors} errors");
}

#[test]
fn each_construct_means_what_it_means_in_jinja() {
    let data = data();
    let messages = [serde_json::json!({"role": "user", "content": "x"})];
    let variables: Map<String, Value> = [("v".to_owned(), data["values"].clone())].into_iter().collect();
    let input = ChatInput { variables, ..ChatInput::of(&messages) };
    let mut wrong = String::new();
    for snippet in data["snippets"].as_array().unwrap() {
        let (source, expected) = (snippet["template"].as_str().unwrap(), snippet["text"].as_str().unwrap());
        match template(source).and_then(|template| template.render(&input)) {
            Ok(text) if text == expected => {}
            Ok(text) => wrong += &format!("{source}\n  expected {expected:?}\n  rendered {text:?}\n"),
            Err(error) => wrong += &format!("{source}\n  {error}\n"),
        }
    }
    for source in data["errors"].as_array().unwrap() {
        let source = source.as_str().unwrap();
        if let Ok(text) = template(source).and_then(|template| template.render(&input)) {
            wrong += &format!("{source}: no error but {text:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
