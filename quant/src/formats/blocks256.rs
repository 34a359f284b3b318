//! What the formats of 256 weights a block share: groups of 16 or 32 with small integer scales, which one or two half-precision scales of
//! the block turn into numbers.

use super::blocks::{BlockLayout, Groups, Search};
use crate::codec::BlockScales;
use crate::float::nearest;
use crate::search::affine::{self, Affine};
use crate::search::{self, LANES, Tile, V, requantize, scales, some_keep_codes, squares, sum_of_squares, sums, tile};
use crate::simd::Simd;
use half::f16;

/// Weights in a block.
pub const LEN: usize = 256;

/// The number in half precision at byte `at`.
pub fn half_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// Weights of the errors where there is importance: `importance * sqrt(factor * mean(x^2) + x^2)`, the mean over the block.
#[inline(always)]
pub fn weights<S: Simd, const N: usize>(s: S, groups: &Groups<'_, N>, importance: &[f32], factor: f32) -> Tile<N> {
    let mut spread = [0.0; LANES];
    for (block, spread) in groups.values.chunks(LEN).zip(spread.chunks_mut(LEN / N)) {
        spread.fill(factor * sum_of_squares(block) / LEN as f32);
    }
    search::weights(s, groups.x, &tile(importance), &spread)
}

/// How llama-quantize finds the scales of a format with offsets.
pub struct Method {
    /// The search without importance.
    pub plain: Affine,
    /// Without importance errors are weighted with `|x|`; if this is set, with the group's root mean square more.
    pub rms: bool,
    /// The largest integer scale and offset.
    pub levels: f32,
    /// See [`weights`].
    pub factor: f32,
}

/// A format with offsets.
pub trait Offset {
    /// Its search.
    const METHOD: Method;
}

/// How the codes of a tile of a format with offsets are rounded: to the stored scales, or to the unrounded ones where those are 0.
pub struct Rounding<S: Simd> {
    unrounded: affine::Rounding<S>,
    d: [f32; LANES],
    offset: [f32; LANES],
    top: f32,
}

/// [`Search`] for the formats with `$G` groups of `$N`.
macro_rules! groups {
    ($($G:literal of $N:literal),*) => {$(
        impl<F: Offset + BlockLayout<$N, $G, BYTES>, const BYTES: usize> Search<$N, $G, BYTES> for F {
            type Rounding<S: Simd> = Rounding<S>;
            #[inline(always)]
            fn search<S: Simd>(s: S, groups: &Groups<'_, $N>, scales: &mut [BlockScales]) -> Rounding<S> {
                F::METHOD.search::<S, $N, $G>(s, groups, scales)
            }
            #[inline(always)]
            fn round<S: Simd>(s: S, x: &Tile<$N>, rounding: &Rounding<S>, codes: &mut Tile<$N>) {
                rounding.round(s, x, codes);
            }
        }
    )*};
}
groups!(16 of 16, 8 of 32);

impl<S: Simd> Rounding<S> {
    #[inline(always)]
    fn round<const N: usize>(&self, s: S, x: &Tile<N>, codes: &mut Tile<N>) {
        if some_keep_codes(&self.d) {
            self.unrounded.round(s, x, codes);
        }
        requantize(s, x, &self.d, &self.offset, (0.0, self.top), codes);
    }
}

impl Method {
    #[inline(always)]
    fn search<S: Simd, const N: usize, const G: usize>(
        self,
        s: S,
        groups: &Groups<'_, N>,
        scales: &mut [BlockScales],
    ) -> Rounding<S> {
        let (search, w) = match groups.importance {
            None => (self.plain, self.plain_weights(s, groups.x)),
            Some(importance) => (Affine::important(self.plain.top), weights(s, groups, importance, self.factor)),
        };
        let (scale, min, unrounded) = search.search(s, groups.x, &w);
        let importance = groups.importance.map(|_| sums(s, &w).array());
        let (mut d, mut offset) = ([0.0; LANES], [0.0; LANES]);
        for (block, stored) in scales.iter_mut().enumerate() {
            let part = |v: &[f32; LANES]| -> [f32; G] { std::array::from_fn(|group| v[block * G + group]) };
            *stored = self.scales(&part(&scale), &part(&min).map(|min| -min), importance.as_ref().map(part));
            for group in 0..G {
                d[block * G + group] = stored.d.to_f32() * f32::from(stored.scales[group]);
                offset[block * G + group] = stored.m.to_f32() * f32::from(stored.mins[group]);
            }
        }
        Rounding { unrounded, d, offset, top: self.plain.top }
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

    /// Integer scales and offsets of `G` groups, and what they are multiples of.
    fn scales<const G: usize>(&self, scale: &[f32; G], min: &[f32; G], weights: Option<[f32; G]>) -> BlockScales {
        let ((scales, d), (mins, m)) = match weights {
            Some(w) => (scales::positive(scale, &w, self.levels), scales::positive(min, &w, self.levels)),
            None => (self.by_largest(scale), self.by_largest(min)),
        };
        let mut stored = BlockScales { d: f16::from_f32(d), m: f16::from_f32(m), scales: [0; 16], mins: [0; 16] };
        stored.scales[..G].copy_from_slice(&scales.map(i16::from));
        stored.mins[..G].copy_from_slice(&mins);
        stored
    }

    /// The largest gets the largest integer.
    fn by_largest<const G: usize>(&self, x: &[f32; G]) -> ([u8; G], f32) {
        let max = x.iter().fold(0.0, |max, &v| if v > max { v } else { max });
        let inverse = if max > 0.0 { self.levels / max } else { 0.0 };
        (x.map(|v| nearest(inverse * v).min(self.levels) as u8), max / self.levels)
    }
}

/// Integers for 16 scales of either sign, the largest gets `-levels`; `None` if no scale is larger than 0 and at least `least`.
pub fn signed_scales(scale: &[f32; LANES], levels: f32, least: f32) -> Option<BlockScales> {
    let peak = scale.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
    if peak == 0.0 || peak.abs() < least {
        return None;
    }
    let inverse = -levels / peak;
    let integer = |v: f32| nearest(inverse * v).clamp(-levels, levels - 1.0) as i16;
    Some(without_offsets(f16::from_f32(1.0 / inverse), scale.map(integer)))
}

/// The scales of a block of a format without offsets.
pub fn without_offsets(d: f16, scales: [i16; 16]) -> BlockScales {
    BlockScales { d, m: f16::ZERO, scales, mins: [0; 16] }
}

/// The scale of each of 16 groups.
pub fn group_scales(scales: &BlockScales) -> [f32; LANES] {
    scales.scales.map(|scale| scales.d.to_f32() * f32::from(scale))
}

/// Six-bit scales and offsets of eight groups in 12 bytes: the low bits of the first four in bytes 0..8, the others' low nibbles in bytes
/// 8..12 and their high bits in the two high bits of bytes 0..8.
pub fn pack_six_bits(scales: &BlockScales, out: &mut [u8]) {
    let (scales, mins) = (scales.scales.map(|scale| scale as u8), scales.mins);
    for j in 0..4 {
        out[j] = scales[j] | scales[j + 4] >> 4 << 6;
        out[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        out[j + 8] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }
}

/// The inverse of [`pack_six_bits`], beside `d` and `m`.
pub fn six_bits(d: f16, m: f16, bytes: &[u8]) -> BlockScales {
    let mut six = BlockScales { d, m, scales: [0; 16], mins: [0; 16] };
    for j in 0..4 {
        (six.scales[j], six.mins[j]) = (i16::from(bytes[j] & 63), bytes[j + 4] & 63);
        six.scales[j + 4] = i16::from(bytes[j + 8] & 15 | bytes[j] >> 6 << 4);
        six.mins[j + 4] = bytes[j + 8] >> 4 | bytes[j + 4] >> 6 << 4;
    }
    six
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
pub fn pair_at(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
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
pub fn group_nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15
}
