//! Products with blocks of 256: four rows by one block a step.
//!
//! The codes of a row come as eight registers of 32 bytes in the order of k, so that a 128-bit lane is a group of 16. `vpmaddubsw` leaves
//! eight partial sums of each group in its lane; `vpmaddwd` multiplies them with the group's integer scale, and all lanes of all registers
//! are added: `isum`, exactly. The offsets of the weights go with the sums of the activations: `msum`.

use super::Avx2;
use super::blocks32::levels;
use crate::isa::format::{BlockFormat, kernels};
use crate::isa::gemm::formats::*;
use crate::isa::gemv::{self, Steps};
use crate::matmul::{Job, Out};
use crate::table::Matmul;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use strata_quant::activations::{Q8x256Row, RADIX};
use strata_quant::{Activations, GgmlType};

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// The integer scales of a format of blocks of 256; AVX-512 reads them with the same instructions.
pub trait GroupScales<const BYTES: usize>: BlockFormat {
    /// Scales and offsets of 16 groups of 16 weights, 16 bits each; a format with groups of 32 has each twice.
    fn scales(t: Avx2, block: &[u8; BYTES]) -> (__m256i, __m256i);
}

/// A format of blocks of 256.
trait Block<const BYTES: usize>: GroupScales<BYTES> {
    /// Zero point of the unsigned codes: 0 or a power of two.
    const ZERO: i32;
    /// True if the codes have signs, or else they are at most 63.
    const SIGNED: bool;
    /// 256 codes in the order of k.
    fn codes(t: Avx2, block: &[u8; BYTES]) -> [__m256i; 8];
}

/// The formats, each with the zero point of its codes, their sign, and the ways from a block to scales and to codes; and the list of their
/// kernels.
macro_rules! formats {
    ($($F:ident, zero $zero:literal, signed $signed:literal: |$block:ident| $scales:expr, $codes:expr;)*) => {
        $(impl GroupScales<{ $F::BYTES }> for $F {
            #[inline(always)]
            fn scales(_: Avx2, $block: &[u8; $F::BYTES]) -> (__m256i, __m256i) {
                // SAFETY: the token proves AVX2; loads inside arrays of their size.
                unsafe { $scales }
            }
        }
        impl Block<{ $F::BYTES }> for $F {
            const ZERO: i32 = $zero;
            const SIGNED: bool = $signed;
            #[inline(always)]
            fn codes(_: Avx2, $block: &[u8; $F::BYTES]) -> [__m256i; 8] {
                // SAFETY: the token proves AVX2; registers, and loads inside arrays of their size.
                unsafe { $codes }
            }
        })*

        /// The kernels.
        pub const KERNELS: &[(GgmlType, Matmul)] = kernels!(matmul, 1 blocks: $($F)*);
    };
}

formats! {
    Q2K, zero 0, signed false: |block| nibble_scales(array(block, 0)), pairs(array(block, 16));
    Q3K, zero 4, signed false: |block|
        q3_scales(array(block, 94)), with_bits(pairs(array(block, 32)), array(block, 0), 2);
    Q4K, zero 0, signed false: |block| six_bit_scales(array(block, 4)), group_nibbles(array(block, 16));
    Q5K, zero 0, signed false: |block|
        six_bit_scales(array(block, 4)), with_bits(group_nibbles(array(block, 48)), array(block, 16), 4);
    Q6K, zero 32, signed false: |block| signed_scales(array(block, 192)), six_bits(array(block, 0), array(block, 128));
    Iq4Xs, zero 0, signed true: |block| iq4_scales(array(block, 2)), group_levels(array(block, 8));
}

/// `N` bytes from `at` on.
pub fn array<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..at + N].as_array().expect("N bytes")
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: AVX2 by the function's feature; the load is the 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The bits from `N` on of every byte, under `mask`.
#[inline]
#[target_feature(enable = "avx2")]
fn shifted<const N: i32>(v: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<N>(v), _mm256_set1_epi8(mask))
}

/// Nibbles of groups of 32, two groups side by side: 128 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn group_nibbles(bytes: &[u8; 128]) -> [__m256i; 8] {
    let v = |j: usize| load(array(bytes, j * 32));
    let (a, b, c, d) = (v(0), v(1), v(2), v(3));
    [
        shifted::<0>(a, 15),
        shifted::<4>(a, 15),
        shifted::<0>(b, 15),
        shifted::<4>(b, 15),
        shifted::<0>(c, 15),
        shifted::<4>(c, 15),
        shifted::<0>(d, 15),
        shifted::<4>(d, 15),
    ]
}

/// Sets bit `at` of the codes whose bit is set: bit `i / 32` of byte `i % 32`.
#[inline]
#[target_feature(enable = "avx2")]
fn with_bits(mut codes: [__m256i; 8], bits: &[u8; 32], at: usize) -> [__m256i; 8] {
    let (bits, mask) = (load(bits), _mm256_set1_epi8(1 << at));
    let count = |n: usize| _mm_cvtsi32_si128(n as i32);
    for j in 0..8 {
        let moved = match j < at {
            true => _mm256_sll_epi16(bits, count(at - j)),
            false => _mm256_srl_epi16(bits, count(j - at)),
        };
        codes[j] = _mm256_or_si256(codes[j], _mm256_and_si256(moved, mask));
    }
    codes
}

/// Pairs of bits, four to a byte: 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs(bytes: &[u8; 64]) -> [__m256i; 8] {
    let (a, b) = (load(array(bytes, 0)), load(array(bytes, 32)));
    [
        shifted::<0>(a, 3),
        shifted::<2>(a, 3),
        shifted::<4>(a, 3),
        shifted::<6>(a, 3),
        shifted::<0>(b, 3),
        shifted::<2>(b, 3),
        shifted::<4>(b, 3),
        shifted::<6>(b, 3),
    ]
}

/// Codes of nibbles, two of 64 side by side, and of pairs of bits.
#[inline]
#[target_feature(enable = "avx2")]
fn six_bits(nibbles: &[u8; 128], high: &[u8; 64]) -> [__m256i; 8] {
    let mut codes = pairs(high);
    for half in 0..2 {
        for part in 0..2 {
            let low = load(array(nibbles, half * 64 + part * 32));
            let (first, second) = (half * 4 + part, half * 4 + part + 2);
            codes[first] = _mm256_or_si256(_mm256_slli_epi16::<4>(codes[first]), shifted::<0>(low, 15));
            codes[second] = _mm256_or_si256(_mm256_slli_epi16::<4>(codes[second]), shifted::<4>(low, 15));
        }
    }
    codes
}

/// The levels of nibbles of groups of 32, 16 bytes each.
#[inline]
#[target_feature(enable = "avx2")]
fn group_levels(bytes: &[u8; 128]) -> [__m256i; 8] {
    let (mut codes, levels) = ([_mm256_setzero_si256(); 8], levels());
    for j in 0..8 {
        // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(array::<16>(bytes, j * 16).as_ptr().cast()) };
        let both = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(bytes), _mm256_setr_epi64x(0, 0, 4, 4));
        codes[j] = _mm256_shuffle_epi8(levels, _mm256_and_si256(both, _mm256_set1_epi8(15)));
    }
    codes
}

/// Bytes as numbers, each twice: 8 groups of 32.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(bytes: u64) -> __m256i {
    let v = _mm_cvtsi64_si128(bytes as i64);
    _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(v, v))
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as u64
}

/// `(scales, offsets)` of Q4_K and Q5_K from 12 bytes; see `pack_six_bits` in `strata-quant`.
#[inline]
#[target_feature(enable = "avx2")]
fn six_bit_scales(bytes: &[u8; 12]) -> (__m256i, __m256i) {
    let (a, b, c) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8));
    let high = |v: u64| (v >> 6 & 0x0303_0303) << 4;
    let scales = a & 0x3f3f_3f3f | (c & 0x0f0f_0f0f | high(a)) << 32;
    let mins = b & 0x3f3f_3f3f | (c >> 4 & 0x0f0f_0f0f | high(b)) << 32;
    (twice(scales), twice(mins))
}

/// `(scales, offsets)` of Q2_K: low and high nibbles of 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn nibble_scales(bytes: &[u8; 16]) -> (__m256i, __m256i) {
    // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
    let v = unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast())) };
    (_mm256_and_si256(v, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(v))
}

/// Scales of Q3_K from the bytes 94..110 of a block, less 32: after two bytes of codes, two dwords of low nibbles, one of pairs of high bits.
#[inline]
#[target_feature(enable = "avx2")]
fn q3_scales(bytes: &[u8; 16]) -> (__m256i, __m256i) {
    // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
    let v = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let low = _mm_shuffle_epi8(v, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    let low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 4, 4)), _mm_set1_epi8(15));
    let high = _mm_shuffle_epi8(v, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    let high = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    let all = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
    (_mm256_cvtepi8_epi16(_mm_sub_epi8(all, _mm_set1_epi8(32))), _mm256_setzero_si256())
}

/// Scales of Q6_K: 16 signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn signed_scales(bytes: &[u8; 16]) -> (__m256i, __m256i) {
    // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
    let scales = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.as_ptr().cast())) };
    (scales, _mm256_setzero_si256())
}

/// Scales of IQ4_XS from the bytes 2..8 of a block, less 32.
#[inline]
#[target_feature(enable = "avx2")]
fn iq4_scales(bytes: &[u8; 6]) -> (__m256i, __m256i) {
    let low = u32_at(bytes, 2);
    let (even, odd) =
        (_mm_cvtsi32_si128((low & 0x0f0f_0f0f) as i32), _mm_cvtsi32_si128((low >> 4 & 0x0f0f_0f0f) as i32));
    let low = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(even, odd));
    // Word j times 2^(14 - 2j) has the bits 2j and 2j + 1 on top.
    let high = _mm_set1_epi16(i16::from_le_bytes([bytes[0], bytes[1]]));
    let high = _mm_mullo_epi16(high, _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1));
    let high = _mm_slli_epi16::<4>(_mm_srli_epi16::<14>(high));
    let all = _mm_sub_epi16(_mm_or_si128(low, high), _mm_set1_epi16(32));
    (_mm256_set_m128i(_mm_unpackhi_epi16(all, all), _mm_unpacklo_epi16(all, all)), _mm256_setzero_si256())
}

impl<F: Block<N>, const N: usize> Steps<N> for Of<F> {
    type Token = Avx2;
    type Row<'a> = Q8x256Row<'a>;
    type Acc = __m128;

    #[inline(always)]
    fn step<const C: usize, const P: usize>(
        t: Avx2,
        rows: [&[u8; N]; 4],
        xs: &[[Q8x256Row<'_>; P]; C],
        b: usize,
        _: usize,
        acc: &mut [__m128; C],
    ) {
        // SAFETY: the token proves the function's features.
        unsafe { step::<F, N, C, P>(t, rows, xs, b, acc) }
    }
}

/// The half-precision numbers at `at` of four rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves<const N: usize>(rows: [&[u8; N]; 4], at: usize) -> __m128 {
    let half = |r: usize| i16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
    _mm_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), 0, 0, 0, 0))
}

/// The lanes of each of four registers added: `(rows)`.
#[inline]
#[target_feature(enable = "avx2")]
fn totals(v: [__m256i; 4]) -> __m128i {
    let lanes = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes))
}

/// The number that the sums of the planes stand for.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn joined<const P: usize>(planes: [__m128i; P]) -> __m128 {
    let mut sum = _mm_cvtepi32_ps(planes[0]);
    for plane in 1..P {
        sum = _mm_fmadd_ps(_mm_set1_ps(RADIX as f32), sum, _mm_cvtepi32_ps(planes[plane]));
    }
    sum
}

/// The scales of even groups in the lower lane, of odd groups in the upper: `(group / 2)` words each.
#[inline]
#[target_feature(enable = "avx2")]
fn by_lane(scale: __m256i) -> __m256i {
    let order = _mm256_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    );
    // [even 0..8 | odd 0..8 | even 8..16 | odd 8..16] in quarters, then in halves.
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(scale, order))
}

/// One block of four rows: the exact sums as `(rows)`, then one fused multiply-add, or two.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step<F: Block<N>, const N: usize, const C: usize, const P: usize>(
    t: Avx2,
    rows: [&[u8; N]; 4],
    xs: &[[Q8x256Row<'_>; P]; C],
    b: usize,
    acc: &mut [__m128; C],
) {
    let zero = _mm256_setzero_si256();
    let mut isums = [[[zero; 4]; P]; C]; // [column][plane][row](lanes)
    let mut msums = [[[zero; 4]; P]; C];
    for r in 0..4 {
        let (codes, (scale, min)) = (F::codes(t, rows[r]), F::scales(t, rows[r]));
        let lanes = by_lane(scale);
        for j in 0..8 {
            let word = _mm256_set1_epi16(0x0100 + 0x0202 * j as i16);
            let times = _mm256_shuffle_epi8(lanes, word);
            for i in 0..C * P {
                let (c, plane) = (i / P, i % P);
                let x = &xs[c][plane].codes[b][j * 32..(j + 1) * 32];
                // SAFETY: AVX2 by the function's feature; the slice has the 32 bytes that are read.
                let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
                // Two products fit 16 bits: 2 * 127 * 127 with the sign moved to the activations, 2 * 63 * 127 without.
                let pairs = if F::SIGNED {
                    _mm256_maddubs_epi16(_mm256_abs_epi8(codes[j]), _mm256_sign_epi8(x, codes[j]))
                } else {
                    _mm256_maddubs_epi16(codes[j], x)
                };
                isums[c][plane][r] = _mm256_add_epi32(isums[c][plane][r], _mm256_madd_epi16(pairs, times));
            }
        }
        for i in 0..C * P {
            let (c, plane) = (i / P, i % P);
            // SAFETY: AVX2 by the function's feature; the load is the 16 sums.
            let sums = unsafe { _mm256_loadu_si256(xs[c][plane].sums[b].as_ptr().cast()) };
            if F::ZERO != 0 {
                let count = _mm_cvtsi32_si128(F::ZERO.trailing_zeros() as i32);
                let excess = _mm256_sll_epi32(_mm256_madd_epi16(scale, sums), count);
                isums[c][plane][r] = _mm256_sub_epi32(isums[c][plane][r], excess);
            }
            if F::M.is_some() {
                msums[c][plane][r] = _mm256_madd_epi16(min, sums);
            }
        }
    }
    let d_w = halves(rows, F::D);
    for c in 0..C {
        let d_x = _mm_set1_ps(xs[c][0].scales[b]);
        let (mut isum, mut msum) = ([_mm_setzero_si128(); P], [_mm_setzero_si128(); P]);
        for plane in 0..P {
            (isum[plane], msum[plane]) = (totals(isums[c][plane]), totals(msums[c][plane]));
        }
        acc[c] = _mm_fmadd_ps(_mm_mul_ps(d_w, d_x), joined(isum), acc[c]);
        if let Some(at) = F::M {
            let m_w = halves(rows, at);
            acc[c] = _mm_fnmadd_ps(_mm_mul_ps(m_w, d_x), joined(msum), acc[c]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn matmul<F: Block<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    gemv::matmul::<Of<F>, N>(Avx2::new(), job, x, out)
}
