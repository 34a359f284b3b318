//! SentencePiece BPE with byte fallback (Llama 2, Mistral, TinyLlama).
//!
//! Such files have scores, not merges. A token can be made of any two tokens whose texts it joins; the better its
//! score, the earlier it is made. Among equal scores the order is that of Hugging Face's converter: the longer left
//! part, then the longer right part, then the order of ids.

use std::collections::HashSet;
use std::path::Path;

use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::bpe::text_ids;
use super::vocab::{TokenKind, Vocab, byte_of};
use crate::{Error, Result};

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// The model "llama".
#[derive(Debug)]
pub(super) struct SentencePiece {
    model: BPE,
    /// The pairs of characters that stand side by side in some token. No merge crosses any other pair, so the text is
    /// cut there: pieces stay small, and the cache of `BPE` can know them.
    joined: HashSet<(char, char)>,
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
        let n = vocab.tokens.len() as u32;
        let unk = vocab.unk.or_else(|| (0..n).find(|&id| vocab.kind(id) == TokenKind::Unknown));
        let bytes: HashSet<u8> = (0..n)
            .filter(|&id| vocab.kind(id) == TokenKind::Byte)
            .filter_map(|id| byte_of(&vocab.tokens[id as usize]))
            .collect();
        if unk.is_none() && bytes.len() < 256 {
            let problem = format!("{} of the 256 byte tokens and no unknown token", bytes.len());
            return Err(Error::invalid(path, "tokenizer.ggml.tokens", problem, redo));
        }

        let merged = text_ids(vocab, path, |kind| matches!(kind, TokenKind::Normal | TokenKind::Unused))?;
        let mut merges = Vec::new();
        let mut joined = HashSet::new();
        for (id, token) in (0u32..).zip(&vocab.tokens) {
            if merged.get(token) != Some(&id) {
                continue;
            }
            joined.extend(token.chars().zip(token.chars().skip(1)));
            let first = merges.len();
            for (i, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(i);
                if let (Some(&l), Some(&r)) = (merged.get(left), merged.get(right)) {
                    // Adding 0.0 makes -0.0, which SentencePiece writes, equal to 0.0.
                    merges.push((scores[id as usize] + 0.0, (left, right), (l, r)));
                }
            }
            merges[first..].sort_by_key(|&(_, _, ids)| ids);
        }
        merges.sort_by(|(score_a, a, _), (score_b, b, _)| {
            let chars = |(left, right): &(&str, &str)| (left.chars().count(), right.chars().count());
            score_b.total_cmp(score_a).then_with(|| chars(b).cmp(&chars(a)))
        });
        let merges = merges.iter().map(|&(_, (l, r), _)| (l.to_owned(), r.to_owned())).collect();

        let mut ids = merged;
        for id in (0..n).filter(|&id| vocab.kind(id) == TokenKind::Byte).chain(unk) {
            ids.insert(vocab.tokens[id as usize].clone(), id);
        }
        let mut builder = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true);
        if let Some(unk) = unk {
            builder = builder.unk_token(vocab.tokens[unk as usize].clone());
        }
        let model = builder
            .build()
            .map_err(|e| Error::invalid(path, "tokenizer.ggml.tokens", e.to_string(), "convert the model again"))?;
        Ok(SentencePiece { model, joined, unk, space_prefix: vocab.add_space_prefix != Some(false) })
    }

    /// Whether texts get a space in front, which decoding takes away.
    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the tokens of `text`, which is not empty and holds no special tokens.
    pub(super) fn encode(&self, text: &str, path: &Path, ids: &mut Vec<u32>) -> Result<()> {
        let section = ids.len();
        let prefix = self.space_prefix.then_some(SPACE);
        let mut piece = String::new();
        for c in prefix.into_iter().chain(text.chars()).map(|c| if c == ' ' { SPACE } else { c }) {
            if piece.chars().next_back().is_some_and(|last| !self.joined.contains(&(last, c))) {
                self.encode_piece(&piece, section, path, ids)?;
                piece.clear();
            }
            piece.push(c);
        }
        self.encode_piece(&piece, section, path, ids)
    }

    fn encode_piece(&self, piece: &str, section: usize, path: &Path, ids: &mut Vec<u32>) -> Result<()> {
        let tokens = self.model.tokenize(piece).map_err(|e| {
            Error::invalid(path, "tokenizer.ggml.tokens", e.to_string(), "the file is damaged; download it again")
        })?;
        for token in tokens {
            // A run of unknown characters is one unknown token, also across pieces.
            let again = self.unk == Some(token.id) && ids.len() > section && ids.last() == Some(&token.id);
            if !again {
                ids.push(token.id);
            }
        }
        Ok(())
    }
}

/// The bytes of a token that is text.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    token.replace(SPACE, " ").into_bytes()
}
