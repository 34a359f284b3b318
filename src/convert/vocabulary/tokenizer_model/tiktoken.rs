//! The vocabulary of Llama 3 in the form of tiktoken: a line for each token, its bytes in Base64 and its rank, which is its number. Two neighbours
//! merge if they make a token, those of the lowest rank first. The special tokens and the way of splitting texts are not in the file: they are
//! those of Meta's `tokenizer.py`, unless files beside it name the tokens.

use super::{Beside, Model};
use crate::checkpoint::{Checkpoint, MAX_TOKENS};
use crate::error::{Error, Result};
use crate::tokenizer::char_of;
use crate::tokenizer::pre::LLAMA3_PATTERN;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::path::Path;

/// Bytes of a token, at most; the longest of Llama 3 has 128.
const LONGEST: usize = 1024;

/// Special tokens behind the others, of which most are reserved.
const SPECIAL: usize = 256;

/// The named special tokens of Llama 3.1 to 3.3 by their place, as in the `tokenizer.json` of these models.
const LLAMA_3_1: [(usize, &str); 8] = [
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (4, "<|finetune_right_pad_id|>"),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (8, "<|eom_id|>"),
    (9, "<|eot_id|>"),
    (10, "<|python_tag|>"),
];

/// The same of Llama 3.
const LLAMA_3: [(usize, &str); 5] = [
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (9, "<|eot_id|>"),
];

/// True if the first line is one of such a file.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.len() <= 2 * LONGEST && token(line.trim_ascii_end()).is_some()
}

/// The token and the rank of a line.
fn token(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let (base64, rank) = str::from_utf8(line).ok()?.split_once(' ')?;
    let token = STANDARD.decode(base64).ok().filter(|token| !token.is_empty() && token.len() <= LONGEST)?;
    Some((token, rank.parse().ok()?))
}

/// Reads the file.
///
/// # Errors
/// Names the line that is damaged or contradicts another.
pub(super) fn read(path: &Path, bytes: &[u8], checkpoint: &Checkpoint, beside: &Beside) -> Result<Model> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let bad = |problem: String| Error::invalid(path, format!("line {}", i + 1), problem, "get the file again");
        let (token, rank) =
            token(line).ok_or_else(|| bad(format!("is not a token of 1 to {LONGEST} bytes in Base64 and its rank")))?;
        if rank as usize != tokens.len() || tokens.len() == MAX_TOKENS {
            return Err(bad(format!("rank {rank} where {} comes next", tokens.len())));
        }
        tokens.push(token);
    }
    let mut ranks: HashMap<&[u8], usize> = HashMap::with_capacity(tokens.len());
    for (rank, token) in tokens.iter().enumerate() {
        if let Some(other) = ranks.insert(token, rank) {
            let place = format!("line {}", rank + 1);
            return Err(Error::invalid(
                path,
                place,
                format!("has the token of line {}", other + 1),
                "get the file again",
            ));
        }
    }
    let text = |token: &[u8]| token.iter().map(|&byte| char_of(byte)).collect::<String>();
    let vocab: Map<String, Json> = tokens.iter().enumerate().map(|(rank, token)| (text(token), rank.into())).collect();
    let mut merges: Vec<Json> = Vec::new();
    for token in &tokens {
        let cut = |i| Some((ranks.get(&token[..i])?, ranks.get(&token[i..])?));
        let mut pairs: Vec<_> = (1..token.len()).filter_map(cut).collect();
        // As transformers' TikTokenConverter orders them: no order changes the result, which goes by the rank of what is made.
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(&a, &b)| format!("{} {}", text(&tokens[a]), text(&tokens[b])).into()));
    }
    let added = special(checkpoint, beside, tokens.len());
    let first = added.first().filter(|(text, ..)| text == LLAMA_3[0].1);
    let json = json!({
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
        "decoder": {"type": "ByteLevel"},
        "post_processor": first.map(|(text, id, _)| json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {text: {"id": text, "ids": [id]}}})),
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab, "merges": merges},
    });
    let defaults = vec![("bos_token", LLAMA_3[0].1.into()), ("eos_token", LLAMA_3[1].1.into())];
    Ok(Model { json, added, defaults, pieces: None, notes: Vec::new() })
}

/// The special tokens behind the others: those that the files beside the model name, or Meta's.
fn special(checkpoint: &Checkpoint, beside: &Beside, first: usize) -> Vec<(String, u32, bool)> {
    let behind = |(id, _): &(&u32, _)| **id as usize >= first;
    if beside.added.iter().any(|token| behind(&token)) {
        let all = beside.added.iter().filter(behind);
        return all.map(|(id, (text, special))| (text.clone(), *id, *special)).collect();
    }
    // Llama 3.1 renamed some, and has scaled frequencies.
    let scales = checkpoint.config.json.get("rope_scaling").is_some_and(|scaling| !scaling.is_null());
    let named = if scales { &LLAMA_3_1[..] } else { &LLAMA_3[..] };
    let mut reserved = 0..;
    let name = |i: usize| match named.iter().find(|(place, _)| *place == i) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("<|reserved_special_token_{}|>", reserved.next().unwrap_or_default()),
    };
    let places = (first..checkpoint.config.hyperparameters.vocab).take(SPECIAL);
    places.clone().map(|id| id as u32).zip((0..places.len()).map(name)).map(|(id, name)| (name, id, true)).collect()
}
