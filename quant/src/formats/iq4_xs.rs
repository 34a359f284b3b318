//! IQ4_XS: 256 weights of 4 bits, codes of 16 uneven levels, in 8 groups, each with a signed scale of 6 bits.
//! ```text
//! byte 0      2       4           8                         136
//!      | d    | high  | low       | 8 groups of 16 bytes    |
//! weight i = d * (sc_{i/32} - 32) * LEVELS[q_i],   q_i: nibble i % 32 / 16 of byte i / 32 * 16 + i % 16
//! scale j: nibble j % 2 of low byte j / 2, and bit 2 j of the u16 high for its two high bits
//! ```

use super::blocks32::{nibble, pack_nibbles};
use super::blocks256::{self, Block, half_at};
use super::pairs;
use crate::activations::{ActivationKind, ActivationRow};
use crate::float::nearest;
use crate::search::table::{self, LEVELS};
use crate::search::{LANES, codes, squares, tile};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::IQ4_XS,
    scales: &[0],
    activation: ActivationKind::Q8x256,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 136;
const _: () = assert!(BYTES == GgmlType::IQ4_XS.block_bytes() && blocks256::LEN == GgmlType::IQ4_XS.block_len());

struct View<'a>(&'a [u8; BYTES]);

impl Block<32> for View<'_> {
    fn d(&self) -> (f32, Option<f32>) {
        (half_at(self.0, 0), None)
    }
    fn scale(&self, group: usize) -> i32 {
        let low = self.0[4 + group / 2] >> (group % 2 * 4) & 15;
        let high = u16::from_le_bytes([self.0[2], self.0[3]]) >> (group * 2) & 3;
        (low as u16 | high << 4) as i32 - 32
    }
    fn code(&self, i: usize) -> i32 {
        LEVELS[nibble(&self.0[8 + i / 32 * 16..], i % 32) as usize] as i32
    }
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks256::decode(blocks, values, View)
}

/// [`table::search`], errors weighed with `importance * sqrt(2 mean(x^2) + x^2)`, the mean over the block, or with `x^2`; the largest
/// scale gets the integer -32. Codes come from the unrounded `d`.
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    const LEN: usize = blocks256::LEN;
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (i, (values, blocks)) in values.chunks(2 * LEN).zip(blocks.chunks_mut(2 * BYTES)).enumerate() {
        let x = tile::<32>(values);
        let w = match importance {
            None => squares(s, &x),
            Some(importance) => blocks256::weights(s, values, &x, &importance[i * 2 * LEN..], 2.0),
        };
        let scale = table::search(s, &x, &w);
        let (mut scales, mut inverse, mut d) = ([0i32; LANES], [0.0; LANES], [0.0; 2]);
        for (block, d) in d.iter_mut().enumerate() {
            let lanes = block * 8..(block + 1) * 8;
            let peak = scale[lanes.clone()].iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
            *d = -peak / 32.0;
            let of_d = if *d != 0.0 { 1.0 / *d } else { 0.0 };
            for lane in lanes {
                let integer = nearest(of_d * scale[lane]).clamp(-32.0, 31.0);
                let step = *d * integer;
                scales[lane] = integer as i32 + 32;
                inverse[lane] = if step != 0.0 { 1.0 / step } else { 0.0 };
            }
        }
        let mut q = x;
        table::round(s, &x, &inverse, &mut q);
        let q = codes(&q);
        for (b, block) in blocks.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
            let scales = &scales[b * 8..(b + 1) * 8];
            let high = (0..8).fold(0u16, |bits, j| bits | (scales[j] as u16 >> 4) << (j * 2));
            block[..2].copy_from_slice(&f16::from_f32(d[b]).to_le_bytes());
            block[2..4].copy_from_slice(&high.to_le_bytes());
            for j in 0..4 {
                block[4 + j] = (scales[2 * j] & 15 | (scales[2 * j + 1] & 15) << 4) as u8;
            }
            for group in 0..8 {
                pack_nibbles(&q[b * 8 + group], &mut block[8 + group * 16..]);
            }
        }
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks256::dot(blocks, x, View)
}
