//! Panels of 32 rows: two vectors of 16 lanes, times tiles of six columns: 12 sums and 12 sums of sums leave 8 registers for the rest.

use super::super::gemm;
use super::super::gemm::panel::{Expand, Vector};
use super::super::x86::gemm::unsigned;
use super::Avx512;
use std::arch::x86_64::*;
use strata_quant::GgmlType;

/// Lanes of a vector.
const L: usize = 16;

/// One intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves AVX-512 with VNNI; registers, and loads and stores of whole arrays of their size.
        unsafe { $e }
    };
}

impl Vector<L> for Avx512 {
    /// `vpdpwssd` multiplies halves of 16 bits: that of the sum with the scale, that of its sign with zero.
    const SUMS_I16: bool = true;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    fn bias<F: Expand>() -> u8 {
        if unsigned::<Self, F, L>() { 0 } else { 128 }
    }
    #[inline(always)]
    fn ints(self, v: &[i32; L]) -> __m512i {
        op!(_mm512_loadu_si512(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_ints(self, v: __m512i, out: &mut [i32; L]) {
        op!(_mm512_storeu_si512(out.as_mut_ptr().cast(), v))
    }
    #[inline(always)]
    fn floats(self, v: &[f32; L]) -> __m512 {
        op!(_mm512_loadu_ps(v.as_ptr()))
    }
    #[inline(always)]
    fn store_floats(self, v: __m512, out: &mut [f32; L]) {
        op!(_mm512_storeu_ps(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn codes(self, v: &[[i8; 4]; L]) -> __m512i {
        op!(_mm512_loadu_si512(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_codes(self, v: __m512i, out: &mut [[i8; 4]; L]) {
        op!(_mm512_storeu_si512(out.as_mut_ptr().cast(), v))
    }
    #[inline(always)]
    fn splat(self, v: u32) -> __m512i {
        op!(_mm512_set1_epi32(v as i32))
    }
    #[inline(always)]
    fn splat_float(self, v: f32) -> __m512 {
        op!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn dot<F: Expand>(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        let (a, b) = if unsigned::<Self, F, L>() { (w, x) } else { (x, w) };
        op!(_mm512_dpbusd_epi32(acc, a, b))
    }
    #[inline(always)]
    fn scaled(self, acc: __m512i, sum: __m512i, scale: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, sum, scale))
    }
    #[inline(always)]
    fn mul_ints(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn pairs(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, a, b))
    }
    #[inline(always)]
    fn to_floats(self, v: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi8(a, b))
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn shl(self, v: __m512i, n: u32) -> __m512i {
        op!(_mm512_sllv_epi32(v, _mm512_set1_epi32(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: __m512i, n: u32) -> __m512i {
        op!(_mm512_srlv_epi32(v, _mm512_set1_epi32(n as i32)))
    }
    #[inline(always)]
    fn sar(self, v: __m512i, n: u32) -> __m512i {
        op!(_mm512_srav_epi32(v, _mm512_set1_epi32(n as i32)))
    }
    #[inline(always)]
    fn look_up(self, table: &[i8; 16], v: __m512i) -> __m512i {
        op!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), v))
    }
    #[inline(always)]
    fn halves(self, v: __m512i) -> __m512 {
        op!(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)))
    }
    #[inline(always)]
    fn load_halves(self, v: &[u16; L]) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast())))
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
    #[inline(always)]
    fn transpose(self, rows: [&[u8; 16]; L]) -> [__m512i; 4] {
        op!(transpose(rows))
    }
}

/// Four dwords of 16 rows: a 128-bit lane for each row, four rows to a register, whose dwords then change places within the lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn transpose(rows: [&[u8; 16]; L]) -> [__m512i; 4] {
    let mut v = [_mm512_setzero_si512(); 4]; // of rows r, r + 4, r + 8, r + 12
    for r in 0..4 {
        // SAFETY: AVX-512 by the function's feature; the load is the 16 bytes.
        let row = |i: usize| unsafe { _mm_loadu_si128(rows[r + 4 * i].as_ptr().cast()) };
        let low = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(row(0)), row(1));
        v[r] = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(low, row(2)), row(3));
    }
    let (a, b) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
    let (c, d) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
    [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), _mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d)]
}

gemm::instantiate!(
    Avx512 = Avx512::new(),
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")],
    16 lanes x 2 vectors,
    6 columns,
    // Measured on a Xeon (2026-11-25), GB/s on two threads with panels and without: at 2 columns IQ4_XS 30.6 and 24.3, Q4_1 29.5 and 27.5,
    // Q4_K 31.2 and 30.9; at 3 Q4_K 30.6 and 25.1, Q4_0 29.6 and 26.0, Q5_0 25.5 and 25.1; at 4 Q8_0 32.2 and 31.1, Q6_K 28.1 and 29.0.
    from |ty| match ty {
        GgmlType::IQ4_XS | GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::Q4_1 => 2,
        GgmlType::Q8_0 => 4,
        GgmlType::Q6_K => 5,
        _ => 3,
    }
);
