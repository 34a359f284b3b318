//! Q6_K: 256 weights of 6 bits in 16 groups, each with a signed scale of 8 bits; the two high bits lie apart.
//! ```text
//! byte 0                         128                     192              208    210
//!      | 128 bytes of nibbles    | 64 bytes of pairs     | 16 scales i8   | d    |
//! weight i = d * sc_{i/16} * (q_i - 32),   of each half of 128:
//! low 4 bits: nibble i % 128 / 64 of byte i / 128 * 64 + i % 64; high 2 bits: as the codes of Q2_K
//! ```

use super::blocks256::{self, Block, half_at, pack_pairs, pair_at, signed_scales};
use super::pairs;
use crate::activations::{ActivationKind, ActivationRow};
use crate::search::{LANES, TINY, codes, round_again, squares, symmetric, tile};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};

/// This format's row in the table.
pub const FORMAT: Format = Format {
    ty: GgmlType::Q6_K,
    scales: &[208],
    activation: ActivationKind::Q8x256,
    decode,
    encode: |values, importance, blocks| encode(Scalar, values, importance, blocks),
    dot,
};

const BYTES: usize = 210;
const _: () = assert!(BYTES == GgmlType::Q6_K.block_bytes() && blocks256::LEN == GgmlType::Q6_K.block_len());

struct View<'a>(&'a [u8; BYTES]);

impl Block<16> for View<'_> {
    fn d(&self) -> (f32, Option<f32>) {
        (half_at(self.0, 208), None)
    }
    fn scale(&self, group: usize) -> i32 {
        self.0[192 + group] as i8 as i32
    }
    fn code(&self, i: usize) -> i32 {
        let low = self.0[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        (low as i32 | pair_at(&self.0[128..192], i) << 4) - 32
    }
}

fn decode(blocks: &[u8], values: &mut [f32]) {
    blocks256::decode(blocks, values, View)
}

/// [`symmetric::search`], errors weighed with the importance alone or with `x^2`; the largest scale gets the integer -128.
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    pairs::<BYTES, { blocks256::LEN }>(blocks.len(), values.len());
    for (b, (values, block)) in
        values.as_chunks::<{ blocks256::LEN }>().0.iter().zip(blocks.as_chunks_mut::<BYTES>().0).enumerate()
    {
        let x = tile::<16>(values);
        let w = match importance {
            None => squares(s, &x),
            Some(importance) => tile(&importance[b * blocks256::LEN..]),
        };
        let mut q = x;
        let scale = symmetric::search(s, &x, &w, 32.0, &mut q);
        let Some((scales, d)) = signed_scales(&scale, 128.0, TINY) else {
            block.fill(0);
            continue;
        };
        round_again(s, &x, &scales.map(|scale| d.to_f32() * scale as f32), &[0.0; LANES], (-32.0, 31.0), &mut q);
        let q = codes(&q);
        let q = |i: usize| q[i / 16][i % 16];
        for l in 0..128 {
            let i = l / 64 * 128 + l % 64;
            block[l] = q(i) & 15 | q(i + 64) << 4;
        }
        pack_pairs(|i| q(i) >> 4, &mut block[128..192]);
        for group in 0..16 {
            block[192 + group] = scales[group] as u8;
        }
        block[208..].copy_from_slice(&d.to_le_bytes());
    }
}

fn dot(blocks: &[u8], x: ActivationRow<'_>) -> f32 {
    blocks256::dot(blocks, x, View)
}
