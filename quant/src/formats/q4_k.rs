//! Q4_K: 256 weights of 4 bits in 8 groups, each with a scale and an offset of 6 bits.
//! ```text
//! byte 0      2      4                      16                        144
//!      | d    | dmin | scales, offsets      | 128 bytes of codes      |
//! weight i = d * sc_{i/32} * q_i - dmin * min_{i/32},   q_i in 0..16: nibble i / 32 % 2 of code byte i / 64 * 32 + i % 32
//! ```

use super::blocks256::{self, Block, Offset, group_nibble, half_at, pack_group_nibbles, pack_six_bits, six_bits};
use crate::activations::{ActivationKind, ActivationRow};
use crate::search::affine::Affine;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q4_K,
    scales: &[0, 2],
    activation: ActivationKind::Q8x256,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 144;
const _: () = assert!(BYTES == GgmlType::Q4_K.block_bytes() && blocks256::LEN == GgmlType::Q4_K.block_len());

const SEARCH: Offset = Offset {
    plain: Affine { top: 15.0, first: -1.0, delta: 0.1, last: 20, absolute: false },
    rms: true,
    levels: 63.0,
    factor: 2.0,
};

struct View<'a>(&'a [u8; BYTES]);

impl Block<32> for View<'_> {
    fn d(&self) -> (f32, Option<f32>) {
        (half_at(self.0, 0), Some(half_at(self.0, 2)))
    }
    fn scale(&self, group: usize) -> i32 {
        six_bits(&self.0[4..16], group).0
    }
    fn min(&self, group: usize) -> i32 {
        six_bits(&self.0[4..16], group).1
    }
    fn code(&self, i: usize) -> i32 {
        group_nibble(&self.0[16..], i)
    }
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks256::decode(blocks, values, View)
}

/// See [`Offset::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    SEARCH.encode::<_, 32, 8, BYTES>(s, values, importance, blocks, |block, scales, q| {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        block[2..4].copy_from_slice(&scales.dmin.to_le_bytes());
        pack_six_bits(&scales.scales, &scales.mins, &mut block[4..16]);
        pack_group_nibbles(q, &mut block[16..]);
    })
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks256::dot(blocks, x, View)
}
