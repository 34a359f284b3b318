//! Strata's library: from a checkpoint to a GGUF file, and from a GGUF file to text.
//!
//! ```
//! use strata::convert::{Input, Options, Target, convert};
//! use strata::recipe::{Mix, Recipe};
//! use strata::{Engine, engine::sampling::Sampling, progress::Quiet};
//!
//! # fn main() -> strata::Result<()> {
//! // Convert a Hugging Face folder to a GGUF file.
//! # let dir = tempfile::tempdir().unwrap();
//! # let output = dir.path().join("tiny.gguf");
//! let checkpoint = Input::open("models/tiny-rustdoc")?;
//! let target = Target::new(&output, Recipe::new(Mix::from_name("q4_k_m")?));
//! convert(&checkpoint, &[target], &Options::default(), &Quiet)?;
//!
//! // Open the file, or the folder itself, and continue a text.
//! let engine = Engine::open(&output)?;
//! let text = engine.generate("The iterator", 16, &Sampling::greedy())?;
//! println!("The iterator{text}");
//!
//! // Measure how well the model predicts a text.
//! let text = std::fs::read_to_string("tests/data/valid.txt").unwrap();
//! let measured = engine.perplexity(&text[..20_000], 512)?;
//! println!("perplexity {:.2} +/- {:.2}", measured.perplexity, measured.standard_error);
//! # assert!(measured.perplexity > 1.0 && measured.perplexity < 200.0 && !text.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! The modules in the order of the data:
//!
//! * [`checkpoint`] reads a Hugging Face folder, [`convert`] makes a GGUF file of it, [`recipe`] says in which types;
//! * [`gguf`] reads and writes the container, [`split`] cuts it into files and joins them, [`edit`] changes metadata, [`diff`] compares
//!   two models;
//! * [`arch`] describes the architectures: tensors, hyperparameters, what is computed between the matrices;
//! * [`weights`] hands out the layers of a model, mapped or streamed from disk;
//! * [`model`] is the forward pass and the KV cache;
//! * [`tokenizer`] turns text into tokens and back, [`engine`] a prompt into text, token by token ([`engine::sampling`]);
//! * [`eval`] says how well a model predicts a text, and which columns of its weights that needs ([`imatrix`] keeps them);
//! * [`mod@bench`] measures a model's speed and the limits of the machine, if need be on a [`synthetic`] one.
//!
//! Block layouts are in `strata-quant`, instructions in `strata-kernels`; this crate knows neither.
#![deny(unsafe_code)]

pub mod adapter;
pub mod arch;
pub mod bench;
pub mod checkpoint;
pub mod convert;
pub mod diff;
pub mod edit;
pub mod engine;
pub mod error;
pub mod eval;
pub mod gguf;
pub mod imatrix;
pub mod io;
pub mod limits;
pub mod model;
pub mod progress;
pub mod quantize;
mod random;
pub mod recipe;
pub mod roofline;
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
pub use strata_kernels::Matrix;
pub use strata_kernels::{Cpu, Isa, IsaError};
pub use strata_quant::{ActivationBits, Activations, GgmlType};

// Tests use the crate by its name, wherever they are.
#[cfg(test)]
extern crate self as strata;

// Tests that look behind the library's doors.
#[cfg(test)]
#[path = "../tests/inside/mod.rs"]
mod inside;
