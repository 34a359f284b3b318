//! GGUF, ggml's container: metadata, tensor table, aligned data.

mod value;

pub use value::{Array, Value};
