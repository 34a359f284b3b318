//! Which chunks of a calibration text are held out: nothing is learned from them, and what was learned is judged by them.

use crate::eval::compare::Text;
use crate::eval::compare::text::Chunk;

/// One chunk in so many of a text is held out.
const EVERY: usize = 10;

/// Of each chunk the place of the text whose held-out part it is in, or `None` if it is there to learn from. Of each text one chunk in
/// [`EVERY`] is held out, or the last one if there are fewer; none of a text of one chunk.
pub fn held_out(text: &Text) -> Vec<Option<usize>> {
    let of_text = |(t, chunks): (usize, usize)| {
        let every = EVERY.min(chunks).max(2);
        (0..chunks).map(move |i| (i % every == every - 1).then_some(t))
    };
    text.texts.iter().map(|facts| facts.chunks).enumerate().flat_map(of_text).collect()
}

/// At most so many chunks of those to learn from, and of those held out, evenly from all of them.
pub fn parts(text: &Text, most: [usize; 2]) -> [Text; 2] {
    let held_out = held_out(text);
    [(false, most[0]), (true, most[1])].map(|(held, most)| {
        let chunks: Vec<&Chunk> =
            text.chunks.iter().zip(&held_out).filter(|(_, of)| of.is_some() == held).map(|(chunk, _)| chunk).collect();
        let n = most.min(chunks.len());
        let chunks = (0..n).map(|i| chunks[i * chunks.len() / n].clone()).collect();
        Text { texts: text.texts.clone(), chunks }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Text {
        let chunks = |n: usize| vec![Chunk { number: 0, tokens: vec![1, 2, 3], scored: Vec::new() }; n];
        let mut text = Text::of_chunks("a", chunks(21));
        text.append(Text::of_chunks("b", chunks(3)));
        text.append(Text::of_chunks("c", chunks(1)));
        text
    }

    #[test]
    fn a_tenth_of_each_text_is_held_out() {
        let held: Vec<(usize, usize)> =
            held_out(&text()).iter().enumerate().filter_map(|(i, text)| Some((i, (*text)?))).collect();
        assert_eq!(held, [(9, 0), (19, 0), (23, 1)]);
    }

    #[test]
    fn parts_are_spread_evenly() {
        let numbers = |part: &Text| part.chunks.iter().map(|chunk| chunk.number).collect::<Vec<_>>();
        let [learned, held_out] = parts(&text(), [4, 3]);
        assert_eq!((numbers(&learned), numbers(&held_out)), (vec![0, 5, 12, 17], vec![9, 19, 23]));
        assert_eq!(parts(&text(), [100, 100]).map(|part| part.chunks.len()), [22, 3]);
    }
}
