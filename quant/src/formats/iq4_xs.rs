//! IQ4_XS: 256 weights of 4 bits, codes of 16 uneven levels, in 8 groups, each with a signed scale of 6 bits.
//! ```text
//! byte 0      2       4           8                         136
//!      | d    | high  | low       | 8 groups of 16 bytes    |
//! weight i = d * (sc_{i/32} - 32) * LEVELS[q_i],   q_i: nibble i % 32 / 16 of byte i / 32 * 16 + i % 16
//! scale j: nibble j % 2 of low byte j / 2, and bit 2 j of the u16 high for its two high bits
//! ```

use super::blocks::{self, BlockLayout, Groups, Search};
use super::blocks32::{nibble, pack_nibbles};
use super::blocks256::{half_at, weights, without_offsets};
use crate::codec::{BlockScales, Levels};
use crate::float::nearest;
use crate::search::table::{self, LEVELS};
use crate::search::{LANES, Tile, squares};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 136;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Iq4Xs, 32, 8, BYTES>(&[0], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Iq4Xs, 32, 8, BYTES>(s, values, importance, blocks);
}

struct Iq4Xs;

impl BlockLayout<32, 8, BYTES> for Iq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const LEVELS: Levels = Levels::Uneven(&LEVELS);
    const INTEGERS: [f32; 2] = [-32.0, 31.0];

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        let high = u16::from_le_bytes([block[2], block[3]]);
        let mut scales = [0; 16];
        for group in 0..8 {
            let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
            scales[group] = i16::from(low | ((high >> (group * 2) & 3) as u8) << 4) - 32;
        }
        without_offsets(half_at(block, 0), scales)
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        nibble(&block[8 + i / 32 * 16..], i % 32)
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; 32]; 8], block: &mut [u8; BYTES]) {
        let stored = scales.scales.map(|scale| scale.wrapping_add(32) as u8);
        let high = (0..8).fold(0u16, |bits, j| bits | u16::from(stored[j] >> 4) << (j * 2));
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        block[2..4].copy_from_slice(&high.to_le_bytes());
        for j in 0..4 {
            block[4 + j] = stored[2 * j] & 15 | stored[2 * j + 1] << 4;
        }
        for (codes, out) in codes.iter().zip(block[8..].as_chunks_mut::<16>().0) {
            pack_nibbles(codes, out);
        }
    }
}

/// [`table::search`], errors weighted with `importance * sqrt(2 mean(x^2) + x^2)`, the mean over the block, or with `x^2`; the largest
/// scale gets the integer -32.
impl Search<32, 8, BYTES> for Iq4Xs {
    /// The inverse of each group's scale, integer times the unrounded `d`, from which codes come.
    type Rounding<S: Simd> = [f32; LANES];

    #[inline(always)]
    fn search<S: Simd>(s: S, groups: &Groups<'_, 32>, scales: &mut [BlockScales]) -> [f32; LANES] {
        let w = match groups.importance {
            None => squares(s, groups.x),
            Some(importance) => weights(s, groups, importance, 2.0),
        };
        let scale = table::search(s, groups.x, &w);
        let mut inverse = [0.0; LANES];
        for (block, stored) in scales.iter_mut().enumerate() {
            let lanes = block * 8..(block + 1) * 8;
            let peak = scale[lanes.clone()].iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
            let d = -peak / 32.0;
            let of_d = if d != 0.0 { 1.0 / d } else { 0.0 };
            *stored = without_offsets(f16::from_f32(d), [0; 16]);
            for (group, lane) in lanes.enumerate() {
                let integer = nearest(of_d * scale[lane]).clamp(-32.0, 31.0);
                let step = d * integer;
                stored.scales[group] = integer as i16;
                inverse[lane] = if step != 0.0 { 1.0 / step } else { 0.0 };
            }
        }
        inverse
    }

    #[inline(always)]
    fn round<S: Simd>(s: S, x: &Tile<32>, inverse: &[f32; LANES], codes: &mut Tile<32>) {
        table::round(s, x, inverse, codes);
    }
}
