//! The files of a split model: their names, their metadata, and which tensors go into which.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::keys::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
use super::value::Value;
use crate::error::{Error, Result};

/// The padding in bytes with which gguf-split counts tensors.
const PADDING: u64 = 32;

/// The limit at which the next file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitLimit {
    /// A number of bytes of tensors; a larger tensor gets a file of its own.
    Bytes(u64),
    /// A number of tensors.
    Tensors(usize),
}

/// The consecutive tensors of each file, given the bytes of each tensor: every file is filled up to the limit. At least one
/// file.
pub fn plan_shards(tensor_bytes: &[u64], max: SplitLimit, first_without_tensors: bool) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    if first_without_tensors {
        shards.push(0..0);
    }
    let (mut start, mut filled) = (0, 0u64);
    for (i, &bytes) in tensor_bytes.iter().enumerate() {
        let bytes = bytes.checked_next_multiple_of(PADDING).unwrap_or(u64::MAX);
        let full = match max {
            SplitLimit::Bytes(max) => filled.saturating_add(bytes) > max,
            SplitLimit::Tensors(max) => i - start >= max,
        };
        if full && i > start {
            shards.push(start..i);
            (start, filled) = (i, 0);
        }
        filled = filled.saturating_add(bytes);
    }
    if start < tensor_bytes.len() || shards.is_empty() {
        shards.push(start..tensor_bytes.len());
    }
    shards
}

/// The split keys of file `no` (from 0) of `count`, for `tensors` tensors in all; they come after all other metadata.
///
/// # Errors
/// If there are more files or tensors than the format can count.
pub fn shard_metadata(no: usize, count: usize, tensors: usize) -> Result<[(&'static str, Value); 3]> {
    match (u16::try_from(no), u16::try_from(count), i32::try_from(tensors)) {
        (Ok(no), Ok(count), Ok(tensors)) => {
            Ok([(SPLIT_NO, no.into()), (SPLIT_TENSORS, tensors.into()), (SPLIT_COUNT, count.into())])
        }
        _ => Err(Error::argument(
            format!("{tensors} tensors over {count} files"),
            format!("a model has at most {} files; choose a larger limit", u16::MAX),
        )),
    }
}

/// The path of file `no` (from 0) of `count`: `PREFIX-00001-of-00003.gguf`.
pub fn shard_path(prefix: &Path, no: usize, count: usize) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(shard_ending(no, count));
    name.into()
}

/// What the name of file `no` (from 0) of `count` ends with: `-00001-of-00003.gguf`.
pub(crate) fn shard_ending(no: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Files that hold all tensors, and none.
    #[allow(clippy::single_range_in_vec_init)]
    #[test]
    fn shards_are_those_of_gguf_split() {
        let bytes = |max| SplitLimit::Bytes(max);
        let count = |max| SplitLimit::Tensors(max);
        type Case<'a> = (&'a [u64], SplitLimit, bool, &'a [Range<usize>]);
        let table: &[Case<'_>] = &[
            (&[], count(128), false, &[0..0]),
            (&[], bytes(1), true, &[0..0]),
            (&[64; 4], count(2), false, &[0..2, 2..4]),
            (&[64; 5], count(2), false, &[0..2, 2..4, 4..5]),
            (&[64; 5], count(2), true, &[0..0, 0..2, 2..4, 4..5]),
            (&[64; 3], count(usize::MAX), false, &[0..3]),
            (&[64; 3], count(0), false, &[0..1, 1..2, 2..3]),
            (&[64; 4], bytes(128), false, &[0..2, 2..4]),
            (&[64; 4], bytes(127), false, &[0..1, 1..2, 2..3, 3..4]),
            // Padding counts: 33 bytes take 64.
            (&[33; 4], bytes(100), false, &[0..1, 1..2, 2..3, 3..4]),
            (&[32, 1000, 32, 32], bytes(64), true, &[0..0, 0..1, 1..2, 2..4]),
            (&[1000, 32], bytes(64), false, &[0..1, 1..2]),
            (&[u64::MAX, u64::MAX, 1], bytes(u64::MAX - 1), false, &[0..1, 1..2, 2..3]),
        ];
        for (sizes, limit, first, shards) in table {
            assert_eq!(plan_shards(sizes, *limit, *first), *shards, "{sizes:?} {limit:?} {first}");
        }
    }

    #[test]
    fn more_files_than_can_be_counted_are_refused() {
        assert!(shard_metadata(65534, 65535, 65535).is_ok());
        assert!(shard_metadata(0, 65536, 65536).unwrap_err().to_string().contains("choose a larger limit"));
    }
}
