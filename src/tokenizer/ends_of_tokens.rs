//! Where in a text its tokens end.

use super::special::{Segment, literal};
use super::{EncodeOptions, Tokenizer};
use crate::error::Result;

impl Tokenizer {
    /// The tokens of `text`, as [`encode`](Tokenizer::encode) makes them without BOS and EOS, each with the byte of the text where it ends.
    /// Tokens that share a character, or the unknown token, end where the next one that is known ends.
    ///
    /// # Errors
    /// If a byte of the text has no token.
    pub fn encode_with_ends(&self, text: &str, parse_special: bool) -> Result<Vec<(u32, usize)>> {
        let (mut tokens, mut start) = (Vec::new(), 0);
        for part in self.special.parts(text, parse_special) {
            match part {
                Segment::Token(id) => {
                    start += literal(&self.vocab, id).len();
                    tokens.push((id, start));
                }
                Segment::Text(part) => {
                    tokens.extend(self.ends_within(part)?.into_iter().map(|(id, end)| (id, start + end)));
                    start += part.len();
                }
            }
        }
        Ok(tokens)
    }

    /// The same within a text that has no special tokens.
    fn ends_within(&self, text: &str) -> Result<Vec<(u32, usize)>> {
        let ids = self.encode(text, EncodeOptions::default())?;
        let lengths = ids.iter().map(|&id| Ok(self.lookup(id)?.0.len())).collect::<Result<Vec<_>>>()?;
        let total: usize = lengths.iter().sum();
        // Tokens stand for the bytes of the text, and for the space that SentencePiece puts in front.
        let before = match total.checked_sub(text.len()) {
            Some(more @ (0 | 1)) => more,
            // With unknown tokens lengths tell nothing: the text is told apart by the number of its characters.
            _ => {
                let ends: Vec<usize> = text.char_indices().skip(1).map(|(at, _)| at).chain([text.len()]).collect();
                let at = |i: usize| ends[((i + 1) * ends.len()).div_ceil(ids.len()) - 1];
                return Ok(ids.iter().enumerate().map(|(i, &id)| (id, at(i))).collect());
            }
        };
        let mut end = 0;
        let place = |(&id, length): (&u32, usize)| {
            end += length;
            (id, end.saturating_sub(before))
        };
        Ok(ids.iter().zip(lengths).map(place).collect())
    }
}
