//! The tokens of a comparison: chunks, which are sequences that do not know of each other, and which of their tokens are scored.

use super::scores::Scored;
use crate::error::{Error, Result};
use crate::eval::tasks::Tasks;
use crate::io::hash::{Digest, Hasher};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Tokens that a model reads as one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its number among all chunks of all texts.
    pub number: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The positions after which the next token is scored, in order. No position is the last.
    pub scored: Vec<Range<usize>>,
}

/// One of the texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFacts {
    /// Its name in reports.
    pub name: String,
    /// The SHA-256 of its tokens, those of all chunks.
    pub tokens_sha256: Digest,
    /// The number of its chunks. They follow those of the text before.
    pub chunks: usize,
    /// If its chunks are the sequences of tasks, what the answers are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Tasks>,
}

/// Texts in chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The texts.
    pub texts: Vec<TextFacts>,
    /// The chunks of all texts, or a part of them.
    pub chunks: Vec<Chunk>,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Tokens of a chunk.
    pub context: usize,
    /// Tokens from the beginning of a chunk to that of the next, of which the last so many are scored: a sliding window. `None` cuts as
    /// llama-perplexity does: chunks follow each other, and the second half of each is scored.
    pub stride: Option<usize>,
    /// The most chunks to take.
    pub max_chunks: Option<usize>,
}

impl Chunk {
    /// The number of its scored tokens.
    pub fn scores(&self) -> usize {
        self.scored.iter().map(Range::len).sum()
    }
}

impl Text {
    /// A text in chunks of equal length. The first token of each becomes `bos`, as in llama-perplexity. What does not fill a chunk is left
    /// out.
    ///
    /// # Errors
    /// If the text does not fill a chunk, or a chunk has too few tokens to score one.
    pub fn raw(name: impl Into<String>, tokens: &[u32], cut: Cut, bos: Option<u32>) -> Result<Text> {
        let Cut { context, stride, max_chunks } = cut;
        if context < 4 {
            return Err(Error::ContextTooSmall { context });
        }
        let step = stride.unwrap_or(context);
        if step == 0 || step > context {
            return Err(Error::StrideOutOfRange { stride: step, context });
        }
        let first = if stride.is_some() { (context - step).saturating_sub(1) } else { context / 2 };
        let windows = tokens.windows(context).step_by(step).take(max_chunks.unwrap_or(usize::MAX));
        let chunk = |(number, window): (usize, &[u32])| {
            let mut tokens = window.to_vec();
            tokens[0] = bos.unwrap_or(tokens[0]);
            Chunk { number, tokens, scored: vec![first..context - 1] }
        };
        let chunks: Vec<Chunk> = windows.enumerate().map(chunk).collect();
        if chunks.is_empty() {
            return Err(Error::TextTooShort { tokens: tokens.len(), chunk: context });
        }
        Ok(Text::of_chunks(name, chunks))
    }

    /// A text of these chunks, which it numbers.
    pub fn of_chunks(name: impl Into<String>, mut chunks: Vec<Chunk>) -> Text {
        let mut hasher = Hasher::default();
        for (number, chunk) in chunks.iter_mut().enumerate() {
            chunk.number = number;
            chunk.tokens.iter().for_each(|token| hasher.update(&token.to_le_bytes()));
        }
        let facts = TextFacts { name: name.into(), tokens_sha256: hasher.digest(), chunks: chunks.len(), tasks: None };
        Text { texts: vec![facts], chunks }
    }

    /// Appends another text, whose chunks get the next numbers.
    pub fn append(&mut self, other: Text) {
        let first: usize = self.texts.iter().map(|text| text.chunks).sum();
        self.texts.extend(other.texts);
        self.chunks.extend(other.chunks.into_iter().map(|chunk| Chunk { number: first + chunk.number, ..chunk }));
    }

    /// Of each chunk, the place of its text among the texts, where no chunk is left out.
    pub fn of_chunk(&self) -> Vec<usize> {
        self.texts.iter().enumerate().flat_map(|(place, text)| std::iter::repeat_n(place, text.chunks)).collect()
    }

    /// The chunks `i`, `i + n`, `i + 2 n` ... of it.
    pub fn shard(&self, (i, n): (usize, usize)) -> Text {
        Text { texts: self.texts.clone(), chunks: self.chunks.iter().skip(i).step_by(n.max(1)).cloned().collect() }
    }

    /// The number of scored tokens.
    pub fn scores(&self) -> usize {
        self.chunks.iter().map(Chunk::scores).sum()
    }

    /// The tokens of all chunks, one chunk after the other.
    pub fn tokens(&self) -> Vec<u32> {
        self.chunks.iter().flat_map(|chunk| &chunk.tokens).copied().collect()
    }

    /// The number of tokens of each chunk.
    pub fn lengths(&self) -> Vec<usize> {
        self.chunks.iter().map(|chunk| chunk.tokens.len()).collect()
    }

    /// The scored tokens of all chunks: see [`scored`].
    pub fn scored(&self) -> Vec<Scored> {
        scored(&self.chunks, &[])
    }

    /// The chunk of this number, if it is here.
    pub fn chunk(&self, number: usize) -> Option<&Chunk> {
        let place = self.chunks.binary_search_by_key(&number, |chunk| chunk.number);
        place.ok().map(|place| &self.chunks[place])
    }
}

/// The scored tokens of some chunks, in order; rows are counted through all of these. Chunks that share a beginning with the one before them
/// have rows for the rest alone: see [`WholeSequences::sharing`](crate::model::WholeSequences::sharing).
pub fn scored(chunks: &[Chunk], shared: &[usize]) -> Vec<Scored> {
    let mut scored = Vec::with_capacity(chunks.iter().map(Chunk::scores).sum());
    let (mut rows, mut end): (Vec<usize>, usize) = (Vec::new(), 0); // of the tokens of a chunk; of all
    for (i, Chunk { number, tokens, scored: spans }) in chunks.iter().enumerate() {
        rows.truncate(shared.get(i).copied().unwrap_or(0));
        let own = tokens.len() - rows.len();
        rows.extend(end..end + own);
        end += own;
        let of = |at: usize| Scored { row: rows[at], token: tokens[at + 1], chunk: *number, place: at + 1 };
        scored.extend(spans.iter().cloned().flatten().map(of));
    }
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row before each scored token, and the token.
    fn positions(text: &Text) -> Vec<(usize, u32)> {
        text.scored().iter().map(|scored| (scored.row, scored.token)).collect()
    }

    fn cut(context: usize, stride: Option<usize>) -> Cut {
        Cut { context, stride, max_chunks: None }
    }

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let tokens: Vec<u32> = (0..20).collect();
        let text = Text::raw("t", &tokens, cut(8, None), Some(99)).unwrap();
        assert_eq!(text.tokens(), [99, 1, 2, 3, 4, 5, 6, 7, 99, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(positions(&text), [(4, 5), (5, 6), (6, 7), (12, 13), (13, 14), (14, 15)]);
        assert_eq!((text.texts[0].chunks, text.lengths()), (2, vec![8, 8]));
        let second = text.shard((1, 2));
        assert_eq!(positions(&second), [(4, 13), (5, 14), (6, 15)]);
        assert!(second.chunks.len() == 1 && second.chunks[0].number == 1 && second.texts == text.texts);
        let too_short = Text::raw("t", &tokens, cut(21, None), None);
        assert!(matches!(too_short, Err(Error::TextTooShort { tokens: 20, chunk: 21 })));
        assert!(matches!(Text::raw("t", &tokens, cut(3, None), None), Err(Error::ContextTooSmall { context: 3 })));
        assert!(Text::raw("t", &tokens, Cut { max_chunks: Some(0), ..cut(8, None) }, None).is_err());
    }

    #[test]
    fn a_sliding_window_scores_every_token_once() {
        let tokens: Vec<u32> = (0..20).collect();
        let text = Text::raw("t", &tokens, cut(8, Some(3)), None).unwrap();
        assert_eq!(text.chunks.iter().map(|chunk| chunk.tokens[0]).collect::<Vec<_>>(), [0, 3, 6, 9, 12]);
        let scored: Vec<u32> = positions(&text).into_iter().map(|(_, token)| token).collect();
        assert_eq!(scored, (5..20).collect::<Vec<u32>>());
        // The first token of a chunk has none before it.
        assert_eq!(Text::raw("t", &tokens, cut(8, Some(8)), None).unwrap().scores(), 14);
        for stride in [0, 9] {
            assert!(matches!(Text::raw("t", &tokens, cut(8, Some(stride)), None), Err(Error::StrideOutOfRange { .. })));
        }
    }

    #[test]
    fn texts_follow_each_other() {
        let tokens: Vec<u32> = (0..20).collect();
        let mut text = Text::raw("a", &tokens, cut(8, None), None).unwrap();
        let chat = Chunk { number: 0, tokens: vec![1, 2, 3, 4, 5], scored: vec![0..1, 2..4] };
        text.append(Text::of_chunks("b", vec![chat]));
        assert_eq!(text.chunks.iter().map(|chunk| chunk.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(positions(&text)[6..], [(16, 2), (18, 4), (19, 5)]);
        assert_eq!((text.scores(), text.lengths()), (9, vec![8, 8, 5]));
        assert_eq!(text.texts[1].chunks, 1);
    }
}
