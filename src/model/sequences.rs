//! The sequences that a batch of tokens belongs to, and the groups of them that go through a layer together.

use super::layer::{SUB_BATCH, Segment};
use super::states::States;
use super::{CacheTypes, KvCache, Scratch};
use crate::arch::Hyperparameters;
use crate::error::Result;
use std::ops::Range;
use strata_kernels::Rotation;

/// The sequences that a batch of tokens belongs to.
pub enum Sequences<'a, 's> {
    /// They continue what their caches hold.
    Cached(&'a mut [Segment<'s>]),
    /// They begin and end in this batch: groups of them take turns in caches of one layer.
    Whole(WholeSequences<'a>),
}

/// Sequences that begin and end in a batch. Their keys and values are kept in one layer at a time.
pub struct WholeSequences<'a> {
    tokens: &'a [u32],
    lengths: &'a [usize],
    groups: Vec<Range<usize>>,
    caches: Vec<KvCache>, // of the group that goes through a layer
}

impl<'a> WholeSequences<'a> {
    /// Sequences of so many tokens each, at least 1, whose `tokens` follow each other. `types` are those of the KV cache.
    ///
    /// # Errors
    /// If the memory for the keys and values of a group cannot be had.
    pub fn new(
        of: &Hyperparameters,
        tokens: &'a [u32],
        lengths: &'a [usize],
        types: CacheTypes,
    ) -> Result<WholeSequences<'a>> {
        let groups = groups(lengths, SUB_BATCH);
        let longest = longest_of(lengths, &groups).into_iter();
        let caches = longest.map(|longest| KvCache::one_layer(of, longest, types)).collect::<Result<_>>()?;
        Ok(WholeSequences { tokens, lengths, groups, caches })
    }

    /// The most tokens that go through a layer together.
    pub fn most_tokens(lengths: &[usize]) -> usize {
        groups(lengths, SUB_BATCH).into_iter().map(|group| lengths[group].iter().sum()).max().unwrap_or(0)
    }

    /// Bytes of memory that the keys and values of a group take.
    ///
    /// # Errors
    /// If a cache cannot be of these types.
    pub fn kv_bytes(of: &Hyperparameters, lengths: &[usize], types: CacheTypes) -> Result<u64> {
        let longest = longest_of(lengths, &groups(lengths, SUB_BATCH)).into_iter();
        longest.map(|longest| Ok(KvCache::bytes(of, longest, types)? / of.layers as u64)).sum()
    }
}

/// Groups of sequences that follow each other: as many as have no more than `most` tokens, and at least one.
pub(crate) fn groups(lengths: &[usize], most: usize) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (i, len) in lengths.iter().enumerate() {
        if i > start && tokens + len > most {
            groups.push(start..i);
            (start, tokens) = (i, 0);
        }
        tokens += len;
    }
    groups.extend((start < lengths.len()).then_some(start..lengths.len()));
    groups
}

/// The length of the longest first, second ... sequence of any group.
pub(crate) fn longest_of(lengths: &[usize], groups: &[Range<usize>]) -> Vec<usize> {
    let mut longest = vec![0; groups.iter().map(Range::len).max().unwrap_or(0)];
    for group in groups {
        longest.iter_mut().zip(&lengths[group.clone()]).for_each(|(longest, len)| *longest = (*longest).max(*len));
    }
    longest
}

impl Sequences<'_, '_> {
    /// Computes the angles of the positions that the tokens need. A token's place among them is in `Scratch::places`.
    pub(super) fn rotate(&self, rotation: &mut Rotation, frequencies: &[f64]) {
        match self {
            Sequences::Cached(segments) => {
                let of = |segment: &Segment<'_>| {
                    let first = segment.cache.len();
                    first..first + segment.tokens.len()
                };
                rotation.set(segments.iter().flat_map(of), frequencies, libm::sincos);
            }
            Sequences::Whole(whole) => {
                let longest = whole.lengths.iter().copied().max().unwrap_or(0);
                rotation.set(0..longest, frequencies, libm::sincos);
            }
        }
    }

    /// Calls `f` for each group of sequences that goes through a layer together, with its rows of `h (tokens, hidden)`, and its tokens'
    /// places among the positions of [`Sequences::rotate`] in `scratch`.
    pub(super) fn for_each_group(
        &mut self,
        h: &mut States,
        scratch: &mut Scratch,
        mut f: impl FnMut(&mut [f32], &mut [Segment<'_>], &mut Scratch) -> Result<()>,
    ) -> Result<()> {
        match self {
            Sequences::Cached(segments) => {
                let tokens = segments.iter().map(|segment| segment.tokens.len()).sum();
                scratch.places.clear();
                scratch.places.extend(0..tokens);
                h.update(0..tokens, |h| f(h, segments, scratch))
            }
            Sequences::Whole(WholeSequences { tokens, lengths, groups, caches }) => {
                let mut first = 0;
                for group in groups {
                    let (mut segments, start) = (Vec::with_capacity(group.len()), first);
                    scratch.places.clear();
                    for (&len, cache) in lengths[group.clone()].iter().zip(&mut *caches) {
                        segments.push(Segment { tokens: &tokens[first..first + len], cache });
                        scratch.places.extend(0..len);
                        first += len;
                    }
                    h.update(start..first, |h| f(h, &mut segments, scratch))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_fill_a_sub_batch() {
        let lengths = [100, 400, 12, 1, 600, 512, 200];
        let groups = groups(&lengths, SUB_BATCH);
        assert_eq!(groups, [0..3, 3..4, 4..5, 5..6, 6..7]);
        assert_eq!(longest_of(&lengths, &groups), [600, 400, 12]);
        assert!(super::groups(&[], 1).is_empty() && longest_of(&[], &[]).is_empty());
    }
}
