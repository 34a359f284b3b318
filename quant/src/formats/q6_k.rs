//! Q6_K: 256 weights of 6 bits in 16 groups, each with a signed scale of 8 bits; the two high bits lie apart.
//! ```text
//! byte 0                         128                     192              208    210
//!      | 128 bytes of nibbles    | 64 bytes of pairs     | 16 scales i8   | d    |
//! weight i = d * sc_{i/16} * (q_i - 32),   of each half of 128:
//! low 4 bits: nibble i % 128 / 64 of byte i / 128 * 64 + i % 64; high 2 bits: as the codes of Q2_K
//! ```

use super::blocks::{self, BlockLayout, Groups, Search};
use super::blocks256::{group_scales, half_at, pack_pairs, pair_at, signed_scales, without_offsets};
use crate::codec::{BlockScales, Levels};
use crate::search::symmetric::{self, Rounding};
use crate::search::{LANES, TINY, Tile, requantize, some_keep_codes, squares, tile};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 210;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q6K, 16, 16, BYTES>(&[208], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q6K, 16, 16, BYTES>(s, values, importance, blocks);
}

struct Q6K;

impl BlockLayout<16, 16, BYTES> for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const LEVELS: Levels = Levels::Even { zero: 32, count: 64 };
    const INTEGERS: [f32; 2] = [-128.0, 127.0];

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        let mut scales = [0; 16];
        for group in 0..16 {
            scales[group] = i16::from(block[192 + group] as i8);
        }
        without_offsets(half_at(block, 208), scales)
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        low | pair_at(&block[128..192], i) << 4
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; 16]; 16], block: &mut [u8; BYTES]) {
        let code = |i: usize| codes[i / 16][i % 16];
        for l in 0..128 {
            let i = l / 64 * 128 + l % 64;
            block[l] = code(i) & 15 | code(i + 64) << 4;
        }
        pack_pairs(|i| code(i) >> 4, &mut block[128..192]);
        for group in 0..16 {
            block[192 + group] = scales.scales[group] as u8;
        }
        block[208..].copy_from_slice(&scales.d.to_le_bytes());
    }
}

/// [`symmetric::search`], errors weighted with the importance alone or with `x^2`; the largest scale gets the integer -128.
impl Search<16, 16, BYTES> for Q6K {
    /// Codes of the unrounded scales, and the stored scale of each group, to which values are rounded where it is not 0.
    type Rounding<S: Simd> = (Rounding<S>, [f32; LANES]);

    #[inline(always)]
    fn search<S: Simd>(s: S, groups: &Groups<'_, 16>, scales: &mut [BlockScales]) -> Self::Rounding<S> {
        let w = groups.importance.map_or_else(|| squares(s, groups.x), tile);
        let (scale, unrounded) = symmetric::search(s, groups.x, &w, 32.0);
        let (found, unrounded) = match signed_scales(&scale, 128.0, TINY) {
            Some(found) => (found, unrounded),
            None => (without_offsets(f16::ZERO, [0; 16]), Rounding::zeros(s)),
        };
        scales[0] = found;
        (unrounded, group_scales(&found))
    }

    #[inline(always)]
    fn round<S: Simd>(s: S, x: &Tile<16>, (unrounded, d): &Self::Rounding<S>, codes: &mut Tile<16>) {
        if some_keep_codes(d) {
            unrounded.round(s, x, codes);
        }
        requantize(s, x, d, &[0.0; LANES], (-32.0, 31.0), codes);
    }
}
