//! Q8_0: 32 weights of 8 bits with one half-precision scale.
//! ```text
//! byte 0      2                                34
//!      | d    | q0 | q1 | ...              q31 |      weight i = d * q_i,   q_i signed
//! ```

use super::blocks32::{self, LEN};
use super::pairs;
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::{ROUND, f16_at};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q8_0,
    scales: &[0],
    activation: ActivationKind::Q8x32,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 34;
const _: () = assert!(BYTES == GgmlType::Q8_0.block_bytes() && blocks32::LEN == GgmlType::Q8_0.block_len());

fn scales(block: &[u8; BYTES]) -> (f32, Option<f32>) {
    (f16_at([block[0], block[1]]), None)
}

fn code(block: &[u8; BYTES], i: usize) -> i32 {
    block[2 + i] as i8 as i32
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks32::decode(blocks, values, scales, code)
}

/// `d = max|x| / 127`, `q = round(x * (1 / d))`, halves away from zero; the codes come from the unrounded `d`. ggml knows no use for
/// importance here.
#[inline(always)]
pub(crate) fn encode<S: Simd>(_: S, values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (x, block) in values.as_chunks::<LEN>().0.iter().zip(blocks.as_chunks_mut::<BYTES>().0) {
        // The bits of magnitudes are in the order of the magnitudes.
        let peak = f32::from_bits(x.iter().fold(0, |peak, v| peak.max(v.to_bits() & i32::MAX as u32)));
        let d = peak / 127.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for i in 0..LEN {
            block[2 + i] = round_away(x[i] * inverse);
        }
    }
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

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks32::dot(blocks, x, scales, code)
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
