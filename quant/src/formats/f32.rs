//! F32: plain IEEE single precision, little endian.

use super::{dot_floats, pairs};
use crate::activations::{ActivationKind, ActivationRow};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::F32,
    scales: &[],
    activation: ActivationKind::F32,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
    codec: None,
};

fn decode(blocks: &[u8], values: &mut [f32]) {
    pairs(blocks.len(), 4, values.len(), 1);
    for (w, v) in blocks.as_chunks().0.iter().zip(values) {
        *v = f32::from_le_bytes(*w);
    }
}

#[inline(always)]
pub(crate) fn encode<S: Simd>(_: S, values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs(blocks.len(), 4, values.len(), 1);
    for (v, w) in values.iter().zip(blocks.as_chunks_mut().0) {
        *w = v.to_le_bytes();
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    dot_floats(blocks, x, f32::from_le_bytes)
}
