//! BF16: the upper half of an IEEE single, little endian: 1 sign bit, 8 of exponent, 7 of fraction.

use super::{dot_floats, pairs};
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::bf16_at;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::BF16,
    scales: &[],
    activation: ActivationKind::F32,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
    codec: None,
};

fn decode(blocks: &[u8], values: &mut [f32]) {
    pairs(blocks.len(), 2, values.len(), 1);
    for (w, v) in blocks.as_chunks().0.iter().zip(values) {
        *v = bf16_at(*w);
    }
}

/// Rounds to nearest, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn encode<S: Simd>(_: S, values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs(blocks.len(), 2, values.len(), 1);
    for (v, w) in values.iter().zip(blocks.as_chunks_mut().0) {
        let bits = v.to_bits();
        let rounded = if v.is_nan() { bits | 64 << 16 } else { bits + (0x7fff + (bits >> 16 & 1)) };
        *w = ((rounded >> 16) as u16).to_le_bytes();
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    dot_floats(blocks, x, bf16_at)
}
