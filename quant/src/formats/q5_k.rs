//! Q5_K: 256 weights of 5 bits in 8 groups, each with a scale and an offset of 6 bits; the fifth bits lie apart.
//! ```text
//! byte 0      2      4                      16              48                        176
//!      | d    | dmin | scales, offsets      | 32 bytes h    | 128 bytes of codes      |
//! weight i = d * sc_{i/32} * (q_i + 16 h_i) - dmin * min_{i/32},   q_i as in Q4_K, h_i: bit i / 32 of byte i % 32
//! ```

use super::blocks::{self, BlockLayout};
use super::blocks256::{Method, Offset, group_nibble, half_at, pack_group_nibbles, pack_six_bits, six_bits};
use crate::codec::{BlockScales, Levels};
use crate::search::affine::Affine;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

const BYTES: usize = 176;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q5K, 32, 8, BYTES>(&[0, 2], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q5K, 32, 8, BYTES>(s, values, importance, blocks);
}

struct Q5K;

impl Offset for Q5K {
    const METHOD: Method = Method {
        plain: Affine { top: 31.0, first: -0.5, delta: 0.1, last: 15, absolute: false },
        rms: true,
        levels: 63.0,
        factor: 2.0,
    };
}

impl BlockLayout<32, 8, BYTES> for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const LEVELS: Levels = Levels::Even { zero: 0, count: 32 };
    const INTEGERS: [f32; 2] = [0.0, 63.0];
    const OFFSET: Option<f32> = Some(-1.0);

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        six_bits(half_at(block, 0), half_at(block, 2), &block[4..16])
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        group_nibble(&block[48..], i) | (block[16 + i % 32] >> (i / 32) & 1) << 4
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; 32]; 8], block: &mut [u8; BYTES]) {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        block[2..4].copy_from_slice(&scales.m.to_le_bytes());
        pack_six_bits(scales, &mut block[4..16]);
        for l in 0..32 {
            block[16 + l] = (0..8).fold(0, |bits, group| bits | (codes[group][l] >> 4 & 1) << group);
        }
        pack_group_nibbles(codes, &mut block[48..]);
    }
}
