//! `tokenizer.model` without `tokenizer.json`: the tokens of sentencepiece and tiktoken themselves, and the keys of `tokenizer.json`.
//! `tests/data/make_torch.py` makes the files and asks these programs.

mod common;

use serde_json::{Value as Json, json};
use std::fs;
use std::path::{Path, PathBuf};
use strata::convert::{Input, Options, Target, convert};
use strata::gguf::{Gguf, ValueRef};
use strata::progress::Quiet;
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{GgmlType, Result};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(name)
}

/// A copy of a folder of `tests/data/torch` without its `tokenizer.json`.
struct Folder {
    _root: TempDir,
    dir: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Folder {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tiny-llama");
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(data(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::write(dir.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
        }
        let folder = Folder { _root: root, dir };
        folder.remove("tokenizer.json");
        folder
    }

    fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name));
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.dir.join(name), bytes).unwrap();
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Json)) {
        let mut json = serde_json::from_slice(&fs::read(self.dir.join(name)).unwrap()).unwrap();
        change(&mut json);
        self.write(name, json.to_string());
    }

    fn convert(&self) -> Result<Gguf> {
        let out = self.dir.with_extension("gguf");
        let target = Target::new(&out, common::pure(GgmlType::Q8_0));
        convert(&Input::open(&self.dir)?, &[target], &Options::default(), &Quiet)?;
        Gguf::open(&out)
    }

    fn refused(&self, words: &[&str]) {
        let said = self.convert().err().unwrap_or_else(|| panic!("must be refused for {words:?}")).to_string();
        assert!(said.lines().count() == 1 && words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
}

/// The keys of the tokenizer, as texts.
fn keys(gguf: &Gguf) -> Vec<(String, String)> {
    let of_tokenizer =
        |(key, value): (&str, ValueRef<'_>)| Some((key.strip_prefix("tokenizer.")?.to_owned(), format!("{value:?}")));
    gguf.metadata().iter().filter_map(of_tokenizer).collect()
}

/// The encodings of the texts by the program that the vocabulary is of.
fn cases(of: &str) -> Vec<(String, Vec<u32>)> {
    let json: Json = serde_json::from_slice(&fs::read(data("tokens.json")).unwrap()).unwrap();
    let ids = |case: &Json| serde_json::from_value(case["ids"].clone()).unwrap();
    json[of].as_array().unwrap().iter().map(|case| (case["text"].as_str().unwrap().to_owned(), ids(case))).collect()
}

#[test]
fn tokens_are_those_of_the_program_that_made_the_vocabulary() {
    for name in ["llama2", "llama3"] {
        let tokenizer = Tokenizer::from_gguf(&Folder::new(name).convert().unwrap()).unwrap();
        let cases = cases(name);
        assert!(cases.len() > 50);
        for (text, ids) in cases {
            let ours = tokenizer.encode(&text, EncodeOptions { add_special: false, parse_special: false }).unwrap();
            assert_eq!(ours, ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn keys_are_those_of_tokenizer_json() {
    for name in ["llama2", "llama3"] {
        let folder = Folder::new(name);
        let alone = keys(&folder.convert().unwrap());
        folder.write("tokenizer.json", fs::read(data(&format!("{name}/tokenizer.json"))).unwrap());
        let json = keys(&folder.convert().unwrap());
        // tokenizer.json has an order of merges and no scores, tokenizer.model the scores themselves.
        let differ: Vec<&str> = alone.iter().zip(&json).filter(|(a, b)| a != b).map(|(a, _)| a.0.as_str()).collect();
        assert_eq!(alone.len(), json.len());
        assert_eq!(differ, if name == "llama2" { &["ggml.scores"][..] } else { &[] });
        // Without its neighbours the file says which tokens begin and end texts, and that one begins them.
        folder.remove("tokenizer.json");
        folder.remove("tokenizer_config.json");
        folder.edit("config.json", |json| {
            json.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_token_id"));
        });
        let mut bare = keys(&folder.convert().unwrap());
        let mut with = alone.clone();
        [&mut bare, &mut with].into_iter().for_each(|keys| keys.retain(|(key, _)| !key.contains("add_eos")));
        assert_eq!(bare, with, "{name}");
    }
}

#[test]
fn scores_are_those_of_the_file() {
    let gguf = Folder::new("llama2").convert().unwrap();
    let scores: Vec<f32> =
        gguf.array("tokenizer.ggml.scores").unwrap().unwrap().iter().map(|v| v.as_f32().unwrap()).collect();
    // What sentencepiece writes: 0 for the first three and the bytes, then one less for each piece that merging makes.
    assert!(scores[..259].iter().all(|score| *score == 0.0));
    assert!(scores[259..].is_sorted_by(|a, b| a >= b) && scores[260] == scores[259] - 1.0, "{:?}", &scores[255..270]);
}

#[test]
fn files_beside_it_add_tokens() {
    let folder = Folder::new("llama2");
    let size: usize = 420;
    folder.edit("config.json", |json| json["vocab_size"] = json!(size + 4));
    // The weights have as many rows as before: only the vocabulary is looked at here.
    let path = folder.dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let longer: Vec<(String, Vec<usize>, Vec<u8>)> = (file.iter())
        .map(|(name, view)| {
            let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
            if shape[0] == size {
                shape[0] += 4;
                data.extend([0; 4 * 32 * 2]);
            }
            (name.to_owned(), shape, data)
        })
        .collect();
    let views = longer.iter().map(|(name, shape, data)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), data).unwrap())
    });
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();

    folder.write("added_tokens.json", json!({"<|turn|>": size, "<plain>": size + 1, "<extra>": size + 2}).to_string());
    folder.write(
        "special_tokens_map.json",
        json!({"additional_special_tokens": ["<extra>"], "pad_token": {"content": "<extra>"}}).to_string(),
    );
    let gguf = folder.convert().unwrap();
    let kinds: Vec<i64> =
        gguf.array("tokenizer.ggml.token_type").unwrap().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
    assert_eq!(kinds[size..], [3, 4, 3, 5], "control, user defined, control, unused");
    assert_eq!(gguf.u32("tokenizer.ggml.padding_token_id").unwrap(), Some(size as u32 + 2));
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = tokenizer.encode("<|turn|>", EncodeOptions { add_special: false, parse_special: true }).unwrap();
    assert!(ids.contains(&(size as u32)));
    // The newer file takes precedence.
    folder.edit("tokenizer_config.json", |json| {
        json["added_tokens_decoder"] = json!({"421": {"content": "<plain>", "special": true}});
    });
    let gguf = folder.convert().unwrap();
    let kinds = gguf.array("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!(kinds.iter().nth(size + 1).unwrap().as_i64(), Some(3));
    folder.write("added_tokens.json", json!({"<x>": 9999}).to_string());
    folder.refused(&["added_tokens.json", "<x>", "9999"]);
    folder.write("added_tokens.json", "[]");
    folder.refused(&["added_tokens.json", "not an object"]);
}

/// A field of a message: its number and its bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128);
    [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat()
}

fn piece(text: &str, kind: u8) -> Vec<u8> {
    field(1, &[&field(1, text.as_bytes())[..], b"\x15\0\0\x80\xbf", &[3 << 3, kind]].concat())
}

#[test]
fn what_gguf_cannot_express_and_damaged_files_are_refused() {
    let folder = Folder::new("llama2");
    let original = fs::read(data("llama2/tokenizer.model")).unwrap();
    let base = [piece("<unk>", 2), piece("<s>", 3), piece("</s>", 3), piece("a", 1)].concat();
    // A file that says nothing of its type is taken for what Llama has.
    folder.write("tokenizer.model", &base);
    folder.convert().unwrap();
    let with = |more: &[u8]| [&base[..], more].concat();
    let cases: &[(Vec<u8>, &[&str])] = &[
        (with(&field(2, &[3 << 3, 1])), &["unigram"]),
        (with(&field(2, b"")), &["unigram"]),
        (with(&field(2, &[3 << 3, 4])), &["type 4"]),
        (with(&[field(2, &[3 << 3, 2, 0xc0, 1, 1])].concat()), &["end of words"]),
        (with(&field(3, &field(2, b"table"))), &["precompiled_charsmap"]),
        (with(&field(3, &[5 << 3, 0])), &["spaces stay spaces"]),
        (with(&piece("a", 1)), &["piece 4", "\"a\" is there twice"]),
        (with(&piece("b", 9)), &["\"b\" has type 9"]),
        (with(&field(1, &field(1, b"\xff"))), &["not UTF-8"]),
        (with(&field(1, b"\x15\0\0\xc0\x7f")), &["score NaN"]),
        (with(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), &["18446744073709551615 bytes are said"]),
        (with(b"\x0a"), &["are said to follow"]),
        (with(b"\x0b"), &["type 3"]),
        (with(&[0xff; 12]), &["more than 64 bits"]),
        (Vec::new(), &["no pieces"]),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), &["Git LFS"]),
        (b"<!doctype html>".to_vec(), &["web page"]),
        (b"YQ== 0\nYg== 0\n".to_vec(), &["line 2", "rank 0 where 1"]),
        (b"YQ== 0\nYQ== 1\n".to_vec(), &["line 2", "line 1"]),
        (b"YQ== 0\n?? 1\n".to_vec(), &["line 2", "Base64"]),
        (b"YQ== 1\n".to_vec(), &["line 1", "rank 1 where 0"]),
        (b"YQ== 0\nYg==\n".to_vec(), &["line 2"]),
    ];
    for (bytes, words) in cases {
        folder.write("tokenizer.model", bytes);
        folder.refused(&[&["tokenizer.model"], *words].concat());
    }
    // Cut anywhere, it is an error or a smaller vocabulary, and no panic.
    for len in (0..original.len()).step_by(101) {
        folder.write("tokenizer.model", &original[..len]);
        let _ = folder.convert();
        let mut flipped = original.clone();
        flipped[len] ^= 0x91;
        folder.write("tokenizer.model", &flipped);
        let _ = folder.convert();
    }
    folder.remove("tokenizer.model");
    folder.refused(&["tokenizer.json", "missing"]);
}
