//! Q8_0: 32 weights of 8 bits with one half-precision scale.
//! ```text
//! byte 0      2                                34
//!      | d    | q0 | q1 | ...              q31 |      weight i = d * q_i,   q_i signed
//! ```

use super::blocks::{self, BlockLayout};
use super::blocks32::LEN;
use super::pairs;
use crate::codec::{BlockScales, Levels};
use crate::float::ROUND;
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 34;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Q8_0, LEN, 1, BYTES>(&[0], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

struct Q8_0;

impl BlockLayout<LEN, 1, BYTES> for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const LEVELS: Levels = Levels::Even { zero: 128, count: 256 };

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        BlockScales::of_32(f16::from_le_bytes([block[0], block[1]]), f16::ZERO)
    }
    /// Adding 128 flips the top bit.
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        block[2 + i] ^ 0x80
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; LEN]; 1], block: &mut [u8; BYTES]) {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        for i in 0..LEN {
            block[2 + i] = codes[0][i] ^ 0x80;
        }
    }
}

/// Encodes a row, a block at a time. The codes are stored as they are rounded: as an array that is packed afterwards they took a fifth more
/// time. ggml knows no use for importance here.
#[inline(always)]
pub(crate) fn encode<S: Simd>(_: S, values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs(blocks.len(), BYTES, values.len(), LEN);
    for (x, block) in values.as_chunks::<LEN>().0.iter().zip(blocks.as_chunks_mut::<BYTES>().0) {
        let d = search(x);
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for i in 0..LEN {
            block[2 + i] = round_away(x[i] * inverse);
        }
    }
}

/// `d = max|x| / 127`; codes are `round(x * (1 / d))`, halves away from zero, with the unrounded `d`.
#[inline(always)]
fn search(x: &[f32; LEN]) -> f32 {
    // The bits of magnitudes are in the order of the magnitudes.
    let peak = f32::from_bits(x.iter().fold(0, |peak, v| peak.max(v.to_bits() & i32::MAX as u32)));
    peak / 127.0
}

/// `y` rounded to the nearest integer, halves away from zero, as a byte; for `|y| < 2^22`. The same as `f32::round`, in operations that
/// vectors have.
#[inline(always)]
fn round_away(y: f32) -> u8 {
    let even = (y + ROUND) - ROUND;
    let half = 0.5f32.copysign(y);
    let away = if y - even == half { even + 2.0 * half } else { even };
    (away + ROUND).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::round_away;

    #[test]
    fn rounding_is_that_of_round() {
        for i in -1024..=1024 {
            let x = i as f32 / 8.0;
            for y in [x, x.next_up(), x.next_down()] {
                assert_eq!(round_away(y), y.round() as i32 as u8, "{y}");
            }
        }
    }
}
