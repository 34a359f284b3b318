//! A Llama model: its shape, its weights, its memory, and the pass through its layers.
//!
//! * [`shape`]: the numbers in the file's metadata, checked once;
//! * [`store`]: the weights of one layer at a time, as the bytes that lie in the file;
//! * [`cache`]: the keys and values of a sequence;
//! * [`pass`]: the forward pass.

pub mod cache;
pub mod pass;
pub mod shape;
pub mod store;

pub use cache::{CacheTypes, KvCache};
pub use pass::{Input, Model, Scratch, Segment};
pub use shape::Shape;
