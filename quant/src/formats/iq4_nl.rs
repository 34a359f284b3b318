//! IQ4_NL: 32 weights of 4 bits, codes of 16 uneven levels, with one half-precision scale.
//! ```text
//! byte 0      2                            18
//!      | d    | q16 q0 | q17 q1 | ... q31 q15 |       weight i = d * LEVELS[q_i]
//!               high low nibble
//! ```

use super::blocks32::{self, LEN, nibble, pack_nibbles};
use super::pairs;
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::f16_at;
use crate::search::table;
pub use crate::search::table::LEVELS;
use crate::search::{LANES, V, codes, squares, sums, tile, weights};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::IQ4_NL,
    scales: &[0],
    activation: ActivationKind::Q8x32,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 18;
const _: () = assert!(BYTES == GgmlType::IQ4_NL.block_bytes() && blocks32::LEN == GgmlType::IQ4_NL.block_len());

fn scales(block: &[u8; BYTES]) -> (f32, Option<f32>) {
    (f16_at([block[0], block[1]]), None)
}

/// The level of weight `i`.
fn code(block: &[u8; BYTES], i: usize) -> i32 {
    LEVELS[nibble(&block[2..], i) as usize] as i32
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks32::decode(blocks, values, scales, code)
}

/// [`table::search`]; the errors are weighed with `importance * sqrt(2 mean(x^2) + x^2)`, or `x^2` without importance.
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (i, (x, blocks)) in values.chunks(LANES * LEN).zip(blocks.chunks_mut(LANES * BYTES)).enumerate() {
        let x = tile::<LEN>(x);
        let mut q = squares(s, &x);
        let w = match importance {
            None => q,
            Some(importance) => {
                let spread = sums(s, &q) * V::splat(s, 2.0 / LEN as f32);
                weights(s, &x, &tile(&importance[i * LANES * LEN..]), &spread.array())
            }
        };
        let scale = table::search(s, &x, &w);
        table::round(s, &x, &scale.map(|d| if d != 0.0 { 1.0 / d } else { 0.0 }), &mut q);
        let q = codes(&q);
        for (lane, block) in blocks.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
            block[..2].copy_from_slice(&f16::from_f32(scale[lane]).to_le_bytes());
            pack_nibbles(&q[lane], &mut block[2..]);
        }
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks32::dot(blocks, x, scales, code)
}
