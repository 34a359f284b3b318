//! AVX2 with FMA and F16C: two registers of 8 lanes; 8-bit products by `vpmaddubsw`.

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
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The token. Made only inside functions compiled for AVX2, which are reached only through this set's table.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new() -> Avx2 {
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
                let bits = _mm256_castps_si256(_mm256_add_ps(a, _mm256_set1_ps(12_582_912.0)));
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

/// Weights of four blocks of one row as the quads of the activations want them: `lo[p]` holds values 0..16 of blocks `2p` and `2p + 1`,
/// `hi[p]` values 16..32.
struct Quad {
    lo: [__m256i; 2],
    hi: [__m256i; 2],
}

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// A format of blocks of 32 with one scale.
trait Blocks<const QUAD_BYTES: usize> {
    /// Bytes of a block: the scale, then the codes.
    const BYTES: usize = QUAD_BYTES / 4;
    /// What must be taken from every code: the block sum is `dot - ZERO * sum(x)`.
    const ZERO: i32;
    /// Four blocks of a row.
    fn unpack(blocks: &[u8; QUAD_BYTES]) -> Quad;
    /// Products of 32 codes with 32 activations, added within groups of four.
    fn products(lo: __m256i, hi: __m256i, x_lo: __m256i, x_hi: __m256i) -> __m256i;
}

/// 16 bytes at `offset` of two blocks of a quad.
#[inline]
#[target_feature(enable = "avx2")]
fn two<const N: usize>(blocks: &[u8; N], first: usize, second: usize) -> __m256i {
    let (a, b) = (&blocks[first..first + 16], &blocks[second..second + 16]);
    // SAFETY: AVX2 by the function's feature; each slice has the 16 bytes that are read.
    unsafe { _mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast()) }
}

struct Q4_0;
impl Blocks<72> for Q4_0 {
    const ZERO: i32 = 8;
    #[inline(always)]
    fn unpack(blocks: &[u8; 72]) -> Quad {
        // SAFETY: reached only from this set's functions; registers, and loads checked by `two`.
        unsafe {
            let (a, b) = (two(blocks, 2, 20), two(blocks, 38, 56));
            let low = _mm256_set1_epi8(15);
            let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
            Quad { lo: [_mm256_and_si256(a, low), _mm256_and_si256(b, low)], hi: [high(a), high(b)] }
        }
    }
    /// Codes are unsigned and small: four products fit 16 bits (4 * 15 * 127 < 32767).
    #[inline(always)]
    fn products(lo: __m256i, hi: __m256i, x_lo: __m256i, x_hi: __m256i) -> __m256i {
        // SAFETY: reached only from this set's functions; registers only.
        unsafe {
            let sums = _mm256_add_epi16(_mm256_maddubs_epi16(lo, x_lo), _mm256_maddubs_epi16(hi, x_hi));
            _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
        }
    }
}

struct Q8_0;
impl Blocks<136> for Q8_0 {
    const ZERO: i32 = 0;
    #[inline(always)]
    fn unpack(blocks: &[u8; 136]) -> Quad {
        // SAFETY: reached only from this set's functions; loads checked by `two`.
        unsafe {
            Quad { lo: [two(blocks, 2, 36), two(blocks, 70, 104)], hi: [two(blocks, 18, 52), two(blocks, 86, 120)] }
        }
    }
    /// `vpmaddubsw` wants unsigned codes: `|w| * sign(x, w)`. Two products fit 16 bits (2 * 128 * 127 < 32768), four do not.
    #[inline(always)]
    fn products(lo: __m256i, hi: __m256i, x_lo: __m256i, x_hi: __m256i) -> __m256i {
        // SAFETY: reached only from this set's functions; registers only.
        unsafe {
            let pairs = |w, x| {
                let sums = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
            };
            _mm256_add_epi32(pairs(lo, x_lo), pairs(hi, x_hi))
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
#[target_feature(enable = "avx2,fma,f16c")]
fn step<F: Blocks<N>, const N: usize, const C: usize>(
    rows: [&[u8; N]; 4],
    xs: &[Q8Row<'_>; C],
    q: usize,
    live: usize,
    acc: &mut [__m128; C],
) {
    let w = [F::unpack(rows[0]), F::unpack(rows[1]), F::unpack(rows[2]), F::unpack(rows[3])];
    let mut d_w = [_mm_setzero_ps(); 4]; // [block](rows)
    for (b, d) in d_w.iter_mut().enumerate() {
        let at = b * F::BYTES;
        let half = |r: usize| i16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
        *d = _mm_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), 0, 0, 0, 0));
    }
    for c in 0..C {
        let quad = &xs[c].quads[q];
        let load = |at: usize| {
            let part = &quad[at..at + 32];
            // SAFETY: AVX2 by the function's feature; the slice has the 32 bytes that are read.
            unsafe { _mm256_loadu_si256(part.as_ptr().cast()) }
        };
        for p in 0..2 {
            let (x_lo, x_hi) = (load(p * 32), load(64 + p * 32));
            let v = |r: usize| F::products(w[r].lo[p], w[r].hi[p], x_lo, x_hi);
            let (a, b) = (_mm256_hadd_epi32(v(0), v(1)), _mm256_hadd_epi32(v(2), v(3)));
            let dots = _mm256_hadd_epi32(a, b); // [block 2p: rows | block 2p + 1: rows]
            for (i, dots) in [_mm256_castsi256_si128(dots), _mm256_extracti128_si256::<1>(dots)].into_iter().enumerate()
            {
                let block = 2 * p + i;
                if block < live {
                    let zero = _mm_set1_epi32(F::ZERO * xs[c].sums[q * 4 + block]);
                    let sums = _mm_cvtepi32_ps(_mm_sub_epi32(dots, zero));
                    let scale = _mm_mul_ps(d_w[block], _mm_set1_ps(xs[c].scales[q * 4 + block]));
                    acc[c] = _mm_fmadd_ps(scale, sums, acc[c]);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn matmul_q4_0(job: Job<'_>, x: &Activations, out: Out<'_>) {
    // SAFETY: this function's features.
    unsafe { x86_blocks::matmul::<Of<Q4_0>, 72>(job, x, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
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

instantiate!(Avx2::new(), #[target_feature(enable = "avx2,fma,f16c")], 2 x 2, blocks);
