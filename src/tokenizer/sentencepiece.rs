//! SentencePiece BPE with byte fallback (Llama 2, Mistral, TinyLlama).
//!
//! Such files have scores, not merges. Two neighbouring symbols merge if their text is a token: the pair with the best score
//! first, of equal ones the leftmost, as in SentencePiece and llama.cpp. No list of merges is built, since it would grow with
//! the square of the length of a token.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::path::Path;

use super::bpe::{Ids, text_ids};
use super::vocab::{TokenKind, Vocab, byte_of};
use crate::{Error, Result};

/// SentencePiece's character for a space.
const SPACE: char = '\u{2581}';

/// The most pieces of one text whose tokens are cached: words repeat.
const CACHED_PIECES: usize = 1 << 15;

/// The model "llama".
#[derive(Debug)]
pub(super) struct SentencePiece {
    ids: Ids,
    scores: Vec<f32>,
    /// The length of the longest token in bytes.
    longest: usize,
    /// The pairs of adjacent characters of all tokens. No merge crosses any other pair, so the text is split there and pieces
    /// stay small.
    joined: HashSet<(char, char)>,
    bytes: [Option<u32>; 256],
    unk: Option<u32>,
    space_prefix: bool,
}

impl SentencePiece {
    pub(super) fn new(vocab: &Vocab, path: &Path) -> Result<SentencePiece> {
        let redo = "download the model again, or convert it again";
        let Some(scores) = &vocab.scores else {
            let problem = "the model \"llama\" has no scores, so its merges are unknown";
            return Err(Error::invalid(path, "tokenizer.ggml.scores", problem, redo));
        };
        let n = vocab.tokens.len() as u32; // `Vocab::check` has seen to it that it fits
        let unk = vocab.unk.or_else(|| (0..n).find(|&id| vocab.kind(id) == TokenKind::Unknown));
        let mut bytes = [None; 256];
        for id in (0..n).filter(|&id| vocab.kind(id) == TokenKind::Byte) {
            if let Some(byte) = byte_of(&vocab.tokens[id as usize]) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        let known = bytes.iter().flatten().count();
        if unk.is_none() && known < 256 {
            let problem = format!("{known} of the 256 byte tokens and no unknown token");
            return Err(Error::invalid(path, "tokenizer.ggml.tokens", problem, redo));
        }
        let ids = text_ids(vocab, path, |kind| matches!(kind, TokenKind::Normal | TokenKind::Unused))?;
        let joined = ids.keys().flat_map(|token| token.chars().zip(token.chars().skip(1))).collect();
        Ok(SentencePiece {
            longest: ids.keys().map(String::len).max().unwrap_or_default(),
            // Adding 0.0 makes -0.0, which SentencePiece writes, equal to 0.0.
            scores: scores.iter().map(|score| score + 0.0).collect(),
            space_prefix: vocab.add_space_prefix != Some(false),
            ids,
            joined,
            bytes,
            unk,
        })
    }

    /// True if encoding puts a space in front of texts, which decoding removes.
    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the tokens of `text`, which is not empty and holds no special tokens.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let section = ids.len();
        let mut known: HashMap<String, Vec<u32>> = HashMap::new();
        let mut end = |piece: &str| {
            if let Some(tokens) = known.get(piece) {
                return self.append(tokens, section, ids);
            }
            let tokens = self.merge(piece);
            self.append(&tokens, section, ids);
            if known.len() < CACHED_PIECES {
                known.insert(piece.to_owned(), tokens);
            }
        };
        let prefix = self.space_prefix.then_some(SPACE);
        let mut piece = String::new();
        let mut last = None;
        for c in prefix.into_iter().chain(text.chars()).map(|c| if c == ' ' { SPACE } else { c }) {
            if last.is_some_and(|last| !self.joined.contains(&(last, c))) {
                end(&piece);
                piece.clear();
            }
            piece.push(c);
            last = Some(c);
        }
        end(&piece);
    }

    /// Appends the tokens of a piece. A run of unknown characters becomes one unknown token, also across pieces.
    fn append(&self, tokens: &[u32], section: usize, ids: &mut Vec<u32>) {
        for &token in tokens {
            let again = self.unk == Some(token) && ids.len() > section && ids.last() == Some(&token);
            if !again {
                ids.push(token);
            }
        }
    }

    /// The tokens of a piece.
    fn merge(&self, piece: &str) -> Vec<u32> {
        let mut symbols: Vec<Symbol> = Vec::new();
        for (i, (start, c)) in piece.char_indices().enumerate() {
            symbols.push(Symbol { start, len: c.len_utf8(), before: i.checked_sub(1), behind: Some(i + 1) });
        }
        if let Some(last) = symbols.last_mut() {
            last.behind = None;
        }
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            queue.extend(self.pair(piece, &symbols, left));
        }
        while let Some(Pair { left, right, len, .. }) = queue.pop() {
            let (a, b) = (&symbols[left], &symbols[right]);
            // One of them is part of another token by now, or longer.
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            let (before, behind) = (a.before, b.behind);
            symbols[right].len = 0;
            symbols[left].len = len;
            symbols[left].behind = behind;
            if let Some(behind) = behind {
                symbols[behind].before = Some(left);
            }
            queue.extend(before.and_then(|before| self.pair(piece, &symbols, before)));
            queue.extend(self.pair(piece, &symbols, left));
        }
        let mut tokens = Vec::new();
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let text = &piece[symbol.start..symbol.start + symbol.len];
            match self.ids.get(text) {
                Some(&id) => tokens.push(id),
                // A single character: longer symbols are made by merging and are tokens.
                None => match text.bytes().map(|byte| self.bytes[usize::from(byte)]).collect::<Option<Vec<u32>>>() {
                    Some(bytes) => tokens.extend(bytes),
                    None => tokens.extend(self.unk),
                },
            }
        }
        tokens
    }

    /// The merge of symbol `left` with the next one; `None` if their text is not a token.
    fn pair(&self, piece: &str, symbols: &[Symbol], left: usize) -> Option<Pair> {
        let right = symbols[left].behind?;
        let len = symbols[left].len + symbols[right].len;
        if len > self.longest {
            return None;
        }
        let start = symbols[left].start;
        let id = *self.ids.get(&piece[start..start + len])?;
        Some(Pair { score: self.scores[id as usize], left, right, len })
    }
}

/// A part of a piece: one token or one character; its length is 0 after it was merged into another.
struct Symbol {
    start: usize,
    len: usize,
    before: Option<usize>,
    behind: Option<usize>,
}

/// A possible merge: two neighbouring symbols whose text is a token.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// The bytes of a text token.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.replace(SPACE, " ").into_bytes()
}
