//! A Llama model: its shape, its weights, its memory, and the pass through its layers.
//!
//! * [`shape`]: the numbers in the file's metadata, checked once;
//! * [`store`]: the weights of one layer at a time, as the bytes that lie in the file;
//! * [`residence`]: where they are if they do not fit into the memory;
//! * [`pinned`]: what of it stays, until others need the memory;
//! * [`need`]: the memory for everything else;
//! * [`cache`]: the keys and values of a sequence;
//! * [`pass`]: the forward pass;
//! * `finite`: why its numbers are not finite, where they are not.

pub mod cache;
mod finite;
pub mod need;
pub mod pass;
pub mod pinned;
pub mod residence;
pub mod shape;
pub mod store;

pub use cache::{CacheTypes, KvCache};
pub use need::Need;
pub use pass::{Input, Model, Scratch, Segment};
pub use shape::Shape;
