//! Products with blocks of 32: four rows by four blocks a step; see `README.md`.

use super::Avx512;
use crate::isa::format::{BlockFormat, kernels};
use crate::isa::gemm::formats::*;
use crate::isa::gemv::{self, Steps};
use crate::matmul::{Job, Out};
use crate::table::Matmul;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use strata_quant::activations::{Q8x32Row, RADIX};
use strata_quant::formats::iq4_nl::LEVELS;
use strata_quant::{Activations, GgmlType};

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// A format of blocks of 32.
trait Blocks<const QUAD_BYTES: usize>: BlockFormat {
    /// Zero point of the unsigned codes: the block sum is `dot - ZERO * sum(x)`.
    const ZERO: i32;
    /// Four blocks of a row, in the order of the quads of activations: values 0..16 of each, then values 16..32, as unsigned codes.
    fn unpack(t: Avx512, blocks: &[u8; QUAD_BYTES]) -> (__m512i, __m512i);
}

/// The formats, each with the zero point of its codes and the way from four blocks to codes; and the list of their kernels.
macro_rules! formats {
    ($($F:ident, zero $zero:literal: |$blocks:ident| $codes:expr;)*) => {
        $(impl Blocks<{ 4 * $F::BYTES }> for $F {
            const ZERO: i32 = $zero;
            #[inline(always)]
            fn unpack(_: Avx512, $blocks: &[u8; 4 * $F::BYTES]) -> (__m512i, __m512i) {
                // SAFETY: the token proves AVX-512; registers, and loads checked by `four`.
                unsafe { $codes }
            }
        })*

        /// The kernels.
        pub const KERNELS: &[(GgmlType, Matmul)] = kernels!(matmul, 4 blocks: $($F)*);
    };
}

formats! {
    Q4_0, zero 8: |blocks| nibbles(blocks, 2);
    Q4_1, zero 0: |blocks| nibbles(blocks, 4);
    Q5_0, zero 16: |blocks| five_bits(blocks, 2, 6);
    Q5_1, zero 0: |blocks| five_bits(blocks, 4, 8);
    Iq4Nl, zero 128: |blocks| {
        let ((lo, hi), levels) = (nibbles(blocks, 2), levels());
        (_mm512_shuffle_epi8(levels, lo), _mm512_shuffle_epi8(levels, hi))
    };
    // Signed codes become unsigned by adding 128, which flips the top bit.
    Q8_0, zero 128: |blocks| {
        let flip = _mm512_set1_epi8(-128);
        (_mm512_xor_si512(four(blocks, 2), flip), _mm512_xor_si512(four(blocks, 18), flip))
    };
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

/// The low and the high nibbles of [`four`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn nibbles<const N: usize>(blocks: &[u8; N], offset: usize) -> (__m512i, __m512i) {
    let (v, low) = (four(blocks, offset), _mm512_set1_epi8(15));
    (_mm512_and_si512(v, low), _mm512_and_si512(_mm512_srli_epi16::<4>(v), low))
}

/// [`nibbles`] with fifth bits, from the four bytes at `high` of each block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn five_bits<const N: usize>(blocks: &[u8; N], high: usize, offset: usize) -> (__m512i, __m512i) {
    let (mut first, mut second) = (0u64, 0u64);
    for b in 0..4 {
        let at = b * (N / 4) + high;
        first |= (u16::from_le_bytes([blocks[at], blocks[at + 1]]) as u64) << (16 * b);
        second |= (u16::from_le_bytes([blocks[at + 2], blocks[at + 3]]) as u64) << (16 * b);
    }
    let ((lo, hi), fifth) = (nibbles(blocks, offset), _mm512_set1_epi8(16));
    (_mm512_mask_add_epi8(lo, first, lo, fifth), _mm512_mask_add_epi8(hi, second, hi, fifth))
}

/// The levels of the IQ4 formats in every 128 bits, plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub fn levels() -> __m512i {
    // SAFETY: AVX-512 by the function's feature; the load is the 16 levels.
    let levels = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(LEVELS.as_ptr().cast())) };
    _mm512_xor_si512(levels, _mm512_set1_epi8(-128))
}

impl<F: Blocks<N>, const N: usize> Steps<N> for Of<F> {
    type Token = Avx512;
    type Row<'a> = Q8x32Row<'a>;
    type Acc = __m128;

    #[inline(always)]
    fn step<const C: usize, const P: usize>(
        t: Avx512,
        rows: [&[u8; N]; 4],
        xs: &[[Q8x32Row<'_>; P]; C],
        q: usize,
        live: usize,
        acc: &mut [__m128; C],
    ) {
        // SAFETY: the token proves the function's features.
        unsafe { step::<F, N, C, P>(t, rows, xs, q, live, acc) }
    }
}

/// The half-precision numbers at `at` of every block, as `[block](rows)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn halves<const N: usize>(rows: [&[u8; N]; 4], at: usize) -> __m512 {
    let half = |b: usize, r: usize| i16::from_le_bytes([rows[r][b * (N / 4) + at], rows[r][b * (N / 4) + at + 1]]);
    _mm512_cvtph_ps(_mm256_setr_epi16(
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
    ))
}

/// Four blocks of four rows: the exact block sums as `[block][row]`, then one fused multiply-add a block, in the order of k.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn step<F: Blocks<N>, const N: usize, const C: usize, const P: usize>(
    t: Avx512,
    rows: [&[u8; N]; 4],
    xs: &[[Q8x32Row<'_>; P]; C],
    q: usize,
    live: usize,
    acc: &mut [__m128; C],
) {
    let w = [F::unpack(t, rows[0]), F::unpack(t, rows[1]), F::unpack(t, rows[2]), F::unpack(t, rows[3])];
    let d_w = halves(rows, F::D);
    let m_w = match F::M {
        Some(at) => halves(rows, at),
        None => _mm512_setzero_ps(),
    };
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for c in 0..C {
        let (mut v, mut sum_x) = ([_mm512_setzero_si512(); 4], _mm_setzero_si128()); // [row], (blocks)
        for plane in 0..P {
            let (lo, hi) = xs[c][plane].quads[q].split_at(64);
            let sums = &xs[c][plane].sums[q * 4..q * 4 + 4];
            // SAFETY: AVX-512 by the function's feature; the slices have the 64 bytes and four sums that are read.
            let (x_lo, x_hi, sums) = unsafe {
                (
                    _mm512_loadu_si512(lo.as_ptr().cast()),
                    _mm512_loadu_si512(hi.as_ptr().cast()),
                    _mm_loadu_si128(sums.as_ptr().cast()),
                )
            };
            if plane > 0 {
                // The higher plane's sums times the radix.
                const { assert!(RADIX == 255) };
                for r in 0..4 {
                    v[r] = _mm512_sub_epi32(_mm512_slli_epi32::<8>(v[r]), v[r]);
                }
                sum_x = _mm_sub_epi32(_mm_slli_epi32::<8>(sum_x), sum_x);
            }
            for r in 0..4 {
                v[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(v[r], w[r].0, x_lo), w[r].1, x_hi);
            }
            sum_x = _mm_add_epi32(sum_x, sums);
        }
        let scales = &xs[c][0].scales[q * 4..q * 4 + 4];
        // SAFETY: AVX-512 by the function's feature; the slice has the four scales that are read.
        let d_x = unsafe { _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(_mm_loadu_ps(scales.as_ptr()))) };
        let sum_x = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(sum_x));
        let [v0, v1, v2, v3] = v;
        let a = _mm512_add_epi32(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
        let b = _mm512_add_epi32(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
        let dots = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)); // [block](rows)
        let sums = if F::ZERO == 0 {
            dots
        } else {
            _mm512_sub_epi32(dots, _mm512_mullo_epi32(sum_x, _mm512_set1_epi32(F::ZERO)))
        };
        let (sums, scale) = (_mm512_cvtepi32_ps(sums), _mm512_mul_ps(d_w, d_x));
        let (of_min, min) = (_mm512_cvtepi32_ps(sum_x), _mm512_mul_ps(m_w, d_x));
        macro_rules! block {
            ($b:literal) => {
                if live > $b {
                    let lane = |v| _mm512_extractf32x4_ps::<$b>(v);
                    acc[c] = _mm_fmadd_ps(lane(scale), lane(sums), acc[c]);
                    if F::M.is_some() {
                        acc[c] = _mm_fmadd_ps(lane(min), lane(of_min), acc[c]);
                    }
                }
            };
        }
        block!(0);
        block!(1);
        block!(2);
        block!(3);
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul<F: Blocks<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    gemv::matmul::<Of<F>, N>(Avx512::new(), job, x, out)
}
