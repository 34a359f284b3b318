//! The tokens where a candidate goes most astray, and what was expected in their place: for reports, which have no model at hand.
//!
//! They are chosen by divergence, then by chunk and place, so that the parts of a comparison keep what the whole would.

use super::Text;
use super::scores::TOP;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How many are kept of each candidate.
pub const KEPT: usize = 20;

/// Tokens of the text that are shown before one.
const BEFORE: usize = 32;

/// Tokens of the text that are shown after one.
const AFTER: usize = 8;

/// A token, and what both models expected in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Astray {
    /// The divergence there, in nats.
    #[serde(with = "bits")]
    pub kld: f64,
    /// The number of its chunk in all texts.
    pub chunk: usize,
    /// Its place in the chunk.
    pub place: usize,
    /// What the reference expected.
    pub reference: Expected,
    /// What the candidate expected.
    pub candidate: Expected,
}

/// What a model expected in the place of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The probability of the text's token.
    #[serde(with = "bits")]
    pub token: f64,
    /// The most likely tokens, at most [`TOP`], and their probabilities.
    pub top: Vec<(u32, Probability)>,
}

/// A probability; its file has every bit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probability(#[serde(with = "bits")] pub f64);

/// Numbers as their bits: decimal digits are read to the nearest number by some programs only.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// A token and those beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surroundings<'t> {
    /// Those before it.
    pub before: &'t [u32],
    /// The token.
    pub token: u32,
    /// Those after it.
    pub after: &'t [u32],
}

impl Astray {
    /// The token and those beside it; `None` if its chunk is not here.
    pub fn surroundings<'t>(&self, text: &'t Text) -> Option<Surroundings<'t>> {
        let tokens = &text.chunk(self.chunk)?.tokens;
        let (before, rest) = tokens.split_at_checked(self.place)?;
        let (token, after) = rest.split_first()?;
        let before = &before[before.len().saturating_sub(BEFORE)..];
        Some(Surroundings { before, token: *token, after: &after[..after.len().min(AFTER)] })
    }

    /// Every token that a report names for it.
    pub fn tokens(&self, text: &Text) -> Vec<u32> {
        let top = self.reference.top.iter().chain(&self.candidate.top).map(|(token, _)| *token);
        let around = self.surroundings(text);
        let around = around.iter().flat_map(|around| around.before.iter().chain([&around.token]).chain(around.after));
        top.chain(around.copied()).collect()
    }

    /// True if it is what a comparison may say of that token.
    pub(super) fn is_sound(&self) -> bool {
        [&self.reference, &self.candidate].into_iter().all(|expected| {
            let probabilities = expected.top.iter().map(|(_, p)| p.0).chain([expected.token]);
            expected.top.len() <= TOP && probabilities.into_iter().all(|p| (0.0..=1.0).contains(&p))
        })
    }

    /// The order in which they are kept.
    pub(super) fn order(&self, other: &Astray) -> Ordering {
        order((self.kld, self.chunk, self.place), (other.kld, other.chunk, other.place))
    }
}

/// The larger divergence first, then the earlier token.
fn order(a: (f64, usize, usize), b: (f64, usize, usize)) -> Ordering {
    b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))
}

/// Those of some tokens that are kept, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worst(Vec<Astray>);

impl Worst {
    /// Those in `all` that are kept.
    pub fn of(all: impl IntoIterator<Item = Astray>) -> Worst {
        let mut worst = Worst(all.into_iter().collect());
        worst.0.sort_by(Astray::order);
        worst.0.truncate(KEPT);
        worst
    }

    /// Adds one if it is to be kept: whoever asks makes it then.
    pub fn offer(&mut self, kld: f64, chunk: usize, place: usize, make: impl FnOnce() -> Astray) {
        let key = |astray: &Astray| (astray.kld, astray.chunk, astray.place);
        let at = self.0.partition_point(|kept| order(key(kept), (kld, chunk, place)) == Ordering::Less);
        // A candidate that is the reference is nowhere astray.
        if kld > 0.0 && at < KEPT {
            self.0.insert(at, make());
            self.0.truncate(KEPT);
        }
    }

    /// True if these are the ones to keep of tokens at `places`, (chunk, place) each, that diverge so much.
    pub(super) fn are_of(&self, kld: &[f64], places: impl Iterator<Item = (usize, usize)>) -> bool {
        let mut all: Vec<_> = kld.iter().zip(places).map(|(kld, (chunk, place))| (*kld, chunk, place)).collect();
        all.retain(|(kld, ..)| *kld > 0.0);
        all.sort_by(|a, b| order(*a, *b));
        all.truncate(KEPT);
        self.0.iter().map(|one| (one.kld, one.chunk, one.place)).eq(all)
    }

    /// The kept ones.
    pub fn tokens(&self) -> &[Astray] {
        &self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::text::Chunk;
    use super::*;

    pub fn astray(kld: f64, chunk: usize, place: usize) -> Astray {
        let expected = |p: f64| Expected { token: p, top: vec![(3, Probability(p)), (9, Probability(0.1 + 0.2))] };
        Astray { kld, chunk, place, reference: expected(1.0 / 3.0), candidate: expected(0.1) }
    }

    #[test]
    fn parts_keep_what_the_whole_keeps() {
        // Many equal divergences: the place decides.
        let all: Vec<Astray> = (0..200).map(|i| astray(f64::from(i * 7 % 13), (i as usize) % 9, i as usize)).collect();
        let mut whole = Worst::default();
        all.iter().for_each(|one| whole.offer(one.kld, one.chunk, one.place, || one.clone()));
        let part = |n: usize| {
            let mut part = Worst::default();
            let own = all.iter().rev().filter(|one| one.chunk % 3 == n);
            own.for_each(|one| part.offer(one.kld, one.chunk, one.place, || one.clone()));
            part
        };
        let parts = [part(2), part(0), part(1)];
        assert_eq!(Worst::of(parts.into_iter().flat_map(|part| part.0)), whole);
        assert!(whole.tokens().len() == KEPT && whole.tokens().is_sorted_by(|a, b| a.order(b) == Ordering::Less));
        whole.offer(0.0, 0, 0, || unreachable!("it does not diverge"));
    }

    #[test]
    fn bits_survive_the_file() {
        let one = astray(1.0 / 7.0, 1, 2);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Astray>(&json).unwrap(), one);
        assert!(one.is_sound());
        let mut wrong = one;
        wrong.candidate.top[0].1 = Probability(f64::NAN);
        assert!(!wrong.is_sound());
    }

    #[test]
    fn a_token_stands_in_its_text() {
        let chunk = |number, n: u32| Chunk {
            number,
            tokens: (0..n).map(|i| 100 * number as u32 + i).collect(),
            scored: vec![1..2],
        };
        let text = Text { texts: Vec::new(), chunks: vec![chunk(1, 50), chunk(4, 60)] };
        let around = astray(1.0, 4, 40).surroundings(&text).unwrap();
        assert_eq!((around.before.len(), around.before[31], around.token), (BEFORE, 439, 440));
        assert_eq!((around.after.len(), around.after[0]), (AFTER, 441));
        let first = astray(1.0, 1, 1);
        assert_eq!(first.surroundings(&text).unwrap().before, [100]);
        assert_eq!(first.tokens(&text).len(), 4 + 2 + AFTER);
        assert_eq!([(2, 3), (1, 50)].map(|(chunk, place)| astray(1.0, chunk, place).surroundings(&text)), [None, None]);
    }
}
