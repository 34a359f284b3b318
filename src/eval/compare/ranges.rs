//! Numbers in ranges: of given lengths, or in blocks.

use std::ops::Range;

/// Ranges of these lengths that follow each other.
pub fn ranges(lengths: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut first = 0;
    let range = |len| {
        first += len;
        first - len..first
    };
    lengths.into_iter().map(range).collect()
}

/// `0..n` in blocks of `len`, of which the last may be shorter.
pub fn blocks(n: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(len).map(move |first| first..(first + len).min(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_and_blocks_cover() {
        assert_eq!(ranges([3, 0, 2]), [0..3, 3..3, 3..5]);
        assert_eq!(blocks(7, 3).collect::<Vec<_>>(), [0..3, 3..6, 6..7]);
        assert!(blocks(0, 3).next().is_none() && ranges([]).is_empty());
    }
}
