//! GGUF, ggml's container.
//! ```text
//! | magic "GGUF" | version | tensors: u64 | pairs: u64 |
//! | key, type, value | ...                                 metadata
//! | name, dimensions, type, offset | ...                   tensor table; the fastest dimension (the row) comes first
//! | padding to the alignment |
//! | data of tensor 0 | padding | data of tensor 1 | ...    offsets count from here
//! ```
//! All numbers are little endian; strings are a length and UTF-8. A model may be split into parts, `NAME-00001-of-00003.gguf`: each is
//! a GGUF file, the first carries the metadata.
//!
//! [`Gguf::open`] checks everything once, after which a file needs no check; nothing is copied but the tensor table. [`Layout`] writes.

mod array;
mod parse;
mod read;
mod value;
mod write;

pub use array::{ArrayRef, ValueRef};
pub use parse::{Parsed, parse};
pub use read::{Gguf, Metadata, TensorInfo};
pub use value::{Array, Value};
pub use write::{Layout, Writer};

/// The default alignment of tensor data.
pub const ALIGNMENT: u64 = 32;
