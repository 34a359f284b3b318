//! Products with blocks of 256: four rows by one block a step.
//!
//! The codes of a row come as four registers of 64 unsigned bytes in the order of k, so that a 128-bit lane is a group of 16. `vpdpbusd`
//! leaves four partial sums of each group in its lane; they are multiplied with the group's integer scale, and all lanes of all four
//! registers added: `isum`, exactly. The offsets of the weights go with the sums of the activations: `msum`.

use super::Avx512;
use super::blocks32::levels;
use crate::isa::avx2::blocks256::{GroupScales, array, joined};
use crate::isa::format::{BlockFormat, kernels};
use crate::isa::gemm::formats::*;
use crate::isa::gemv::{self, Steps};
use crate::matmul::{Job, Out};
use crate::table::Matmul;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use strata_quant::activations::Q8x256Row;
use strata_quant::{Activations, GgmlType};

/// A format's steps on this set.
struct Of<F>(PhantomData<F>);

/// A width of integers.
enum Sums {
    I16,
    I32,
}

/// A format of blocks of 256.
trait Block<const BYTES: usize>: GroupScales<BYTES> {
    /// Zero point of the unsigned codes.
    const ZERO: i32;
    /// What four products of a code and an activation fit.
    const SUMS: Sums;
    /// 256 unsigned codes in the order of k.
    fn codes(t: Avx512, block: &[u8; BYTES]) -> [__m512i; 4];
}

/// The formats, each with the zero point of its codes, the width of its sums and the way from a block to codes; and the list of their kernels.
macro_rules! formats {
    ($($F:ident, zero $zero:literal, sums $sums:ident: |$block:ident| $codes:expr;)*) => {
        $(impl Block<{ $F::BYTES }> for $F {
            const ZERO: i32 = $zero;
            const SUMS: Sums = Sums::$sums;
            #[inline(always)]
            fn codes(_: Avx512, $block: &[u8; $F::BYTES]) -> [__m512i; 4] {
                // SAFETY: the token proves AVX-512; registers, and loads inside arrays of their size.
                unsafe { $codes }
            }
        })*

        /// The kernels.
        pub const KERNELS: &[(GgmlType, Matmul)] = kernels!(matmul, 1 blocks: $($F)*);
    };
}

formats! {
    Q2K, zero 0, sums I16: |block| pairs(array(block, 16));
    Q3K, zero 4, sums I16: |block| add_bits(pairs(array(block, 32)), array(block, 0), 4);
    Q4K, zero 0, sums I16: |block| group_nibbles(array(block, 16));
    Q5K, zero 0, sums I16: |block| add_bits(group_nibbles(array(block, 48)), array(block, 16), 16);
    Q6K, zero 32, sums I16: |block| six_bits(array(block, 0), array(block, 128));
    Iq4Xs, zero 128, sums I32: |block| group_levels(array(block, 8));
}

/// 32 bytes, twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn both(bytes: &[u8; 32]) -> __m512i {
    // SAFETY: AVX-512 by the function's feature; the load is the 32 bytes.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// The bits from `low` on in the lower half and from `high` on in the upper half, under `mask`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn shifted(v: __m512i, low: i64, high: i64, mask: i8) -> __m512i {
    let (low, high) = (low * 0x0001_0001_0001_0001, high * 0x0001_0001_0001_0001);
    let counts = _mm512_setr_epi64(low, low, low, low, high, high, high, high);
    _mm512_and_si512(_mm512_srlv_epi16(v, counts), _mm512_set1_epi8(mask))
}

/// Nibbles of groups of 32, two groups side by side: 128 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn group_nibbles(bytes: &[u8; 128]) -> [__m512i; 4] {
    let of = |j: usize| shifted(both(array(bytes, j * 32)), 0, 4, 15);
    [of(0), of(1), of(2), of(3)]
}

/// Adds `value` to the codes whose bit is set: bit `i / 32` of byte `i % 32`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_bits(codes: [__m512i; 4], bits: &[u8; 32], value: i8) -> [__m512i; 4] {
    let (bits, value) = (both(bits), _mm512_set1_epi8(value));
    let of = |j: usize| {
        let (low, high) = (_mm256_set1_epi8((1u8 << (2 * j)) as i8), _mm256_set1_epi8((2u8 << (2 * j)) as i8));
        let test = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        _mm512_mask_add_epi8(codes[j], _mm512_test_epi8_mask(bits, test), codes[j], value)
    };
    [of(0), of(1), of(2), of(3)]
}

/// Pairs of bits, four to a byte: 64 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn pairs(bytes: &[u8; 64]) -> [__m512i; 4] {
    let (a, b) = (both(array(bytes, 0)), both(array(bytes, 32)));
    [shifted(a, 0, 2, 3), shifted(a, 4, 6, 3), shifted(b, 0, 2, 3), shifted(b, 4, 6, 3)]
}

/// Codes of nibbles, two of 64 side by side, and of pairs of bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn six_bits(nibbles: &[u8; 128], high: &[u8; 64]) -> [__m512i; 4] {
    let high = pairs(high);
    // SAFETY: AVX-512 by the function's feature; the load is the 64 bytes.
    let low = |half: usize| unsafe { _mm512_loadu_si512(array::<64>(nibbles, half * 64).as_ptr().cast()) };
    let nibble = _mm512_set1_epi8(15);
    let code = |v: __m512i, high: __m512i| _mm512_or_si512(_mm512_and_si512(v, nibble), _mm512_slli_epi16::<4>(high));
    let (a, b) = (low(0), low(1));
    [
        code(a, high[0]),
        code(_mm512_srli_epi16::<4>(a), high[1]),
        code(b, high[2]),
        code(_mm512_srli_epi16::<4>(b), high[3]),
    ]
}

/// The levels of nibbles of groups of 32, 16 bytes each, plus 128.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn group_levels(bytes: &[u8; 128]) -> [__m512i; 4] {
    const FOUR: i64 = 4 * 0x0001_0001_0001_0001;
    let (order, levels) = (_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), levels());
    let counts = _mm512_setr_epi64(0, 0, FOUR, FOUR, 0, 0, FOUR, FOUR);
    let of = |j: usize| {
        let v = _mm512_permutexvar_epi64(order, both(array(bytes, j * 32)));
        let nibbles = _mm512_and_si512(_mm512_srlv_epi16(v, counts), _mm512_set1_epi8(15));
        _mm512_shuffle_epi8(levels, nibbles)
    };
    [of(0), of(1), of(2), of(3)]
}

impl<F: Block<N>, const N: usize> Steps<N> for Of<F> {
    type Token = Avx512;
    type Row<'a> = Q8x256Row<'a>;
    type Acc = __m128;

    #[inline(always)]
    fn step<const C: usize, const P: usize>(
        t: Avx512,
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
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn halves<const N: usize>(rows: [&[u8; N]; 4], at: usize) -> __m128 {
    let half = |r: usize| i16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
    _mm_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), 0, 0, 0, 0))
}

/// The lanes of each of four registers added: `(rows)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn totals(v: [__m512i; 4]) -> __m128i {
    let a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    let lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)); // four times (rows)
    let halves = _mm256_add_epi32(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
    _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

/// [`totals`] of registers of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn totals8(v: [__m256i; 4]) -> __m128i {
    let lanes = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes))
}

/// One block of four rows: the exact sums as `(rows)`, then one fused multiply-add, or two.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn step<F: Block<N>, const N: usize, const C: usize, const P: usize>(
    t: Avx512,
    rows: [&[u8; N]; 4],
    xs: &[[Q8x256Row<'_>; P]; C],
    b: usize,
    acc: &mut [__m128; C],
) {
    let zero = _mm512_setzero_si512();
    // [column][plane][row](lanes)
    let (mut isums, mut msums) = ([[[zero; 4]; P]; C], [[[_mm256_setzero_si256(); 4]; P]; C]);
    // Words of a packed pair of registers: four of each group of the first, four of each group of the second, lane by lane.
    let first = _mm512_set_epi16(
        7, 7, 7, 7, 3, 3, 3, 3, 6, 6, 6, 6, 2, 2, 2, 2, 5, 5, 5, 5, 1, 1, 1, 1, 4, 4, 4, 4, 0, 0, 0, 0,
    );
    let second = _mm512_add_epi16(first, _mm512_set1_epi16(8));
    // A row at a time: the codes of four at once would leave the registers.
    for r in 0..4 {
        let (codes, (scale, min)) = (F::codes(t, rows[r]), F::scales(t.avx2(), rows[r]));
        let wide = _mm512_castsi256_si512(scale);
        let packed = [_mm512_permutexvar_epi16(first, wide), _mm512_permutexvar_epi16(second, wide)];
        for i in 0..C * P {
            let (c, plane) = (i / P, i % P);
            // SAFETY: AVX-512 by the function's feature; the loads are the 16 sums, and a quarter of the 256 codes each.
            let (sums, x) = unsafe {
                let x: *const __m512i = xs[c][plane].codes[b].as_ptr().cast();
                let x = [0, 1, 2, 3].map(|j| _mm512_loadu_si512(x.add(j)));
                (_mm256_loadu_si256(xs[c][plane].sums[b].as_ptr().cast()), x)
            };
            let dot = |j: usize| _mm512_dpbusd_epi32(zero, codes[j], x[j]);
            isums[c][plane][r] = if matches!(F::SUMS, Sums::I32) {
                let scale = _mm512_cvtepi16_epi32(scale); // (groups)
                let times = |j: i32| {
                    let lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                    let scale = _mm512_permutexvar_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(4 * j)), scale);
                    _mm512_mullo_epi32(dot(j as usize), scale)
                };
                _mm512_add_epi32(_mm512_add_epi32(times(0), times(1)), _mm512_add_epi32(times(2), times(3)))
            } else {
                let low = _mm512_dpwssd_epi32(zero, _mm512_packs_epi32(dot(0), dot(1)), packed[0]);
                _mm512_dpwssd_epi32(low, _mm512_packs_epi32(dot(2), dot(3)), packed[1])
            };
            if F::ZERO != 0 {
                let excess = _mm256_mullo_epi32(_mm256_madd_epi16(scale, sums), _mm256_set1_epi32(F::ZERO));
                isums[c][plane][r] = _mm512_sub_epi32(isums[c][plane][r], _mm512_zextsi256_si512(excess));
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
            (isum[plane], msum[plane]) = (totals(isums[c][plane]), totals8(msums[c][plane]));
        }
        acc[c] = _mm_fmadd_ps(_mm_mul_ps(d_w, d_x), joined(isum), acc[c]);
        if let Some(at) = F::M {
            let m_w = halves(rows, at);
            acc[c] = _mm_fnmadd_ps(_mm_mul_ps(m_w, d_x), joined(msum), acc[c]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul<F: Block<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    gemv::matmul::<Of<F>, N>(Avx512::new(), job, x, out)
}
