//! The set that every processor has: the reference that the others must equal.

use crate::table::{Matmul, instantiate};
use strata_quant::GgmlType;
use strata_quant::simd::Scalar;

/// Blocks are multiplied by their formats' own `dot`.
fn blocks(_: GgmlType) -> Option<Matmul> {
    None
}

instantiate!(Scalar, 1 x 1, blocks, None);
