//! Vectors of eight lanes, for the sets with registers of 256 bits. They differ in how they multiply.

use super::super::gemm::panel::{Expand, Panel, Vector, center, masked, zero};
use super::super::gemm::tile::{self, Columns};
use std::arch::x86_64::*;

/// Lanes of a vector.
pub const L: usize = 8;

/// True if codes have no signs in a panel: they are the unsigned factor of `vpdpbusd` then, and else the activations with their bias.
pub const fn unsigned<T: Vector<L>, F: Expand, const L: usize>() -> bool {
    F::M.is_some() && center::<T, F, L>() == 0 || zero::<T, F, L>() > 0
}

/// A way to multiply. A value of such a type is the proof that the processor has AVX2, FMA, F16C and the instructions it takes.
pub trait DotProducts: Copy {
    /// See [`Vector::SUMS_I16`].
    const SUMS_I16: bool;
    /// See [`Vector::bias`].
    fn bias<F: Expand>() -> u8;
    /// See [`Vector::dot`].
    fn dot<F: Expand>(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// `acc` plus the products of the two halves of 16 bits.
    fn words(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
    /// See [`Vector::isums`].
    #[inline(always)]
    fn isums<F: Expand, const S: usize, const C: usize>(
        self,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        b: usize,
    ) -> [[__m256i; C]; S] {
        tile::isums::<Panels<Self>, F, L, S, C>(Panels(self), panel, x, b)
    }
    /// See [`Vector::scale`].
    #[inline(always)]
    fn scale<F: Expand>(self, scale: __m256i) -> __m256i {
        masked::<Panels<Self>, F, L>(Panels(self), scale)
    }
    /// See [`Vector::finish`].
    #[inline(always)]
    fn finish<F: Expand, const S: usize>(self, panel: &mut Panel<L, S>) {
        panel.correct_bias::<Panels<Self>, F>(Panels(self));
    }
}

/// The token of a set with the way `P` to multiply.
#[derive(Clone, Copy)]
pub struct Panels<P>(pub P);

/// One intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves AVX2, FMA and F16C; registers, and loads and stores of whole arrays of their size.
        unsafe { $e }
    };
}

impl<P: DotProducts> Vector<L> for Panels<P> {
    const SUMS_I16: bool = P::SUMS_I16;
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    fn bias<F: Expand>() -> u8 {
        P::bias::<F>()
    }
    #[inline(always)]
    fn isums<F: Expand, const S: usize, const C: usize>(
        self,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        b: usize,
    ) -> [[__m256i; C]; S] {
        self.0.isums::<F, S, C>(panel, x, b)
    }
    #[inline(always)]
    fn scale<F: Expand>(self, scale: __m256i) -> __m256i {
        self.0.scale::<F>(scale)
    }
    #[inline(always)]
    fn finish<F: Expand, const S: usize>(self, panel: &mut Panel<L, S>) {
        self.0.finish::<F, S>(panel)
    }
    #[inline(always)]
    fn ints(self, v: &[i32; L]) -> __m256i {
        op!(_mm256_loadu_si256(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_ints(self, v: __m256i, out: &mut [i32; L]) {
        op!(_mm256_storeu_si256(out.as_mut_ptr().cast(), v))
    }
    #[inline(always)]
    fn floats(self, v: &[f32; L]) -> __m256 {
        op!(_mm256_loadu_ps(v.as_ptr()))
    }
    #[inline(always)]
    fn store_floats(self, v: __m256, out: &mut [f32; L]) {
        op!(_mm256_storeu_ps(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn codes(self, v: &[[i8; 4]; L]) -> __m256i {
        op!(_mm256_loadu_si256(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_codes(self, v: __m256i, out: &mut [[i8; 4]; L]) {
        op!(_mm256_storeu_si256(out.as_mut_ptr().cast(), v))
    }
    #[inline(always)]
    fn splat(self, v: u32) -> __m256i {
        op!(_mm256_set1_epi32(v as i32))
    }
    #[inline(always)]
    fn splat_float(self, v: f32) -> __m256 {
        op!(_mm256_set1_ps(v))
    }
    #[inline(always)]
    fn dot<F: Expand>(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.0.dot::<F>(acc, w, x)
    }
    #[inline(always)]
    fn scaled(self, acc: __m256i, sum: __m256i, scale: __m256i) -> __m256i {
        self.0.words(acc, sum, scale)
    }
    #[inline(always)]
    fn mul_ints(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn pairs(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        self.0.words(acc, a, b)
    }
    #[inline(always)]
    fn to_floats(self, v: __m256i) -> __m256 {
        op!(_mm256_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn sub_bytes(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_sub_epi8(a, b))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn shl(self, v: __m256i, n: u32) -> __m256i {
        op!(_mm256_sllv_epi32(v, _mm256_set1_epi32(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: __m256i, n: u32) -> __m256i {
        op!(_mm256_srlv_epi32(v, _mm256_set1_epi32(n as i32)))
    }
    #[inline(always)]
    fn sar(self, v: __m256i, n: u32) -> __m256i {
        op!(_mm256_srav_epi32(v, _mm256_set1_epi32(n as i32)))
    }
    #[inline(always)]
    fn look_up(self, table: &[i8; 16], v: __m256i) -> __m256i {
        op!(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), v))
    }
    #[inline(always)]
    fn halves(self, v: __m256i) -> __m256 {
        op!({
            // Four halves to the lower half of each lane, then both to the lower lane.
            let low = _mm256_setr_epi8(
                0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1,
                -1, -1, -1,
            );
            let halves = _mm256_permute4x64_epi64::<0b10_00>(_mm256_shuffle_epi8(v, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(halves))
        })
    }
    #[inline(always)]
    fn load_halves(self, v: &[u16; L]) -> __m256 {
        op!(_mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().cast())))
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
    #[inline(always)]
    fn transpose(self, rows: [&[u8; 16]; L]) -> [__m256i; 4] {
        op!(transpose(rows))
    }
}

/// Four dwords of eight rows: a 128-bit lane for each row, rows r and r + 4 to a register, whose dwords then change places within the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [&[u8; 16]; L]) -> [__m256i; 4] {
    let mut v = [_mm256_setzero_si256(); 4];
    for r in 0..4 {
        // SAFETY: AVX2 by the function's feature; the loads are the 16 bytes of each row.
        v[r] = unsafe { _mm256_loadu2_m128i(rows[r + 4].as_ptr().cast(), rows[r].as_ptr().cast()) };
    }
    let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
    let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
    [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), _mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d)]
}
