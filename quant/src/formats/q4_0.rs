//! Q4_0: 32 weights of 4 bits with one half-precision scale.
//! ```text
//! byte 0      2                            18
//!      | d    | q16 q0 | q17 q1 | ... q31 q15 |       weight i = d * (q_i - 8),   q_i in 0..16
//!               high low nibble
//! ```

use super::blocks::{self, BlockLayout};
use super::blocks32::{Even, LEN, Method, nibble, pack_nibbles};
use crate::codec::{BlockScales, Levels};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 18;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q4_0, LEN, 1, BYTES>(&[0], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q4_0, LEN, 1, BYTES>(s, values, importance, blocks);
}

struct Q4_0;

impl Even for Q4_0 {
    const METHOD: Method = Method::Signed { half: 8.0 };
}

impl BlockLayout<LEN, 1, BYTES> for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const LEVELS: Levels = Levels::Even { zero: 8, count: 16 };

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        BlockScales::of_32(f16::from_le_bytes([block[0], block[1]]), f16::ZERO)
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        nibble(&block[2..], i)
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; LEN]; 1], block: &mut [u8; BYTES]) {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        pack_nibbles(&codes[0], &mut block[2..]);
    }
}
