//! What the two x86 sets share: the walk over rows, columns and steps, and the small integer scales of the K formats.

pub mod scales;
pub mod walk;
