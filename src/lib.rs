//! Strata's library: from a checkpoint to a GGUF file, and from a GGUF file to text.
//!
//! The modules in the order of the data:
//!
//! * [`checkpoint`] reads a Hugging Face folder, [`convert`] makes a GGUF file of it;
//! * [`gguf`] reads and writes the container, [`split`] cuts it into files and joins them;
//! * [`model`] is the transformer: its shape, weights, cache and forward pass;
//! * [`tokenizer`] turns text into tokens and back, [`sampler`] logits into the next token, [`generate`] a prompt into text;
//! * [`stream`] runs models that are larger than the memory;
//! * [`perplexity`] says how well a model predicts a text;
//! * [`mod@bench`] measures a model's speed and the limits of the machine, if need be on a [`synthetic`] one;
//! * [`calibrate`] says which columns of its weights a text needs most, which [`imatrix`] keeps.
//!
//! Block layouts are in `strata-quant`, instructions in `strata-kernels`; this crate knows neither.
#![deny(unsafe_code)]

pub mod bench;
pub mod calibrate;
pub mod checkpoint;
pub mod convert;
pub mod error;
pub mod generate;
pub mod gguf;
pub mod imatrix;
pub mod io;
pub mod limits;
pub mod model;
pub mod perplexity;
pub mod progress;
mod random;
pub mod recipe;
pub mod sampler;
pub mod size;
pub mod split;
pub mod stream;
pub mod synthetic;
pub mod threads;
pub mod tokenizer;
pub mod verify;

pub use error::{Error, Result};
pub use strata_kernels::{Cpu, Isa, IsaUnavailable};
pub use strata_quant::GgmlType;
