//! GGUF, ggml's container: metadata, tensor table, aligned data.
//!
//! ```text
//!  "GGUF"  version u32   tensors u64   pairs u64                          header
//! +-----------------------------------------------------------------+
//! | key: string   type u32   value                                  |    pairs times
//! +-----------------------------------------------------------------+
//! | name: string  n u32  n x dim u64  type u32  offset u64          |    tensors times
//! +-----------------------------------------------------------------+
//! | zeros up to a multiple of general.alignment (32 if not given)   |
//! +-----------------------------------------------------------------+  <- offset 0
//! | blocks of tensor 0, zeros up to the alignment                   |
//! | blocks of tensor 1, zeros up to the alignment                   |
//! | ...                                                             |
//! +-----------------------------------------------------------------+
//!
//!  string: length u64, UTF-8           array value: type u32, length u64, elements
//!  dims: the fastest first, so dims[0] is the length of a row
//! ```
//!
//! All numbers are little-endian. Version 1 has u32 for the u64 of counts, lengths and dims; versions 2 and 3 are alike in
//! little-endian files. A model may be split over files `X-00001-of-00003.gguf`, each a container of its own, with the keys
//! `split.no`, `split.count` and `split.tensors.count`; the first carries the metadata of all.
//!
//! [`Gguf`] reads, [`Layout`] and [`Writer`] write; [`keys`] has the metadata keys that others use too, [`shards`] the files of a split
//! model.

mod cursor;
pub mod keys;
mod metadata;
mod parse;
mod read;
pub mod shards;
mod value;
mod write;
mod writer;

pub use metadata::{ArrayRef, Metadata, ValueRef};
pub use parse::TensorInfo;
pub use read::Gguf;
pub use value::{Array, Value, ValueType};
pub use write::{Layout, Placed};
pub use writer::Writer;

/// The alignment in bytes of a file that does not state one.
const DEFAULT_ALIGNMENT: u32 = 32;

/// True for what `general.alignment` may be.
pub(crate) fn alignment_is_valid(alignment: u32) -> bool {
    alignment.is_power_of_two() && alignment >= 8
}
