//! The sequences that a batch of tokens belongs to, and the groups of them that go through a layer together.

use super::Model;
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

/// Sequences that begin and end in a batch. Their keys and values are kept in one layer at a time. A sequence may share its beginning with
/// the one before it: then only the rest of it is computed, and it has no rows for what it shares.
pub struct WholeSequences<'a> {
    tokens: &'a [u32],    // of each sequence those that it does not share
    lengths: &'a [usize], // of these
    shared: &'a [usize],  // of each sequence, or none
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
        WholeSequences::sharing(of, tokens, lengths, &[], types)
    }

    /// The same, of which each continues the first `shared` tokens of the one before it; of the first sequence these are 0.
    ///
    /// # Errors
    /// As [`WholeSequences::new`].
    ///
    /// # Panics
    /// If a sequence shares more than the one before it has.
    pub fn sharing(
        of: &Hyperparameters,
        tokens: &'a [u32],
        lengths: &'a [usize],
        shared: &'a [usize],
        types: CacheTypes,
    ) -> Result<WholeSequences<'a>> {
        let whole = whole(lengths, shared);
        assert!(shared.first().is_none_or(|shared| *shared == 0));
        assert!(shared.iter().skip(1).zip(&whole).all(|(shared, before)| shared <= before));
        let groups = groups(lengths, shared, SUB_BATCH);
        let longest = longest_of(&whole, &groups).into_iter();
        let caches = longest.map(|longest| KvCache::one_layer(of, longest, types)).collect::<Result<_>>()?;
        Ok(WholeSequences { tokens, lengths, shared, groups, caches })
    }

    /// The tokens that have rows in the batch.
    pub(super) fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// The most tokens that go through a layer together.
    pub fn most_tokens(lengths: &[usize]) -> usize {
        groups(lengths, &[], SUB_BATCH).into_iter().map(|group| lengths[group].iter().sum()).max().unwrap_or(0)
    }

    /// Bytes of memory that the keys and values of a group of [`WholeSequences::new`] take.
    ///
    /// # Errors
    /// If a cache cannot be of these types.
    pub fn kv_bytes(of: &Hyperparameters, lengths: &[usize], types: CacheTypes) -> Result<u64> {
        WholeSequences::kv_bytes_sharing(of, lengths, &[], types)
    }

    /// The same of [`WholeSequences::sharing`].
    ///
    /// # Errors
    /// If a cache cannot be of these types.
    pub fn kv_bytes_sharing(
        of: &Hyperparameters,
        lengths: &[usize],
        shared: &[usize],
        types: CacheTypes,
    ) -> Result<u64> {
        let longest = longest_of(&whole(lengths, shared), &groups(lengths, shared, SUB_BATCH)).into_iter();
        longest.map(|longest| Ok(KvCache::bytes(of, longest, types)? / of.layers as u64)).sum()
    }
}

/// How many of the tokens of sequence `i` are those of the one before it.
fn shared_by(shared: &[usize], i: usize) -> usize {
    shared.get(i).copied().unwrap_or(0)
}

/// The lengths of sequences with what they share.
fn whole(lengths: &[usize], shared: &[usize]) -> Vec<usize> {
    lengths.iter().enumerate().map(|(i, len)| len + shared_by(shared, i)).collect()
}

/// Groups of sequences that follow each other: as many as have no more than `most` tokens of their own, and at least one with those that
/// share its beginning.
fn groups(lengths: &[usize], shared: &[usize], most: usize) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (i, len) in lengths.iter().enumerate() {
        if i > start && shared_by(shared, i) == 0 && tokens + len > most {
            groups.push(start..i);
            (start, tokens) = (i, 0);
        }
        tokens += len;
    }
    groups.extend((start < lengths.len()).then_some(start..lengths.len()));
    groups
}

/// The same of sequences that share nothing, each group with the rows of its tokens.
pub(crate) fn groups_and_rows(lengths: &[usize], most: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let mut end = 0;
    let rows = |chunks: Range<usize>| {
        let first = end;
        end += lengths[chunks.clone()].iter().sum::<usize>();
        (chunks, first..end)
    };
    groups(lengths, &[], most).into_iter().map(rows).collect()
}

/// The length of the longest first, second ... sequence of any group.
fn longest_of(lengths: &[usize], groups: &[Range<usize>]) -> Vec<usize> {
    let mut longest = vec![0; groups.iter().map(Range::len).max().unwrap_or(0)];
    for group in groups {
        longest.iter_mut().zip(&lengths[group.clone()]).for_each(|(longest, len)| *longest = (*longest).max(*len));
    }
    longest
}

impl Sequences<'_, '_> {
    /// Computes the angles of the positions that the tokens need. A token's place among them is in `Scratch::places`.
    pub(super) fn rotate(&self, rotation: &mut Rotation, model: &Model) {
        match self {
            Sequences::Cached(segments) => {
                let of = |segment: &Segment<'_>| {
                    let first = segment.cache.len();
                    first..first + segment.tokens.len()
                };
                model.rotate(rotation, segments.iter().flat_map(of));
            }
            Sequences::Whole(whole) => {
                let longest = self::whole(whole.lengths, whole.shared).into_iter().max().unwrap_or(0);
                model.rotate(rotation, 0..longest);
            }
        }
    }

    /// Calls `f` for each group of sequences that goes through a layer together, with its rows of `h (tokens, hidden)`. In `scratch` are
    /// its tokens' places among the positions of [`Sequences::rotate`], and what each sequence shares with the one before it.
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
                scratch.shared.clear();
                scratch.places.extend(0..tokens);
                scratch.shared.resize(segments.len(), 0);
                h.update(0..tokens, |h| f(h, segments, scratch))
            }
            Sequences::Whole(WholeSequences { tokens, lengths, shared, groups, caches }) => {
                let mut first = 0;
                for group in groups {
                    let (mut segments, start) = (Vec::with_capacity(group.len()), first);
                    scratch.places.clear();
                    scratch.shared.clear();
                    for (i, cache) in group.clone().zip(&mut *caches) {
                        let (len, shared) = (lengths[i], shared_by(shared, i));
                        cache.truncate(0);
                        cache.grow(shared);
                        segments.push(Segment { tokens: &tokens[first..first + len], cache });
                        scratch.places.extend(shared..shared + len);
                        scratch.shared.push(shared);
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
        let groups = groups(&lengths, &[], SUB_BATCH);
        assert_eq!(groups, [0..3, 3..4, 4..5, 5..6, 6..7]);
        assert_eq!(longest_of(&lengths, &groups), [600, 400, 12]);
        let rows = groups_and_rows(&lengths, SUB_BATCH);
        assert!(rows.iter().map(|(chunks, _)| chunks.clone()).eq(groups.clone()));
        assert!(rows.iter().map(|(_, rows)| rows.clone()).eq([0..512, 512..513, 513..1113, 1113..1625, 1625..1825]));
        assert!(super::groups(&[], &[], 1).is_empty() && longest_of(&[], &[]).is_empty());
        // Who shares a beginning stays with who has it.
        let shared = [0, 0, 0, 0, 90, 0, 7];
        assert_eq!(super::groups(&lengths, &shared, SUB_BATCH), [0..3, 3..5, 5..7]);
        assert_eq!(whole(&lengths, &shared), [100, 400, 12, 1, 690, 512, 207]);
    }
}
