//! AVX-512 with VNNI: one register of 16 lanes; 8-bit products by `vpdpbusd`.

mod blocks256;
mod blocks32;
mod gemm;
mod peak;

use super::avx2::{Avx2, sum8};
use super::instantiate::instantiate;
use std::arch::x86_64::*;
use strata_quant::float::ROUND;
use strata_quant::simd::Simd;

/// True if the processor has what this file uses.
pub fn detected() -> bool {
    super::avx2::detected()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

/// The token. Made only inside functions compiled for this set, which are reached only through its table.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn new() -> Avx512 {
        Avx512(())
    }

    /// The token of AVX2.
    #[inline(always)]
    fn avx2(self) -> Avx2 {
        // SAFETY: the token proves AVX2, FMA and F16C, which this set has beside AVX-512.
        unsafe { Avx2::new() }
    }
}

/// One intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves AVX-512; registers only.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type M = __mmask16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        // SAFETY: the token proves AVX-512; the load is the 16 values.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; 16]) {
        // SAFETY: the token proves AVX-512; the store is the 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: the token proves AVX-512; the load is the 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: the token proves AVX-512; the load is the 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> __m512 {
        // SAFETY: the token proves AVX-512; the load is the 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: every x86-64 processor has SSE; a prefetch reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn nearest(self, a: __m512) -> __m512 {
        op!({
            let bits = _mm512_castps_si512(_mm512_add_ps(a, _mm512_set1_ps(ROUND)));
            let low = _mm512_and_si512(bits, _mm512_set1_epi32(0x7f_ffff));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(0x40_0000)))
        })
    }
    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b))
    }
    #[inline(always)]
    fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(m, b, a))
    }
    #[inline(always)]
    fn pow2_of_magic(self, t: __m512) -> __m512 {
        op!({
            let n = _mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        })
    }
    #[inline(always)]
    fn prefetch_near(self, at: *const u8) {
        // SAFETY: SSE is part of x86-64; a prefetch reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        op!(sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))))
    }
    #[inline(always)]
    fn sums<const N: usize>(self, v: [__m512; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        let (fours, rest) = sums.as_chunks_mut::<4>();
        let (v_fours, v_rest) = v.as_chunks::<4>();
        fours.iter_mut().zip(v_fours).for_each(|(sums, v)| *sums = op!(sum4(*v)));
        rest.iter_mut().zip(v_rest).for_each(|(sum, v)| *sum = self.sum(*v));
        sums
    }
}

/// The sums of four vectors at once, each added in the same halves as by `sum`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn sum4([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // Lanes `i` and `i + 8`: 8 of each of two.
    let eights =
        |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (ab, cd) = (eights(a, b), eights(c, d));
    // `i` and `i + 4`: the fours of a, b, c, d.
    let v = _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b11_10_11_10>(v));
    let v = _mm512_add_ps(v, _mm512_permute_ps::<0b01_01_01_01>(v));
    let first = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), v);
    let mut sums = [0.0; 4];
    // SAFETY: AVX-512F by the function's features; four floats are written, which are there.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(first)) };
    sums
}

instantiate!(
    Avx512::new(),
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")],
    4 x 6,
    4,
    [blocks32::KERNELS, blocks256::KERNELS],
    Some(gemm::GEMM),
    peak::multiply_add
);
