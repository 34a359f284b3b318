//! SentencePiece's model (sentencepiece_model.proto): pieces with scores, how the model was trained, and how it changes texts before.
//!
//! ```text
//! 1 pieces            1 text, 2 score, 3 type (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte)
//! 2 trainer_spec      3 type of the model (1 unigram, 2 BPE, ...), 24 space at the end, 40 to 43 numbers of <unk>, <s>, </s>, <pad>
//! 3 normalizer_spec   2 table of characters, 3 space in front, 4 no double spaces, 5 spaces become U+2581
//! ```

use super::protobuf::{Fields, Value};
use super::{Model, Pieces, wrong};
use crate::checkpoint::MAX_TOKENS;
use crate::error::{Error, Result, quoted};
use crate::tokenizer::TokenKind;
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// A piece of the vocabulary.
struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: TokenKind,
}

/// What `trainer_spec` and `normalizer_spec` say, with their defaults.
struct Spec {
    /// The type of the model; `None` where nothing is said of it.
    kind: Option<u64>,
    space_at_end: bool,
    ids: [i32; 4], // <unk>, <s>, </s>, <pad>
    has_charsmap: bool,
    space_in_front: bool,
    single_spaces: bool,
    escapes_spaces: bool,
}

/// Reads the file.
///
/// # Errors
/// If it is damaged, of another type than BPE, or changes texts in a way that GGUF cannot express.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Model> {
    let mut spec = Spec {
        kind: None,
        space_at_end: false,
        ids: [0, 1, 2, -1],
        has_charsmap: false,
        space_in_front: true,
        single_spaces: false,
        escapes_spaces: true,
    };
    let (mut pieces, mut fields) = (Vec::new(), Fields::new(path, 0, bytes));
    while let Some((number, value)) = fields.next()? {
        let Value::Bytes(message) = value else { continue };
        let base = fields.offset() - message.len();
        match number {
            1 => pieces.push(piece(path, base, message)?),
            2 => spec.trainer(Fields::new(path, base, message))?,
            3 => spec.normalizer(Fields::new(path, base, message))?,
            _ => {}
        }
        if pieces.len() > MAX_TOKENS {
            return Err(wrong(path, base, format!("more than {MAX_TOKENS} pieces")));
        }
    }
    if pieces.is_empty() {
        return Err(wrong(path, 0, "has no pieces: this is no SentencePiece model"));
    }
    let notes = spec.check(path)?;
    model(path, &pieces, &spec, notes)
}

fn piece<'a>(path: &'a Path, base: usize, message: &'a [u8]) -> Result<Piece<'a>> {
    let mut piece = Piece { text: "", score: 0.0, kind: TokenKind::Normal };
    let mut fields = Fields::new(path, base, message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(text)) => {
                piece.text = str::from_utf8(text).map_err(|_| wrong(path, base, "the text of a piece is not UTF-8"))?;
            }
            (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
            (3, Value::Integer(kind)) => {
                piece.kind = match kind {
                    1 => TokenKind::Normal,
                    2 => TokenKind::Unknown,
                    3 => TokenKind::Control,
                    4 => TokenKind::UserDefined,
                    5 => TokenKind::Unused,
                    6 => TokenKind::Byte,
                    other => return Err(wrong(path, base, format!("piece {} has type {other}", quoted(piece.text)))),
                };
            }
            _ => {}
        }
    }
    if !piece.score.is_finite() {
        return Err(wrong(path, base, format!("piece {} has the score {}", quoted(piece.text), piece.score)));
    }
    Ok(piece)
}

impl Spec {
    fn trainer(&mut self, mut fields: Fields<'_>) -> Result<()> {
        // What the message leaves out has the default of the format: 1 is unigram.
        self.kind.get_or_insert(1);
        while let Some((number, value)) = fields.next()? {
            let Value::Integer(value) = value else { continue };
            match number {
                3 => self.kind = Some(value),
                24 => self.space_at_end = value != 0,
                // Negative numbers are sign extended: the low bits are the number.
                40..=43 => self.ids[number as usize - 40] = value as i32,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, mut fields: Fields<'_>) -> Result<()> {
        self.single_spaces = true;
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (2, Value::Bytes(table)) => self.has_charsmap = !table.is_empty(),
                (3, Value::Integer(flag)) => self.space_in_front = flag != 0,
                (4, Value::Integer(flag)) => self.single_spaces = flag != 0,
                (5, Value::Integer(flag)) => self.escapes_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what GGUF cannot express, and notes what readers do otherwise.
    fn check(&self, path: &Path) -> Result<Vec<String>> {
        let refuse = |place: &str, what: &str| {
            let remedy = "use a checkpoint whose tokenizer does without it";
            Err(Error::invalid(path, place, format!("{what}, which GGUF cannot express for Llama models"), remedy))
        };
        let mut notes = Vec::new();
        match self.kind {
            Some(2) => {}
            None => notes
                .push("tokenizer.model: it does not say its type, and is taken for BPE, as with llama.cpp".to_owned()),
            Some(1) => return refuse("trainer_spec", "the model is of type unigram and not BPE"),
            Some(other) => return refuse("trainer_spec", &format!("the model is of type {other} and not BPE")),
        }
        if self.space_at_end {
            return refuse("trainer_spec", "spaces are put at the end of words");
        }
        if self.has_charsmap {
            return refuse("normalizer_spec", "a table of characters (precompiled_charsmap) changes texts");
        }
        if !self.escapes_spaces {
            return refuse("normalizer_spec", "spaces stay spaces");
        }
        if self.single_spaces {
            notes.push(
                "tokenizer.model: \"remove_extra_whitespaces\" is true: spaces in texts stay as they are, as with llama.cpp".to_owned(),
            );
        }
        Ok(notes)
    }
}

/// The model as `tokenizer.json`.
fn model(path: &Path, pieces: &[Piece<'_>], spec: &Spec, notes: Vec<String>) -> Result<Model> {
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (i, piece) in (0u32..).zip(pieces) {
        if vocab.insert(piece.text.to_owned(), i.into()).is_some() {
            return Err(Error::invalid(
                path,
                format!("piece {i}"),
                format!("{} is there twice", quoted(piece.text)),
                "get the file again",
            ));
        }
        if matches!(piece.kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown)
            && !piece.text.is_empty()
        {
            added.push((piece.text.to_owned(), i, piece.kind != TokenKind::UserDefined));
        }
    }
    let unknown = pieces.iter().find(|piece| piece.kind == TokenKind::Unknown).map(|piece| piece.text);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"})];
    if spec.space_in_front {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
    }
    let decoders = json!([
        {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]);
    let json = json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": unknown, "vocab": vocab, "merges": []},
    });
    let mut defaults = vec![("tokenizer_class", Json::from("LlamaTokenizer"))];
    for (key, id) in ["unk_token", "bos_token", "eos_token", "pad_token"].into_iter().zip(spec.ids) {
        let piece = usize::try_from(id).ok().and_then(|id| pieces.get(id));
        let piece = piece.filter(|piece| matches!(piece.kind, TokenKind::Control | TokenKind::Unknown));
        defaults.extend(piece.map(|piece| (key, piece.text.into())));
    }
    let of_file = pieces.iter().map(|piece| (piece.kind, piece.score)).collect();
    Ok(Model { json, added, defaults, pieces: Some(Pieces { of_file }), notes })
}
