//! Strata's library.

pub mod error;
pub mod gguf;
pub mod progress;

pub use error::{Error, Result};
