//! Q3_K: 256 weights of 3 bits in 16 groups, each with a signed scale of 6 bits; the third bits lie apart.
//! ```text
//! byte 0              32                       96             108    110
//!      | 32 bytes h   | 64 bytes of codes      | scales       | d    |
//! weight i = d * (sc_{i/16} - 32) * (q_i + 4 h_i - 4),   q_i as in Q2_K, h_i: bit i / 32 of byte i % 32
//! scale j: low nibbles in bytes 0..8 (j, j + 8 side by side), two high bits at bit j / 4 * 2 of byte 8 + j % 4
//! ```

use super::blocks::{self, BlockLayout, Groups, Search};
use super::blocks256::{group_scales, half_at, pack_pairs, pair_at, signed_scales, weights, without_offsets};
use crate::codec::{BlockScales, Levels};
use crate::search::{LANES, Tile, codes, requantize, some_keep_codes, sums, symmetric, tile};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 110;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q3K, 16, 16, BYTES>(&[108], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Q3K, 16, 16, BYTES>(s, values, importance, blocks);
}

struct Q3K;

impl BlockLayout<16, 16, BYTES> for Q3K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const LEVELS: Levels = Levels::Even { zero: 4, count: 8 };
    const INTEGERS: [f32; 2] = [-32.0, 31.0];

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        let mut scales = [0; 16];
        for group in 0..16 {
            let low = block[96 + group % 8] >> (group / 8 * 4) & 15;
            let high = block[104 + group % 4] >> (group / 4 * 2) & 3;
            scales[group] = i16::from(low | high << 4) - 32;
        }
        without_offsets(half_at(block, 108), scales)
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        pair_at(&block[32..96], i) | (block[i % 32] >> (i / 32) & 1) << 2
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; 16]; 16], block: &mut [u8; BYTES]) {
        let code = |i: usize| codes[i / 16][i % 16];
        for l in 0..32 {
            block[l] = (0..8).fold(0, |bits, part| bits | (code(part * 32 + l) >> 2 & 1) << part);
        }
        pack_pairs(code, &mut block[32..96]);
        let stored = scales.scales.map(|scale| scale.wrapping_add(32) as u8);
        for j in 0..8 {
            block[96 + j] = stored[j] & 15 | stored[j + 8] << 4;
        }
        for j in 0..4 {
            block[104 + j] = (0..4).fold(0, |bits, part| bits | (stored[part * 4 + j] >> 4) << (part * 2));
        }
        block[108..].copy_from_slice(&scales.d.to_le_bytes());
    }
}

/// Without importance [`symmetric::descend`], and the largest scale gets the integer -32; with it [`symmetric::search`], for the scales
/// too.
impl Search<16, 16, BYTES> for Q3K {
    /// The stored scale of each group, to which values are rounded, and the codes that groups keep where it is 0: those that coordinate
    /// descent has found or those of the unrounded scales.
    type Rounding<S: Simd> = (Tile<16>, [f32; LANES]);

    #[inline(always)]
    fn search<S: Simd>(s: S, groups: &Groups<'_, 16>, scales: &mut [BlockScales]) -> Self::Rounding<S> {
        let mut kept = *groups.x;
        let found = match groups.importance {
            None => {
                let scale = symmetric::descend(s, groups.x, 4.0, &mut kept);
                // A block of zeros has the scales 0, stored as they are.
                signed_scales(&scale, 32.0, 0.0).unwrap_or(without_offsets(f16::ZERO, [-32; 16]))
            }
            Some(importance) => {
                let w = weights(s, groups, importance, 2.0);
                let (scale, unrounded) = symmetric::search(s, groups.x, &w, 4.0);
                unrounded.round(s, groups.x, &mut kept);
                // The scales are a group of their own, in lane 0.
                let scale = tile::<16>(&scale);
                let (d, scale_rounding) = symmetric::search(s, &scale, &tile(&sums(s, &w).array()), 32.0);
                let mut of_scales = [[0.0; LANES]; LANES];
                scale_rounding.round(s, &scale, &mut of_scales);
                let scales = codes(&of_scales)[0].map(|code| i16::from(code) - 32);
                without_offsets(f16::from_f32(d[0]), scales)
            }
        };
        scales[0] = found;
        (kept, group_scales(&found))
    }

    #[inline(always)]
    fn round<S: Simd>(s: S, x: &Tile<16>, (kept, d): &Self::Rounding<S>, codes: &mut Tile<16>) {
        if some_keep_codes(d) {
            *codes = *kept;
        }
        requantize(s, x, d, &[0.0; LANES], (-4.0, 3.0), codes);
    }
}
