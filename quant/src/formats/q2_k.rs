//! Q2_K: 256 weights of 2 bits in 16 groups, each with a scale and an offset of 4 bits.
//! ```text
//! byte 0                       16                       80     82     84
//!      | min0 sc0 | ... sc15   | 64 bytes of codes      | d    | dmin |
//!        high low nibble
//! weight i = d * sc_{i/16} * q_i - dmin * min_{i/16},   q_i in 0..4: bits i % 128 / 32 * 2 of code byte i / 128 * 32 + i % 32
//! ```

use super::blocks256::{self, Block, Offset, half_at, pack_pairs, pair_at};
use crate::activations::{ActivationKind, ActivationRow};
use crate::search::affine::Affine;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q2_K,
    scales: &[80, 82],
    activation: ActivationKind::Q8x256,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 84;
const _: () = assert!(BYTES == GgmlType::Q2_K.block_bytes() && blocks256::LEN == GgmlType::Q2_K.block_len());

const SEARCH: Offset = Offset {
    plain: Affine { top: 3.0, first: -0.5, delta: 0.1, last: 15, absolute: true },
    rms: false,
    levels: 15.0,
    factor: 1.0,
};

struct View<'a>(&'a [u8; BYTES]);

impl Block<16> for View<'_> {
    fn d(&self) -> (f32, Option<f32>) {
        (half_at(self.0, 80), Some(half_at(self.0, 82)))
    }
    fn scale(&self, group: usize) -> i32 {
        (self.0[group] & 15) as i32
    }
    fn min(&self, group: usize) -> i32 {
        (self.0[group] >> 4) as i32
    }
    fn code(&self, i: usize) -> i32 {
        pair_at(&self.0[16..80], i)
    }
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks256::decode(blocks, values, View)
}

/// See [`Offset::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    SEARCH.encode::<_, 16, 16, BYTES>(s, values, importance, blocks, |block, scales, q| {
        for group in 0..16 {
            block[group] = scales.scales[group] | scales.mins[group] << 4;
        }
        pack_pairs(|i| q[i / 16][i % 16], &mut block[16..80]);
        block[80..82].copy_from_slice(&scales.d.to_le_bytes());
        block[82..84].copy_from_slice(&scales.dmin.to_le_bytes());
    })
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks256::dot(blocks, x, View)
}
