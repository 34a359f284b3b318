//! The tokens of tokenizer.json: `model.vocab`, `model.merges` and `added_tokens`.

use super::json::{Node, shown};
use crate::error::{Result, quoted};
use crate::tokenizer::{TokenKind, byte_of};
use serde_json::{Map, Value as Json};
use std::collections::{HashMap, HashSet};

/// The remedy for a file that contradicts itself.
const AGAIN: &str = "get the file again";

/// All tokens, by number.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    pub texts: Vec<String>,
    pub kinds: Vec<TokenKind>,
    ids: HashMap<&'a str, u32>,
    vocab: &'a Map<String, Json>,
}

impl<'a> Tokens<'a> {
    /// Reads them; `n` is the size of the vocabulary in config.json.
    pub fn read(root: &Node<'a>, n: usize, sentencepiece: bool, notes: &mut Vec<String>) -> Result<Tokens<'a>> {
        let model = root.get("model");
        let node = model.get("vocab");
        let vocab = node.object()?;
        let unknown = model.get("unk_token").opt_text()?.filter(|text| !text.is_empty());
        if let Some(unknown) = unknown.filter(|unknown| !vocab.contains_key(*unknown)) {
            return Err(model.get("unk_token").bad(format!("{} is not a token", quoted(unknown)), AGAIN));
        }
        let unknown = unknown.unwrap_or("<unk>");
        let mut slots: Vec<Option<(&str, TokenKind)>> = vec![None; n];
        let mut ids = HashMap::with_capacity(vocab.len());
        for (text, id) in vocab {
            let slot = id.as_u64().and_then(|id| Some((u32::try_from(id).ok()?, slots.get_mut(id as usize)?)));
            let Some((id, slot)) = slot else {
                let problem =
                    format!("token {} has number {} and config.json a vocabulary of {n}", quoted(text), shown(id));
                return Err(node.bad(problem, "tokenizer.json and config.json belong to different models"));
            };
            if let Some((other, _)) = slot {
                let problem = format!("tokens {} and {} both have number {id}", quoted(other), quoted(text));
                return Err(node.bad(problem, AGAIN));
            }
            let kind = match text.as_str() {
                text if sentencepiece && text == unknown => TokenKind::Unknown,
                text if sentencepiece && byte_of(text).is_some() => TokenKind::Byte,
                _ => TokenKind::Normal,
            };
            if text.is_empty() {
                notes.push(format!("tokenizer.json: token {id} has no text: nothing ever becomes this token"));
            }
            *slot = Some((text, kind));
            ids.insert(text.as_str(), id);
        }
        add(root, &mut slots, &mut ids, sentencepiece.then_some(unknown), notes)?;
        let holes = slots
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| slots[..last].iter().filter(|slot| slot.is_none()).count());
        if holes > 0 {
            notes.push(format!(
                "tokenizer.json: {holes} numbers between its tokens have none: they are padded as unused"
            ));
        }
        let padded = slots.into_iter().enumerate().map(|(i, slot)| match slot {
            // GGUF has the spaces of such tokens as they are typed; the others are matched as SentencePiece writes them.
            Some((text, kind @ TokenKind::UserDefined)) if sentencepiece => (text.replace('\u{2581}', " "), kind),
            Some((text, kind)) => (text.to_owned(), kind),
            None => (format!("[PAD{i}]"), TokenKind::Unused),
        });
        let (texts, kinds) = padded.unzip();
        Ok(Tokens { texts, kinds, ids, vocab })
    }

    /// Sets the kinds of the first tokens to those of SentencePiece's own file, unless a token was added in their place.
    pub fn set_kinds(&mut self, kinds: impl Iterator<Item = TokenKind>) {
        let learned = |kind: &TokenKind| matches!(kind, TokenKind::Normal | TokenKind::Byte | TokenKind::Unknown);
        for (ours, kind) in self.kinds.iter_mut().zip(kinds).filter(|(ours, _)| learned(ours)) {
            *ours = kind;
        }
    }

    /// The number of the token with this text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Whether a merge can take or make this text: a token of the model itself, not one that only the template uses.
    fn merges(&self, text: &str, sentencepiece: bool) -> bool {
        self.vocab.contains_key(text)
            && (sentencepiece || self.id(text).is_some_and(|id| self.kinds[id as usize] != TokenKind::Control))
    }

    /// The pairs of `model.merges`, best first, in both notations of the file: `"a b"` and `["a", "b"]`.
    pub fn merges_of(&self, model: &Node<'a>, sentencepiece: bool) -> Result<Vec<(String, String)>> {
        let node = model.get("merges");
        let mut merges = Vec::new();
        let mut known = HashSet::new();
        let mut whole = String::new();
        for (i, merge) in node.array()?.iter().enumerate() {
            let parts = match merge {
                Json::String(text) => text.split_once(' ').filter(|(_, b)| !b.contains(' ')),
                Json::Array(pair) if pair.len() == 2 => pair[0].as_str().zip(pair[1].as_str()),
                _ => None,
            };
            let Some((a, b)) = parts.filter(|(a, b)| !a.is_empty() && !b.is_empty()) else {
                return Err(node.bad(format!("merge {i} is {}, not a pair of tokens", described(merge)), AGAIN));
            };
            whole.clear();
            whole.extend([a, b]);
            if let Some(missing) = [a, b, &whole].into_iter().find(|text| !self.merges(text, sentencepiece)) {
                let known = if self.id(missing).is_some() { "is a special one" } else { "is not in the vocabulary" };
                let problem = format!(
                    "merge {i} ({} and {}) needs the token {}, which {known}",
                    quoted(a),
                    quoted(b),
                    quoted(missing)
                );
                return Err(node.bad(problem, AGAIN));
            }
            // A space inside a part would end it in GGUF, and byte-level texts have none.
            if !sentencepiece && whole.contains(' ') {
                return Err(node.refuse(format!("merge {i} ({} and {}) has a space in a token", quoted(a), quoted(b))));
            }
            if !known.insert((a, b)) {
                let problem = format!("merge {i} ({} and {}) is there twice", quoted(a), quoted(b));
                return Err(node.bad(problem, AGAIN));
            }
            merges.push((a.to_owned(), b.to_owned()));
        }
        let long = |(text, kind): &(&String, &TokenKind)| **kind == TokenKind::Normal && text.chars().nth(1).is_some();
        if merges.is_empty()
            && let Some((text, _)) = self.texts.iter().zip(&self.kinds).find(long)
        {
            return Err(node.bad(format!("is empty, and only a merge can make the token {}", quoted(text)), AGAIN));
        }
        Ok(merges)
    }

    /// SentencePiece's scores from the order of merges: a token made by an earlier merge scores higher, so that merging by
    /// score gives the same merges.
    pub fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut rank: HashMap<String, usize> = HashMap::new();
        for (i, (a, b)) in merges.iter().enumerate() {
            rank.entry(format!("{a}{b}")).or_insert(i);
        }
        let score = |(token, kind): (&String, &TokenKind)| match (kind, rank.get(token)) {
            (TokenKind::Normal, Some(rank)) => -(*rank as f32),
            // Single characters are never the result of a merge: their score is not looked at.
            (TokenKind::Normal, None) => -(merges.len() as f32),
            _ => 0.0,
        };
        self.texts.iter().zip(&self.kinds).map(score).collect()
    }

    /// Notes how many pairs of tokens merge by score, which joins any two whose text is a token, and are not among the
    /// file's merges.
    pub fn note_unlisted(&self, merges: &[(String, String)], notes: &mut Vec<String>) {
        const LONGEST: usize = 64; // bytes; longer tokens are rare, and each way to cut one is looked up
        let listed: HashSet<(&str, &str)> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let normal = |text: &str| self.id(text).is_some_and(|id| self.kinds[id as usize] == TokenKind::Normal);
        let short = self.texts.iter().filter(|text| text.len() <= LONGEST && normal(text));
        let pairs = short.flat_map(|text| text.char_indices().skip(1).map(|(i, _)| text.split_at(i)));
        let unlisted = pairs.filter(|&(a, b)| normal(a) && normal(b) && !listed.contains(&(a, b))).count();
        if unlisted > 0 {
            notes.push(format!(
                "tokenizer.json: {unlisted} pairs of tokens are not in \"model.merges\" and merge all the same by the scores of GGUF, as with llama.cpp"
            ));
        }
    }
}

/// Puts `added_tokens` in their slots. `unknown` is the text of SentencePiece's unknown token.
fn add<'a>(
    root: &Node<'a>,
    slots: &mut [Option<(&'a str, TokenKind)>],
    ids: &mut HashMap<&'a str, u32>,
    unknown: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let all = root.get("added_tokens");
    if all.value().is_none() {
        return Ok(());
    }
    let (mut seen, mut stripped) = (HashSet::new(), 0);
    for token in all.list()? {
        let (content, number) = (token.get("content"), token.get("id"));
        let text = content.text()?;
        if text.is_empty() {
            return Err(content.bad("is empty: such a token can never be matched", AGAIN));
        }
        let id = number.id(slots.len())?;
        let known = ids.insert(text, id);
        if let Some(other) = known.filter(|&other| other != id) {
            return Err(number.bad(format!("{} has number {other} too", quoted(text)), AGAIN));
        }
        if !seen.insert(id) {
            return Err(number.bad(format!("{} is there twice with number {id}", quoted(text)), AGAIN));
        }
        let slot = &mut slots[id as usize];
        if let Some((other, _)) = slot.filter(|(other, _)| *other != text) {
            return Err(number.bad(format!("{} has the number of {}", quoted(text), quoted(other)), AGAIN));
        }
        let control = token.get("special").flag(false)? || looks_special(text);
        token.get("normalized").flag(false)?;
        for option in ["single_word", "lstrip", "rstrip"] {
            if token.get(option).flag(false)? {
                if !control {
                    return Err(token.get(option).refuse(format!("is true for {}", quoted(text))));
                }
                stripped += 1;
            }
        }
        let kind = match control {
            true if Some(text) == unknown => TokenKind::Unknown,
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        *slot = Some((text, kind));
    }
    if stripped > 0 {
        notes.push(format!(
            "tokenizer.json: \"single_word\", \"lstrip\" or \"rstrip\" of {stripped} special tokens is true: they are matched as they stand, as with llama.cpp"
        ));
    }
    Ok(())
}

/// Whether llama.cpp's converter takes a token for a special one whatever the file says.
pub(super) fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// A merge as a message shows it.
fn described(merge: &Json) -> String {
    match merge {
        Json::Array(parts) => format!("a list of {}", parts.len()),
        other => shown(other),
    }
}
