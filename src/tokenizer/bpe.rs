//! Byte-level BPE (GPT-2, Llama 3): normalize, split, write bytes as GPT-2's printable characters, merge each piece.

use std::borrow::Cow;
use std::path::Path;

use tokenizers::models::bpe::BPE;
pub(super) use tokenizers::models::bpe::Vocab as Ids;
use tokenizers::normalizers::NFC;
use tokenizers::{Model, NormalizedString, Normalizer};

use super::split::Split;
use super::vocab::{TokenKind, Vocab};
use crate::error::quoted;
use crate::{Error, Result};

/// The model "gpt2".
#[derive(Debug)]
pub(super) struct ByteLevel {
    split: Split,
    /// True if texts are brought to normal form C.
    nfc: bool,
    model: BPE,
    /// True for bytes that have a token: the merges start from single bytes.
    known: [bool; 256],
}

impl ByteLevel {
    pub(super) fn new(vocab: &Vocab, path: &Path) -> Result<ByteLevel> {
        let split = Split::new(vocab.pre.as_deref(), path)?;
        let ids = text_ids(vocab, path, |kind| kind != TokenKind::Control)?;
        let long = |id: u32| vocab.kind(id) == TokenKind::Normal && vocab.tokens[id as usize].chars().nth(1).is_some();
        if vocab.merges.is_empty() && (0..vocab.tokens.len() as u32).any(long) {
            return Err(bad_merges(path, "no merges, but tokens that only merges can make".to_owned()));
        }
        let mut merges = Vec::with_capacity(vocab.merges.len());
        for (i, merge) in vocab.merges.iter().enumerate() {
            let parts = merge.split_once(' ').filter(|(l, r)| !l.is_empty() && !r.is_empty() && !r.contains(' '));
            let Some((left, right)) = parts else {
                return Err(bad_merges(
                    path,
                    format!("merge {i} is {}, not two tokens with a space between", quoted(merge)),
                ));
            };
            // `BPE` panics where left + right is longer than every token, so all three are looked up here.
            for token in [left, right, &format!("{left}{right}")] {
                if !ids.contains_key(token) {
                    return Err(bad_merges(
                        path,
                        format!("merge {i} ({}) needs the token {}, not there", quoted(merge), quoted(token)),
                    ));
                }
            }
            merges.push((left.to_owned(), right.to_owned()));
        }
        let mut known = [false; 256];
        for (byte, known) in known.iter_mut().enumerate() {
            *known = ids.contains_key(char_of(byte as u8).encode_utf8(&mut [0; 4]) as &str);
        }
        let model = BPE::builder()
            .vocab_and_merges(ids, merges)
            .ignore_merges(split.pre.ignore_merges)
            .build()
            .map_err(|e| bad_merges(path, e.to_string()))?;
        let nfc = vocab.nfc.unwrap_or(split.pre.nfc);
        Ok(ByteLevel { split, nfc, model, known })
    }

    /// True if texts begin with BOS by default.
    pub(super) fn add_bos(&self) -> bool {
        self.split.pre.add_bos
    }

    /// Appends the tokens of `text`, which holds no special tokens.
    pub(super) fn encode(&self, text: &str, path: &Path, ids: &mut Vec<u32>) -> Result<()> {
        let mut printable = String::new();
        let normalized = if self.nfc { nfc(text, path)? } else { Cow::Borrowed(text) };
        self.split.each(&normalized, |piece| {
            printable.clear();
            for byte in piece.bytes() {
                if !self.known[byte as usize] {
                    // `BPE` would leave the byte out.
                    return Err(Error::invalid(
                        path,
                        "tokenizer.ggml.tokens",
                        format!(
                            "no token for the byte {byte:#04x} of {:?}",
                            piece.chars().take(20).collect::<String>()
                        ),
                        "remove that character, or use a model whose vocabulary has all 256 bytes",
                    ));
                }
                printable.push(char_of(byte));
            }
            let tokens = self.model.tokenize(&printable).map_err(|e| bad_merges(path, e.to_string()))?;
            ids.extend(tokens.iter().map(|token| token.id));
            Ok(())
        })
    }
}

/// The normal form C of a text. By the crate `tokenizers`, whose tables of Unicode are those that models were trained with.
fn nfc<'t>(text: &'t str, path: &Path) -> Result<Cow<'t, str>> {
    // No character below U+0300 changes or joins another.
    if text.chars().all(|c| c < '\u{300}') {
        return Ok(Cow::Borrowed(text));
    }
    let mut normalized = NormalizedString::from(text);
    let done = NFC.normalize(&mut normalized);
    done.map_err(|error| Error::invalid(path, "text", error.to_string(), "remove the characters that it names"))?;
    Ok(Cow::Owned(normalized.get().to_owned()))
}

/// The bytes of a text token: each character stands for a byte; a token with any other character is literal text.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The ids by text of all tokens of a kind that `wanted` accepts. Empty texts can never match and are left out.
pub(super) fn text_ids(vocab: &Vocab, path: &Path, wanted: impl Fn(TokenKind) -> bool) -> Result<Ids> {
    let mut ids = Ids::default();
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        if token.is_empty() || !wanted(vocab.kind(id)) {
            continue;
        }
        let twice = ids.insert(token.clone(), id);
        // Padding of the table may repeat itself.
        if let Some(first) = twice.filter(|_| vocab.kind(id) != TokenKind::Unused) {
            return Err(Error::invalid(
                path,
                "tokenizer.ggml.tokens",
                format!("tokens {first} and {id} have the same text {}", quoted(token)),
                "the file is damaged; download or convert it again",
            ));
        }
    }
    Ok(ids)
}

fn bad_merges(path: &Path, problem: String) -> Error {
    Error::invalid(path, "tokenizer.ggml.merges", problem, "the file is damaged; download or convert it again")
}

/// GPT-2's alphabet: a byte that prints in Latin-1 is that character, the other 68 are U+0100 and on, in order.
pub(crate) fn char_of(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte) - 0x7f,
        0xad => 0x143,
    };
    char::from_u32(code).expect("at most U+0143, below the surrogates")
}

fn byte_of(c: char) -> Option<u8> {
    let byte = match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xad)), ('Ġ', 'Ċ', 'Ń'));
    }
}
