//! Every part of a tokenizer is honoured or refused by name.

use super::*;
use crate::gguf::Value;
use serde_json::json;
use std::path::Path;

/// The files of the tiny checkpoint, in `dir` for those that are no JSON.
fn tiny(dir: &Path) -> Files {
    let file = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-rustdoc").join(name);
        let json = std::fs::read(path).ok().map(|text| serde_json::from_slice(&text).expect("a test file is JSON"));
        File { path: name.into(), json }
    };
    Files {
        dir: dir.to_owned(),
        tokenizer: file("tokenizer.json"),
        tokenizer_config: file("tokenizer_config.json"),
        config: file("config.json"),
        generation_config: file("generation_config.json"),
        chat_template: file("chat_template.json"),
        vocab_size: 4096,
        pieces: None,
    }
}

/// A small tokenizer in the manner of Llama 2's.
fn llama2() -> Files {
    let mut vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2});
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = json!(3 + byte);
    }
    for (i, text) in ["\u{2581}", "a", "b", "ab", "\u{2581}a"].iter().enumerate() {
        vocab[text] = json!(259 + i);
    }
    let special = |id: u32, text: &str| json!({"id": id, "content": text, "special": true, "normalized": false});
    let mut files = tiny(Path::new("/nowhere"));
    files.vocab_size = 300;
    files.tokenizer.json = Some(json!({
        "truncation": null, "padding": {"strategy": "BatchLongest"},
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": ["a b", "\u{2581} a"]}}));
    files.tokenizer_config.json = Some(json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>",
        "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "add_bos_token": true, "add_eos_token": false}));
    files.config.json = Some(json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1}));
    files.generation_config.json = None;
    files
}

fn smollm() -> Files {
    let mut files = tiny(Path::new("/nowhere"));
    let json = files.tokenizer.json.as_mut().unwrap();
    json["model"]["ignore_merges"] = json!(false);
    json["post_processor"] = json!(null);
    json["pre_tokenizer"]["pretokenizers"] = json!([
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]);
    files
}

fn keys(files: &Files) -> (Vec<(String, Value)>, Vec<String>) {
    let mut layout = Layout::new();
    let notes = files.set(&mut layout).unwrap();
    (layout.metadata, notes)
}

fn key(keys: &[(String, Value)], name: &str) -> Option<Value> {
    keys.iter().find(|(key, _)| key.ends_with(name)).map(|(_, value)| value.clone())
}

/// The error of `files`, which must have every one of `words`.
fn refused(files: &Files, words: &[&str]) {
    let error = files.set(&mut Layout::new()).map(drop).expect_err(words[0]).to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    assert!(error.chars().count() < 1500 && !error.contains('\x1b'), "{error}");
}

type Edit = (fn(&mut Json), &'static [&'static str]);

fn each(files: impl Fn() -> Files, edits: &[Edit]) {
    for (edit, words) in edits {
        let mut files = files();
        edit(files.tokenizer.json.as_mut().unwrap());
        refused(&files, words);
    }
}

/// Edits of a byte-level tokenizer, each with the words of its error.
const BYTE_LEVEL: &[Edit] = &[
    (|t| *t = json!([]), &["tokenizer.json", "a list, not an object"]),
    (|t| t["model"] = json!(null), &["\"model\"", "null"]),
    (|t| t["model"]["type"] = json!("Unigram"), &["\"model.type\"", "Unigram", "BPE"]),
    (|t| t["model"]["type"] = json!(7), &["\"model.type\"", "7, not a string"]),
    (|t| t["model"]["dropout"] = json!(0.1), &["\"model.dropout\""]),
    (|t| t["model"]["dropout"] = json!("no"), &["\"model.dropout\""]),
    (|t| t["model"]["unk_token"] = json!("<nothing>"), &["\"model.unk_token\"", "<nothing>"]),
    (|t| t["model"]["unk_token"] = json!({}), &["\"model.unk_token\"", "an object"]),
    (|t| t["model"]["fuse_unk"] = json!("yes"), &["\"model.fuse_unk\""]),
    (|t| t["model"]["byte_fallback"] = json!(1), &["\"model.byte_fallback\""]),
    (|t| t["model"]["byte_fallback"] = json!(null), &["\"model.byte_fallback\""]),
    (|t| t["model"]["ignore_merges"] = json!("true"), &["\"model.ignore_merges\""]),
    (|t| t["model"]["continuing_subword_prefix"] = json!("##"), &["\"model.continuing_subword_prefix\"", "##"]),
    (|t| t["model"]["end_of_word_suffix"] = json!("</w>"), &["\"model.end_of_word_suffix\"", "</w>"]),
    (|t| t["model"]["end_of_word_suffix"] = json!(["</w>"]), &["\"model.end_of_word_suffix\""]),
    // the vocabulary
    (|t| t["model"]["vocab"] = json!([]), &["\"model.vocab\"", "a list, not an object"]),
    (|t| t["model"]["vocab"] = json!(null), &["\"model.vocab\""]),
    (|t| t["model"]["vocab"]["new"] = json!(4096), &["\"model.vocab\"", "new", "4096", "different models"]),
    (|t| t["model"]["vocab"]["new"] = json!(-1), &["\"model.vocab\"", "new", "-1"]),
    (|t| t["model"]["vocab"]["new"] = json!(1.5), &["\"model.vocab\"", "new", "1.5"]),
    (|t| t["model"]["vocab"]["new"] = json!("7"), &["\"model.vocab\"", "new", "the string \"7\""]),
    (|t| t["model"]["vocab"]["new"] = json!(4294967300u64), &["\"model.vocab\"", "new", "4294967300"]),
    (|t| t["model"]["vocab"]["\x1b[2J"] = json!(70), &["\"model.vocab\"", "both have number 70"]),
    (
        |t| drop(t["model"]["vocab"].as_object_mut().unwrap().remove("b")),
        &["\"model.merges\"", "\"b\"", "not in the vocabulary"],
    ),
    // merges
    (|t| drop(t["model"].as_object_mut().unwrap().remove("merges")), &["\"model.merges\"", "is missing"]),
    (|t| t["model"]["merges"] = json!({}), &["\"model.merges\"", "an object, not a list"]),
    (|t| t["model"]["merges"] = json!("a b"), &["\"model.merges\""]),
    (|t| t["model"]["merges"] = json!(null), &["\"model.merges\"", "null"]),
    (|t| t["model"]["merges"] = json!([]), &["\"model.merges\"", "is empty"]),
    (|t| t["model"]["merges"][5] = json!("ab"), &["\"model.merges\"", "merge 5", "\"ab\""]),
    (|t| t["model"]["merges"][5] = json!("a b c"), &["\"model.merges\"", "merge 5"]),
    (|t| t["model"]["merges"][5] = json!(["a"]), &["\"model.merges\"", "merge 5", "a list of 1"]),
    (|t| t["model"]["merges"][5] = json!(["a", 1]), &["\"model.merges\"", "merge 5"]),
    (|t| t["model"]["merges"][5] = json!(["", "a"]), &["\"model.merges\"", "merge 5"]),
    (|t| t["model"]["merges"][5] = json!(["a", "\u{fffd}"]), &["\"model.merges\"", "merge 5", "\u{fffd}"]),
    (|t| t["model"]["merges"][5] = json!(["<|eot_id|>", "a"]), &["\"model.merges\"", "merge 5", "special"]),
    (|t| t["model"]["merges"][5] = t["model"]["merges"][4].clone(), &["\"model.merges\"", "merge 5", "twice"]),
    // added tokens
    (|t| t["added_tokens"] = json!({}), &["\"added_tokens\"", "an object, not a list"]),
    (|t| t["added_tokens"] = json!(null), &["\"added_tokens\"", "null"]),
    (|t| t["added_tokens"][1] = json!("<s>"), &["\"added_tokens[1].content\"", "is missing"]),
    (|t| t["added_tokens"][1]["content"] = json!(null), &["\"added_tokens[1].content\"", "null"]),
    (|t| t["added_tokens"][1]["content"] = json!(""), &["\"added_tokens[1].content\"", "is empty"]),
    (|t| t["added_tokens"][1]["content"] = json!(5), &["\"added_tokens[1].content\"", "5, not a string"]),
    (|t| t["added_tokens"][1]["id"] = json!(null), &["\"added_tokens[1].id\""]),
    (|t| t["added_tokens"][1]["id"] = json!("3841"), &["\"added_tokens[1].id\""]),
    (|t| t["added_tokens"][1]["id"] = json!(4096), &["\"added_tokens[1].id\"", "4096"]),
    (|t| t["added_tokens"][1]["id"] = json!(4294971137u64), &["\"added_tokens[1].id\""]),
    (|t| t["added_tokens"][1]["id"] = json!(3840), &["\"added_tokens[1].id\""]),
    (|t| t["added_tokens"][1]["id"] = json!(70), &["\"added_tokens[1].id\"", "has the number of"]),
    (|t| t["added_tokens"][1]["content"] = json!("<|begin_of_text|>"), &["\"added_tokens[1].id\"", "3840"]),
    (|t| t["added_tokens"][1]["content"] = json!("b"), &["\"added_tokens[1].id\"", "\"b\""]),
    (|t| t["added_tokens"][1]["special"] = json!(1), &["\"added_tokens[1].special\""]),
    (|t| t["added_tokens"][1]["normalized"] = json!("no"), &["\"added_tokens[1].normalized\""]),
    (
        |t| t["added_tokens"][1] = json!({"id": 3841, "content": "x y", "lstrip": true}),
        &["\"added_tokens[1].lstrip\"", "x y"],
    ),
    (|t| t["added_tokens"][1] = json!({"id": 3841, "content": "<x>", "rstrip": true}), &["\"added_tokens[1].rstrip\""]),
    (
        |t| t["added_tokens"][1] = json!({"id": 3841, "content": "<x>", "single_word": true}),
        &["\"added_tokens[1].single_word\""],
    ),
    // normalizers
    (|t| t["normalizer"] = json!({"type": "Lowercase"}), &["\"normalizer\"", "Lowercase"]),
    (|t| t["normalizer"] = json!({"type": "NFKC"}), &["\"normalizer\"", "NFKC"]),
    (
        |t| t["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Strip"}]}),
        &["\"normalizer.normalizers[0]\"", "Strip"],
    ),
    (|t| t["normalizer"] = json!({"type": "Sequence"}), &["\"normalizer.normalizers\"", "missing"]),
    (|t| t["normalizer"] = json!("NFC"), &["\"normalizer\"", "not an object"]),
    (|t| t["normalizer"] = json!({}), &["\"normalizer.type\"", "missing"]),
    // pre-tokenizers
    (|t| t["pre_tokenizer"] = json!(null), &["\"pre_tokenizer\""]),
    (|t| t["pre_tokenizer"] = json!([]), &["\"pre_tokenizer\""]),
    (|t| t["pre_tokenizer"] = json!({"type": "Whitespace"}), &["\"pre_tokenizer\"", "Whitespace"]),
    (
        |t| t["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": false}),
        &["\"model.ignore_merges\"", "gpt-2"],
    ),
    (
        |t| t["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": true}),
        &["\"pre_tokenizer.add_prefix_space\""],
    ),
    (
        |t| t["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}),
        &["\"pre_tokenizer\""],
    ),
    (|t| t["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed"), &["\"pre_tokenizer\""]),
    (|t| t["pre_tokenizer"]["pretokenizers"][0]["invert"] = json!(true), &["\"pre_tokenizer\""]),
    (|t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"String": " "}), &["\"pre_tokenizer\""]),
    (
        |t| t["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true),
        &["pretokenizers[1].add_prefix_space"],
    ),
    (|t| t["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = json!(true), &["\"pre_tokenizer\""]),
    (|t| t["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = json!("no"), &["pretokenizers[1].use_regex"]),
    (
        |t| drop(t["pre_tokenizer"]["pretokenizers"].as_array_mut().unwrap().pop()),
        &["\"pre_tokenizer\"", "without ByteLevel"],
    ),
    // decoders
    (|t| t["decoder"] = json!({"type": "WordPiece"}), &["\"decoder\"", "WordPiece"]),
    (
        |t| t["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Strip"}]}),
        &["decoders[1]", "Strip"],
    ),
    (|t| t["decoder"] = json!(3), &["\"decoder\"", "3, not an object"]),
    // post-processors
    (
        |t| t["post_processor"] = json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
        &["\"post_processor\"", "BertProcessing"],
    ),
    (|t| t["post_processor"] = json!({"type": "RobertaProcessing"}), &["\"post_processor\"", "RobertaProcessing"]),
    (|t| t["post_processor"]["processors"][1]["single"] = json!(null), &["processors[1].single\""]),
    (|t| t["post_processor"]["processors"][1]["single"] = json!([]), &["processors[1].single\"", "leaves it out"]),
    (
        |t| t["post_processor"]["processors"][1]["single"][1]["Sequence"]["id"] = json!("B"),
        &["processors[1].single[1].Sequence.id"],
    ),
    (
        |t| {
            t["post_processor"]["processors"][1]["single"][1] =
                t["post_processor"]["processors"][1]["single"][0].clone()
        },
        &["processors[1].single\""],
    ),
    (
        |t| {
            let bos = t["post_processor"]["processors"][1]["single"][0].clone();
            t["post_processor"]["processors"][1]["single"].as_array_mut().unwrap().insert(0, bos);
        },
        &["processors[1].single\"", "more than one"],
    ),
    (|t| t["post_processor"]["processors"][1]["special_tokens"] = json!({}), &["special_tokens.<|begin_of_text|>.ids"]),
    (
        |t| t["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"]["ids"] = json!([3840, 7]),
        &["ids", "not one token"],
    ),
    (
        |t| t["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"]["ids"] = json!([7]),
        &["ids", "not the number"],
    ),
    (
        |t| t["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"]["ids"] = json!([4294971136u64]),
        &["ids"],
    ),
    (|t| t["post_processor"]["processors"][0] = t["post_processor"]["processors"][1].clone(), &["processors[1]\""]),
];

#[test]
fn parts_of_byte_level_tokenizers() {
    each(|| tiny(Path::new("/nowhere")), BYTE_LEVEL);
    for (i, pattern) in ["(?i:'s)|x", r"\p{N}"].iter().enumerate() {
        let mut files = tiny(Path::new("/nowhere"));
        files.tokenizer.json.as_mut().unwrap()["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
            json!(pattern);
        refused(&files, &["\"pre_tokenizer\"", ["(?i:'s)|x", "{N}"][i]]);
    }
    each(
        smollm,
        &[
            (
                |t| t["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = json!(false),
                &["\"pre_tokenizer\"", "Digits"],
            ),
            (|t| t["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = json!(false), &["\"pre_tokenizer\""]),
            (|t| t["model"]["ignore_merges"] = json!(true), &["\"model.ignore_merges\"", "smollm"]),
        ],
    );
}

#[test]
fn parts_of_sentencepiece_tokenizers() {
    each(
        llama2,
        &[
            (|t| t["normalizer"] = json!(null), &["\"normalizer\"", "spaces"]),
            (|t| t["normalizer"]["normalizers"][0]["prepend"] = json!("x"), &["normalizers[0]\"", "Prepend"]),
            (|t| t["normalizer"]["normalizers"][0]["prepend"] = json!(1), &["normalizers[0].prepend\""]),
            (|t| t["normalizer"]["normalizers"][1]["content"] = json!("_"), &["normalizers[1]\"", "Replace"]),
            (
                |t| t["normalizer"]["normalizers"][1]["pattern"] = json!({"Regex": " "}),
                &["normalizers[1]\"", "Replace"],
            ),
            (|t| t["normalizer"]["normalizers"][0] = json!({"type": "NFKC"}), &["normalizers[0]\"", "NFKC"]),
            (
                |t| t["pre_tokenizer"] = json!({"type": "ByteLevel", "replacement": "\u{2581}"}),
                &["\"pre_tokenizer\"", "ByteLevel"],
            ),
            (
                |t| t["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "_"}),
                &["\"pre_tokenizer\"", "Metaspace"],
            ),
            (
                |t| {
                    t["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "no"})
                },
                &["prepend_scheme"],
            ),
            (|t| t["decoder"]["decoders"][0]["content"] = json!("_"), &["decoders[0]\"", "Replace"]),
            (|t| t["decoder"]["decoders"][3]["start"] = json!(2), &["decoders[3]\"", "Strip"]),
            (|t| t["decoder"]["decoders"][3]["stop"] = json!(1), &["decoders[3]\"", "Strip"]),
            (|t| t["decoder"] = json!({"type": "ByteLevel"}), &["\"decoder\"", "ByteLevel"]),
            (
                |t| t["decoder"] = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
                &["\"decoder\"", "stays in texts"],
            ),
            (|t| t["model"]["ignore_merges"] = json!(true), &["\"model.ignore_merges\""]),
            (|t| t["model"]["merges"] = json!([]), &["\"model.merges\"", "is empty"]),
            (|t| t["model"]["merges"][0] = json!("a q"), &["\"model.merges\"", "\"q\""]),
        ],
    );
    let mut files = llama2();
    let json = files.tokenizer.json.as_mut().unwrap();
    json["normalizer"] = json!(null);
    json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never"});
    assert_eq!(key(&keys(&files).0, "add_space_prefix"), Some(Value::Bool(false)));
    // A split at spaces shows where a token has one inside.
    files.tokenizer.json.as_mut().unwrap()["model"]["vocab"]["a\u{2581}"] = json!(290);
    refused(&files, &["\"pre_tokenizer.split\"", "a\u{2581}"]);
}

/// What is unusual and harmless passes, and what is taken otherwise than a file says is said.
#[test]
fn what_passes_is_said_where_it_must_be() {
    let (whole, notes) = keys(&tiny(Path::new("/nowhere")));
    assert_eq!((key(&whole, "ggml.pre"), notes), (Some("llama-bpe".into()), Vec::<String>::new()));
    assert_eq!(key(&whole, "add_bos_token"), Some(Value::Bool(true)));
    assert_eq!(key(&whole, "eos_token_id"), Some(Value::U32(3841)));
    assert!(["eot_token_id", "eom_token_id", "add_eos_token"].iter().all(|name| key(&whole, name).is_none()));
    let (sp, notes) = keys(&llama2());
    assert_eq!((key(&sp, "ggml.model"), notes), (Some("llama".into()), Vec::<String>::new()));
    assert_eq!(key(&sp, "scores").map(|scores| scores.bytes().len()), Some(300 * 4 + 16));
    let (small, notes) = keys(&smollm());
    assert_eq!((key(&small, "ggml.pre"), notes), (Some("smollm".into()), Vec::<String>::new()));
    assert_eq!(key(&small, "add_bos_token"), Some(Value::Bool(false)));

    type Passing = (fn(&mut Json), &'static str);
    let passing: &[Passing] = &[
        (|t| t["truncation"] = json!({"max_length": 7}), ""),
        (|t| t["normalizer"] = json!({"type": "Sequence", "normalizers": []}), ""),
        (|t| t["model"]["dropout"] = json!(0.0), ""),
        (|t| t["model"]["end_of_word_suffix"] = json!(""), ""),
        (|t| drop(t["model"].as_object_mut().unwrap().remove("type")), ""),
        (|t| t["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}), ""),
        (|t| t["decoder"] = json!(null), "decoder"),
        (
            |t| {
                t["added_tokens"].as_array_mut().unwrap().remove(255);
                t["model"]["vocab"][""] = json!(4095);
            },
            "token 4095 has no text",
        ),
        (|t| t["added_tokens"][1]["rstrip"] = json!(true), "rstrip"),
        (|t| drop(t["added_tokens"].as_array_mut().unwrap().remove(100)), "1 numbers between its tokens"),
    ];
    for (edit, words) in passing {
        let mut files = tiny(Path::new("/nowhere"));
        edit(files.tokenizer.json.as_mut().unwrap());
        let notes = keys(&files).1;
        assert!(notes.len() == usize::from(!words.is_empty()) && notes.concat().contains(words), "{words}: {notes:?}");
    }
    // Merges in the other notation are the same merges.
    let mut files = tiny(Path::new("/nowhere"));
    for merge in files.tokenizer.json.as_mut().unwrap()["model"]["merges"].as_array_mut().unwrap() {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    assert!(keys(&files).0 == whole);
    // A byte without a token, a merge that is not listed.
    let mut files = llama2();
    files.tokenizer.json.as_mut().unwrap()["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>");
    files.tokenizer.json.as_mut().unwrap()["model"]["merges"] = json!(["a b"]);
    let notes = keys(&files).1.concat();
    assert!(["0x41", "1 pairs of tokens", "1 numbers between"].iter().all(|words| notes.contains(words)), "{notes}");
}

#[test]
fn added_tokens_have_the_types_of_llama_cpp() {
    for (text, special, kind) in [
        ("<|x|>", false, 3),
        ("<pad>", false, 3),
        ("<mask>", false, 3),
        ("[@BOS@]", false, 3),
        ("<unused7>", false, 3),
        ("<\u{ff5c}x\u{ff5c}>", false, 3),
        ("<tool>", false, 4),
        ("[x]", false, 4),
        ("<tool>", true, 3),
    ] {
        let mut files = tiny(Path::new("/nowhere"));
        files.tokenizer.json.as_mut().unwrap()["added_tokens"][100] =
            json!({"id": 3940, "content": text, "special": special});
        let Some(Value::Array(types)) = key(&keys(&files).0, "token_type") else { panic!("no types") };
        let bytes = Value::Array(types).bytes();
        assert_eq!(bytes[16 + 4 * 3940], kind, "{text} {special}");
    }
}

/// The expression of Llama 3 alone does not make a tokenizer Llama 3's.
#[test]
fn the_name_of_a_split_and_bos_are_what_the_file_says() {
    for (ignore, bos, name) in
        [(true, true, "llama-bpe"), (true, false, "llama-bpe"), (false, true, "dbrx"), (false, false, "dbrx")]
    {
        for without in [json!(null), json!({"type": "ByteLevel", "trim_offsets": false})] {
            let mut files = tiny(Path::new("/nowhere"));
            let json = files.tokenizer.json.as_mut().unwrap();
            json["model"]["ignore_merges"] = json!(ignore);
            if !bos {
                json["post_processor"] = without;
            }
            let keys = keys(&files).0;
            assert_eq!(key(&keys, "ggml.pre"), Some(name.into()));
            assert_eq!(key(&keys, "add_bos_token"), Some(Value::Bool(bos)), "{ignore} {bos}");
        }
    }
    // No file names BOS: nothing puts it in front, or the template's own token is it.
    let mut files = tiny(Path::new("/nowhere"));
    files.config.json.as_mut().unwrap()["bos_token_id"] = json!(null);
    files.tokenizer_config.json.as_mut().unwrap()["bos_token"] = json!(null);
    assert_eq!(key(&keys(&files).0, "bos_token_id"), Some(Value::U32(3840)));
    files.tokenizer.json.as_mut().unwrap()["post_processor"] = json!(null);
    assert_eq!(key(&keys(&files).0, "add_bos_token"), Some(Value::Bool(false)));
    files.tokenizer_config.json.as_mut().unwrap()["add_bos_token"] = json!(true);
    refused(&files, &["tokenizer_config.json", "\"bos_token\"", "no file names it"]);
}

type Ids = (fn(&mut Files), &'static [&'static str]);

#[test]
fn numbers_of_special_tokens() {
    fn config(files: &mut Files) -> &mut Json {
        files.config.json.as_mut().unwrap()
    }
    fn tokenizer(files: &mut Files) -> &mut Json {
        files.tokenizer_config.json.as_mut().unwrap()
    }
    let bad: &[Ids] = &[
        (|f| config(f)["bos_token_id"] = json!(4294967300u64), &["config.json", "\"bos_token_id\"", "4294967300"]),
        (|f| config(f)["bos_token_id"] = json!(4096), &["\"bos_token_id\"", "4096", "to 4095"]),
        (|f| config(f)["bos_token_id"] = json!(-1), &["\"bos_token_id\"", "-1"]),
        (|f| config(f)["bos_token_id"] = json!("1"), &["\"bos_token_id\"", "string"]),
        (|f| config(f)["bos_token_id"] = json!(1.5), &["\"bos_token_id\"", "1.5"]),
        (|f| config(f)["bos_token_id"] = json!([1]), &["\"bos_token_id\"", "a list"]),
        (|f| config(f)["eos_token_id"] = json!([1, 4294967297u64]), &["\"eos_token_id[1]\""]),
        (|f| config(f)["eos_token_id"] = json!([1, null]), &["\"eos_token_id[1]\"", "null"]),
        (|f| config(f)["eos_token_id"] = json!({}), &["\"eos_token_id\"", "an object"]),
        (|f| config(f)["pad_token_id"] = json!(-2), &["\"pad_token_id\"", "-2"]),
        (|f| config(f)["pad_token_id"] = json!(4294967300u64), &["\"pad_token_id\""]),
        (
            |f| f.generation_config.json = Some(json!({"eos_token_id": 5000})),
            &["generation_config.json", "\"eos_token_id\""],
        ),
        (|f| tokenizer(f)["bos_token"] = json!(7), &["tokenizer_config.json", "\"bos_token\"", "7"]),
        (|f| tokenizer(f)["eos_token"] = json!({"text": "x"}), &["\"eos_token.content\"", "missing"]),
        (|f| tokenizer(f)["add_bos_token"] = json!("yes"), &["\"add_bos_token\"", "yes"]),
        (|f| tokenizer(f)["add_prefix_space"] = json!(true), &["tokenizer_config.json", "\"add_prefix_space\""]),
        (|f| tokenizer(f)["tokenizer_class"] = json!(1), &["\"tokenizer_class\""]),
    ];
    for (edit, words) in bad {
        let mut files = tiny(Path::new("/nowhere"));
        edit(&mut files);
        refused(&files, words);
    }
    // Every number that ends a text is written, found by its text, or said.
    let mut files = tiny(Path::new("/nowhere"));
    config(&mut files)["eos_token_id"] = json!([3841, 3849, 10, 11, 12]);
    files.generation_config.json = Some(json!({"eos_token_id": 13}));
    config(&mut files)["pad_token_id"] = json!(4096);
    tokenizer(&mut files)["sep_token"] = json!("<nothing>");
    let (found, notes) = keys(&files);
    let id = |name: &str| key(&found, name);
    assert_eq!(
        (id("eos_token_id"), id("eot_token_id"), id("eom_token_id")),
        (Some(Value::U32(3841)), Some(Value::U32(10)), Some(Value::U32(11)))
    );
    assert_eq!(id("padding_token_id"), None);
    let notes = notes.concat();
    assert!(["names 2 more tokens", "pad_token_id", "<nothing>"].iter().all(|words| notes.contains(words)), "{notes}");
    // Where tokenizer_config.json and the template differ, it is said.
    for (class, add) in [("PreTrainedTokenizerFast", true), ("LlamaTokenizerFast", false)] {
        let mut files = tiny(Path::new("/nowhere"));
        tokenizer(&mut files)["add_bos_token"] = json!(false);
        tokenizer(&mut files)["tokenizer_class"] = json!(class);
        let (keys, notes) = keys(&files);
        assert_eq!(key(&keys, "add_bos_token"), Some(Value::Bool(add)));
        assert!(notes.concat().contains("\"add_bos_token\" is false"), "{notes:?}");
    }
}

#[test]
fn chat_templates_come_from_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let write = |name: &str, text: &[u8]| std::fs::write(dir.join(name), text).unwrap();
    let template = |files: &Files, name: &str| match key(&keys(files).0, name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let mut files = tiny(dir);
    files.tokenizer_config.json.as_mut().unwrap()["chat_template"] = json!(null);
    assert_eq!(template(&files, "chat_template"), "");
    files.chat_template.json = Some(json!({"chat_template": "OLD"}));
    assert_eq!(template(&files, "chat_template"), "OLD");
    files.tokenizer_config.json.as_mut().unwrap()["chat_template"] =
        json!([{"name": "default", "template": "CONFIG"}, {"name": "tool use", "template": "CONFIG TOOLS"}]);
    assert_eq!(template(&files, "chat_template"), "CONFIG");
    assert_eq!(template(&files, "chat_template.tool_use"), "CONFIG TOOLS");
    std::fs::create_dir(dir.join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", b"TOOLS");
    write("additional_chat_templates/rag.jinja", b"RAG");
    write("chat_template.jinja", b"MAIN");
    assert_eq!(template(&files, "chat_template"), "MAIN");
    assert_eq!(template(&files, "chat_template.tool_use"), "TOOLS");
    let (found, notes) = keys(&files);
    assert_eq!(key(&found, "chat_templates"), Some(Value::from(vec!["rag".to_owned(), "tool_use".to_owned()])));
    // Three that differ and are not taken.
    assert_eq!(notes.iter().filter(|note| note.contains("chat template")).count(), 3, "{notes:?}");

    for (json, words) in [
        (json!(7), "\"chat_template\": is 7"),
        (json!([{"name": "x"}]), "\"chat_template[0].template\": is missing"),
        (json!([{"template": "x"}]), "\"chat_template[0].name\": is missing"),
        (json!(["x"]), "\"chat_template[0].name\""),
        (json!({"x": 1}), "\"chat_template.x\": is 1"),
        (json!("x".repeat((1 << 20) + 1)), "1048577 bytes"),
    ] {
        let mut files = tiny(dir);
        files.tokenizer_config.json.as_mut().unwrap()["chat_template"] = json.clone();
        refused(&files, &["tokenizer_config.json", words]);
        let mut files = tiny(dir);
        files.chat_template.json = Some(json!({"chat_template": json}));
        refused(&files, &["chat_template.json", words]);
    }
    write("chat_template.jinja", b"ab\xffc");
    refused(&tiny(dir), &["chat_template.jinja", "byte 2", "UTF-8"]);
    write("chat_template.jinja", &vec![b' '; (1 << 20) + 1]);
    refused(&tiny(dir), &["chat_template.jinja", "1048577"]);
    std::fs::remove_file(dir.join("chat_template.jinja")).unwrap();
    std::fs::create_dir(dir.join("chat_template.jinja")).unwrap();
    refused(&tiny(dir), &["chat_template.jinja", "folder"]);
}
