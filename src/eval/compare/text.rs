//! The tokens of a comparison: chunks of equal length, and which of their tokens are scored.

use crate::error::{Error, Result};
use crate::io::hash::{Digest, Hasher};
use std::ops::Range;

/// A text in chunks.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its name in reports.
    pub name: String,
    /// Tokens of a chunk.
    pub context: usize,
    /// `(chunks, context)`
    pub tokens: Vec<u32>,
    /// The scored tokens: the place in `tokens` of the token before each, and the token.
    pub positions: Vec<(usize, u32)>,
    /// The scored tokens of each chunk, as ranges of `positions`.
    pub chunks: Vec<Range<usize>>,
    /// The number of each chunk in the whole text.
    pub numbers: Vec<usize>,
    /// The SHA-256 of all tokens of the whole text.
    pub digest: Digest,
}

impl Text {
    /// Cuts a text as llama-perplexity does: chunks of `context` tokens, at most `max_chunks`, with their first token replaced by `bos`,
    /// and the second half of each scored. What does not fill a chunk is left out.
    ///
    /// # Errors
    /// If the text does not fill a chunk, or a chunk has too few tokens to score one.
    pub fn raw(
        name: impl Into<String>,
        tokens: &[u32],
        context: usize,
        max_chunks: Option<usize>,
        bos: Option<u32>,
    ) -> Result<Text> {
        if context < 4 {
            return Err(Error::ContextTooSmall { context });
        }
        let count = (tokens.len() / context).min(max_chunks.unwrap_or(usize::MAX));
        if count == 0 {
            return Err(Error::TextTooShort { tokens: tokens.len(), chunk: context });
        }
        let mut tokens = tokens[..count * context].to_vec();
        if let Some(bos) = bos {
            tokens.iter_mut().step_by(context).for_each(|first| *first = bos);
        }
        let scored = context / 2..context - 1;
        let positions = (0..count).flat_map(|chunk| scored.clone().map(move |i| chunk * context + i));
        let positions: Vec<(usize, u32)> = positions.map(|row| (row, tokens[row + 1])).collect();
        let chunks = (0..count).map(|i| i * scored.len()..(i + 1) * scored.len()).collect();
        let digest = digest(&tokens);
        Ok(Text { name: name.into(), context, tokens, positions, chunks, numbers: (0..count).collect(), digest })
    }

    /// The number of scored tokens.
    pub fn scored(&self) -> usize {
        self.positions.len()
    }

    /// The chunks `i`, `i + n`, `i + 2 n` ... of it.
    pub fn shard(&self, (i, n): (usize, usize)) -> Text {
        let mut shard =
            Text { tokens: Vec::new(), positions: Vec::new(), chunks: Vec::new(), numbers: Vec::new(), ..self.clone() };
        for chunk in (i..self.chunks.len()).step_by(n.max(1)) {
            let (first, start) = (shard.tokens.len(), shard.positions.len());
            shard.tokens.extend_from_slice(&self.tokens[chunk * self.context..(chunk + 1) * self.context]);
            let moved = |&(row, target): &(usize, u32)| (row - chunk * self.context + first, target);
            shard.positions.extend(self.positions[self.chunks[chunk].clone()].iter().map(moved));
            shard.chunks.push(start..shard.positions.len());
            shard.numbers.push(self.numbers[chunk]);
        }
        shard
    }
}

fn digest(tokens: &[u32]) -> Digest {
    let mut hasher = Hasher::default();
    tokens.iter().for_each(|token| hasher.update(&token.to_le_bytes()));
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let tokens: Vec<u32> = (0..20).collect();
        let text = Text::raw("t", &tokens, 8, None, Some(99)).unwrap();
        assert_eq!(text.tokens, [99, 1, 2, 3, 4, 5, 6, 7, 99, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(text.positions, [(4, 5), (5, 6), (6, 7), (12, 13), (13, 14), (14, 15)]);
        assert_eq!(text.chunks, [0..3, 3..6]);
        let second = text.shard((1, 2));
        assert_eq!((second.tokens.len(), second.positions.as_slice()), (8, &[(4, 13), (5, 14), (6, 15)][..]));
        assert!(second.chunks.len() == 1 && second.chunks[0] == (0..3) && second.numbers == [1]);
        assert!(matches!(Text::raw("t", &tokens, 21, None, None), Err(Error::TextTooShort { tokens: 20, chunk: 21 })));
        assert!(matches!(Text::raw("t", &tokens, 3, None, None), Err(Error::ContextTooSmall { context: 3 })));
        assert!(Text::raw("t", &tokens, 8, Some(0), None).is_err());
    }
}
