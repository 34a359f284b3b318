//! F16: IEEE half precision, little endian: 1 sign bit, 5 of exponent, 10 of fraction. Largest value 65504.

use super::{dot_floats, pairs};
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::f16_at;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::F16,
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
        *v = f16_at(*w);
    }
}

/// Rounds to nearest, ties to even; values beyond 65520 become infinite.
#[inline(always)]
pub(crate) fn encode<S: Simd>(_: S, values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs(blocks.len(), 2, values.len(), 1);
    // A slice at a time, because half then uses the processor's own conversion.
    let mut halves = [f16::ZERO; 64];
    for (v, w) in values.chunks(64).zip(blocks.chunks_mut(128)) {
        let halves = &mut halves[..v.len()];
        halves.convert_from_f32_slice(v);
        for (h, w) in halves.iter().zip(w.as_chunks_mut().0) {
            *w = h.to_le_bytes();
        }
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    dot_floats(blocks, x, f16_at)
}
