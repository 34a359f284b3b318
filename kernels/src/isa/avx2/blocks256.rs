//! Products with blocks of 256: four rows by one block a step.
//!
//! The codes of a row come as eight registers of 32 bytes in the order of k, so that a 128-bit lane is a group of 16. `vpmaddubsw` leaves
//! eight partial sums of each group in its lane; `vpmaddwd` multiplies them with the group's integer scale, and all lanes of all registers
//! are added: `isum`, exactly. The offsets of the weights go with the sums of the activations: `msum`.

use super::super::walk::{self, Steps};
use super::super::x86::scales::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K, Scales, array};
use super::blocks32::levels;
use crate::matmul::{Job, Out};
use crate::table::Matmul;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use strata_quant::activations::Q8kRow;
use strata_quant::{Activations, GgmlType};

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// A format of blocks of 256.
trait Block<const BYTES: usize>: Scales<BYTES> {
    /// What the unsigned codes have too much: nothing, or a power of two.
    const ZERO: i32 = 0;
    /// True if the codes have signs, or else they are at most 63.
    const SIGNED: bool = false;
    /// 256 codes in the order of k.
    fn codes(block: &[u8; BYTES]) -> [__m256i; 8];
}

/// The body of a method of [`Block`].
macro_rules! on_this_set {
    ($e:expr) => {
        // SAFETY: reached only from this set's functions; registers, and loads inside arrays of their size.
        unsafe { $e }
    };
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

impl Block<84> for Q2K {
    #[inline(always)]
    fn codes(block: &[u8; 84]) -> [__m256i; 8] {
        on_this_set!(pairs(array(block, 16)))
    }
}

impl Block<110> for Q3K {
    const ZERO: i32 = 4;
    #[inline(always)]
    fn codes(block: &[u8; 110]) -> [__m256i; 8] {
        on_this_set!(with_bits(pairs(array(block, 32)), array(block, 0), 2))
    }
}

impl Block<144> for Q4K {
    #[inline(always)]
    fn codes(block: &[u8; 144]) -> [__m256i; 8] {
        on_this_set!(group_nibbles(array(block, 16)))
    }
}

impl Block<176> for Q5K {
    #[inline(always)]
    fn codes(block: &[u8; 176]) -> [__m256i; 8] {
        on_this_set!(with_bits(group_nibbles(array(block, 48)), array(block, 16), 4))
    }
}

impl Block<210> for Q6K {
    const ZERO: i32 = 32;
    #[inline(always)]
    fn codes(block: &[u8; 210]) -> [__m256i; 8] {
        on_this_set!({
            let mut codes = pairs(array(block, 128));
            for half in 0..2 {
                for part in 0..2 {
                    let low = load(array(block, half * 64 + part * 32));
                    let (first, second) = (half * 4 + part, half * 4 + part + 2);
                    codes[first] = _mm256_or_si256(_mm256_slli_epi16::<4>(codes[first]), shifted::<0>(low, 15));
                    codes[second] = _mm256_or_si256(_mm256_slli_epi16::<4>(codes[second]), shifted::<4>(low, 15));
                }
            }
            codes
        })
    }
}

impl Block<136> for Iq4Xs {
    const SIGNED: bool = true;
    #[inline(always)]
    fn codes(block: &[u8; 136]) -> [__m256i; 8] {
        on_this_set!({
            let (mut codes, levels) = ([_mm256_setzero_si256(); 8], levels());
            for j in 0..8 {
                let bytes = _mm_loadu_si128(array::<16>(block, 8 + j * 16).as_ptr().cast());
                let both = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(bytes), _mm256_setr_epi64x(0, 0, 4, 4));
                codes[j] = _mm256_shuffle_epi8(levels, _mm256_and_si256(both, _mm256_set1_epi8(15)));
            }
            codes
        })
    }
}

impl<F: Block<N>, const N: usize> Steps<N> for Of<F> {
    type Row<'a> = Q8kRow<'a>;
    type Acc = __m128;

    #[inline(always)]
    unsafe fn step<const C: usize>(
        rows: [&[u8; N]; 4],
        xs: &[Q8kRow<'_>; C],
        b: usize,
        _: usize,
        acc: &mut [__m128; C],
    ) {
        // SAFETY: the caller's promise.
        unsafe { step::<F, N, C>(rows, xs, b, acc) }
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
fn step<F: Block<N>, const N: usize, const C: usize>(
    rows: [&[u8; N]; 4],
    xs: &[Q8kRow<'_>; C],
    b: usize,
    acc: &mut [__m128; C],
) {
    let zero = _mm256_setzero_si256();
    let mut isums = [[zero; 4]; C]; // [column][row](lanes)
    let mut msums = [[zero; 4]; C];
    for r in 0..4 {
        // SAFETY: AVX2 by the function's feature.
        let (codes, (scale, min)) = (F::codes(rows[r]), unsafe { F::scales(rows[r]) });
        let lanes = by_lane(scale);
        for j in 0..8 {
            let word = _mm256_set1_epi16(0x0100 + 0x0202 * j as i16);
            let times = _mm256_shuffle_epi8(lanes, word);
            for c in 0..C {
                let x = &xs[c].codes[b][j * 32..(j + 1) * 32];
                // SAFETY: AVX2 by the function's feature; the slice has the 32 bytes that are read.
                let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
                // Two products fit 16 bits: 2 * 127 * 127 with the sign moved to the activations, 2 * 63 * 127 without.
                let pairs = if F::SIGNED {
                    _mm256_maddubs_epi16(_mm256_abs_epi8(codes[j]), _mm256_sign_epi8(x, codes[j]))
                } else {
                    _mm256_maddubs_epi16(codes[j], x)
                };
                isums[c][r] = _mm256_add_epi32(isums[c][r], _mm256_madd_epi16(pairs, times));
            }
        }
        for c in 0..C {
            // SAFETY: AVX2 by the function's feature; the load is the 16 sums.
            let sums = unsafe { _mm256_loadu_si256(xs[c].sums[b].as_ptr().cast()) };
            if F::ZERO != 0 {
                let count = _mm_cvtsi32_si128(F::ZERO.trailing_zeros() as i32);
                let excess = _mm256_sll_epi32(_mm256_madd_epi16(scale, sums), count);
                isums[c][r] = _mm256_sub_epi32(isums[c][r], excess);
            }
            if F::DMIN.is_some() {
                msums[c][r] = _mm256_madd_epi16(min, sums);
            }
        }
    }
    let d_w = halves(rows, F::D);
    for c in 0..C {
        let d_x = _mm_set1_ps(xs[c].scales[b]);
        acc[c] = _mm_fmadd_ps(_mm_mul_ps(d_w, d_x), _mm_cvtepi32_ps(totals(isums[c])), acc[c]);
        if let Some(at) = F::DMIN {
            let m_w = halves(rows, at);
            acc[c] = _mm_fnmadd_ps(_mm_mul_ps(m_w, d_x), _mm_cvtepi32_ps(totals(msums[c])), acc[c]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn matmul<F: Block<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    // SAFETY: this function's features.
    unsafe { walk::matmul::<Of<F>, N>(job, x, out) }
}

/// The product of a format.
pub fn product(ty: GgmlType) -> Option<Matmul> {
    Some(match ty {
        GgmlType::Q2_K => matmul::<Q2K, 84>,
        GgmlType::Q3_K => matmul::<Q3K, 110>,
        GgmlType::Q4_K => matmul::<Q4K, 144>,
        GgmlType::Q5_K => matmul::<Q5K, 176>,
        GgmlType::Q6_K => matmul::<Q6K, 210>,
        GgmlType::IQ4_XS => matmul::<Iq4Xs, 136>,
        _ => return None,
    })
}
