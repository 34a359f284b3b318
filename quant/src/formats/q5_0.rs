//! Q5_0: 32 weights of 5 bits with one half-precision scale; the fifth bits lie apart.
//! ```text
//! byte 0      2                  6                            22
//!      | d    | h: bit i of u32  | q16 q0 | q17 q1 | ... q31 q15 |       weight i = d * (q_i + 16 h_i - 16)
//!                                  high low nibble
//! ```

use super::blocks32::{self, five_bits, pack_fifth_bits, pack_nibbles};
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::f16_at;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q5_0,
    scales: &[0],
    activation: ActivationKind::Q8x32,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 22;
const _: () = assert!(BYTES == GgmlType::Q5_0.block_bytes() && blocks32::LEN == GgmlType::Q5_0.block_len());

fn scales(block: &[u8; BYTES]) -> (f32, Option<f32>) {
    (f16_at([block[0], block[1]]), None)
}

/// The signed code of weight `i`.
fn code(block: &[u8; BYTES], i: usize) -> i32 {
    five_bits([block[2], block[3], block[4], block[5]], &block[6..], i) - 16
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks32::decode(blocks, values, scales, code)
}

/// Codes come from the unrounded scale.
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks32::encode_signed(s, 16.0, values, importance, blocks, |block: &mut [u8; BYTES], d, q| {
        block[..2].copy_from_slice(&d.to_le_bytes());
        block[2..6].copy_from_slice(&pack_fifth_bits(q));
        pack_nibbles(q, &mut block[6..]);
    })
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks32::dot(blocks, x, scales, code)
}
