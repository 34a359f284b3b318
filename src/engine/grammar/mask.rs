//! The tokens that may come next, a bit for each.

/// The tokens of a vocabulary that may come next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// A mask with 32 tokens in each word, the lowest bit first.
    pub(super) fn from_words(words: &[u32]) -> TokenMask {
        TokenMask { words: words.to_vec() }
    }

    /// A mask of these tokens alone.
    pub fn of(tokens: impl IntoIterator<Item = u32>) -> TokenMask {
        let mut words = Vec::new();
        for token in tokens {
            let word = token as usize / 32;
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << (token % 32);
        }
        TokenMask { words }
    }

    /// True if the token may come next.
    pub fn allows(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// The number of tokens that may come next.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True if no token may come next.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The tokens that may come next, in the order of their ids.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.words).flat_map(|(i, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(i * 32 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_its_tokens() {
        let tokens = [0, 5, 31, 32, 63, 64, 1000];
        let mask = TokenMask::of(tokens);
        assert_eq!(mask.tokens().collect::<Vec<_>>(), tokens);
        assert_eq!(mask.count(), tokens.len());
        assert!((0..2000).all(|token| mask.allows(token) == tokens.contains(&token)));
        assert!(!mask.is_empty() && TokenMask::default().is_empty());
        assert_eq!(TokenMask::from_words(&[1 << 31, 1]), TokenMask::of([31, 32]));
    }
}
