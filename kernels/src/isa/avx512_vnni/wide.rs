//! Panels of 32 rows: two strips of 16 lanes, times tiles of six columns: 12 sums and 12 sums of sums leave 8 registers for the rest.

use super::super::wide::panel::{Expand, Slab, Strip};
use super::super::wide::{self};
use super::super::x86::scales::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
use super::Avx512;
use super::blocks32::{Blocks, Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::blocks256::Block;
use crate::matmul::{Job, Out};
use crate::table::{Matmul, Wide};
use std::arch::x86_64::*;
use std::marker::PhantomData;
use strata_quant::float::f16_at;
use strata_quant::{Activations, GgmlType};

/// Lanes of a strip.
const L: usize = 16;
/// Strips.
const S: usize = 2;
/// Columns of a tile.
const C: usize = 6;

/// This set's products over many columns.
pub const WIDE: Wide = Wide { columns: C, rows: L * S, bias: <Avx512 as Strip<L>>::BIAS, product };

/// One intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves AVX-512 with VNNI; registers, and loads and stores of whole arrays of their size.
        unsafe { $e }
    };
}

impl Strip<L> for Avx512 {
    const BIAS: u8 = 128;
    /// `vpdpwssd` multiplies halves of 16 bits: that of the sum with the scale, that of its sign with zero.
    const SCALE: i32 = 0xffff;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    fn ints(self, v: &[i32; L]) -> __m512i {
        op!(_mm512_loadu_si512(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn floats(self, v: &[f32; L]) -> __m512 {
        op!(_mm512_loadu_ps(v.as_ptr()))
    }
    #[inline(always)]
    fn codes(self, v: &[[i8; 4]; L]) -> __m512i {
        op!(_mm512_loadu_si512(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; L]) {
        op!(_mm512_storeu_ps(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn spread(self, v: &[u8; 4]) -> __m512i {
        op!(_mm512_set1_epi32(i32::from_le_bytes(*v)))
    }
    #[inline(always)]
    fn spread_int(self, v: &i32) -> __m512i {
        op!(_mm512_set1_epi32(*v))
    }
    #[inline(always)]
    fn spread_float(self, v: &f32) -> __m512 {
        op!(_mm512_set1_ps(*v))
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(acc, x, w))
    }
    #[inline(always)]
    fn scaled(self, acc: __m512i, sum: __m512i, scale: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, sum, scale))
    }
    #[inline(always)]
    fn scaled_wide(self, acc: __m512i, sum: __m512i, scale: __m512i) -> __m512i {
        op!(_mm512_add_epi32(acc, _mm512_mullo_epi32(sum, scale)))
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
    fn weave(self, rows: &[Slab; L], i: usize) -> [[[i8; 4]; L]; 16] {
        op!(transpose(rows, i))
    }
}

/// 16 dwords of 16 rows, transposed: pairs, fours, eights and sixteens of rows change places.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn transpose(rows: &[Slab; L], i: usize) -> [[[i8; 4]; L]; 16] {
    let mut a = [_mm512_setzero_si512(); 16];
    for r in 0..16 {
        let part: &[i8; 64] = rows[r].codes[i * 64..(i + 1) * 64].as_array().expect("64 codes");
        // SAFETY: AVX-512 by the function's feature; the load is the 64 codes.
        a[r] = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
    }
    let mut b = a;
    for r in 0..8 {
        b[2 * r] = _mm512_unpacklo_epi32(a[2 * r], a[2 * r + 1]);
        b[2 * r + 1] = _mm512_unpackhi_epi32(a[2 * r], a[2 * r + 1]);
    }
    for r in 0..4 {
        let v = &b[4 * r..4 * r + 4];
        // Row q of these: dwords q, q + 4, q + 8, q + 12 of rows 4r..4r + 4, a 128-bit lane each.
        a[4 * r] = _mm512_unpacklo_epi64(v[0], v[2]);
        a[4 * r + 1] = _mm512_unpackhi_epi64(v[0], v[2]);
        a[4 * r + 2] = _mm512_unpacklo_epi64(v[1], v[3]);
        a[4 * r + 3] = _mm512_unpackhi_epi64(v[1], v[3]);
    }
    let mut out = [[[0; 4]; L]; 16];
    for q in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(a[q], a[4 + q]);
        let low_high = _mm512_shuffle_i32x4::<0xee>(a[q], a[4 + q]);
        let high = _mm512_shuffle_i32x4::<0x44>(a[8 + q], a[12 + q]);
        let high_high = _mm512_shuffle_i32x4::<0xee>(a[8 + q], a[12 + q]);
        let all = [
            _mm512_shuffle_i32x4::<0x88>(low, high),
            _mm512_shuffle_i32x4::<0xdd>(low, high),
            _mm512_shuffle_i32x4::<0x88>(low_high, high_high),
            _mm512_shuffle_i32x4::<0xdd>(low_high, high_high),
        ];
        for j in 0..4 {
            // SAFETY: AVX-512 by the function's feature; the store is the 16 dwords of a step.
            unsafe { _mm512_storeu_si512(out[4 * j + q].as_mut_ptr().cast(), all[j]) };
        }
    }
    out
}

/// A format of blocks of 256 as panels.
struct Of256<F, const N: usize>(PhantomData<F>);

impl<F: Block<N>, const N: usize> Expand<Avx512> for Of256<F, N> {
    const BLOCK: usize = 256;
    const BYTES: usize = N;
    const MIN: bool = F::DMIN.is_some();
    const STEP: usize = F::STEP;

    #[inline(always)]
    fn slab(_: Avx512, blocks: &[u8], slab: &mut Slab) {
        let block: &[u8; N] = blocks.as_array().expect("a whole block");
        let half = |at: usize| f16_at([block[at], block[at + 1]]);
        slab.d[0] = half(F::D);
        if let Some(at) = F::DMIN {
            slab.m[0] = half(at);
        }
        op!({
            let codes = F::codes(block);
            for (j, out) in slab.codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
                let codes = _mm512_sub_epi8(codes[j], _mm512_set1_epi8(F::ZERO as i8));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), codes);
            }
            let (scales, mins) = F::scales(block);
            _mm256_storeu_si256(slab.scales.as_mut_ptr().cast(), scales);
            _mm256_storeu_si256(slab.mins.as_mut_ptr().cast(), mins);
        })
    }
}

/// A format of blocks of 32, `N` bytes four of them, as panels.
struct Of32<F, const N: usize>(PhantomData<F>);

impl<F: Blocks<N>, const N: usize> Expand<Avx512> for Of32<F, N> {
    const BLOCK: usize = 32;
    const BYTES: usize = N / 4;
    const MIN: bool = F::MIN;
    const STEP: usize = 32;

    #[inline(always)]
    fn slab(_: Avx512, blocks: &[u8], slab: &mut Slab) {
        for (i, block) in blocks.chunks_exact(N / 4).enumerate() {
            slab.d[i] = f16_at([block[0], block[1]]);
            if F::MIN {
                slab.m[i] = f16_at([block[2], block[3]]);
            }
        }
        let (quads, rest) = blocks.as_chunks::<N>();
        let (out, _) = slab.codes.as_chunks_mut::<128>();
        for (quad, out) in quads.iter().zip(&mut *out) {
            op!(quad_codes::<F, N>(quad, out));
        }
        if !rest.is_empty() {
            let mut quad = [0; N];
            quad[..rest.len()].copy_from_slice(rest);
            op!(quad_codes::<F, N>(&quad, &mut out[quads.len()]));
        }
    }
}

/// The codes of four blocks in the order of k.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quad_codes<F: Blocks<N>, const N: usize>(quad: &[u8; N], out: &mut [i8; 128]) {
    let zero = _mm512_set1_epi8(F::ZERO as i8);
    let (lo, hi) = F::unpack(quad);
    let (lo, hi) = (_mm512_sub_epi8(lo, zero), _mm512_sub_epi8(hi, zero));
    // Halves of a block, 128 bits each, beside each other.
    let first = _mm512_permutex2var_epi64(lo, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), hi);
    let second = _mm512_permutex2var_epi64(lo, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), hi);
    // SAFETY: AVX-512 by the function's feature; the stores are the two halves of the 128 codes.
    unsafe {
        _mm512_storeu_si512(out.as_mut_ptr().cast(), first);
        _mm512_storeu_si512(out.as_mut_ptr().add(64).cast(), second);
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul<F: Expand<Avx512>>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    wide::matmul::<Avx512, F, L, S, C>(Avx512::new(), job, x, out)
}

/// The product of a format.
fn product(ty: GgmlType) -> Option<Matmul> {
    Some(match ty {
        GgmlType::Q4_0 => matmul::<Of32<Q4_0, 72>>,
        GgmlType::Q4_1 => matmul::<Of32<Q4_1, 80>>,
        GgmlType::Q5_0 => matmul::<Of32<Q5_0, 88>>,
        GgmlType::Q5_1 => matmul::<Of32<Q5_1, 96>>,
        GgmlType::Q8_0 => matmul::<Of32<Q8_0, 136>>,
        GgmlType::IQ4_NL => matmul::<Of32<Iq4Nl, 72>>,
        GgmlType::Q2_K => matmul::<Of256<Q2K, 84>>,
        GgmlType::Q3_K => matmul::<Of256<Q3K, 110>>,
        GgmlType::Q4_K => matmul::<Of256<Q4K, 144>>,
        GgmlType::Q5_K => matmul::<Of256<Q5K, 176>>,
        GgmlType::Q6_K => matmul::<Of256<Q6K, 210>>,
        GgmlType::IQ4_XS => matmul::<Of256<Iq4Xs, 136>>,
        _ => return None,
    })
}
