//! Q2_K: 256 weights of 2 bits in 16 groups, each with a scale and an offset of 4 bits.
//! ```text
//! byte 0                       16                       80     82     84
//!      | min0 sc0 | ... sc15   | 64 bytes of codes      | d    | dmin |
//!        high low nibble
//! weight i = d * sc_{i/16} * q_i - dmin * min_{i/16},   q_i in 0..4: bits i % 128 / 32 * 2 of code byte i / 128 * 32 + i % 32
//! ```

use super::blocks::{self, BlockLayout};
use super::blocks256::{Method, Offset, half_at, pack_pairs, pair_at};
use crate::codec::{BlockScales, Levels};
use crate::search::affine::Affine;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

const BYTES: usize = 84;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q2K, 16, 16, BYTES>(&[80, 82], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q2K, 16, 16, BYTES>(s, values, importance, blocks);
}

struct Q2K;

impl Offset for Q2K {
    const METHOD: Method = Method {
        plain: Affine { top: 3.0, first: -0.5, delta: 0.1, last: 15, absolute: true },
        rms: false,
        levels: 15.0,
        factor: 1.0,
    };
}

impl BlockLayout<16, 16, BYTES> for Q2K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    const LEVELS: Levels = Levels::Even { zero: 0, count: 4 };
    const INTEGERS: [f32; 2] = [0.0, 15.0];
    const OFFSET: Option<f32> = Some(-1.0);

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        let (mut scales, mut mins) = ([0; 16], [0; 16]);
        for group in 0..16 {
            (scales[group], mins[group]) = (i16::from(block[group] & 15), block[group] >> 4);
        }
        BlockScales { d: half_at(block, 80), m: half_at(block, 82), scales, mins }
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        pair_at(&block[16..80], i)
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; 16]; 16], block: &mut [u8; BYTES]) {
        for group in 0..16 {
            block[group] = scales.scales[group] as u8 | scales.mins[group] << 4;
        }
        pack_pairs(|i| codes[i / 16][i % 16], &mut block[16..80]);
        block[80..82].copy_from_slice(&scales.d.to_le_bytes());
        block[82..].copy_from_slice(&scales.m.to_le_bytes());
    }
}
