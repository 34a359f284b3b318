//! The tokenizer of a checkpoint (`tokenizer.json` and its neighbours) as GGUF metadata.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::Layout;
use crate::tokenizer::TokenKind;
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// Llama 3's way of splitting text into words, in the two spellings that checkpoints have.
const LLAMA3_PATTERNS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Roles whose token numbers have a key, which is spelled like this.
const ROLES: [(&str, &str); 5] =
    [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding")];

/// Sets every `tokenizer.*` key.
pub fn set(layout: &mut Layout, checkpoint: &Checkpoint) -> Result<()> {
    let files = Files {
        path: checkpoint.dir.join("tokenizer.json"),
        tokenizer: checkpoint.json("tokenizer.json")?.unwrap_or(Json::Null),
        config: checkpoint.json("tokenizer_config.json")?.unwrap_or(Json::Null),
    };
    if files.tokenizer.is_null() {
        return Err(Error::invalid(&files.path, "file", "is missing", "download it into the checkpoint's folder"));
    }
    let model = &files.tokenizer["model"];
    if model["type"] != "BPE" && model["type"] != Json::Null {
        return Err(files.bad(
            "model.type",
            format!("{} is not supported", model["type"]),
            "strata knows BPE tokenizers",
        ));
    }
    let merges = files.merges()?;
    let is_sentencepiece = model["byte_fallback"] == true;
    if is_sentencepiece {
        layout.set("tokenizer.ggml.model", "llama");
        layout.set("tokenizer.ggml.pre", "default");
    } else {
        layout.set("tokenizer.ggml.model", "gpt2");
        layout.set("tokenizer.ggml.pre", files.pre_tokenizer()?);
    }
    let (tokens, types) = files.tokens(checkpoint.config.vocab_size, is_sentencepiece)?;
    let scores = is_sentencepiece.then(|| scores(&tokens, &types, &merges));
    layout.set("tokenizer.ggml.tokens", tokens);
    if let Some(scores) = scores {
        layout.set("tokenizer.ggml.scores", scores);
    }
    layout.set("tokenizer.ggml.token_type", types.iter().map(|ty| *ty as i32).collect::<Vec<_>>());
    if !is_sentencepiece {
        // A space inside a part would end it: it is written as the byte alphabet writes it.
        let part = |s: &str| s.replace(' ', "\u{120}");
        layout.set(
            "tokenizer.ggml.merges",
            merges.iter().map(|(a, b)| format!("{} {}", part(a), part(b))).collect::<Vec<_>>(),
        );
    }
    special(layout, checkpoint, &files);
    if is_sentencepiece {
        layout.set("tokenizer.ggml.add_space_prefix", files.adds_space_prefix());
    }
    chat_template(layout, checkpoint, &files)
}

struct Files {
    path: PathBuf,
    tokenizer: Json,
    config: Json,
}

impl Files {
    fn bad(&self, place: &str, problem: String, remedy: &str) -> Error {
        Error::invalid(&self.path, format!("\"{place}\""), problem, remedy)
    }

    /// Pairs of parts, in both forms that the file may have: `"a b"` and `["a", "b"]`.
    fn merges(&self) -> Result<Vec<(String, String)>> {
        let merges = self.tokenizer["model"]["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pair = |(i, merge): (usize, &Json)| {
            let parts = match merge {
                Json::String(text) => text.split_once(' '),
                Json::Array(pair) if pair.len() == 2 => pair[0].as_str().zip(pair[1].as_str()),
                _ => None,
            };
            let (a, b) =
                parts.ok_or_else(|| self.bad("model.merges", format!("merge {i} is no pair"), "get the file again"))?;
            Ok((a.to_owned(), b.to_owned()))
        };
        merges.iter().enumerate().map(pair).collect()
    }

    /// Texts and types of all tokens, by number.
    fn tokens(&self, vocab_size: usize, is_sentencepiece: bool) -> Result<(Vec<String>, Vec<TokenKind>)> {
        let vocab = self.tokenizer["model"]["vocab"].as_object();
        let vocab = vocab.ok_or_else(|| self.bad("model.vocab", "is missing".into(), "get the file again"))?;
        let mut slots: Vec<Option<(String, TokenKind)>> = vec![None; vocab_size];
        let mut put = |text: &str, id: &Json, ty: TokenKind| {
            let slot = id.as_u64().and_then(|id| slots.get_mut(id as usize));
            let slot = slot.ok_or_else(|| {
                let problem = format!("token {text:?} has number {id} and config.json a vocabulary of {vocab_size}");
                self.bad("model.vocab", problem, "tokenizer.json and config.json belong to different models")
            })?;
            *slot = Some((text.to_owned(), ty));
            Ok(())
        };
        let unknown = self.tokenizer["model"]["unk_token"].as_str().unwrap_or("<unk>");
        for (text, id) in vocab {
            let ty = match text.as_str() {
                _ if !is_sentencepiece => TokenKind::Normal,
                text if text == unknown => TokenKind::Unknown,
                text if text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') => TokenKind::Byte,
                _ => TokenKind::Normal,
            };
            put(text, id, ty)?;
        }
        for token in self.added() {
            let text = token["content"].as_str().unwrap_or_default();
            let looks_special = text.starts_with("<|") && text.ends_with("|>");
            let ty = match token["special"] == true || looks_special {
                true if is_sentencepiece && text == unknown => TokenKind::Unknown,
                true => TokenKind::Control,
                false => TokenKind::UserDefined,
            };
            put(text, &token["id"], ty)?;
        }
        let filled =
            slots.into_iter().enumerate().map(|(i, slot)| slot.unwrap_or((format!("[PAD{i}]"), TokenKind::Unused)));
        Ok(filled.unzip())
    }

    fn added(&self) -> &[Json] {
        self.tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// llama.cpp's name for the way text is split into words, recognized by what the file says and not by a hash of its results.
    fn pre_tokenizer(&self) -> Result<&'static str> {
        let pre = &self.tokenizer["pre_tokenizer"];
        let steps = match pre["pretokenizers"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(pre),
        };
        let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
        let pattern = steps.first().and_then(|step| step["pattern"]["Regex"].as_str());
        match (kinds.as_slice(), pattern) {
            (["Split", "ByteLevel"], Some(p)) if LLAMA3_PATTERNS.contains(&p) => Ok("llama-bpe"),
            (["ByteLevel"], _) if pre["use_regex"] != false => Ok("gpt-2"),
            (["Digits", "ByteLevel"], _) if steps[0]["individual_digits"] == true => Ok("smollm"),
            _ => {
                let problem =
                    format!("this way of splitting text is not supported: {kinds:?} {}", pattern.unwrap_or(""));
                Err(self.bad("pre_tokenizer", problem, "strata knows those of Llama 3, GPT-2 and SmolLM"))
            }
        }
    }

    fn adds_space_prefix(&self) -> bool {
        if let Some(add) = self.config["add_prefix_space"].as_bool() {
            return add;
        }
        let steps = self.tokenizer["normalizer"]["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let prepends = steps.iter().chain([&self.tokenizer["normalizer"]]).any(|step| step["type"] == "Prepend");
        let scheme = self.tokenizer["pre_tokenizer"]["prepend_scheme"].as_str();
        prepends || matches!(scheme, Some("first" | "always"))
    }

    /// The first and last special token of the template for one text.
    fn template(&self) -> (Option<&str>, Option<&str>) {
        let post = &self.tokenizer["post_processor"];
        let steps = post["processors"].as_array().map(Vec::as_slice).unwrap_or(std::slice::from_ref(post));
        let single =
            steps.iter().find(|step| step["type"] == "TemplateProcessing").and_then(|step| step["single"].as_array());
        let Some(single) = single.filter(|single| single.len() > 1) else { return (None, None) };
        let special =
            |item: Option<&'_ Json>| item.and_then(|item| item["SpecialToken"]["id"].as_str().map(str::to_owned));
        // Borrowed again from the added tokens, so that the texts live as long as the file.
        let find = |text: Option<String>| {
            self.added().iter().filter_map(|t| t["content"].as_str()).find(|c| Some(*c) == text.as_deref())
        };
        (find(special(single.first())), find(special(single.last())))
    }

    /// A special token's text in tokenizer_config.json: a string, or an object with its content.
    fn text_of(&self, role: &str) -> Option<&str> {
        let entry = &self.config[format!("{role}_token")];
        entry.as_str().or(entry["content"].as_str())
    }
}

/// SentencePiece's scores, from the order of merges: a token made by an earlier merge scores higher, which gives the same merges back.
fn scores(tokens: &[String], types: &[TokenKind], merges: &[(String, String)]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (i, (a, b)) in merges.iter().enumerate() {
        rank.entry(format!("{a}{b}")).or_insert(i);
    }
    let score = |(token, ty): (&String, &TokenKind)| match (ty, rank.get(token)) {
        (TokenKind::Normal, Some(rank)) => -(*rank as f32),
        // Single characters are never the result of a merge: their score is not looked at.
        (TokenKind::Normal, None) => -(merges.len() as f32),
        _ => 0.0,
    };
    tokens.iter().zip(types).map(score).collect()
}

fn special(layout: &mut Layout, checkpoint: &Checkpoint, files: &Files) {
    let ids: HashMap<&str, u32> =
        files.added().iter().filter_map(|t| Some((t["content"].as_str()?, t["id"].as_u64()? as u32))).collect();
    let (first, last) = files.template();
    for (role, key) in ROLES {
        let by_text = files.text_of(role).and_then(|text| ids.get(text).copied());
        // A list of end tokens is not one: the reader finds them by their texts.
        let by_number = checkpoint.config.json[format!("{role}_token_id")].as_u64().map(|id| id as u32);
        let id = by_text.or(by_number).filter(|id| (*id as usize) < checkpoint.config.vocab_size);
        if let Some(id) = id {
            layout.set(format!("tokenizer.ggml.{key}_token_id"), id);
        }
        let in_template = match role {
            "bos" => first.map(|text| Some(text) == files.text_of(role) || by_text.is_none()),
            "eos" => last.map(|text| Some(text) == files.text_of(role)),
            _ => None,
        };
        if let Some(add) = files.config[format!("add_{role}_token")].as_bool().or(in_template) {
            layout.set(format!("tokenizer.ggml.add_{role}_token"), add);
        }
    }
}

fn chat_template(layout: &mut Layout, checkpoint: &Checkpoint, files: &Files) -> Result<()> {
    let jinja = checkpoint.dir.join("chat_template.jinja");
    let template = match std::fs::read_to_string(&jinja) {
        Ok(text) => Json::String(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => files.config["chat_template"].clone(),
        Err(error) => return Err(Error::io("read", &jinja)(error)),
    };
    match template {
        Json::String(text) => layout.set("tokenizer.chat_template", text),
        Json::Array(templates) => {
            let mut names = Vec::new();
            let mut seen = HashSet::new();
            for entry in &templates {
                let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else { continue };
                let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                if !seen.insert(name.clone()) {
                    continue;
                }
                if name == "default" {
                    layout.set("tokenizer.chat_template", text);
                } else {
                    layout.set(format!("tokenizer.chat_template.{name}"), text);
                    names.push(name);
                }
            }
            if !names.is_empty() {
                layout.set("tokenizer.chat_templates", names);
            }
        }
        _ => {}
    }
    Ok(())
}
