//! How a model is quantized where that is not by a fixed mix and the formats' own rounding of one block after the other.
//!
//! * [`allocate`]: which type each tensor gets, so that all of them fit into a number of bytes;
//! * [`feedback`]: error feedback, what later columns of a row make of the rounding errors of earlier ones;
//! * `held_out.rs`: the part of a calibration text that both are judged by.

pub mod allocate;
pub mod feedback;
mod held_out;
