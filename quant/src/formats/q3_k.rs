//! Q3_K: 256 weights of 3 bits in 16 groups, each with a signed scale of 6 bits; the third bits lie apart.
//! ```text
//! byte 0              32                       96             108    110
//!      | 32 bytes h   | 64 bytes of codes      | scales       | d    |
//! weight i = d * (sc_{i/16} - 32) * (q_i + 4 h_i - 4),   q_i as in Q2_K, h_i: bit i / 32 of byte i % 32
//! scale j: low nibbles in bytes 0..8 (j, j + 8 side by side), two high bits at bit j / 4 * 2 of byte 8 + j % 4
//! ```

use super::blocks256::{self, Block, half_at, pack_pairs, pair_at, signed_scales, weights};
use super::pairs;
use crate::activations::{ActivationKind, ActivationRow};
use crate::search::{LANES, codes, round_again, sums, symmetric, tile};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q3_K,
    scales: &[108],
    activation: ActivationKind::Q8x256,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 110;
const _: () = assert!(BYTES == GgmlType::Q3_K.block_bytes() && blocks256::LEN == GgmlType::Q3_K.block_len());

struct View<'a>(&'a [u8; BYTES]);

impl Block<16> for View<'_> {
    fn d(&self) -> (f32, Option<f32>) {
        (half_at(self.0, 108), None)
    }
    fn scale(&self, group: usize) -> i32 {
        let low = self.0[96 + group % 8] >> (group / 8 * 4) & 15;
        let high = self.0[104 + group % 4] >> (group / 4 * 2) & 3;
        (low | high << 4) as i32 - 32
    }
    fn code(&self, i: usize) -> i32 {
        pair_at(&self.0[32..96], i) + (self.0[i % 32] >> (i / 32) & 1) as i32 * 4 - 4
    }
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks256::decode(blocks, values, View)
}

/// Without importance [`symmetric::sweep`], and the largest scale gets the integer -32; with it [`symmetric::search`], for the scales
/// too.
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    pairs::<BYTES, { blocks256::LEN }>(blocks.len(), values.len());
    for (b, (values, block)) in
        values.as_chunks::<{ blocks256::LEN }>().0.iter().zip(blocks.as_chunks_mut::<BYTES>().0).enumerate()
    {
        let x = tile::<16>(values);
        let mut q = x;
        let (scales, d) = match importance {
            None => {
                let scale = symmetric::sweep(s, &x, 4.0, &mut q);
                // A block of zeros has the scales 0, stored as they are.
                signed_scales(&scale, 32.0, 0.0).unwrap_or(([-32; 16], f16::ZERO))
            }
            Some(importance) => {
                let w = weights(s, values, &x, &importance[b * blocks256::LEN..], 2.0);
                let scale = symmetric::search(s, &x, &w, 4.0, &mut q);
                // The scales are a group of their own, in lane 0.
                let mut of_scales = [[0.0; LANES]; LANES];
                let scale = tile::<16>(&scale);
                let d = symmetric::search(s, &scale, &tile(&sums(s, &w).array()), 32.0, &mut of_scales)[0];
                (codes(&of_scales)[0].map(|code| code as i32 - 32), f16::from_f32(d))
            }
        };
        round_again(s, &x, &scales.map(|scale| d.to_f32() * scale as f32), &[0.0; LANES], (-4.0, 3.0), &mut q);
        let q = codes(&q);
        let q = |i: usize| q[i / 16][i % 16];
        for l in 0..32 {
            block[l] = (0..8).fold(0, |bits, part| bits | (q(part * 32 + l) >> 2) << part);
        }
        pack_pairs(q, &mut block[32..96]);
        let stored = scales.map(|scale| (scale + 32) as u8);
        for j in 0..8 {
            block[96 + j] = stored[j] & 15 | stored[j + 8] << 4;
        }
        for j in 0..4 {
            block[104 + j] = (0..4).fold(0, |bits, part| bits | (stored[part * 4 + j] >> 4) << (part * 2));
        }
        block[108..].copy_from_slice(&d.to_le_bytes());
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks256::dot(blocks, x, View)
}
