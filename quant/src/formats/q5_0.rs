//! Q5_0: 32 weights of 5 bits with one half-precision scale; the fifth bits lie apart.
//! ```text
//! byte 0      2                  6                            22
//!      | d    | h: bit i of u32  | q16 q0 | q17 q1 | ... q31 q15 |       weight i = d * (q_i + 16 h_i - 16)
//!                                  high low nibble
//! ```

use super::blocks::{self, BlockLayout};
use super::blocks32::{Even, LEN, Method, five_bits, pack_fifth_bits, pack_nibbles};
use crate::codec::{BlockScales, Levels};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 22;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q5_0, LEN, 1, BYTES>(&[0], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q5_0, LEN, 1, BYTES>(s, values, importance, blocks);
}

struct Q5_0;

impl Even for Q5_0 {
    const METHOD: Method = Method::Signed { half: 16.0 };
}

impl BlockLayout<LEN, 1, BYTES> for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    const LEVELS: Levels = Levels::Even { zero: 16, count: 32 };

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        BlockScales::of_32(f16::from_le_bytes([block[0], block[1]]), f16::ZERO)
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        five_bits([block[2], block[3], block[4], block[5]], &block[6..], i)
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; LEN]; 1], block: &mut [u8; BYTES]) {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        block[2..6].copy_from_slice(&pack_fifth_bits(&codes[0]));
        pack_nibbles(&codes[0], &mut block[6..]);
    }
}
