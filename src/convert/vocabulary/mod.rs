//! The tokenizer of a checkpoint (`tokenizer.json` and its neighbours) as GGUF metadata. Each part is converted or refused: what GGUF cannot
//! express would silently give other tokens.
//!
//! `json.rs` reads values with their places; `tokens.rs` the tokens and merges; `parts.rs` the parts around the model; `special.rs` the
//! special tokens; `chat_template.rs` the chat templates; `tokenizer_model/` reads the file that stands for a missing `tokenizer.json`.

mod chat_template;
mod json;
mod parts;
mod special;
#[cfg(test)]
mod tests;
mod tokenizer_model;
mod tokens;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::Layout;
use crate::tokenizer::{NFC_KEY, char_of};
use json::Node;
use parts::{ByteLevel, Template};
use serde_json::Value as Json;
use std::path::PathBuf;
use tokenizer_model::{Converted, Pieces};
use tokens::Tokens;

/// Sets every `tokenizer.*` key. Returns a sentence about each value that is interpreted otherwise than its file says.
pub(super) fn set(layout: &mut Layout, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let (files, mut notes) = Files::read(checkpoint)?;
    let name = files.tokenizer.path.file_name().unwrap_or_default().to_string_lossy();
    // What is said of tokenizer.json is said of the file that stands for it.
    notes.extend(files.set(layout)?.into_iter().map(|note| note.replace("tokenizer.json", &name)));
    Ok(notes)
}

/// A JSON file of the folder.
struct File {
    path: PathBuf,
    json: Option<Json>,
}

impl File {
    fn root(&self) -> Node<'_> {
        Node::root(&self.path, self.json.as_ref())
    }
}

/// The files of a checkpoint that describe its tokenizer.
struct Files {
    dir: PathBuf,
    tokenizer: File,
    tokenizer_config: File,
    config: File,
    generation_config: File,
    chat_template: File,
    vocab_size: usize,
    pieces: Option<Pieces>, // of a tokenizer.model of SentencePiece
}

impl Files {
    /// Reads them, with a sentence about each value that is interpreted otherwise than its file says.
    fn read(checkpoint: &Checkpoint) -> Result<(Files, Vec<String>)> {
        let file = |name: &str| -> Result<File> {
            let file = File { path: checkpoint.dir.join(name), json: checkpoint.json(name)? };
            if file.json.is_some() {
                file.root().object()?;
            }
            Ok(file)
        };
        let mut files = Files {
            dir: checkpoint.dir.clone(),
            tokenizer: file("tokenizer.json")?,
            tokenizer_config: file("tokenizer_config.json")?,
            config: File { path: checkpoint.config.path.clone(), json: Some(checkpoint.config.json.clone()) },
            generation_config: file("generation_config.json")?,
            chat_template: file("chat_template.json")?,
            vocab_size: checkpoint.config.hyperparameters.vocab,
            pieces: None,
        };
        // tokenizer.json repeats this and is what counts, but a damaged value is an error all the same.
        let decoder = files.tokenizer_config.root().get("added_tokens_decoder");
        if !decoder.is_none() {
            decoder.object()?;
        }
        if files.tokenizer.json.is_some() {
            return Ok((files, Vec::new()));
        }
        let Some(converted) = tokenizer_model::read(checkpoint, &files.tokenizer_config)? else {
            let remedy = "download it into the checkpoint's folder";
            return Err(Error::invalid(&files.tokenizer.path, "file", "is missing", remedy));
        };
        let Converted { tokenizer, tokenizer_config, pieces, notes } = converted;
        (files.tokenizer, files.tokenizer_config.json, files.pieces) = (tokenizer, Some(tokenizer_config), pieces);
        Ok((files, notes))
    }

    fn set(&self, layout: &mut Layout) -> Result<Vec<String>> {
        let (root, mut notes) = (self.tokenizer.root(), Vec::new());
        let is_sentencepiece = parts::model(&root)?;
        let mut tokens = Tokens::read(&root, self.vocab_size, is_sentencepiece, &mut notes)?;
        let merges = match &self.pieces {
            // Its scores say what merges.
            Some(pieces) => {
                tokens.set_kinds(pieces.of_file.iter().map(|(kind, _)| *kind));
                Vec::new()
            }
            None => tokens.merges_of(&root.get("model"), is_sentencepiece)?,
        };
        let template = Template::read(&root, &tokens)?;
        let mut adds_space_prefix = None;
        if is_sentencepiece {
            adds_space_prefix = Some(self.adds_space_prefix(&tokens, &mut notes)?);
            if self.pieces.is_none() {
                tokens.note_unlisted(&merges, &mut notes);
            }
            layout.set("tokenizer.ggml.model", "llama");
            layout.set("tokenizer.ggml.pre", "default");
        } else {
            self.refuse_space_prefix()?;
            layout.set("tokenizer.ggml.model", "gpt2");
            let ByteLevel { pre, nfc } = parts::byte_level(&root)?;
            layout.set("tokenizer.ggml.pre", pre.names[0]);
            if nfc != pre.nfc {
                layout.set(NFC_KEY, nfc);
                let how = if nfc { "texts are brought to normal form C" } else { "texts keep their form" };
                notes.push(format!(
                    "tokenizer.json: {how}, other than usual: the file says so in a key that only strata knows"
                ));
            }
        }
        if root.get("decoder").is_none() {
            let how = if is_sentencepiece { "as SentencePiece does it" } else { "as bytes" };
            notes.push(format!("tokenizer.json: there is no \"decoder\": tokens are decoded {how}"));
        }
        note_bytes(&tokens, is_sentencepiece, &mut notes);
        let scores = match &self.pieces {
            Some(pieces) => Some(pieces.scores(&tokens.kinds)),
            None => is_sentencepiece.then(|| tokens.scores(&merges)),
        };
        layout.set("tokenizer.ggml.tokens", tokens.texts.clone());
        if let Some(scores) = scores {
            layout.set("tokenizer.ggml.scores", scores);
        }
        layout.set("tokenizer.ggml.token_type", tokens.kinds.iter().map(|kind| *kind as i32).collect::<Vec<_>>());
        if !is_sentencepiece {
            let merges = merges.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>();
            layout.set("tokenizer.ggml.merges", merges);
        }
        special::set(layout, self, &tokens, &template, &mut notes)?;
        if let Some(add) = adds_space_prefix {
            layout.set("tokenizer.ggml.add_space_prefix", add);
        }
        chat_template::set(layout, self, &mut notes)?;
        Ok(notes)
    }

    /// Whether SentencePiece puts a space in front of texts; as in transformers, tokenizer_config.json takes precedence.
    fn adds_space_prefix(&self, tokens: &Tokens<'_>, notes: &mut Vec<String>) -> Result<bool> {
        let in_file = parts::sentencepiece(&self.tokenizer.root(), tokens, notes)?;
        let stated = self.tokenizer_config.root().get("add_prefix_space").opt_flag()?;
        if let Some(stated) = stated.filter(|stated| *stated != in_file) {
            notes.push(format!(
                "tokenizer_config.json: \"add_prefix_space\" is {stated}, and tokenizer.json says otherwise: it is taken to be {stated}"
            ));
        }
        Ok(stated.unwrap_or(in_file))
    }

    /// Refuses a space prefix, which transformers takes from tokenizer_config.json and GGUF cannot express.
    fn refuse_space_prefix(&self) -> Result<()> {
        let prefix = self.tokenizer_config.root().get("add_prefix_space");
        if prefix.opt_flag()? == Some(true) {
            return Err(prefix.refuse("a space is put in front of texts"));
        }
        Ok(())
    }
}

/// Notes the bytes without a token: texts with them are refused, or become the unknown token.
fn note_bytes(tokens: &Tokens<'_>, is_sentencepiece: bool, notes: &mut Vec<String>) {
    let text = |byte: u8| if is_sentencepiece { format!("<0x{byte:02X}>") } else { char_of(byte).to_string() };
    let missing: Vec<u8> = (0..=255).filter(|&byte| tokens.id(&text(byte)).is_none()).collect();
    if let Some(byte) = missing.first() {
        notes.push(format!(
            "tokenizer.json: {} of the 256 bytes have no token, the first is {byte:#04x}",
            missing.len()
        ));
    }
}
