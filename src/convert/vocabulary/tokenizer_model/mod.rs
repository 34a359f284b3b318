//! `tokenizer.model`, where there is no `tokenizer.json`: read as the `tokenizer.json` of the same vocabulary, so that all that follows is the same.
//!
//! `sentencepiece.rs` reads SentencePiece's file (Llama 1 and 2, Mistral), with `protobuf.rs`; `tiktoken.rs` that of Llama 3. The files beside it
//! say what they say with `tokenizer.json`, and `added_tokens.json` and `special_tokens_map.json`, too, which that file would repeat.

mod protobuf;
mod sentencepiece;
mod tiktoken;

use super::File;
use super::tokens::looks_special;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::json::read_optional;
use crate::checkpoint::meta::ORIGINAL;
use crate::error::{Error, Result};
use crate::io::content::{Content, content};
use crate::tokenizer::TokenKind;
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The most bytes of the file; SentencePiece's of 256,000 tokens has 4 MB.
const LONGEST: u64 = 64 << 20;

/// The roles of special tokens in `special_tokens_map.json`.
const ROLES: [&str; 6] = ["bos", "eos", "unk", "sep", "pad", "mask"];

/// What the file says that `tokenizer.json` cannot.
pub(super) struct Pieces {
    /// The kind and score of each token of the file itself.
    pub of_file: Vec<(TokenKind, f32)>,
}

impl Pieces {
    /// The scores of tokens that the file does not have, as llama.cpp's converter writes them: added ones, and unused numbers.
    const ADDED: f32 = -1000.0;
    const UNUSED: f32 = -10_000.0;

    /// The scores of all tokens of these kinds.
    pub fn scores(&self, kinds: &[TokenKind]) -> Vec<f32> {
        let other = |kind: &TokenKind| if *kind == TokenKind::Unused { Pieces::UNUSED } else { Pieces::ADDED };
        let score = |(i, kind)| self.of_file.get(i).map_or_else(|| other(kind), |(_, score)| *score);
        kinds.iter().enumerate().map(score).collect()
    }
}

/// What stands for the files of a tokenizer that is a `tokenizer.model`.
pub(super) struct Converted {
    /// For `tokenizer.json`.
    pub tokenizer: File,
    /// For `tokenizer_config.json`.
    pub tokenizer_config: Json,
    /// Of SentencePiece.
    pub pieces: Option<Pieces>,
    /// A sentence about each value that is interpreted otherwise than its file says.
    pub notes: Vec<String>,
}

/// A `tokenizer.model` as `tokenizer.json`.
struct Model {
    /// Without `added_tokens`.
    json: Json,
    /// The tokens that are not made by merging: text, number, whether special.
    added: Vec<(String, u32, bool)>,
    /// Keys of `tokenizer_config.json` where nothing else says them.
    defaults: Vec<(&'static str, Json)>,
    pieces: Option<Pieces>,
    notes: Vec<String>,
}

/// Reads the `tokenizer.model` of a checkpoint; `None` if it has none.
///
/// # Errors
/// If it, or a file beside it, is damaged or says what GGUF cannot express.
pub(super) fn read(checkpoint: &Checkpoint, tokenizer_config: &File) -> Result<Option<Converted>> {
    let Some((path, bytes)) = find(checkpoint)? else { return Ok(None) };
    let beside = Beside::read(checkpoint, tokenizer_config)?;
    let mut model = match () {
        _ if tiktoken::is_one(&bytes) => tiktoken::read(&path, &bytes, checkpoint, &beside)?,
        _ => match content(&bytes) {
            Some(other @ (Content::LfsPointer | Content::WebPage | Content::Json | Content::Zip)) => {
                return Err(other.error(&path, "a tokenizer.model"));
            }
            _ => sentencepiece::read(&path, &bytes)?,
        },
    };
    model.json["added_tokens"] = added(&model, &beside);
    let mut config = beside.config;
    let known = |config: &Map<String, Json>, key: &str| config.get(key).is_some_and(|value| !value.is_null());
    for (key, value) in beside.roles {
        if !known(&config, &key) {
            config.insert(key, value);
        }
    }
    for (key, value) in model.defaults {
        // A number of config.json comes before what the file itself says.
        let number = checkpoint.config.json.get(format!("{key}_id")).filter(|id| !id.is_null());
        if !known(&config, key) && number.is_none() {
            config.insert(key.to_owned(), value);
        }
    }
    Ok(Some(Converted {
        tokenizer: File { path, json: Some(model.json) },
        tokenizer_config: Json::Object(config),
        pieces: model.pieces,
        notes: model.notes,
    }))
}

/// The file with its contents: in the folder, or of Meta's models in the one above, where its download script puts it.
fn find(checkpoint: &Checkpoint) -> Result<Option<(PathBuf, Vec<u8>)>> {
    const NAME: &str = "tokenizer.model";
    let dir = &checkpoint.dir;
    let mut folders = vec![dir.clone(), dir.join(ORIGINAL)];
    if !dir.join("config.json").exists() {
        folders.extend(dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_owned)));
    }
    for folder in folders {
        let path = folder.join(NAME);
        if let Some(bytes) = read_optional(&path, LONGEST)? {
            return Ok(Some((path, bytes)));
        }
    }
    Ok(None)
}

/// What the files beside the model say of its tokens.
struct Beside {
    /// `tokenizer_config.json`.
    config: Map<String, Json>,
    /// `X_token` of `special_tokens_map.json`.
    roles: Vec<(String, Json)>,
    /// The tokens that are added to the vocabulary, by number: text, and whether special.
    added: BTreeMap<u32, (String, bool)>,
}

impl Beside {
    fn read(checkpoint: &Checkpoint, tokenizer_config: &File) -> Result<Beside> {
        let file =
            |name: &str| -> Result<File> { Ok(File { path: checkpoint.dir.join(name), json: checkpoint.json(name)? }) };
        let (added_tokens, map) = (file("added_tokens.json")?, file("special_tokens_map.json")?);
        let (mut roles, mut special) = (Vec::new(), BTreeSet::new());
        if map.json.is_some() {
            map.root().object()?;
            for role in ROLES {
                let key = format!("{role}_token");
                let node = map.root().get(&key);
                if let Some(text) = node.opt_content()? {
                    special.insert(text.to_owned());
                    roles.push((key, text.into()));
                }
            }
            let more = map.root().get("additional_special_tokens");
            if !more.is_none() {
                for token in more.list()? {
                    special.extend(token.opt_content()?.map(str::to_owned));
                }
            }
        }
        let mut added = BTreeMap::new();
        let vocab = checkpoint.config.hyperparameters.vocab;
        if added_tokens.json.is_some() {
            let root = added_tokens.root();
            for text in root.object()?.keys() {
                let is_special = special.contains(text) || looks_special(text);
                added.insert(root.get(text).id(vocab)?, (text.clone(), is_special));
            }
        }
        let decoder = tokenizer_config.root().get("added_tokens_decoder");
        if !decoder.is_none() {
            for number in decoder.object()?.keys() {
                let token = decoder.get(number);
                let id = number.parse().ok().filter(|id: &u32| (*id as usize) < vocab);
                let id =
                    id.ok_or_else(|| token.bad(format!("is not one of the {vocab} tokens"), "get the file again"))?;
                added.insert(id, (token.get("content").text()?.to_owned(), token.get("special").flag(false)?));
            }
        }
        let config = tokenizer_config.json.as_ref().and_then(Json::as_object).cloned().unwrap_or_default();
        Ok(Beside { config, roles, added })
    }
}

/// `added_tokens` of `tokenizer.json`: those of the model itself, unless the files beside it say otherwise, and those.
fn added(model: &Model, beside: &Beside) -> Json {
    let mut all: BTreeMap<u32, (&str, bool)> = BTreeMap::new();
    all.extend(model.added.iter().map(|(text, id, special)| (*id, (text.as_str(), *special))));
    all.extend(beside.added.iter().map(|(id, (text, special))| (*id, (text.as_str(), *special))));
    all.into_iter().map(|(id, (text, special))| json!({"id": id, "content": text, "special": special})).collect()
}

/// An error about a byte of the file.
fn wrong(path: &Path, at: usize, problem: impl Into<String>) -> Error {
    Error::invalid(path, format!("byte {at}"), problem, "get the file again")
}
