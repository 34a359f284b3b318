//! The integer scales and offsets of the K formats, unpacked to 16 numbers of 16 bits, one for each group of 16 weights; a format with
//! groups of 32 has each twice.

use std::arch::x86_64::*;

/// Where a K format keeps its scales.
pub trait Scales<const BYTES: usize> {
    /// Where the half-precision scale is.
    const D: usize;
    /// Where the half-precision scale of the offsets is, if there are offsets.
    const DMIN: Option<usize> = None;
    /// Scales and offsets of 16 groups, 16 bits each.
    ///
    /// # Safety
    /// The processor has AVX2.
    unsafe fn scales(block: &[u8; BYTES]) -> (__m256i, __m256i);
}

/// `N` bytes from `at` on.
pub fn array<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..at + N].as_array().expect("N bytes")
}

macro_rules! formats {
    ($($name:ident: $bytes:literal, d $d:literal, dmin $dmin:expr, $block:ident => $scales:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ", ", stringify!($bytes), " bytes a block")]
        pub struct $name;
        impl Scales<$bytes> for $name {
            const D: usize = $d;
            const DMIN: Option<usize> = $dmin;
            #[inline(always)]
            unsafe fn scales($block: &[u8; $bytes]) -> (__m256i, __m256i) {
                // SAFETY: the caller's promise of AVX2; loads inside arrays of their size.
                unsafe { $scales }
            }
        }
    )*};
}

formats! {
    Q2K: 84, d 80, dmin Some(82), block => nibbles(array(block, 0));
    Q3K: 110, d 108, dmin None, block => (q3(array(block, 94)), _mm256_setzero_si256());
    Q4K: 144, d 0, dmin Some(2), block => six_bits(array(block, 4));
    Q5K: 176, d 0, dmin Some(2), block => six_bits(array(block, 4));
    Q6K: 210, d 208, dmin None, block => (signed(array(block, 192)), _mm256_setzero_si256());
    Iq4Xs: 136, d 0, dmin None, block => (iq4(array(block, 2)), _mm256_setzero_si256());
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
fn six_bits(bytes: &[u8; 12]) -> (__m256i, __m256i) {
    let (a, b, c) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8));
    let high = |v: u64| (v >> 6 & 0x0303_0303) << 4;
    let scales = a & 0x3f3f_3f3f | (c & 0x0f0f_0f0f | high(a)) << 32;
    let mins = b & 0x3f3f_3f3f | (c >> 4 & 0x0f0f_0f0f | high(b)) << 32;
    (twice(scales), twice(mins))
}

/// `(scales, offsets)` of Q2_K: low and high nibbles of 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: &[u8; 16]) -> (__m256i, __m256i) {
    // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
    let v = unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast())) };
    (_mm256_and_si256(v, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(v))
}

/// Scales of Q3_K from the bytes 94..110 of a block, less 32: after two bytes of codes, two dwords of low nibbles, one of pairs of high bits.
#[inline]
#[target_feature(enable = "avx2")]
fn q3(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
    let v = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let low = _mm_shuffle_epi8(v, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    let low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 4, 4)), _mm_set1_epi8(15));
    let high = _mm_shuffle_epi8(v, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    let high = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    let all = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
    _mm256_cvtepi8_epi16(_mm_sub_epi8(all, _mm_set1_epi8(32)))
}

/// Scales of Q6_K: 16 signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: AVX2 by the function's feature; the load is the 16 bytes.
    unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.as_ptr().cast())) }
}

/// Scales of IQ4_XS from the bytes 2..8 of a block, less 32.
#[inline]
#[target_feature(enable = "avx2")]
fn iq4(bytes: &[u8; 6]) -> __m256i {
    let low = u32_at(bytes, 2);
    let (even, odd) =
        (_mm_cvtsi32_si128((low & 0x0f0f_0f0f) as i32), _mm_cvtsi32_si128((low >> 4 & 0x0f0f_0f0f) as i32));
    let low = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(even, odd));
    // Word j times 2^(14 - 2j) has the bits 2j and 2j + 1 on top.
    let high = _mm_set1_epi16(i16::from_le_bytes([bytes[0], bytes[1]]));
    let high = _mm_mullo_epi16(high, _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1));
    let high = _mm_slli_epi16::<4>(_mm_srli_epi16::<14>(high));
    let all = _mm_sub_epi16(_mm_or_si128(low, high), _mm_set1_epi16(32));
    _mm256_set_m128i(_mm_unpackhi_epi16(all, all), _mm_unpacklo_epi16(all, all))
}
