//! Sets of characters.

use std::ops::RangeInclusive;

/// The numbers that are no characters: halves of UTF-16 pairs.
const SURROGATES: RangeInclusive<u32> = 0xd800..=0xdfff;

/// A set of characters as ascending ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Chars(Vec<(u32, u32)>);

impl Chars {
    /// One character.
    pub fn one(c: char) -> Chars {
        Chars(vec![(c.into(), c.into())])
    }

    /// All characters.
    pub fn all() -> Chars {
        Chars::of(vec![(0, char::MAX.into())])
    }

    /// The characters in any of these ranges.
    pub fn of(mut ranges: Vec<(u32, u32)>) -> Chars {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Chars(merged.into_iter().flat_map(without_surrogates).collect())
    }

    /// All other characters.
    pub fn negated(&self) -> Chars {
        let mut others = Vec::new();
        let mut next = 0;
        for &(low, high) in &self.0 {
            if next < low {
                others.push((next, low - 1));
            }
            next = high + 1;
        }
        if next <= char::MAX.into() {
            others.push((next, char::MAX.into()));
        }
        Chars::of(others)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// True if there is no character.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A range without the numbers that are no characters.
fn without_surrogates((low, high): (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
    let below = (low, high.min(SURROGATES.start() - 1));
    let above = (low.max(SURROGATES.end() + 1), high);
    [below, above].into_iter().filter(|(low, high)| low <= high)
}
