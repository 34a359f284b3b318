//! Q4_K: 256 weights of 4 bits in 8 groups, each with a scale and an offset of 6 bits.
//! ```text
//! byte 0      2      4                      16                        144
//!      | d    | dmin | scales, offsets      | 128 bytes of codes      |
//! weight i = d * sc_{i/32} * q_i - dmin * min_{i/32},   q_i in 0..16: nibble i / 32 % 2 of code byte i / 64 * 32 + i % 32
//! ```

use super::blocks::{self, BlockLayout};
use super::blocks256::{Method, Offset, group_nibble, half_at, pack_group_nibbles, pack_six_bits, six_bits};
use crate::codec::{BlockScales, Levels};
use crate::search::affine::Affine;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

const BYTES: usize = 144;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q4K, 32, 8, BYTES>(&[0, 2], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q4K, 32, 8, BYTES>(s, values, importance, blocks);
}

struct Q4K;

impl Offset for Q4K {
    const METHOD: Method = Method {
        plain: Affine { top: 15.0, first: -1.0, delta: 0.1, last: 20, absolute: false },
        rms: true,
        levels: 63.0,
        factor: 2.0,
    };
}

impl BlockLayout<32, 8, BYTES> for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const LEVELS: Levels = Levels::Even { zero: 0, count: 16 };
    const INTEGERS: [f32; 2] = [0.0, 63.0];
    const OFFSET: Option<f32> = Some(-1.0);

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        six_bits(half_at(block, 0), half_at(block, 2), &block[4..16])
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        group_nibble(&block[16..], i)
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; 32]; 8], block: &mut [u8; BYTES]) {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        block[2..4].copy_from_slice(&scales.m.to_le_bytes());
        pack_six_bits(scales, &mut block[4..16]);
        pack_group_nibbles(codes, &mut block[16..]);
    }
}
