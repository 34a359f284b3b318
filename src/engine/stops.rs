//! Texts that end an answer: found wherever tokens cut them, and never shown in part.

use std::ops::Range;

/// Looks for texts in a text that comes in pieces.
#[derive(Debug)]
pub struct StopTexts {
    texts: Vec<String>,
    held: String, // the end of the text so far, which may be the beginning of one
}

/// What may be shown of a text after another piece of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// The text that belongs to the answer.
    pub text: String,
    /// Which of the texts ends the answer.
    pub stop: Option<usize>,
}

impl StopTexts {
    /// Looks for `texts`; an empty one is never found.
    pub fn new(texts: Vec<String>) -> StopTexts {
        StopTexts { texts, held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Released {
        self.held.push_str(piece);
        let found = self.texts.iter().enumerate().filter(|(_, text)| !text.is_empty());
        let found = found.filter_map(|(i, text)| Some((self.held.find(text.as_str())?, i))).min();
        let (end, stop) = match found {
            Some((start, i)) => (start, Some(i)),
            None => (self.held.len() - self.possible_beginning().len(), None),
        };
        let text = self.held.drain(..end).collect();
        Released { text, stop }
    }

    /// The text that is still held back, of an answer that ends without one of the texts.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The longest end of the text that is the beginning of one that is looked for.
    fn possible_beginning(&self) -> Range<usize> {
        let len = self.held.len();
        let longest = self.texts.iter().map(|text| text.len().saturating_sub(1)).max().unwrap_or(0);
        let starts = self.held.char_indices().map(|(start, _)| start).filter(|start| len - start <= longest);
        let begins = |start: &usize| self.texts.iter().any(|text| text.starts_with(&self.held[*start..]));
        starts.into_iter().find(begins).unwrap_or(len)..len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str, stops: &[&str]) -> (String, Option<usize>) {
        let found = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = found.filter_map(|(i, stop)| Some((text.find(stop)?, i))).min();
        found.map_or((text.to_owned(), None), |(start, i)| (text[..start].to_owned(), Some(i)))
    }

    fn in_pieces(pieces: &[String], stops: &[&str]) -> (String, Option<usize>) {
        let mut looked = StopTexts::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            let released = looked.push(piece);
            text.push_str(&released.text);
            if released.stop.is_some() {
                return (text, released.stop);
            }
        }
        text.push_str(&looked.finish());
        (text, None)
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_what_only_began_like_one_is_shown() {
        let pieces = |text: &[&str]| text.iter().map(|piece| (*piece).to_owned()).collect::<Vec<_>>();
        assert_eq!(in_pieces(&pieces(&["a\n", "\nUs", "er: b"]), &["\n\nUser:"]), ("a".to_owned(), Some(0)));
        assert_eq!(in_pieces(&pieces(&["a\n", "\nUs"]), &["\n\nUser:"]), ("a\n\nUs".to_owned(), None));
        assert_eq!(in_pieces(&pieces(&["ab", "ab", "ac"]), &["abac", ""]), ("ab".to_owned(), Some(0)));
        let mut looked = StopTexts::new(vec!["stop".to_owned()]);
        assert_eq!(looked.push("go s"), Released { text: "go ".to_owned(), stop: None });
        assert_eq!(looked.push("low"), Released { text: "slow".to_owned(), stop: None });
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(pieces in proptest::collection::vec("[ab€]{0,4}", 0..12)) {
            for stops in [&["ab€", "ba"][..], &["aab"], &["€€", "b€b", "aaaa"], &[], &[""]] {
                prop_assert_eq!(in_pieces(&pieces, stops), whole(&pieces.concat(), stops), "{:?}", stops);
            }
        }
    }
}
