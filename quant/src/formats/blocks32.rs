//! What the formats of 32 weights a block share: encoding 16 blocks at a time, and the canonical dot product.

use super::pairs;
use crate::activations::{ActivationRow, Q8Row};
use crate::float::fma;
use crate::search::affine::{self, Affine};
use crate::search::{LANES, Tile, codes, sum_of_squares, symmetric, tile, weights};
use crate::simd::Simd;
use half::f16;

/// Weights in a block.
pub const LEN: usize = 32;

/// Encodes a row, 16 blocks at a time: `search` finds `(scale, min, codes)` of a tile, with the weights of its errors where there is
/// importance; `pack` writes a block. Errors are weighed with the mean square of the whole row.
#[inline(always)]
fn encode<S: Simd, const BYTES: usize>(
    s: S,
    values: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
    search: Search,
    pack: impl Fn(&mut [u8; BYTES], f16, f16, &[u8; LEN]),
) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    let spread = if importance.is_some() { sum_of_squares(values) / values.len() as f32 } else { 0.0 };
    for (i, (x, blocks)) in values.chunks(LANES * LEN).zip(blocks.chunks_mut(LANES * BYTES)).enumerate() {
        let x = tile(x);
        let w = importance.map(|importance| weights(s, &x, &tile(&importance[i * LANES * LEN..]), &[spread; LANES]));
        let mut q = [[0.0; LANES]; LEN];
        let (scale, min) = search.search(s, &x, w.as_ref(), &mut q);
        let q = codes(&q);
        for (lane, block) in blocks.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
            pack(block, f16::from_f32(scale[lane]), f16::from_f32(min[lane]), &q[lane]);
        }
    }
}

/// How a format finds its scales.
#[derive(Clone, Copy)]
enum Search {
    /// `w = scale * (code - half)`
    Signed { half: f32 },
    /// `w = scale * code + min`
    Offset { top: f32 },
}

impl Search {
    /// Fills the codes and returns `(scale, min)` of each block.
    #[inline(always)]
    fn search<S: Simd>(
        self,
        s: S,
        x: &Tile<LEN>,
        w: Option<&Tile<LEN>>,
        q: &mut Tile<LEN>,
    ) -> ([f32; LANES], [f32; LANES]) {
        match (self, w) {
            (Search::Signed { half }, None) => (symmetric::plain(s, x, half, q), [0.0; LANES]),
            (Search::Signed { half }, Some(w)) => (symmetric::search(s, x, w, half, q), [0.0; LANES]),
            (Search::Offset { top }, None) => affine::plain(s, x, top, q),
            (Search::Offset { top }, Some(w)) => Affine::important(top).search(s, x, w, q),
        }
    }
}

/// Encodes a row of a format with one scale, which may be negative: [`symmetric::plain`] or, with importance, [`symmetric::search`].
#[inline(always)]
pub fn encode_signed<S: Simd, const BYTES: usize>(
    s: S,
    half: f32,
    values: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
    pack: impl Fn(&mut [u8; BYTES], f16, &[u8; LEN]),
) {
    encode(s, values, importance, blocks, Search::Signed { half }, |block, d, _, q| pack(block, d, q));
}

/// Encodes a row of a format with a scale and a least value: [`affine::plain`] or, with importance, [`Affine::search`].
#[inline(always)]
pub fn encode_offset<S: Simd, const BYTES: usize>(
    s: S,
    top: f32,
    values: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
    pack: impl Fn(&mut [u8; BYTES], f16, f16, &[u8; LEN]),
) {
    encode(s, values, importance, blocks, Search::Offset { top }, pack);
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
pub fn nibble(bytes: &[u8], i: usize) -> i32 {
    (bytes[i % 16] >> (i / 16 * 4) & 15) as i32
}

/// Code `i` of 32 in 4 bytes of fifth bits and 16 of nibbles.
#[inline(always)]
pub fn five_bits(high: [u8; 4], low: &[u8], i: usize) -> i32 {
    nibble(low, i) + (u32::from_le_bytes(high) >> i & 1) as i32 * 16
}

/// The canonical dot product of blocks of 32: exact `isum`, then `acc = fma(d_w * d_x, isum, acc)`; where the format adds `m` to every
/// weight, also `acc = fma(m * d_x, sum(x), acc)`. Blocks in order.
pub fn dot<const BYTES: usize>(
    row: &[u8],
    x: ActivationRow<'_>,
    scales: impl Fn(&[u8; BYTES]) -> (f32, Option<f32>),
    code: impl Fn(&[u8; BYTES], usize) -> i32,
) -> f32 {
    let ActivationRow::Q8x32(x) = x else { panic!("blocks of 32 take 8-bit activations") };
    let (blocks, rest) = row.as_chunks::<BYTES>();
    assert!(rest.is_empty() && blocks.len().div_ceil(4) == x.quads.len());
    let mut acc = 0.0;
    for (b, block) in blocks.iter().enumerate() {
        let (d, m) = scales(block);
        acc = fma(d * x.scales[b], block_sum(x, b, |i| code(block, i)) as f32, acc);
        if let Some(m) = m {
            acc = fma(m * x.scales[b], x.sums[b] as f32, acc);
        }
    }
    acc
}

fn block_sum(x: Q8Row<'_>, b: usize, code: impl Fn(usize) -> i32) -> i32 {
    (0..LEN).map(|i| code(i) * x.code(b, i)).sum()
}

/// Decodes blocks of 32.
#[inline(always)]
pub fn decode<const BYTES: usize>(
    blocks: &[u8],
    values: &mut [f32],
    scales: impl Fn(&[u8; BYTES]) -> (f32, Option<f32>),
    code: impl Fn(&[u8; BYTES], usize) -> i32,
) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (block, out) in blocks.as_chunks::<BYTES>().0.iter().zip(values.as_chunks_mut::<LEN>().0) {
        let (d, m) = scales(block);
        for i in 0..LEN {
            let product = d * code(block, i) as f32;
            out[i] = m.map_or(product, |m| product + m);
        }
    }
}
