//! What the formats of 32 weights a block share: nibbles, fifth bits, and the searches of those with even levels.

use super::blocks::{BlockLayout, Groups, Search};
use crate::codec::BlockScales;
use crate::search::affine::{self, Affine};
use crate::search::{LANES, Tile, symmetric, tile, weights};
use crate::simd::Simd;
use half::f16;

/// Weights in a block.
pub const LEN: usize = 32;

/// How llama-quantize finds the scales of a format with even levels.
pub enum Method {
    /// `w = scale * (code - half)`; the scale may be negative: [`symmetric::plain`] or, with importance, [`symmetric::search`].
    Signed {
        /// The zero point.
        half: f32,
    },
    /// `w = scale * code + min`: [`affine::plain`] or, with importance, [`Affine::search`].
    Offset {
        /// The largest code.
        top: f32,
    },
}

/// A format with even levels. Codes come from the unrounded scale and least value; errors are weighted with the mean square of the whole row.
pub trait Even {
    /// Its search.
    const METHOD: Method;
}

/// How the codes of a tile are rounded.
pub enum Rounding<S: Simd> {
    SignedPlain(symmetric::PlainRounding<S>),
    Signed(symmetric::Rounding<S>),
    OffsetPlain(affine::PlainRounding<S>),
    Offset(affine::Rounding<S>),
}

impl<F: Even + BlockLayout<LEN, 1, BYTES>, const BYTES: usize> Search<LEN, 1, BYTES> for F {
    const ROW_MEAN: bool = true;
    type Rounding<S: Simd> = Rounding<S>;

    #[inline(always)]
    fn search<S: Simd>(s: S, groups: &Groups<'_, LEN>, scales: &mut [BlockScales]) -> Rounding<S> {
        let x = groups.x;
        let w = groups.importance.map(|importance| weights(s, x, &tile(importance), &[groups.row_mean; LANES]));
        let (scale, min, rounding) = match (F::METHOD, &w) {
            (Method::Signed { half }, None) => {
                let (scale, rounding) = symmetric::plain(s, x, half);
                (scale, [0.0; LANES], Rounding::SignedPlain(rounding))
            }
            (Method::Signed { half }, Some(w)) => {
                let (scale, rounding) = symmetric::search(s, x, w, half);
                (scale, [0.0; LANES], Rounding::Signed(rounding))
            }
            (Method::Offset { top }, None) => {
                let (scale, min, rounding) = affine::plain(s, x, top);
                (scale, min, Rounding::OffsetPlain(rounding))
            }
            (Method::Offset { top }, Some(w)) => {
                let (scale, min, rounding) = Affine::important(top).search(s, x, w);
                (scale, min, Rounding::Offset(rounding))
            }
        };
        store(&scale, F::OFFSET.map(|_| &min), scales);
        rounding
    }

    #[inline(always)]
    fn round<S: Simd>(s: S, x: &Tile<LEN>, rounding: &Rounding<S>, codes: &mut Tile<LEN>) {
        match rounding {
            Rounding::SignedPlain(rounding) => rounding.round(s, x, codes),
            Rounding::Signed(rounding) => rounding.round(s, x, codes),
            Rounding::OffsetPlain(rounding) => rounding.round(s, x, codes),
            Rounding::Offset(rounding) => rounding.round(s, x, codes),
        }
    }
}

/// Rounds the scales of 16 blocks to half precision, and their least values where there are any.
#[inline(always)]
pub fn store(scale: &[f32; LANES], min: Option<&[f32; LANES]>, scales: &mut [BlockScales]) {
    for (lane, stored) in scales.iter_mut().enumerate() {
        stored.d = f16::from_f32(scale[lane]);
        if let Some(min) = min {
            stored.m = f16::from_f32(min[lane]);
        }
    }
}

/// Puts the low four bits of 32 codes into 16 bytes: code `i` beside code `i + 16`.
#[inline(always)]
pub fn pack_nibbles(q: &[u8; LEN], out: &mut [u8]) {
    for i in 0..16 {
        out[i] = q[i] & 15 | q[i + 16] << 4;
    }
}

/// Bit 4 of 32 codes, in the order of the codes.
#[inline(always)]
pub fn pack_fifth_bits(q: &[u8; LEN]) -> [u8; 4] {
    (0..LEN).fold(0u32, |bits, i| bits | (u32::from(q[i]) >> 4 & 1) << i).to_le_bytes()
}

/// Code `i` of 32 in 16 bytes of nibbles.
#[inline(always)]
pub fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i % 16] >> (i / 16 * 4) & 15
}

/// Code `i` of 32 in 4 bytes of fifth bits and 16 of nibbles.
#[inline(always)]
pub fn five_bits(high: [u8; 4], low: &[u8], i: usize) -> u8 {
    nibble(low, i) | ((u32::from_le_bytes(high) >> i & 1) as u8) << 4
}
