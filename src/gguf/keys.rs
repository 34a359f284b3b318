//! Metadata keys that more than one part of the library reads or writes.

/// The alignment of tensor data in bytes.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The number of this file among those of a split model, from 0.
pub const SPLIT_NO: &str = "split.no";
/// The number of files of a split model.
pub const SPLIT_COUNT: &str = "split.count";
/// The number of tensors in all files of a split model.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// The names of the files that Strata made this one of. The values of Strata's own keys have the same lengths whatever the hashes are, so
/// that the data can be placed before they are known.
pub const SOURCE_FILES: &str = "strata.source.files";
/// The SHA-256 of each of [`SOURCE_FILES`].
pub const SOURCE_HASHES: &str = "strata.source.sha256";
/// The SHA-256 of the data of each tensor, in file order.
pub const TENSOR_HASHES: &str = "strata.tensors.sha256";
