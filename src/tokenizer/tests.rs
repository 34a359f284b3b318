//! Golden encodings of Hugging Face and SentencePiece, and what must hold for any text.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("a test file is JSON")
}

fn tiny_vocab() -> Vocab {
    let json = read("models/tiny-rustdoc/tokenizer.json");
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (text, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), text.clone(), 1));
    }
    for added in json["added_tokens"].as_array().unwrap() {
        tokens.retain(|(id, ..)| *id != added["id"].as_u64().unwrap());
        tokens.push((added["id"].as_u64().unwrap(), added["content"].as_str().unwrap().to_owned(), 3));
    }
    tokens.sort();
    assert!(tokens.iter().enumerate().all(|(i, (id, ..))| i as u64 == *id));
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    Vocab {
        model: "gpt2".to_owned(),
        pre: Some("llama-bpe".to_owned()),
        bos: Some(3840),
        eos: Some(3841),
        types: Some(tokens.iter().map(|(_, _, kind)| *kind).collect()),
        tokens: tokens.into_iter().map(|(_, text, _)| text).collect(),
        merges: merges.map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect(),
        ..Vocab::default()
    }
}

#[derive(Deserialize)]
struct SpFile {
    pieces: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    cases: Vec<SpCase>,
}

#[derive(Deserialize)]
struct SpCase {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn sp_file() -> (Vocab, Vec<SpCase>) {
    let file: SpFile = serde_json::from_value(read("tests/data/sentencepiece.json")).unwrap();
    let vocab = Vocab {
        model: "llama".to_owned(),
        tokens: file.pieces,
        scores: Some(file.scores),
        types: Some(file.types),
        unk: Some(0),
        bos: Some(1),
        eos: Some(2),
        ..Vocab::default()
    };
    (vocab, file.cases)
}

fn new(vocab: Vocab) -> Result<Tokenizer> {
    Tokenizer::new(vocab, Path::new("model.gguf"))
}

static TINY: LazyLock<Tokenizer> = LazyLock::new(|| new(tiny_vocab()).unwrap());
static SP: LazyLock<Tokenizer> = LazyLock::new(|| new(sp_file().0).unwrap());

#[test]
fn hugging_face_golden() {
    let golden = read("tests/data/tiny-rustdoc/tokenize.json");
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>();
    for case in golden.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let plain = ids(&case["ids_without_bos"]);
        assert_eq!(TINY.encode(text, FULL).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(TINY.encode(text, PARSE).unwrap(), plain, "{text:?}");
        assert_eq!(TINY.decode_with(&plain, true).unwrap(), case["decoded"].as_str().unwrap(), "{text:?}");
    }
    assert!(golden.as_array().unwrap().len() > 50);
}

#[test]
fn sentencepiece_golden() {
    let (_, cases) = sp_file();
    assert!(cases.len() >= 60);
    for SpCase { text, ids, decoded } in cases {
        assert_eq!(SP.encode(&text, PLAIN).unwrap(), ids, "{text:?}");
        assert_eq!(SP.decode(&ids).unwrap(), decoded, "{text:?}");
        let with_bos: Vec<u32> = [1].into_iter().chain(ids).collect();
        assert_eq!(SP.encode(&text, EncodeOptions { add_special: true, ..PLAIN }).unwrap(), with_bos);
        assert_eq!(SP.decode(&with_bos).unwrap(), decoded, "{text:?}");
    }
}

#[test]
fn sentencepiece_special() {
    let hi = SP.encode("hi", PLAIN).unwrap();
    let parsed = SP.encode("hi</s>hi", PARSE).unwrap();
    assert_eq!(parsed, [&hi[..], &[2], &hi[..]].concat());
    assert!(!SP.encode("hi</s><s><unk>", PLAIN).unwrap().iter().any(|id| *id < 3));
    assert_eq!(SP.encode("<unk>", PARSE).unwrap(), [0]);
    assert_eq!(SP.decode(&parsed).unwrap(), "hi hi");
    assert_eq!(SP.decode_with(&parsed, true).unwrap(), "hi</s> hi");
    let bare = new(Vocab { add_space_prefix: Some(false), ..sp_file().0 }).unwrap();
    assert_eq!(bare.decode(&bare.encode(" x", PLAIN).unwrap()).unwrap(), " x");
    assert_ne!(bare.encode("the", PLAIN).unwrap(), SP.encode("the", PLAIN).unwrap());
}

/// Without byte tokens a run of unknown characters is one unknown token, also where the text is cut.
#[test]
fn sentencepiece_unknown() {
    let tokens = ["<unk>", "<s>", "\u{2581}", "a", "b", "ab"].map(str::to_owned).to_vec();
    let vocab = Vocab {
        model: "llama".to_owned(),
        tokens,
        scores: Some(vec![0.0, 0.0, -3.0, -4.0, -5.0, -1.0]),
        types: Some(vec![2, 3, 1, 1, 1, 1]),
        bos: Some(1),
        ..Vocab::default()
    };
    let tokenizer = new(vocab.clone()).unwrap();
    assert_eq!(tokenizer.encode("abxyzab x", PLAIN).unwrap(), [2, 5, 0, 5, 2, 0]);
    let types = Some(vec![1, 3, 1, 1, 1, 1]);
    let error = new(Vocab { types, ..vocab }).unwrap_err().to_string();
    assert!(error.contains("no unknown token"), "{error}");
}

#[test]
fn user_defined_and_control() {
    let mut vocab = tiny_vocab();
    let n = vocab.tokens.len() as u32;
    vocab.tokens.extend(["<tool>".to_owned(), "<tool>x".to_owned()]);
    vocab.types.as_mut().unwrap().extend([4, 4]);
    let tokenizer = new(vocab).unwrap();
    let ids = tokenizer.encode("<tool><tool>x<|eot_id|>", PLAIN).unwrap();
    assert_eq!(ids[..2], [n, n + 1]);
    assert!(ids.len() > 3 && !ids.contains(&3849));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "<tool><tool>x<|eot_id|>");
    assert_eq!(tokenizer.encode("<tool>x<|eot_id|>", PARSE).unwrap(), [n + 1, 3849]);
    assert_eq!(tokenizer.decode(&[n, 3849]).unwrap(), "<tool>");
}

/// A long text and 260 special tokens: one pass, not one per token, which would not end.
#[test]
fn many_special_tokens() {
    let text = "<|eot_id|><|not_it|><".repeat(50_000);
    let ids = TINY.encode(&text, PARSE).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 3849).count(), 50_000);
}

/// What a file leaves open is as llama.cpp has it, and said.
#[test]
fn what_is_not_stated_is_assumed_and_said() {
    type Assumed = (fn(&mut Vocab), bool, &'static [&'static str]);
    let assumed: &[Assumed] = &[
        (|_| (), true, &["add_bos_token is missing: texts begin with BOS", "\"llama-bpe\""]),
        (|v| v.add_bos = Some(true), true, &[]),
        (|v| v.add_bos = Some(false), false, &[]),
        (|v| v.pre = Some("falcon3".into()), true, &["\"falcon3\""]),
        (|v| v.pre = Some("dbrx".into()), false, &["texts do not begin with BOS", "\"dbrx\""]),
        (|v| v.pre = Some("gpt-2".into()), false, &["\"gpt-2\""]),
        (|v| v.pre = None, false, &["tokenizer.ggml.pre is missing", "\"default\"", "add_bos_token is missing"]),
        (|v| v.pre = Some(String::new()), false, &["tokenizer.ggml.pre is missing"]),
        (|v| v.types.as_mut().unwrap()[3849] = 1, true, &["add_bos_token", "control tokens text", "<|eot_id|>"]),
    ];
    for (edit, bos, words) in assumed {
        let mut vocab = tiny_vocab();
        edit(&mut vocab);
        let tokenizer = new(vocab).unwrap();
        assert_eq!(tokenizer.bos(), bos.then_some(3840), "{words:?}");
        let notes = tokenizer.notes().concat();
        assert!(
            words.iter().all(|word| notes.contains(word)) && notes.is_empty() == words.is_empty(),
            "{words:?}: {notes}"
        );
        // Control tokens are that whatever their types say.
        assert_eq!(tokenizer.encode("<|eot_id|>", PARSE).unwrap(), [3849]);
        assert_ne!(tokenizer.encode("<|eot_id|>", PLAIN).unwrap(), [3849]);
        assert_eq!(tokenizer.decode(&[3849]).unwrap(), "");
    }
    let sp = new(Vocab { bos: None, ..sp_file().0 }).unwrap();
    assert_eq!(sp.bos(), Some(1));
    assert!(
        ["bos_token_id is missing", "add_bos_token is missing"].iter().all(|word| sp.notes().concat().contains(word))
    );
}

/// Where a file names no split: punctuation, then GPT-2's words, then numbers, then three digits each.
#[test]
fn the_split_of_files_that_name_none() {
    let pieces = |pre: Option<&str>, text: &str| {
        let mut pieces = Vec::new();
        let split = split::Split::new(pre, Path::new("m")).unwrap();
        split
            .each(text, |piece| {
                pieces.push(piece.to_owned());
                Ok(())
            })
            .unwrap();
        pieces
    };
    let text = "Hello, 'world' 12345  a+=1 it's\n\n x";
    let default =
        ["Hello", ",", " ", "'", "world", "'", " ", "123", "45", " ", " a", "+=", "1", " it", "'", "s", "\n\n", " x"];
    let found = pieces(None, text);
    assert_eq!(found, pieces(Some("default"), text));
    assert_ne!(found, pieces(Some("gpt-2"), text));
    assert_eq!(found, default);
    for (name, like) in [("dbrx", "llama-bpe"), ("smaug-bpe", "llama-bpe"), ("phi-2", "gpt-2"), ("starcoder", "smollm")]
    {
        assert_eq!(pieces(Some(name), text), pieces(Some(like), text), "{name}");
    }
    let looks_up = |pre| split::Split::new(Some(pre), Path::new("m")).unwrap().pre.ignore_merges;
    assert!(looks_up("llama-bpe") && !looks_up("dbrx") && !looks_up("smollm"));
}

/// Time and memory are those of the texts, whatever tokens a file has.
#[test]
fn tokens_of_any_length_and_number() {
    // Llama 2's manner: one giant token, and all runs of a character, each a prefix of the next.
    let mut vocab = sp_file().0;
    let runs = (1..1500).map(|n| "q".repeat(n));
    for text in runs.chain(["z".repeat(1 << 20), "zz".to_owned(), "z".to_owned()]) {
        if vocab.tokens.contains(&text) {
            continue;
        }
        vocab.scores.as_mut().unwrap().push(-(vocab.tokens.len() as f32));
        vocab.types.as_mut().unwrap().push(1);
        vocab.tokens.push(text);
    }
    let tokenizer = new(vocab).unwrap();
    let text = format!("{} {}", "q".repeat(5000), "z".repeat(1 << 20));
    let ids = tokenizer.encode(&text, PLAIN).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    // Thousands of special tokens of a kilobyte that share their beginnings.
    let mut vocab = tiny_vocab();
    let n = vocab.tokens.len() as u32;
    let common = "<special".repeat(125);
    vocab.tokens.extend((0..20_000).map(|i| format!("{common}{i:05}>")));
    vocab.tokens.extend([common.clone(), format!("{common}0")]);
    vocab.types.as_mut().unwrap().extend([4; 20_002]);
    let tokenizer = new(vocab).unwrap();
    let text = format!("x{common}12345>{common}{common}0{common}00000>");
    let ids = tokenizer.encode(&text, PLAIN).unwrap();
    assert_eq!(ids[ids.len() - 4..], [n + 12345, n + 20_000, n + 20_001, n], "longest first");
}

#[test]
fn end_of_generation() {
    for text in ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"] {
        assert!(TINY.is_eog(TINY.find(text).unwrap()), "{text}");
    }
    assert!(!TINY.is_eog(3840) && !TINY.is_eog(5));
    assert!(SP.is_eog(2) && !SP.is_eog(1));
    // llama.cpp's number for the end where the file names none, and its list of texts.
    let unnamed = new(Vocab { eos: None, ..sp_file().0 }).unwrap();
    assert!(unnamed.is_eog(2) && unnamed.notes().concat().contains("eos_token_id is missing"), "{:?}", unnamed.notes());
    let mut vocab = tiny_vocab();
    for text in ["<|im_end|>", "<end_of_turn>", "</s>", "<｜end▁of▁sentence｜>", "<|fim_pad|>", "<|file_sep|>", "<end>"]
    {
        vocab.tokens.push(text.to_owned());
        vocab.types.as_mut().unwrap().push(3);
    }
    vocab.tokens.push("[fim]".to_owned());
    vocab.types.as_mut().unwrap().push(3);
    vocab.fim_ends = vec![4103];
    let tokenizer = new(vocab).unwrap();
    assert_eq!(
        (4096..4104).map(|id| tokenizer.is_eog(id)).collect::<Vec<_>>(),
        [true, true, true, true, true, true, false, true]
    );
}

/// The pieces of runs far beyond any backtracking limit are those of short runs. Work that grew with their square would not end.
#[test]
fn a_million() {
    let mut pieces = Vec::new();
    let n = 1_000_000;
    let split = split::Split::new(Some("llama-bpe"), Path::new("m")).unwrap();
    let text = format!("{}x", " ".repeat(n));
    let each = split.each(&text, |piece| {
        pieces.push(piece.len());
        Ok(())
    });
    each.unwrap();
    assert_eq!(pieces, [n - 1, 2]);
    let ids = TINY.encode(&text, PLAIN).unwrap();
    // The last piece is " x"; the rest is the run alone, which no other text touches.
    let mut apart = TINY.encode(&" ".repeat(n - 1), PLAIN).unwrap();
    apart.extend(TINY.encode(" x", PLAIN).unwrap());
    assert_eq!(ids, apart);
    assert_eq!(TINY.decode(&ids).unwrap(), text);
    // Merging from the left, a run is made of the longest token of spaces, over and over: so are its first tokens.
    let short = TINY.encode(&" ".repeat(1000), PLAIN).unwrap();
    assert_eq!(ids[..short.len() / 2], short[..short.len() / 2]);
    for unit in ["a", "x ", "\n", "é", "1", "-", " \n", "ab\u{300}"] {
        let text = unit.repeat(n / unit.len());
        for tokenizer in [&*TINY, &*SP] {
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert!(tokenizer.decode(&ids).unwrap() == text, "{unit:?}");
        }
    }
}

#[test]
fn stream_never_cuts_characters() {
    for tokenizer in [&*TINY, &*SP] {
        let text = "a 🦀🚀👩‍👩‍👧 é 日本 🇩🇪";
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        let mut stream = StreamDecoder::new(tokenizer).at_text_start();
        let mut said = String::new();
        let mut silent = 0;
        for id in ids {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'));
            silent += usize::from(piece.is_empty());
            said.push_str(&piece);
        }
        assert!(silent > 3, "the emoji should be cut by tokens");
        assert_eq!((said.as_str(), stream.finish().as_str()), (text, ""));
    }
}

#[test]
fn stream_of_broken_bytes() {
    let byte = |b: u8| SP.find(&format!("<0x{b:02X}>")).unwrap();
    let mut stream = StreamDecoder::new(&*SP);
    assert_eq!(stream.push(byte(0xf0)).unwrap(), "");
    assert_eq!(stream.push(byte(0x9f)).unwrap(), "");
    assert_eq!(stream.push(1).unwrap(), "", "a control token says nothing");
    assert_eq!(stream.push(byte(b'!')).unwrap(), "\u{fffd}!");
    assert_eq!(stream.push(byte(0xff)).unwrap(), "\u{fffd}");
    assert_eq!(stream.push(byte(0xe2)).unwrap(), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    let the = SP.encode("the", PLAIN).unwrap();
    assert_eq!(StreamDecoder::new(&*SP).push(the[0]).unwrap().chars().next(), Some(' '), "a continuation");
}

#[test]
fn ids_out_of_range() {
    let error = TINY.decode(&[1, 1 << 30]).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfVocabulary { token: 0x4000_0000, vocab: 4096 }), "{error}");
    assert!(TINY.token_bytes(u32::MAX).is_err());
    assert_eq!(TINY.token_bytes(220).unwrap(), b" ");
}

/// What is wrong in a file, and the words its error must have.
#[test]
fn damaged_vocabularies() {
    type Damage = (fn(&mut Vocab), &'static [&'static str]);
    let damages: &[Damage] = &[
        (|v| v.model = "bert".into(), &["tokenizer.ggml.model", "\"bert\"", "gpt2 or llama"]),
        (|v| v.pre = Some("bloom".into()), &["tokenizer.ggml.pre", "\"bloom\"", "llama-bpe", "smollm"]),
        (|v| v.tokens.clear(), &["tokenizer.ggml.tokens", "0 tokens"]),
        (|v| v.types = Some(vec![1]), &["token_type", "1 types for 4096 tokens"]),
        (|v| v.types.as_mut().unwrap()[7] = 9, &["token 7 has the unknown type 9"]),
        (|v| v.types.as_mut().unwrap()[7] = 6, &["token 7 has the type of a byte"]),
        (|v| v.scores = Some(vec![0.0]), &["1 scores for 4096 tokens"]),
        (|v| v.scores = Some(vec![f32::NAN; 4096]), &["score of token 0 is not a number"]),
        (|v| v.bos = Some(4096), &["bos_token_id", "token 4096 does not exist"]),
        (|v| v.bos = None, &["bos_token_id", "does not name it", "add_bos_token to false"]),
        (|v| v.merges.clear(), &["tokenizer.ggml.merges", "no merges"]),
        (|v| v.merges[3] = "ab".into(), &["merge 3 is \"ab\""]),
        (|v| v.merges[3] = "a b c".into(), &["merge 3 is \"a b c\""]),
        (|v| v.merges[3] = "a \u{fffd}".into(), &["merge 3", "needs the token \"\u{fffd}\""]),
        (|v| v.merges[3] = format!("{0} {0}", v.tokens[3000]), &["merge 3", "needs the token"]),
        (|v| v.tokens[9] = v.tokens[8].clone(), &["tokens 8 and 9 have the same text"]),
        (|v| v.model = "llama".into(), &["tokenizer.ggml.scores", "no scores"]),
    ];
    for (damage, words) in damages {
        let mut vocab = tiny_vocab();
        damage(&mut vocab);
        let error = new(vocab).expect_err(words[0]).to_string();
        assert!(error.starts_with("model.gguf: ") && words.iter().all(|word| error.contains(word)), "{error}");
    }
    let mut vocab = tiny_vocab();
    let tab = vocab.tokens.iter().position(|token| token == "ĉ").unwrap();
    vocab.tokens[tab] = "<no tab>".into();
    vocab.merges.retain(|merge| !merge.contains('ĉ'));
    let error = new(vocab).unwrap().encode("a\tb", PLAIN).unwrap_err().to_string();
    assert!(error.contains("no token for the byte 0x09"), "{error}");
}

/// The alternatives of a published pattern without its last two, `\s+(?!\S)|\s+`.
fn alternatives(published: &[&str]) -> Vec<regex::Regex> {
    published.iter().map(|a| regex::Regex::new(&format!("^(?:{a})")).unwrap()).collect()
}

static LLAMA3: LazyLock<Vec<regex::Regex>> = LazyLock::new(|| {
    alternatives(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
    ])
});
static GPT2: LazyLock<Vec<regex::Regex>> =
    LazyLock::new(|| alternatives(&["'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+"]));

/// One alternative after another, and the lookahead tried the way a backtracking engine does.
fn naive_split(alternatives: &[regex::Regex], text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let matched = alternatives.iter().find_map(|p| p.find(rest)).map(|m| m.end());
        let spaces: Vec<char> = rest.chars().take_while(|c| c.is_whitespace()).collect();
        let lookahead = (1..=spaces.len()).rev().find_map(|n| {
            let end = spaces[..n].iter().map(|c| c.len_utf8()).sum();
            rest[end..].chars().next().is_none_or(char::is_whitespace).then_some(end)
        });
        let end = matched.or(lookahead).unwrap_or(first.len_utf8());
        pieces.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    pieces
}

fn naive_smollm(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(digit) = rest.chars().find(|c| c.is_numeric()) {
        let (before, after) = rest.split_once(digit).unwrap();
        pieces.extend(naive_split(&GPT2, before));
        pieces.push(digit.to_string());
        rest = after;
    }
    pieces.extend(naive_split(&GPT2, rest));
    pieces
}

static SPLITS: LazyLock<[split::Split; 3]> =
    LazyLock::new(|| ["llama-bpe", "gpt-2", "smollm"].map(|pre| split::Split::new(Some(pre), Path::new("m")).unwrap()));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn split_is_the_published_one(text in r"([ \t\r\n\u{a0}\u{3000}]{0,4}([a-zA-Zéſ日]{1,3}|[0-9½]{1,5}|'[stmdSTlLvVrReE]{1,2}|[.,!\u{300}🦀]{1,2}|\PC)?){0,8}") {
        let wanted = [naive_split(&LLAMA3, &text), naive_split(&GPT2, &text), naive_smollm(&text)];
        for (split, wanted) in SPLITS.iter().zip(wanted) {
            let mut pieces = Vec::new();
            split.each(&text, |piece| { pieces.push(piece.to_owned()); Ok(()) }).unwrap();
            prop_assert_eq!(pieces, wanted);
        }
    }

    #[test]
    fn round_trip(text in any::<String>(), more in r"[ \n\tabc0-9<|>s/é🦀\u{0}]{0,30}") {
        let text = text + &more;
        for tokenizer in [&*TINY, &*SP] {
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            let decoded = tokenizer.decode(&ids).unwrap();
            // SentencePiece has one character for the space and for U+2581.
            if std::ptr::eq(tokenizer, &*TINY) || !text.contains('\u{2581}') {
                prop_assert_eq!(&decoded, &text);
            }
        }
    }

    /// Any tokens in any order: the stream says what the bytes as a whole say.
    #[test]
    fn stream_is_lossy_utf8(ids in prop::collection::vec(0u32..3840, 0..40)) {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| TINY.token_bytes(id).unwrap()).collect();
        prop_assert_eq!(TINY.decode(&ids).unwrap(), String::from_utf8_lossy(&bytes));
    }
}
