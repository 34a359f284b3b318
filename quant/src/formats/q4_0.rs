//! Q4_0: 32 weights of 4 bits with one half-precision scale.
//! ```text
//! byte 0      2                            18
//!      | d    | q16 q0 | q17 q1 | ... q31 q15 |       weight i = d * (q_i - 8),   q_i in 0..16
//!               high low nibble
//! ```

use super::{dot_blocks32, pairs};
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::f16_at;
use crate::types::{Format, GgmlType};
use half::f16;

/// This format's row in the table.
pub const FORMAT: Format = Format { ty: GgmlType::Q4_0, activation: ActivationKind::Q8x32, decode, encode, dot };

const LEN: usize = 32;
const BYTES: usize = 18;
const _: () = assert!(BYTES == GgmlType::Q4_0.block_bytes() && LEN == GgmlType::Q4_0.block_len());

fn scale(block: &[u8; BYTES]) -> f32 {
    f16_at([block[0], block[1]])
}

/// The signed code of weight `i`.
fn code(block: &[u8; BYTES], i: usize) -> i32 {
    (block[2 + i % 16] >> (i / 16 * 4) & 15) as i32 - 8
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (block, out) in blocks.as_chunks::<BYTES>().0.iter().zip(values.as_chunks_mut::<LEN>().0) {
        let d = scale(block);
        for i in 0..LEN {
            out[i] = d * code(block, i) as f32;
        }
    }
}

/// `d = v / -8` where `v` is the first value of largest magnitude, `q = min(15, trunc(x * (1 / d) + 8.5))`: the largest gets code 0.
#[inline(always)]
pub(crate) fn encode(values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (x, block) in values.as_chunks::<LEN>().0.iter().zip(blocks.as_chunks_mut::<BYTES>().0) {
        let peak = x.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
        let d = peak / -8.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        let code = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        for i in 0..16 {
            block[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
        }
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    dot_blocks32(blocks, x, |block: &[u8; BYTES], x, b| {
        (scale(block), (0..LEN).map(|i| code(block, i) * x.code(b, i)).sum())
    })
}
