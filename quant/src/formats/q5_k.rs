//! Q5_K: 256 weights of 5 bits in 8 groups, each with a scale and an offset of 6 bits; the fifth bits lie apart.
//! ```text
//! byte 0      2      4                      16              48                        176
//!      | d    | dmin | scales, offsets      | 32 bytes h    | 128 bytes of codes      |
//! weight i = d * sc_{i/32} * (q_i + 16 h_i) - dmin * min_{i/32},   q_i as in Q4_K, h_i: bit i / 32 of byte i % 32
//! ```

use super::blocks256::{self, Block, Offset, group_nibble, half_at, pack_group_nibbles, pack_six_bits, six_bits};
use crate::activations::{ActivationKind, ActivationRow};
use crate::search::affine::Affine;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q5_K,
    scales: &[0, 2],
    activation: ActivationKind::Q8x256,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 176;
const _: () = assert!(BYTES == GgmlType::Q5_K.block_bytes() && blocks256::LEN == GgmlType::Q5_K.block_len());

const SEARCH: Offset = Offset {
    plain: Affine { top: 31.0, first: -0.5, delta: 0.1, last: 15, absolute: false },
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
        group_nibble(&self.0[48..], i) + (self.0[16 + i % 32] >> (i / 32) & 1) as i32 * 16
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
        for l in 0..32 {
            block[16 + l] = (0..8).fold(0, |bits, group| bits | (q[group][l] >> 4) << group);
        }
        pack_group_nibbles(q, &mut block[48..]);
    })
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks256::dot(blocks, x, View)
}
