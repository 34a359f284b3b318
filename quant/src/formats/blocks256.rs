//! What the formats of 256 weights a block share: groups of 16 or 32 with small integer scales, which one or two half-precision scales of
//! the block turn into numbers.

use super::pairs;
use crate::activations::ActivationRow;
use crate::float::{f16_at, fma, nearest};
use crate::search::affine::Affine;
use crate::search::{self, LANES, Tile, V, scales, squares, sum_of_squares, sums, tile};
use crate::simd::Simd;
use half::f16;

/// Weights in a block.
pub const LEN: usize = 256;

/// A block of groups of `N`: `w = d * scale(group) * code - dmin * min(group)`.
pub trait Block<const N: usize> {
    /// `d`, and `dmin` where the format has one.
    fn d(&self) -> (f32, Option<f32>);
    /// The integer scale of a group.
    fn scale(&self, group: usize) -> i32;
    /// The integer offset of a group.
    fn min(&self, _group: usize) -> i32 {
        0
    }
    /// The code of weight `i`, or what it stands for.
    fn code(&self, i: usize) -> i32;
}

/// The number in half precision at byte `at`.
pub fn half_at(block: &[u8], at: usize) -> f32 {
    f16_at([block[at], block[at + 1]])
}

/// Decodes blocks.
#[inline(always)]
pub fn decode<'a, B: Block<N>, const N: usize, const BYTES: usize>(
    blocks: &'a [u8],
    values: &mut [f32],
    block: impl Fn(&'a [u8; BYTES]) -> B,
) {
    pairs::<BYTES, LEN>(blocks.len(), values.len());
    for (bytes, out) in blocks.as_chunks::<BYTES>().0.iter().zip(values.as_chunks_mut::<LEN>().0) {
        let block = block(bytes);
        let (d, dmin) = block.d();
        for (group, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let scale = d * block.scale(group) as f32;
            let min = dmin.map(|dmin| dmin * block.min(group) as f32);
            for i in 0..N {
                let product = scale * block.code(group * N + i) as f32;
                out[i] = min.map_or(product, |min| product - min);
            }
        }
    }
}

/// The canonical dot product of blocks of 256: exact `isum`, scales included, then `acc = fma(d * d_x, isum, acc)`; where the format has
/// offsets, exact `msum`, then `acc = fma(-(dmin * d_x), msum, acc)`. Blocks in order.
pub fn dot<'a, B: Block<N>, const N: usize, const BYTES: usize>(
    row: &'a [u8],
    x: ActivationRow<'_>,
    block: impl Fn(&'a [u8; BYTES]) -> B,
) -> f32 {
    let ActivationRow::Q8x256(x) = x else { panic!("blocks of 256 take 8-bit activations in blocks of 256") };
    let (blocks, rest) = row.as_chunks::<BYTES>();
    assert!(rest.is_empty() && blocks.len() == x.codes.len());
    let mut acc = 0.0;
    for (b, bytes) in blocks.iter().enumerate() {
        let block = block(bytes);
        let (d, dmin) = block.d();
        let (mut isum, mut msum) = (0i32, 0i32);
        for group in 0..LEN / N {
            let range = group * N..(group + 1) * N;
            isum += block.scale(group) * range.map(|i| block.code(i) * x.codes[b][i] as i32).sum::<i32>();
            let of_16 = &x.sums[b][group * N / 16..(group + 1) * N / 16];
            msum += block.min(group) * of_16.iter().map(|&sum| sum as i32).sum::<i32>();
        }
        acc = fma(d * x.scales[b], isum as f32, acc);
        if let Some(dmin) = dmin {
            acc = fma(-(dmin * x.scales[b]), msum as f32, acc);
        }
    }
    acc
}

/// Errors weighed with importance: `importance * sqrt(factor * mean(x^2) + x^2)`, the mean over the block.
#[inline(always)]
pub fn weights<S: Simd, const N: usize>(s: S, values: &[f32], x: &Tile<N>, importance: &[f32], factor: f32) -> Tile<N> {
    let mut spread = [0.0; LANES];
    for (block, spread) in values.chunks(LEN).zip(spread.chunks_mut(LEN / N)) {
        spread.fill(factor * sum_of_squares(block) / LEN as f32);
    }
    search::weights(s, x, &tile(importance), &spread)
}

/// A format with offsets: how llama-quantize finds its scales.
pub struct Offset {
    /// The search without importance.
    pub plain: Affine,
    /// Without importance errors are weighed with `|x|`; if this is set, with the group's root mean square more.
    pub rms: bool,
    /// The largest integer scale and offset.
    pub levels: f32,
    /// See [`weights`].
    pub factor: f32,
}

/// The scales of a block of `G` groups.
pub struct Scales<const G: usize> {
    /// The scale of the scales.
    pub d: f16,
    /// The scale of the offsets.
    pub dmin: f16,
    /// A scale for each group.
    pub scales: [u8; G],
    /// An offset for each group.
    pub mins: [u8; G],
}

impl Offset {
    /// Encodes a row with groups of `N`, `G` a block; `pack` writes a block.
    #[inline(always)]
    pub fn encode<S: Simd, const N: usize, const G: usize, const BYTES: usize>(
        &self,
        s: S,
        values: &[f32],
        importance: Option<&[f32]>,
        blocks: &mut [u8],
        pack: impl Fn(&mut [u8; BYTES], &Scales<G>, &[[u8; N]]),
    ) {
        pairs::<BYTES, LEN>(blocks.len(), values.len());
        let per_tile = LANES / G;
        for (i, (values, blocks)) in values.chunks(LANES * N).zip(blocks.chunks_mut(per_tile * BYTES)).enumerate() {
            let x = tile::<N>(values);
            let (search, w) = match importance {
                None => (self.plain, self.plain_weights(s, &x)),
                Some(importance) => {
                    let w = weights(s, values, &x, &importance[i * LANES * N..], self.factor);
                    (Affine::important(self.plain.top), w)
                }
            };
            let mut q = [[0.0; LANES]; N];
            let (scale, min) = search.search(s, &x, &w, &mut q);
            let importance = importance.map(|_| sums(s, &w).array());
            let (mut d, mut offset) = ([0.0; LANES], [0.0; LANES]);
            let found: [Scales<G>; LANES] = std::array::from_fn(|block| {
                let lanes = block % per_tile * G;
                let part = |v: &[f32; LANES]| -> [f32; G] { std::array::from_fn(|group| v[lanes + group]) };
                let found = self.scales(&part(&scale), &part(&min).map(|min| -min), importance.as_ref().map(part));
                for group in 0..G {
                    d[lanes + group] = found.d.to_f32() * found.scales[group] as f32;
                    offset[lanes + group] = found.dmin.to_f32() * found.mins[group] as f32;
                }
                found
            });
            search::round_again(s, &x, &d, &offset, (0.0, self.plain.top), &mut q);
            let q = search::codes(&q);
            for (b, block) in blocks.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
                pack(block, &found[b], &q[b * G..(b + 1) * G]);
            }
        }
    }

    #[inline(always)]
    fn plain_weights<S: Simd, const N: usize>(&self, s: S, x: &Tile<N>) -> Tile<N> {
        let mut w = *x;
        let rms = match self.rms {
            true => (sums(s, &squares(s, x)) / V::splat(s, N as f32)).sqrt(),
            false => V::splat(s, 0.0),
        };
        for row in w.iter_mut() {
            (rms + V::load(s, row).abs()).store(row);
        }
        w
    }

    /// Integer scales and offsets, and what they are multiples of.
    fn scales<const G: usize>(&self, scale: &[f32; G], min: &[f32; G], weights: Option<[f32; G]>) -> Scales<G> {
        let ((scales, d), (mins, dmin)) = match weights {
            Some(w) => (scales::positive(scale, &w, self.levels), scales::positive(min, &w, self.levels)),
            None => (self.by_largest(scale), self.by_largest(min)),
        };
        Scales { d: f16::from_f32(d), dmin: f16::from_f32(dmin), scales, mins }
    }

    /// The largest gets the largest integer.
    fn by_largest<const G: usize>(&self, x: &[f32; G]) -> ([u8; G], f32) {
        let max = x.iter().fold(0.0, |max, &v| if v > max { v } else { max });
        let inverse = if max > 0.0 { self.levels / max } else { 0.0 };
        (x.map(|v| nearest(inverse * v).min(self.levels) as u8), max / self.levels)
    }
}

/// Integers for scales of either sign, the largest gets `-levels`: `(integers, d)`, or `None` if no scale is larger than 0 and at least
/// `least`.
pub fn signed_scales(scale: &[f32; LANES], levels: f32, least: f32) -> Option<([i32; LANES], f16)> {
    let peak = scale.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
    if peak == 0.0 || peak.abs() < least {
        return None;
    }
    let inverse = -levels / peak;
    let integer = |v: f32| nearest(inverse * v).clamp(-levels, levels - 1.0) as i32;
    Some((scale.map(integer), f16::from_f32(1.0 / inverse)))
}

/// Six-bit scales and offsets of eight groups in 12 bytes: the low bits of the first four in bytes 0..8, the others' low nibbles in bytes
/// 8..12 and their high bits in the two high bits of bytes 0..8.
pub fn pack_six_bits(scales: &[u8; 8], mins: &[u8; 8], out: &mut [u8]) {
    for j in 0..4 {
        out[j] = scales[j] | scales[j + 4] >> 4 << 6;
        out[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        out[j + 8] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }
}

/// `(scale, offset)` of group `j`; see [`pack_six_bits`].
pub fn six_bits(bytes: &[u8], j: usize) -> (i32, i32) {
    let (scale, min) = match j {
        0..4 => (bytes[j] & 63, bytes[j + 4] & 63),
        _ => (bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4, bytes[j + 4] >> 4 | bytes[j] >> 6 << 4),
    };
    (scale as i32, min as i32)
}

/// Two-bit parts of codes, four to a byte: value `i` of each half at bit `i / 32 * 2` of byte `i % 32`.
pub fn pack_pairs(code: impl Fn(usize) -> u8, out: &mut [u8]) {
    for half in 0..2 {
        for l in 0..32 {
            let at = |part: usize| code(half * 128 + part * 32 + l) & 3;
            out[half * 32 + l] = at(0) | at(1) << 2 | at(2) << 4 | at(3) << 6;
        }
    }
}

/// The inverse of [`pack_pairs`].
#[inline(always)]
pub fn pair_at(bytes: &[u8], i: usize) -> i32 {
    (bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) as i32
}

/// Nibbles of groups of 32, two groups side by side: value `i` in byte `i / 64 * 32 + i % 32`.
pub fn pack_group_nibbles(q: &[[u8; 32]], out: &mut [u8]) {
    for (groups, out) in q.as_chunks::<2>().0.iter().zip(out.chunks_mut(32)) {
        for l in 0..32 {
            out[l] = groups[0][l] & 15 | groups[1][l] << 4;
        }
    }
}

/// The inverse of [`pack_group_nibbles`].
#[inline(always)]
pub fn group_nibble(bytes: &[u8], i: usize) -> i32 {
    (bytes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) as i32
}
