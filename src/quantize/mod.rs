//! How the codes of quantized tensors are chosen where that is not the formats' own rounding of one block after the other.
//!
//! * [`feedback`]: error feedback, what later columns of a row make of the rounding errors of earlier ones.

pub mod feedback;
