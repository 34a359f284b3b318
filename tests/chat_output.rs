//! Answers of models taken apart, and grammars of calls. The grammars are judged by llguidance, which follows texts a byte at a time.

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities};
use llguidance::{Matcher, ParserFactory};
use proptest::prelude::*;
use serde_json::{Value, json};
use strata::engine::chat::{ChatFormat, Delta, ToolChoice};

const HERMES: &str = "{% for t in tools %}<tool_call>{% endfor %}";
const QWEN3: &str = "{% for t in tools %}<tool_call>{% endfor %}</think>";
const LLAMA: &str = "<|start_header_id|>{{ tools }}{{- '\"parameters\": ' }}";
const MISTRAL: &str = "[TOOL_CALLS][{{ tools }}";
const GRANITE: &str = "respond with <|tool_call|> {{ available_tools }}";
const DEEPSEEK: &str = "<think><｜tool▁calls▁begin｜>";
const PLAIN: &str = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}";
const ALL: [&str; 7] = [HERMES, QWEN3, LLAMA, MISTRAL, GRANITE, DEEPSEEK, PLAIN];

/// An answer in one line: `r` reasoning, `c` content, `t` calls.
fn shown(deltas: &[Delta]) -> String {
    let mut shown = String::new();
    for delta in deltas {
        shown += &match delta {
            Delta::Reasoning(text) => format!("r{text:?} "),
            Delta::Content(text) => format!("c{text:?} "),
            Delta::ToolCall { index, name, .. } => format!("t{index} {name}"),
            Delta::ToolArguments { text, .. } => format!("({text}) "),
        };
    }
    shown.trim_end().to_owned()
}

/// Deltas of one kind joined.
fn joined(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut all: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (all.last_mut(), &delta) {
            (Some(Delta::Reasoning(a)), Delta::Reasoning(b)) | (Some(Delta::Content(a)), Delta::Content(b)) => {
                a.push_str(b)
            }
            _ => all.push(delta),
        }
    }
    all
}

fn parsed<'p>(format: &ChatFormat, tools: bool, pieces: impl IntoIterator<Item = &'p str>) -> Vec<Delta> {
    let mut parser = format.parser(tools).with_seed(7);
    let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    joined(deltas)
}

#[test]
fn each_family_writes_its_calls_and_its_reasoning() {
    for (template, prompt, answer, expected) in [
        (PLAIN, "", " Hello\n", r#"c" Hello\n""#),
        (PLAIN, "", "<think>no</think>", r#"c"<think>no</think>""#),
        (HERMES, "", "a <b> <tool_cal", r#"c"a <b> <tool_cal""#),
        (
            HERMES,
            "",
            "Look:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call>\"}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>\n",
            r#"c"Look:" t0 f({"a": "</tool_call>"}) t1 g({})"#,
        ),
        (HERMES, "", "<tool_call>{\"name\": \"f\"}</tool_call> done ", r#"t0 f({}) c" done""#),
        (HERMES, "", "<tool_call>[{\"name\": \"f\"}, {\"name\": \"g\"}]", "t0 f({}) t1 g({})"),
        (HERMES, "", " <tool_call>f()</tool_call>", r#"c" <tool_call>f()</tool_call>""#),
        (HERMES, "", "<tool_call>{\"nam\": \"f\"}</tool_call>", r#"c"<tool_call>{\"nam\": \"f\"}</tool_call>""#),
        (HERMES, "", "<tool_call>\n{\"name\": \"f\"", r#"c"<tool_call>\n{\"name\": \"f\"""#),
        (
            QWEN3,
            "",
            "<think>\nI <tool_call>\n\n am\n</think>\n\n<tool_call>{\"name\": \"f\"}</tool_call>",
            r#"r"I <tool_call>\n\n am" t0 f({})"#,
        ),
        (QWEN3, "", "<think>\n\n</think>\n\nHi <think>", r#"c"Hi <think>""#),
        (QWEN3, "", "<think>cut", r#"r"cut""#),
        (QWEN3, "x<think>\n", "so </thin </think>4", r#"r"so </thin" c"4""#),
        (QWEN3, "x<think>\n\n</think>\n\n", "4 </think>", r#"c"4 </think>""#),
        (LLAMA, "", "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", r#"t0 f({"a": 1})"#),
        (LLAMA, "", "\n<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}", "t0 f({})"),
        (
            LLAMA,
            "",
            "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            "t0 f({}) t1 g({})",
        ),
        (LLAMA, "", "{\"temperature\": 3} is", r#"c"{\"temperature\": 3} is""#),
        (LLAMA, "", "{\"name\": \"Bob\", \"parameters\": 3}", r#"c"{\"name\": \"Bob\", \"parameters\": 3}""#),
        (LLAMA, "", "Use {\"name\": \"f\", \"parameters\": {}}", r#"c"Use {\"name\": \"f\", \"parameters\": {}}""#),
        (LLAMA, "", "<|python_tag|>print(1)", r#"c"<|python_tag|>print(1)""#),
        (
            MISTRAL,
            "",
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": []}}, {\"name\": \"g\", \"arguments\": {}, \"id\": \"123456789\"}]",
            r#"t0 f({"a": []}) t1 g({})"#,
        ),
        (MISTRAL, "", "[TOOL_CALLS] [1]", r#"c"[TOOL_CALLS] [1]""#),
        (GRANITE, "", "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}]", "t0 f({})"),
        (
            DEEPSEEK,
            "<｜Assistant｜><think>\n",
            "Hm.\n</think>\n\nOk <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            r#"r"Hm." c"Ok" t0 f({"a": 1}) t1 g({})"#,
        ),
        (DEEPSEEK, "", "<｜tool▁calls▁begin｜>{}", r#"c"<｜tool▁calls▁begin｜>{}""#),
    ] {
        let deltas = parsed(&ChatFormat::of(template).after(prompt), true, [answer]);
        assert_eq!(shown(&deltas), expected, "{answer}");
    }
}

#[test]
fn calls_are_content_where_there_are_no_tools_and_ids_tell_them_apart() {
    let answer = "<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>";
    let format = ChatFormat::of(HERMES);
    assert_eq!(parsed(&format, false, [answer]), [Delta::Content(answer.to_owned())]);
    let ids = |format: &ChatFormat, answer: &str, seed| -> Vec<String> {
        let deltas = format.parser(true).with_seed(seed).push(answer);
        let ids = deltas.into_iter().filter_map(|delta| match delta {
            Delta::ToolCall { id, .. } => Some(id),
            _ => None,
        });
        ids.collect()
    };
    let (one, other) = (ids(&format, answer, 1), ids(&format, answer, 2));
    assert_eq!((one.clone(), one.len()), (ids(&format, answer, 1), 2));
    assert!(one[0] != one[1] && !one.iter().any(|id| other.contains(id)));
    let is_id = |id: &str| {
        id.strip_prefix("call_").is_some_and(|id| id.len() == 24 && id.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    assert!(one.iter().all(|id| is_id(id)), "{one:?}");
    let mistral = ids(&ChatFormat::of(MISTRAL), "[TOOL_CALLS][{\"name\": \"f\"}]", 1);
    assert!(mistral[0].len() == 9 && mistral[0].bytes().all(|b| b.is_ascii_alphanumeric()), "{mistral:?}");
}

/// Pieces of answers that markers and calls are made of.
fn fragments() -> impl Strategy<Value = String> {
    let pieces = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<|tool_call|>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[",
        "]",
        "{",
        "}",
        "{\"name\": \"f\", \"arguments\": {\"a\": \"\\\"}\"}}",
        "[{\"name\": \"f\", \"parameters\": {}}]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "function<｜tool▁sep｜>f\n```json\n",
        "```",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<",
        "\"",
        "\\",
        " ",
        "\n",
        ";",
        "é",
        "x",
        "{\"name\"",
        ": ",
    ];
    proptest::collection::vec(prop::sample::select(pieces.to_vec()), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn deltas_do_not_depend_on_the_cuts(answer in fragments(), format in 0..ALL.len(), tools: bool, opened: bool, cuts in any::<u64>()) {
        let format = ChatFormat::of(ALL[format]).after(if opened { "<think>" } else { "" });
        let (mut pieces, mut start) = (Vec::new(), 0);
        for (i, (at, _)) in answer.char_indices().enumerate() {
            if cuts >> (i % 64) & 1 == 1 {
                pieces.push(&answer[start..at]);
                start = at;
            }
        }
        pieces.push(&answer[start..]);
        let whole = parsed(&format, tools, [answer.as_str()]);
        prop_assert_eq!(&parsed(&format, tools, pieces), &whole);
        // Nothing but markers and whitespace is lost.
        if !whole.iter().any(|delta| matches!(delta, Delta::ToolCall { .. })) {
            let text: String = whole.iter().map(|delta| match delta {
                Delta::Reasoning(text) | Delta::Content(text) => text.as_str(),
                _ => "",
            }).collect();
            let bare = |text: &str| text.replace("<think>", "").replace("</think>", "").split_whitespace().collect::<String>();
            prop_assert_eq!(bare(&text), bare(&answer));
        }
    }
}

#[test]
fn long_answers_take_time_in_proportion() {
    // A parser that looks at everything again for each character would take hours.
    let n = 1 << 19;
    for (template, answer) in [
        (HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"".to_owned() + &"x".repeat(n)),
        (HERMES, "<tool_call>".repeat(n / 8)),
        (HERMES, "<tool_call> ".to_owned() + &" ".repeat(n)),
        (LLAMA, "{".repeat(n)),
        (LLAMA, "{ ".to_owned() + &" ".repeat(n)),
        (DEEPSEEK, "<think>".to_owned() + &" \n".repeat(n)),
        (DEEPSEEK, "<｜tool▁calls▁begin｜>".to_owned() + &"y".repeat(n)),
        (QWEN3, "</tool_".repeat(n / 8)),
    ] {
        let format = ChatFormat::of(template);
        let pieces = answer.split_inclusive(|_| true);
        let whole = parsed(&format, true, pieces);
        assert!(whole.len() <= 1, "{}", shown(&whole).len());
    }
}

fn tools() -> Vec<Value> {
    vec![
        json!({"type": "function", "function": {"name": "get \"it\" \\ Zürich/+", "parameters": {
            "type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place", "days"], "additionalProperties": false}}}),
        json!({"type": "function", "function": {"name": "now"}}),
    ]
}

/// Whether a grammar of calls takes the whole text.
fn takes(factory: &ParserFactory, lark: &str, text: &str) -> bool {
    let parser = factory.create_parser(TopLevelGrammar::from_lark(lark.to_owned()));
    let mut matcher = Matcher::new(parser);
    assert!(!matcher.is_error(), "{lark}\n{:?}", matcher.get_error());
    text.bytes().all(|byte| {
        // It stops where the grammar ends.
        let allowed = !matcher.is_stopped() && matcher.compute_mask().unwrap().is_allowed(byte.into());
        allowed && matcher.consume_token(byte.into()).is_ok()
    }) && matcher.is_accepting().unwrap()
}

#[test]
fn a_grammar_takes_calls_and_the_parser_finds_them() {
    let env = ApproximateTokEnv::single_byte_env();
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[]).unwrap();
    factory.quiet();
    let name = Value::from("get \"it\" \\ Zürich/+").to_string();
    let arguments = "{\"place\": \"Bern\", \"days\": 2}";
    let object = |key: &str| {
        [format!("{{\"name\": {name}, \"{key}\": {arguments}}}"), format!("{{\"name\": \"now\", \"{key}\": {{}}}}")]
    };
    let deepseek = |name: &str, arguments: &str| {
        format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>")
    };
    for (template, prompt, open, calls, between, close) in [
        (HERMES, "", "<tool_call>\n", object("arguments"), "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        (PLAIN, "", "<tool_call>\n", object("arguments"), "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        (QWEN3, "", "<tool_call>\n", object("arguments"), "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        (LLAMA, "", "", object("parameters"), "", ""),
        (MISTRAL, "", "[TOOL_CALLS][", object("arguments"), ", ", "]"),
        (GRANITE, "", "<|tool_call|>[", object("arguments"), ", ", "]"),
        (
            DEEPSEEK,
            "<think>\n",
            "Hm.</think>\n\n<｜tool▁calls▁begin｜>",
            [deepseek("get \"it\" \\ Zürich/+", arguments), deepseek("now", "{}")],
            "\n",
            "<｜tool▁calls▁end｜>",
        ),
    ] {
        let format = ChatFormat::of(template).after(prompt);
        let grammar = |choice, parallel| format.tool_grammar(&tools(), choice, parallel).unwrap().unwrap();
        let one = [open, &calls[0], close].concat();
        let wrong = one.replace("2}", "\"2\"}");
        let both = [open, &calls[0], between, &calls[1], close].concat();
        let second = [open, &calls[1], close].concat();
        let (auto, required) = (grammar(ToolChoice::Auto, true), grammar(ToolChoice::Required, true));
        let named = grammar(ToolChoice::Named("now".to_owned()), false);
        let bare = template == LLAMA;
        for (lark, text, expected) in [
            (&required, &one, true),
            (&required, &both, !bare),
            (&required, &wrong, false),
            (&required, &"Hello".to_owned(), false),
            (&grammar(ToolChoice::Required, false), &both, false),
            (&named, &second, true),
            (&named, &one, false),
            (&auto, &one, true),
            (&auto, &wrong, false),
        ] {
            assert_eq!(takes(&factory, lark, text), expected, "{text}\n{lark}");
        }
        let text = if prompt.is_empty() { "Hel<lo>\nx" } else { "Hm</think>Hel<lo>\nx" };
        assert!(takes(&factory, &auto, text), "{auto}");
        let found = shown(&parsed(&format, true, [if bare { one.as_str() } else { &both }]));
        let found = found.strip_prefix("r\"Hm.\" ").unwrap_or(&found);
        let expected = format!("t0 get \"it\" \\ Zürich/+({arguments})") + if bare { "" } else { " t1 now({})" };
        assert_eq!(found, expected);
    }
    let qwen = ChatFormat::of(QWEN3).tool_grammar(&tools(), ToolChoice::Required, false).unwrap().unwrap();
    let thought = "<think>\nWhy not\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    assert!(takes(&factory, &qwen, thought) && !takes(&factory, &qwen, &thought[7..]), "{qwen}");
}

#[test]
fn tools_that_are_none_are_refused() {
    let format = ChatFormat::of(HERMES);
    let grammar = |tools: &[Value], choice| format.tool_grammar(tools, choice, true);
    assert_eq!(grammar(&[], ToolChoice::Auto).unwrap(), None);
    assert_eq!(grammar(&tools(), ToolChoice::None).unwrap(), None);
    for (tool, choice, words) in [
        (json!(3), ToolChoice::Auto, "tool 1: has no name"),
        (json!({"function": {"name": ""}}), ToolChoice::Auto, "tool 1: has no name"),
        (json!({"name": "a\nb"}), ToolChoice::Auto, "one line"),
        (json!({"name": "f", "parameters": [1]}), ToolChoice::Auto, "are no schema"),
        (json!({"name": "f"}), ToolChoice::Named("g".to_owned()), "names no tool"),
    ] {
        let error = grammar(&[tool], choice).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(grammar(&[], ToolChoice::Required).unwrap_err().to_string().contains("names no tool"));
    let twice = [json!({"name": "f"}), json!({"name": "f"})];
    assert!(grammar(&twice, ToolChoice::Auto).unwrap_err().to_string().contains("tool 2: has the name"));
}
