//! The filters by name, and the order in which they are applied.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A filter of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// Penalties for tokens that have been there: repeat, presence, frequency.
    Penalties,
    /// Penalty for tokens that would continue a repetition.
    Dry,
    /// Keeps logits within so many standard deviations of the largest.
    TopNSigma,
    /// Keeps so many of the most likely tokens.
    TopK,
    /// Keeps tokens whose information is near the entropy.
    Typical,
    /// Keeps the most likely tokens up to a total probability.
    TopP,
    /// Drops tokens less likely than a share of the most likely one.
    MinP,
    /// Drops the most likely tokens at random.
    Xtc,
    /// Divides logits, by a fixed number or by one that follows the entropy.
    Temperature,
}

use FilterKind::*;

impl FilterKind {
    /// All, in llama.cpp's default order, each with its name, its letter and further names.
    const TABLE: [(FilterKind, &str, char, &[&str]); 9] = [
        (Penalties, "penalties", 'e', &[]),
        (Dry, "dry", 'd', &[]),
        (TopNSigma, "top_n_sigma", 's', &[]),
        (TopK, "top_k", 'k', &[]),
        (Typical, "typ_p", 'y', &["typ", "typical", "typical_p"]),
        (TopP, "top_p", 'p', &["nucleus"]),
        (MinP, "min_p", 'm', &[]),
        (Xtc, "xtc", 'x', &[]),
        (Temperature, "temperature", 't', &["temp"]),
    ];

    /// Its name, as [`Sequence`] reads it.
    pub fn name(self) -> &'static str {
        FilterKind::TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }
}

/// An order of filters, each at most once; those that are not in it are not applied.
///
/// Its text is the names with semicolons between them. A name may be in capitals, and have hyphens or nothing for its underscores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence(Vec<FilterKind>);

impl Default for Sequence {
    fn default() -> Sequence {
        Sequence(FilterKind::TABLE.iter().map(|row| row.0).collect())
    }
}

impl Sequence {
    /// An order of filters.
    ///
    /// # Errors
    /// If one is there twice.
    pub fn new(kinds: Vec<FilterKind>) -> Result<Sequence> {
        match kinds.iter().enumerate().find(|(i, kind)| kinds[..*i].contains(kind)) {
            Some((_, kind)) => Err(Error::argument("samplers", format!("{} is there twice", kind.name()))),
            None => Ok(Sequence(kinds)),
        }
    }

    /// The order that a text of one letter each gives, as "kpmt".
    ///
    /// # Errors
    /// If a letter is no filter's, or there twice.
    pub fn from_letters(letters: &str) -> Result<Sequence> {
        let known = FilterKind::TABLE.map(|row| (row.0, row.2));
        let kind = |letter: char| {
            let found = known.iter().find(|row| row.1 == letter).map(|row| row.0);
            found.ok_or_else(|| {
                let known = known.map(|(kind, letter)| format!("{letter} ({})", kind.name())).join(", ");
                Error::argument("samplers", format!("there is no sampler {letter:?}; choose among {known}"))
            })
        };
        Sequence::new(letters.chars().map(kind).collect::<Result<_>>()?)
    }

    /// The filters in their order.
    pub fn kinds(&self) -> &[FilterKind] {
        &self.0
    }
}

impl FromStr for Sequence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Sequence> {
        let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
        let kind = |name: &str| {
            let wanted = plain(name.trim());
            let is = |row: &&(FilterKind, &str, char, &[&str])| {
                plain(row.1) == wanted || row.3.iter().any(|other| plain(other) == wanted)
            };
            let known = || FilterKind::TABLE.iter().map(|row| row.1).collect();
            let unknown = || Error::UnknownName { kind: "sampler", name: name.to_owned(), known: known() };
            FilterKind::TABLE.iter().find(is).map(|row| row.0).ok_or_else(unknown)
        };
        // No text, no filter.
        let names = text.split(';').filter(|_| !text.trim().is_empty());
        Sequence::new(names.map(kind).collect::<Result<_>>()?)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(";"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_letters_give_the_same_order() {
        let all = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
        assert_eq!(Sequence::default().to_string(), all);
        assert_eq!(all.parse::<Sequence>().unwrap(), Sequence::default());
        assert_eq!(Sequence::from_letters("edskypmxt").unwrap(), Sequence::default());
        let some = Sequence::new(vec![Typical, TopP, Temperature, TopK]).unwrap();
        assert_eq!("Typ;nucleus;temp;top-k".parse::<Sequence>().unwrap(), some);
        assert_eq!("typical_p; TopP ;temperature;topk".parse::<Sequence>().unwrap(), some);
        assert_eq!("".parse::<Sequence>().unwrap().kinds(), []);
        assert_eq!(Sequence::from_letters("").unwrap().kinds(), []);
    }

    #[test]
    fn an_order_names_each_filter_once() {
        for (text, words) in
            [("top_k;topk", "top_k is there twice"), ("top_k;", "no sampler \"\""), ("infill", "top_n_sigma")]
        {
            let error = text.parse::<Sequence>().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        for (letters, words) in [("kk", "twice"), ("kq", "'q'"), ("k\u{1b}", "\\u{1b}")] {
            let error = Sequence::from_letters(letters).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
