//! AVX-512 with VNNI: one register of 16 lanes; 8-bit products by `vpdpbusd`.

use super::avx2::sum8;
use super::x86_blocks::{self, Steps};
use crate::matmul::{Job, Out};
use crate::table::{Matmul, instantiate};
use std::arch::x86_64::*;
use std::marker::PhantomData;
use strata_quant::activations::Q8Row;
use strata_quant::simd::Simd;
use strata_quant::{Activations, GgmlType};

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
            let bits = _mm512_castps_si512(_mm512_add_ps(a, _mm512_set1_ps(12_582_912.0)));
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
    fn sum(self, v: __m512) -> f32 {
        op!(sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))))
    }
}

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// A format of blocks of 32 with one scale.
trait Blocks<const QUAD_BYTES: usize> {
    /// Bytes of a block: the scale, then the codes.
    const BYTES: usize = QUAD_BYTES / 4;
    /// What the unsigned codes have too much: the block sum is `dot - ZERO * sum(x)`.
    const ZERO: i32;
    /// Four blocks of a row, as the quads of the activations want them: values 0..16 of each, then values 16..32, as unsigned codes.
    fn unpack(blocks: &[u8; QUAD_BYTES]) -> (__m512i, __m512i);
}

/// 16 bytes at `offset` of each of the four blocks of a quad.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn four<const N: usize>(blocks: &[u8; N], offset: usize) -> __m512i {
    let part = |b: usize| {
        let bytes = &blocks[b * (N / 4) + offset..b * (N / 4) + offset + 16];
        // SAFETY: AVX-512 by the function's feature; the slice has the 16 bytes that are read.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    };
    let v = _mm512_inserti64x2::<1>(_mm512_castsi128_si512(part(0)), part(1));
    _mm512_inserti64x2::<3>(_mm512_inserti64x2::<2>(v, part(2)), part(3))
}

struct Q4_0;
impl Blocks<72> for Q4_0 {
    const ZERO: i32 = 8;
    #[inline(always)]
    fn unpack(blocks: &[u8; 72]) -> (__m512i, __m512i) {
        // SAFETY: reached only from this set's functions; registers, and loads checked by `four`.
        unsafe {
            let (v, low) = (four(blocks, 2), _mm512_set1_epi8(15));
            (_mm512_and_si512(v, low), _mm512_and_si512(_mm512_srli_epi16::<4>(v), low))
        }
    }
}

struct Q8_0;
impl Blocks<136> for Q8_0 {
    const ZERO: i32 = 128;
    /// Signed codes become unsigned by adding 128, which flips the top bit.
    #[inline(always)]
    fn unpack(blocks: &[u8; 136]) -> (__m512i, __m512i) {
        // SAFETY: reached only from this set's functions; registers, and loads checked by `four`.
        unsafe {
            let flip = _mm512_set1_epi8(-128);
            (_mm512_xor_si512(four(blocks, 2), flip), _mm512_xor_si512(four(blocks, 18), flip))
        }
    }
}

impl<F: Blocks<N>, const N: usize> Steps<N> for Of<F> {
    #[inline(always)]
    unsafe fn step<const C: usize>(
        rows: [&[u8; N]; 4],
        xs: &[Q8Row<'_>; C],
        q: usize,
        live: usize,
        acc: &mut [__m128; C],
    ) {
        // SAFETY: the caller's promise.
        unsafe { step::<F, N, C>(rows, xs, q, live, acc) }
    }
}

/// Four blocks of four rows: the exact block sums as `[block][row]`, then one fused multiply-add a block, in the order of k.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn step<F: Blocks<N>, const N: usize, const C: usize>(
    rows: [&[u8; N]; 4],
    xs: &[Q8Row<'_>; C],
    q: usize,
    live: usize,
    acc: &mut [__m128; C],
) {
    let w = [F::unpack(rows[0]), F::unpack(rows[1]), F::unpack(rows[2]), F::unpack(rows[3])];
    let half = |b: usize, r: usize| i16::from_le_bytes([rows[r][b * F::BYTES], rows[r][b * F::BYTES + 1]]);
    let d_w = _mm512_cvtph_ps(_mm256_setr_epi16(
        half(0, 0),
        half(0, 1),
        half(0, 2),
        half(0, 3),
        half(1, 0),
        half(1, 1),
        half(1, 2),
        half(1, 3),
        half(2, 0),
        half(2, 1),
        half(2, 2),
        half(2, 3),
        half(3, 0),
        half(3, 1),
        half(3, 2),
        half(3, 3),
    )); // [block](rows)
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for c in 0..C {
        let (lo, hi) = xs[c].quads[q].split_at(64);
        let (scales, sums) = (&xs[c].scales[q * 4..q * 4 + 4], &xs[c].sums[q * 4..q * 4 + 4]);
        // SAFETY: AVX-512 by the function's feature; the slices have the 64 bytes, four scales and four sums that are read.
        let (x_lo, x_hi, d_x, sum_x) = unsafe {
            (
                _mm512_loadu_si512(lo.as_ptr().cast()),
                _mm512_loadu_si512(hi.as_ptr().cast()),
                _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(_mm_loadu_ps(scales.as_ptr()))),
                _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(_mm_loadu_si128(sums.as_ptr().cast()))),
            )
        };
        let zero = _mm512_setzero_si512();
        let v = |r: usize| _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, w[r].0, x_lo), w[r].1, x_hi);
        let (v0, v1, v2, v3) = (v(0), v(1), v(2), v(3));
        let a = _mm512_add_epi32(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
        let b = _mm512_add_epi32(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
        let dots = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)); // [block](rows)
        let sums = _mm512_sub_epi32(dots, _mm512_mullo_epi32(sum_x, _mm512_set1_epi32(F::ZERO)));
        let (sums, scale) = (_mm512_cvtepi32_ps(sums), _mm512_mul_ps(d_w, d_x));
        acc[c] = _mm_fmadd_ps(_mm512_castps512_ps128(scale), _mm512_castps512_ps128(sums), acc[c]);
        if live > 1 {
            acc[c] = _mm_fmadd_ps(_mm512_extractf32x4_ps::<1>(scale), _mm512_extractf32x4_ps::<1>(sums), acc[c]);
        }
        if live > 2 {
            acc[c] = _mm_fmadd_ps(_mm512_extractf32x4_ps::<2>(scale), _mm512_extractf32x4_ps::<2>(sums), acc[c]);
        }
        if live > 3 {
            acc[c] = _mm_fmadd_ps(_mm512_extractf32x4_ps::<3>(scale), _mm512_extractf32x4_ps::<3>(sums), acc[c]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_q4_0(job: Job<'_>, x: &Activations, out: Out<'_>) {
    // SAFETY: this function's features.
    unsafe { x86_blocks::matmul::<Of<Q4_0>, 72>(job, x, out) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_q8_0(job: Job<'_>, x: &Activations, out: Out<'_>) {
    // SAFETY: this function's features.
    unsafe { x86_blocks::matmul::<Of<Q8_0>, 136>(job, x, out) }
}

/// This set's own block products.
fn blocks(ty: GgmlType) -> Option<Matmul> {
    match ty {
        GgmlType::Q4_0 => Some(matmul_q4_0),
        GgmlType::Q8_0 => Some(matmul_q8_0),
        _ => None,
    }
}

instantiate!(
    Avx512::new(),
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")],
    4 x 4,
    blocks
);
