//! Strata's library: from a checkpoint to a GGUF file, and from a GGUF file to text.
//!
//! The modules in the order of the data:
//!
//! * [`checkpoint`] reads a Hugging Face folder, [`convert`] makes a GGUF file of it, [`recipe`] says in which types;
//! * [`gguf`] reads and writes the container, [`split`] cuts it into files and joins them;
//! * [`arch`] describes the architectures: tensors, hyperparameters, what is computed between the matrices;
//! * [`weights`] hands out the layers of a model, mapped or streamed from disk;
//! * [`model`] is the forward pass and the KV cache;
//! * [`tokenizer`] turns text into tokens and back, [`sampler`] logits into the next token, [`engine`] a prompt into text;
//! * [`eval`] says how well a model predicts a text, and which columns of its weights that needs ([`imatrix`] keeps them);
//! * [`mod@bench`] measures a model's speed and the limits of the machine, if need be on a [`synthetic`] one.
//!
//! Block layouts are in `strata-quant`, instructions in `strata-kernels`; this crate knows neither.
#![deny(unsafe_code)]

pub mod arch;
pub mod bench;
pub mod checkpoint;
pub mod convert;
pub mod engine;
pub mod error;
pub mod eval;
pub mod gguf;
pub mod imatrix;
pub mod io;
pub mod limits;
pub mod model;
pub mod progress;
mod random;
pub mod recipe;
pub mod roofline;
pub mod sampler;
pub mod size;
pub mod split;
pub mod stream;
pub mod synthetic;
pub mod threads;
pub mod tokenizer;
pub mod verify;
pub mod weights;

pub use engine::{Engine, Session};
pub use error::{Error, Result};
pub use model::Model;
pub use strata_kernels::{Cpu, Isa, IsaError};
pub use strata_quant::GgmlType;

// Tests use the crate by its name, wherever they are.
#[cfg(test)]
extern crate self as strata;

// Tests that look behind the library's doors.
#[cfg(test)]
#[path = "../tests/inside/streaming.rs"]
mod streaming_tests;
