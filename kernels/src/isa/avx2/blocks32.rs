//! Products with blocks of 32: four rows by four blocks a step; see `README.md`.

use super::Avx2;
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

/// Weights of four blocks of one row in the order of the quads of activations: `lo[p]` holds values 0..16 of blocks `2p` and `2p + 1`,
/// `hi[p]` values 16..32.
struct Quad {
    lo: [__m256i; 2],
    hi: [__m256i; 2],
}

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// A format of blocks of 32.
trait Blocks<const QUAD_BYTES: usize>: BlockFormat {
    /// Zero point of unsigned codes: the block sum is `dot - ZERO * sum(x)`.
    const ZERO: i32;
    /// True if the codes have signs, or else they are at most 63.
    const SIGNED: bool;
    /// Four blocks of a row.
    fn unpack(t: Avx2, blocks: &[u8; QUAD_BYTES]) -> Quad;
}

/// The formats, each with the zero point of its codes, their sign, and the way from four blocks to codes; and the list of their kernels.
macro_rules! formats {
    ($($F:ident, zero $zero:literal, signed $signed:literal: |$blocks:ident| $codes:expr;)*) => {
        $(impl Blocks<{ 4 * $F::BYTES }> for $F {
            const ZERO: i32 = $zero;
            const SIGNED: bool = $signed;
            #[inline(always)]
            fn unpack(_: Avx2, $blocks: &[u8; 4 * $F::BYTES]) -> Quad {
                // SAFETY: the token proves AVX2; registers, and loads checked by `two`.
                unsafe { $codes }
            }
        })*

        /// The kernels.
        pub const KERNELS: &[(GgmlType, Matmul)] = kernels!(matmul, 4 blocks: $($F)*);
    };
}

formats! {
    Q4_0, zero 8, signed false: |blocks| nibbles(blocks, 2);
    Q4_1, zero 0, signed false: |blocks| nibbles(blocks, 4);
    Q5_0, zero 16, signed false: |blocks| five_bits(blocks, 2, 6);
    Q5_1, zero 0, signed false: |blocks| five_bits(blocks, 4, 8);
    Iq4Nl, zero 0, signed true: |blocks| {
        let (quad, levels) = (nibbles(blocks, 2), levels());
        let of = |v: [__m256i; 2]| [_mm256_shuffle_epi8(levels, v[0]), _mm256_shuffle_epi8(levels, v[1])];
        Quad { lo: of(quad.lo), hi: of(quad.hi) }
    };
    Q8_0, zero 0, signed true: |blocks| {
        Quad { lo: [two(blocks, 0, 2), two(blocks, 2, 2)], hi: [two(blocks, 0, 18), two(blocks, 2, 18)] }
    };
}

/// 16 bytes at `offset` of two blocks of a quad.
#[inline]
#[target_feature(enable = "avx2")]
fn two<const N: usize>(blocks: &[u8; N], first: usize, offset: usize) -> __m256i {
    let at = |b: usize| &blocks[b * (N / 4) + offset..b * (N / 4) + offset + 16];
    let (a, b) = (at(first), at(first + 1));
    // SAFETY: AVX2 by the function's feature; each slice has the 16 bytes that are read.
    unsafe { _mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast()) }
}

/// The nibbles at `offset` of four blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles<const N: usize>(blocks: &[u8; N], offset: usize) -> Quad {
    let (a, b) = (two(blocks, 0, offset), two(blocks, 2, offset));
    let low = _mm256_set1_epi8(15);
    let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
    Quad { lo: [_mm256_and_si256(a, low), _mm256_and_si256(b, low)], hi: [high(a), high(b)] }
}

/// [`nibbles`] with fifth bits, from the four bytes at `high` of each block.
#[inline]
#[target_feature(enable = "avx2")]
fn five_bits<const N: usize>(blocks: &[u8; N], high: usize, offset: usize) -> Quad {
    let mut quad = nibbles(blocks, offset);
    // Each byte of a block's four goes to eight bytes of its lane; the pattern then tests each bit in its byte.
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
    );
    let pattern = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let bits = |b: usize| {
        let at = b * (N / 4) + high;
        _mm256_set1_epi32(i32::from_le_bytes([blocks[at], blocks[at + 1], blocks[at + 2], blocks[at + 3]]))
    };
    let fifth = |p: usize, half: i8| {
        let both = _mm256_blend_epi32::<0b1111_0000>(bits(2 * p), bits(2 * p + 1));
        let bytes = _mm256_shuffle_epi8(both, _mm256_add_epi8(spread, _mm256_set1_epi8(2 * half)));
        let set = _mm256_and_si256(bytes, pattern);
        _mm256_and_si256(_mm256_cmpeq_epi8(set, pattern), _mm256_set1_epi8(16))
    };
    for p in 0..2 {
        quad.lo[p] = _mm256_or_si256(quad.lo[p], fifth(p, 0));
        quad.hi[p] = _mm256_or_si256(quad.hi[p], fifth(p, 1));
    }
    quad
}

/// The levels of the IQ4 formats in both lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn levels() -> __m256i {
    // SAFETY: AVX2 by the function's feature; the load is the 16 levels.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(LEVELS.as_ptr().cast())) }
}

/// Products of 32 codes with 32 activations, added within groups of four.
#[inline]
#[target_feature(enable = "avx2")]
fn products(signed: bool, lo: __m256i, hi: __m256i, x_lo: __m256i, x_hi: __m256i) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    if signed {
        // `vpmaddubsw` takes unsigned codes: `|w| * sign(x, w)`. Two products fit 16 bits (2 * 128 * 127 < 32768), four do not.
        let pairs = |w, x| _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)), ones);
        _mm256_add_epi32(pairs(lo, x_lo), pairs(hi, x_hi))
    } else {
        // Four products of small codes fit (4 * 63 * 127 < 32768).
        let sums = _mm256_add_epi16(_mm256_maddubs_epi16(lo, x_lo), _mm256_maddubs_epi16(hi, x_hi));
        _mm256_madd_epi16(sums, ones)
    }
}

/// `RADIX * high + low`.
#[inline]
#[target_feature(enable = "avx2")]
fn joined(high: __m256i, low: __m256i) -> __m256i {
    const { assert!(RADIX == 255) };
    _mm256_add_epi32(_mm256_sub_epi32(_mm256_slli_epi32::<8>(high), high), low)
}

impl<F: Blocks<N>, const N: usize> Steps<N> for Of<F> {
    type Token = Avx2;
    type Row<'a> = Q8x32Row<'a>;
    type Acc = __m128;

    #[inline(always)]
    fn step<const C: usize, const P: usize>(
        t: Avx2,
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

/// Four blocks of four rows: the exact block sums as `[block][row]`, then one fused multiply-add a block, in the order of k.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step<F: Blocks<N>, const N: usize, const C: usize, const P: usize>(
    t: Avx2,
    rows: [&[u8; N]; 4],
    xs: &[[Q8x32Row<'_>; P]; C],
    q: usize,
    live: usize,
    acc: &mut [__m128; C],
) {
    let w = [F::unpack(t, rows[0]), F::unpack(t, rows[1]), F::unpack(t, rows[2]), F::unpack(t, rows[3])];
    let halves = |at: usize| {
        let half = |r: usize| i16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
        _mm_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), 0, 0, 0, 0))
    };
    let (mut d_w, mut m_w) = ([_mm_setzero_ps(); 4], [_mm_setzero_ps(); 4]); // [block](rows)
    for b in 0..4 {
        d_w[b] = halves(b * F::BYTES + F::D);
        if let Some(at) = F::M {
            m_w[b] = halves(b * F::BYTES + at);
        }
    }
    for c in 0..C {
        let load = |plane: usize, at: usize| {
            let part = &xs[c][plane].quads[q][at..at + 32];
            // SAFETY: AVX2 by the function's feature; the slice has the 32 bytes that are read.
            unsafe { _mm256_loadu_si256(part.as_ptr().cast()) }
        };
        for p in 0..2 {
            let mut v = [_mm256_setzero_si256(); 4]; // [row]
            for plane in 0..P {
                let (x_lo, x_hi) = (load(plane, p * 32), load(plane, 64 + p * 32));
                for r in 0..4 {
                    let sums = products(F::SIGNED, w[r].lo[p], w[r].hi[p], x_lo, x_hi);
                    v[r] = if plane == 0 { sums } else { joined(v[r], sums) };
                }
            }
            let (a, b) = (_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
            let dots = _mm256_hadd_epi32(a, b); // [block 2p: rows | block 2p + 1: rows]
            for (i, dots) in [_mm256_castsi256_si128(dots), _mm256_extracti128_si256::<1>(dots)].into_iter().enumerate()
            {
                let block = 2 * p + i;
                if block < live {
                    let mut sum_x = 0;
                    for plane in 0..P {
                        sum_x = RADIX * sum_x + xs[c][plane].sums[q * 4 + block];
                    }
                    let d_x = _mm_set1_ps(xs[c][0].scales[q * 4 + block]);
                    let sums = _mm_cvtepi32_ps(_mm_sub_epi32(dots, _mm_set1_epi32(F::ZERO * sum_x)));
                    acc[c] = _mm_fmadd_ps(_mm_mul_ps(d_w[block], d_x), sums, acc[c]);
                    if F::M.is_some() {
                        let sum_x = _mm_cvtepi32_ps(_mm_set1_epi32(sum_x));
                        acc[c] = _mm_fmadd_ps(_mm_mul_ps(m_w[block], d_x), sum_x, acc[c]);
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn matmul<F: Blocks<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    gemv::matmul::<Of<F>, N>(Avx2::new(), job, x, out)
}
