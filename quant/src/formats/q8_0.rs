//! Q8_0: 32 weights of 8 bits with one half-precision scale.
//! ```text
//! byte 0      2                                34
//!      | d    | q0 | q1 | ...              q31 |      weight i = d * q_i,   q_i signed
//! ```

use super::{dot_blocks32, pairs};
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::f16_at;
use crate::types::{Format, GgmlType};
use half::f16;

/// This format's row in the table.
pub const FORMAT: Format = Format { ty: GgmlType::Q8_0, activation: ActivationKind::Q8x32, decode, encode, dot };

const LEN: usize = 32;
const BYTES: usize = 34;
const _: () = assert!(BYTES == GgmlType::Q8_0.block_bytes() && LEN == GgmlType::Q8_0.block_len());

fn scale(block: &[u8; BYTES]) -> f32 {
    f16_at([block[0], block[1]])
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (block, out) in blocks.as_chunks::<BYTES>().0.iter().zip(values.as_chunks_mut::<LEN>().0) {
        let d = scale(block);
        for i in 0..LEN {
            out[i] = d * block[2 + i] as i8 as f32;
        }
    }
}

/// `d = max|x| / 127`, `q = round(x * (1 / d))`, halves away from zero; the codes come from the unrounded `d`.
#[inline(always)]
pub(crate) fn encode(values: &[f32], _: Option<&[f32]>, blocks: &mut [u8]) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (x, block) in values.as_chunks::<LEN>().0.iter().zip(blocks.as_chunks_mut::<BYTES>().0) {
        let peak = x.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
        let d = peak / 127.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for i in 0..LEN {
            block[2 + i] = (x[i] * inverse).round() as i8 as u8;
        }
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    dot_blocks32(blocks, x, |block: &[u8; BYTES], x, b| {
        let isum = (0..LEN).map(|i| block[2 + i] as i8 as i32 * x.code(b, i)).sum();
        (scale(block), isum)
    })
}
