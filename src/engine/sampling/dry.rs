//! DRY, "don't repeat yourself" (P. E. Weidmann, 2024): a penalty for the token that would continue a repetition.
//!
//! If the last tokens have been there before, the token that came next then is penalized by `multiplier * base^(length - allowed)`, with the
//! longest such `length`. No repetition reaches over a sequence breaker. The search is linear in the tokens searched.

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;
use crate::tokenizer::Tokenizer;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The penalty, and the tokens that are searched for repetitions.
pub struct Dry {
    multiplier: f64,
    base: f64,
    allowed: usize,
    last_n: usize,
    recent: VecDeque<u32>,
    breakers: Option<Breakers>,
    since_breaker: usize, // tokens
}

impl Dry {
    /// `None` if it is off. Without a tokenizer there are no breakers.
    pub fn new(settings: &Sampling, tokenizer: Option<&Arc<Tokenizer>>) -> Option<Dry> {
        if settings.dry_multiplier <= 0.0 || settings.dry_last_n == 0 {
            return None;
        }
        Some(Dry {
            multiplier: settings.dry_multiplier.into(),
            base: settings.dry_base.into(),
            allowed: settings.dry_allowed_length,
            last_n: settings.dry_last_n,
            recent: VecDeque::new(),
            breakers: tokenizer.map(|tokenizer| Breakers::new(&settings.dry_breakers, tokenizer.clone())),
            since_breaker: 0,
        })
    }

    /// For each token that would continue a repetition of at least the allowed length, the length of the longest.
    fn repetitions(&self) -> HashMap<u32, usize> {
        let mut longest = HashMap::new();
        let most = self.since_breaker.min(self.recent.len());
        if self.recent.len() <= self.allowed || most < self.allowed {
            return longest;
        }
        let newest_first: Vec<u32> = self.recent.iter().rev().copied().collect();
        for (pair, &length) in newest_first.windows(2).zip(&common_prefixes(&newest_first)[1..]) {
            let length = length.min(most);
            if length >= self.allowed {
                let longest = longest.entry(pair[0]).or_insert(length);
                *longest = length.max(*longest);
            }
        }
        if let Some(breakers) = &self.breakers {
            longest.retain(|&token, _| !breakers.are_in(token));
        }
        longest
    }
}

impl Filter for Dry {
    fn accept(&mut self, token: u32) {
        if self.recent.len() >= self.last_n {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
        let ends = self.breakers.as_mut().is_some_and(|breakers| breakers.end_in(token));
        self.since_breaker = if ends { 0 } else { self.since_breaker.saturating_add(1) };
    }

    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        candidates.edit(&self.repetitions(), |logit, &length| {
            let growth = libm::pow(self.base, (length - self.allowed) as f64);
            logit - self.multiplier * growth.min(f32::MAX.into())
        });
    }
}

/// For each place of `tokens`, how many tokens from there on are those that `tokens` begins with (the Z function: Gusfield, 1997).
fn common_prefixes(tokens: &[u32]) -> Vec<usize> {
    let mut lengths = vec![tokens.len(); tokens.len()];
    // The match found that reaches furthest: what lies in it has been compared.
    let (mut start, mut end) = (0, 0);
    for i in 1..tokens.len() {
        let mut length = if i < end { lengths[i - start].min(end - i) } else { 0 };
        while i + length < tokens.len() && tokens[i + length] == tokens[length] {
            length += 1;
        }
        if i + length > end {
            (start, end) = (i, i + length);
        }
        lengths[i] = length;
    }
    lengths
}

/// Sequence breakers, which are found in the text and not in the tokens: a breaker may end inside a token, and begin in an earlier one.
struct Breakers {
    texts: Vec<Vec<u8>>,
    tokenizer: Arc<Tokenizer>,
    /// The end of the text, shorter than the longest breaker.
    tail: Vec<u8>,
}

impl Breakers {
    fn new(texts: &[String], tokenizer: Arc<Tokenizer>) -> Breakers {
        Breakers { texts: texts.iter().map(|text| text.clone().into_bytes()).collect(), tokenizer, tail: Vec::new() }
    }

    fn bytes(&self, token: u32) -> Vec<u8> {
        // A token without text breaks nothing.
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }

    /// True if a breaker lies within `token`.
    fn are_in(&self, token: u32) -> bool {
        ends_after(&self.texts, &self.bytes(token), 0)
    }

    /// Appends `token` to the text; true if a breaker ends in it.
    fn end_in(&mut self, token: u32) -> bool {
        let mut text = std::mem::take(&mut self.tail);
        let before = text.len();
        text.extend(self.bytes(token));
        let ends = ends_after(&self.texts, &text, before);
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or(0);
        text.drain(..text.len() - text.len().min(longest.saturating_sub(1)));
        self.tail = text;
        ends
    }
}

/// True if one of `breakers`, none of which is empty, lies in `text` and ends after its first `before` bytes.
fn ends_after(breakers: &[Vec<u8>], text: &[u8], before: usize) -> bool {
    breakers.iter().any(|breaker| {
        let from = (before + 1).saturating_sub(breaker.len()).min(text.len());
        text[from..].windows(breaker.len()).any(|part| part == breaker)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_those_that_a_plain_search_finds() {
        let mut state = 5;
        for n in 0..60 {
            for kinds in [1, 2, 3, 40] {
                let tokens: Vec<u32> = (0..n).map(|_| (crate::random::bits(&mut state) % kinds) as u32).collect();
                let plain = (0..n).map(|i| tokens[i..].iter().zip(&tokens).take_while(|(a, b)| a == b).count());
                assert_eq!(common_prefixes(&tokens), plain.collect::<Vec<_>>(), "{tokens:?}");
            }
        }
    }

    #[test]
    fn a_breaker_ends_in_the_token_that_completes_it() {
        let breakers: Vec<Vec<u8>> = ["\n", "ab", "xyz"].map(|text| text.as_bytes().to_vec()).to_vec();
        for (text, before, found) in [
            ("", 0, false),
            ("a", 0, false),
            ("ab", 0, true),
            ("ab", 1, true),
            ("ab", 2, false),
            ("abc", 2, false),
            ("abcab", 2, true),
            ("xyz", 2, true),
            ("wxy", 2, false),
            ("a\nb", 1, true),
            ("a\nb", 2, false),
        ] {
            assert_eq!(ends_after(&breakers, text.as_bytes(), before), found, "{text:?} {before}");
        }
    }
}
