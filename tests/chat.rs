//! Conversations as texts of a comparison: which tokens are scored, and what is refused.

mod common;

use common::{model_file, pure};
use std::path::Path;
use std::sync::Mutex;
use strata::engine::template::{ChatInput, ChatTemplate};
use strata::eval::compare::Text;
use strata::eval::compare::chat::ChatCut;
use strata::gguf::Gguf;
use strata::progress::Progress;
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{GgmlType, Result};

/// Keeps warnings.
#[derive(Default)]
struct Warned(Mutex<String>);

impl Progress for Warned {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn warn(&self, what: &str) {
        *self.0.lock().unwrap() += what;
    }
    fn cancelled(&self) -> bool {
        false
    }
}

struct Fixture {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    warned: Warned,
}

impl Fixture {
    /// The small model, with its own template, which is of Llama 3's kind.
    fn new() -> Fixture {
        let (_dir, path) = model_file(pure(GgmlType::Q8_0));
        let gguf = Gguf::open(&path).unwrap();
        let template = ChatTemplate::from_gguf(&gguf, None, false).unwrap();
        assert!(
            ChatTemplate::from_gguf(&gguf, Some("rag"), false)
                .unwrap_err()
                .to_string()
                .contains("no such chat template")
        );
        Fixture { template, tokenizer: Tokenizer::from_gguf(&gguf).unwrap(), warned: Warned::default() }
    }

    fn with(template: &str) -> Fixture {
        let own = ChatTemplate::new(Path::new("own"), "template", template).unwrap();
        Fixture { template: own, ..Fixture::new() }
    }

    fn text(&self, lines: &str, context: usize) -> Result<Text> {
        let cut = ChatCut {
            template: &self.template,
            tool_template: &self.template,
            tokenizer: &self.tokenizer,
            context,
            max_chunks: None,
        };
        Text::chat(Path::new("chats.jsonl"), lines, cut, &self.warned)
    }

    /// Each chunk with what is scored in it between brackets.
    fn shown(&self, lines: &str, context: usize) -> Vec<String> {
        let text = self.text(lines, context).unwrap();
        let decode = |tokens: &[u32]| self.tokenizer.decode_with(tokens, true).unwrap();
        let show = |chunk: &strata::eval::compare::text::Chunk| {
            let (mut shown, mut at) = (String::new(), 0);
            for scored in &chunk.scored {
                shown += &format!(
                    "{}[{}]",
                    decode(&chunk.tokens[at..=scored.start]),
                    decode(&chunk.tokens[scored.start + 1..=scored.end])
                );
                at = scored.end + 1;
            }
            shown + &decode(&chunk.tokens[at..])
        };
        text.chunks.iter().map(show).collect()
    }
}

const HI: &str = concat!(
    r#"{"messages":[{"role":"system","content":"Be kind"},{"role":"user","content":"Hi"},"#,
    r#"{"role":"assistant","content":" Hello 世界!"},{"role":"user","content":"And?"},"#,
    r#"{"role":"assistant","content":"Bye"},{"role":"user","content":"..."}]}"#
);

#[test]
fn answers_are_scored_to_the_end_of_their_turn() {
    let fixture = Fixture::new();
    let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
    let expected = format!(
        "<|begin_of_text|>{}Be kind<|eot_id|>{}Hi<|eot_id|>{}[Hello 世界!<|eot_id|>]{}And?<|eot_id|>{}[Bye<|eot_id|>]",
        header("system"),
        header("user"),
        header("assistant"),
        header("user"),
        header("assistant")
    );
    assert_eq!(fixture.shown(HI, 512), [expected.as_str()]);
    // The tokens are those of the rendered text as a whole.
    let messages = serde_json::from_str::<serde_json::Value>(HI).unwrap()["messages"].as_array().unwrap()[..5].to_vec();
    let rendered = fixture.template.render(&ChatInput::of(&messages)).unwrap();
    let parsed = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
    let text = fixture.text(HI, 512).unwrap();
    assert_eq!(text.tokens(), fixture.tokenizer.encode(&rendered, parsed).unwrap());
    assert_eq!(text.scored().len(), text.scores());
    // ShareGPT's form and the bare list are the same conversation.
    let sharegpt =
        HI.replace("messages", "conversations").replace("\"role\"", "\"from\"").replace("\"content\"", "\"value\"");
    let sharegpt = sharegpt.replace("\"user\"", "\"human\"").replace("\"assistant\"", "\"gpt\"");
    let list = HI.strip_prefix("{\"messages\":").and_then(|list| list.strip_suffix('}')).unwrap();
    let all = format!("{HI}\r\n\n{sharegpt}\n{list}");
    assert_eq!(fixture.shown(&all, 512), [expected.as_str(), &expected, &expected]);
    assert_eq!(*fixture.warned.0.lock().unwrap(), "");
}

#[test]
fn what_is_beyond_the_context_is_left_out() {
    let fixture = Fixture::new();
    let whole = fixture.text(HI, 512).unwrap();
    let first = whole.chunks[0].scored[0].clone();
    let cut = fixture.text(HI, first.end).unwrap();
    assert_eq!((cut.chunks[0].tokens.len(), cut.scores()), (first.end, first.len() - 1));
    assert_eq!(cut.chunks[0].tokens, whole.chunks[0].tokens[..first.end]);
    let question = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
    assert_eq!(fixture.text(&format!("{question}\n{HI}"), 512).unwrap().chunks.len(), 1);
    let warned = fixture.warned.0.lock().unwrap().clone();
    assert!(
        warned.contains("1 texts are cut at the context of") && warned.contains("1 conversations have no answer"),
        "{warned}"
    );
    let error = fixture.text(HI, first.start).unwrap_err().to_string();
    assert!(error.starts_with("chats.jsonl: text: has no answer"), "{error}");
}

#[test]
fn a_template_that_drops_thoughts_gives_each_answer_its_own_text() {
    let thinking = concat!(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content if loop.last else m.content.split('</think>')[-1] %}",
        "<|start_header_id|>{{ c }}<|eot_id|>\n{% else %}<|end_header_id|>{{ m.content }}{% endif %}{% endfor %}",
        "{% if add_generation_prompt %}<|start_header_id|><think>{% endif %}",
    );
    let fixture = Fixture::with(thinking);
    let line = concat!(
        r#"[{"role":"user","content":"a"},{"role":"assistant","content":"<think>b</think>c"},"#,
        r#"{"role":"user","content":"d"},{"role":"assistant","content":"e"}]"#,
    );
    let (user, assistant, end) = ("<|end_header_id|>", "<|start_header_id|>", "<|eot_id|>");
    assert_eq!(
        fixture.shown(line, 512),
        [
            format!("{user}a{assistant}<think>[b</think>c{end}]\n"),
            format!("{user}a{assistant}c{end}\n{user}d{assistant}[e{end}]\n"),
        ]
    );
    // Marks tell the same in one text. The token of the space has a byte of the answer.
    let marked = concat!(
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot_id|>",
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    );
    let shown = Fixture::with(marked).shown(line, 512);
    assert_eq!(shown, ["user: aassistant:[ <think>b</think>c<|eot_id|>]user: dassistant:[ e<|eot_id|>]"]);
    // Without prompt or marks nobody can tell where an answer begins.
    let hidden = "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}";
    let error = Fixture::with(hidden).text(line, 512).unwrap_err().to_string();
    assert!(
        error.contains("line 1") && error.contains("message 2 cannot be told") && error.contains("{% generation %}"),
        "{error}"
    );
}

#[test]
fn lines_that_are_no_conversation_are_refused_by_number() {
    let fixture = Fixture::new();
    for (line, words) in [
        ("{\"messages\": [}", "is not JSON"),
        ("5", "single value"),
        ("{\"prompt\": \"x\"}", "neither \"messages\" nor"),
        ("{\"messages\": {}}", "\"messages\" is no list"),
        ("{\"messages\": [7]}", "message 1 is no object"),
        ("[{\"text\": \"x\"}]", "message 1 has no \"role\" but \"text\""),
        ("[{\"role\": 7}]", "\"role\" is no text"),
        ("{\"messages\": [], \"tools\": 7}", "\"tools\" is no list"),
    ] {
        let error = fixture.text(&format!("{HI}\n{line}\n"), 512).unwrap_err().to_string();
        assert!(
            error.starts_with("chats.jsonl: line 2: ") && error.contains(words) && error.contains("; "),
            "{line}: {error}"
        );
    }
    let many = format!("[{}]", vec![r#"{"role":"user","content":"x"}"#; 10_001].join(","));
    assert!(fixture.text(&many, 512).unwrap_err().to_string().contains("10001 messages"));
    let deep = "[".repeat(100_000);
    assert!(fixture.text(&deep, 512).unwrap_err().to_string().contains("line 1"));
    assert!(fixture.text("", 512).unwrap_err().to_string().contains("no answer"));
    assert!(fixture.text(HI, 1).is_err());
}

#[test]
fn tokens_end_where_their_text_ends() {
    for tokenizer in [Fixture::new().tokenizer, common::sentencepiece()] {
        for text in ["Hello world", " two  spaces", "世界 é\n\n x", "<s>[INST] a</s>b <|eot_id|>c", "", "x</s>"] {
            let tokens = tokenizer.encode_with_ends(text, true).unwrap();
            let ids: Vec<u32> = tokens.iter().map(|&(id, _)| id).collect();
            assert_eq!(ids, tokenizer.encode(text, EncodeOptions { parse_special: true, add_special: false }).unwrap());
            assert_eq!(tokens.last().map_or(0, |&(_, end)| end), text.len());
            for (i, &(_, end)) in tokens.iter().enumerate().filter(|(_, (_, end))| text.is_char_boundary(*end)) {
                // Spaces in front of parts between special tokens are SentencePiece's own.
                let plain = |text: &str| text.replace(' ', "");
                let decoded = tokenizer.decode_with(&ids[..=i], true).unwrap();
                if !decoded.contains('\u{fffd}') {
                    assert_eq!(plain(&decoded), plain(&text[..end]), "{text:?} at {i}");
                }
            }
        }
    }
}
