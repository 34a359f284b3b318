//! AVX2 with FMA and F16C: two registers of 8 lanes; 8-bit products by `vpmaddubsw`.

pub mod blocks256;
pub mod blocks32;
mod gemm;
pub mod peak;

use super::instantiate::instantiate;
use std::arch::x86_64::*;
use strata_quant::float::ROUND;
use strata_quant::simd::Simd;

/// True if the processor has what this file uses.
pub fn detected() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The token. Made only inside functions compiled for AVX2, which are reached only through this set's table.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn new() -> Avx2 {
        Avx2(())
    }
}

/// Lanes 0..8 and 8..16.
type Pair = (__m256, __m256);

/// One intrinsic applied to both registers of a pair.
macro_rules! both {
    ($f:ident($($v:ident),*)) => {
        // SAFETY: the token proves AVX2, FMA and F16C; registers only.
        unsafe { ($f($($v.0),*), $f($($v.1),*)) }
    };
}

impl Simd for Avx2 {
    type F = Pair;
    type M = Pair;

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: the token proves AVX2; registers only.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Pair {
        // SAFETY: the token proves AVX2; both loads are inside the 16 values.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store(self, v: Pair, out: &mut [f32; 16]) {
        // SAFETY: the token proves AVX2; both stores are inside the 16 values.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; 16]) -> Pair {
        let p = x.as_ptr().cast::<__m128i>();
        // SAFETY: the token proves F16C; both loads are inside the 32 bytes.
        unsafe { (_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; 16]) -> Pair {
        let p = x.as_ptr().cast::<__m128i>();
        // SAFETY: the token proves AVX2; both loads are inside the 32 bytes.
        unsafe {
            let widen = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)));
            (widen(_mm_loadu_si128(p)), widen(_mm_loadu_si128(p.add(1))))
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> Pair {
        let p = x.as_ptr();
        // SAFETY: the token proves AVX2; both loads are inside the 16 bytes.
        unsafe {
            let widen = |p: *const u8| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())));
            (widen(p), widen(p.add(8)))
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: every x86-64 processor has SSE; a prefetch reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        both!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: Pair) -> Pair {
        both!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn abs(self, a: Pair) -> Pair {
        let sign = self.splat(-0.0);
        both!(_mm256_andnot_ps(sign, a))
    }
    #[inline(always)]
    fn nearest(self, a: Pair) -> Pair {
        // SAFETY: the token proves AVX2; registers only.
        unsafe {
            let nearest = |a| {
                let bits = _mm256_castps_si256(_mm256_add_ps(a, _mm256_set1_ps(ROUND)));
                let low = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f_ffff));
                _mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(0x40_0000)))
            };
            (nearest(a.0), nearest(a.1))
        }
    }
    #[inline(always)]
    fn gt(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves AVX2; registers only.
        unsafe { (_mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)) }
    }
    #[inline(always)]
    fn and(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_and_ps(a, b))
    }
    #[inline(always)]
    fn select(self, m: Pair, a: Pair, b: Pair) -> Pair {
        both!(_mm256_blendv_ps(b, a, m))
    }
    #[inline(always)]
    fn pow2_of_magic(self, t: Pair) -> Pair {
        // SAFETY: the token proves AVX2; registers only.
        unsafe {
            let pow2 = |t| {
                let n = _mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
            };
            (pow2(t.0), pow2(t.1))
        }
    }
    #[inline(always)]
    fn prefetch_near(self, at: *const u8) {
        // SAFETY: SSE is part of x86-64; a prefetch reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        // SAFETY: the token proves AVX2; registers only.
        unsafe { sum8(_mm256_add_ps(v.0, v.1)) }
    }
}

/// The last three steps of the fixed tree: 8 lanes to one.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

instantiate!(
    Avx2::new(),
    #[target_feature(enable = "avx2,fma,f16c")],
    2 x 2,
    1,
    [blocks32::KERNELS, blocks256::KERNELS],
    Some(gemm::GEMM),
    peak::multiply_add
);
