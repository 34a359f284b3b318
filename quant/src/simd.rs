//! The waist between arithmetic that is written once and the instruction sets: 16 lanes of `f32`.
//!
//! An instruction set is a *token*: a value that exists only if the processor has the instructions, so that holding one is the proof
//! that they may be executed. All methods are inlined into functions compiled for that set. This crate has only the token of the scalar
//! set; `strata-kernels` has the others.
//!
//! Sixteen lanes everywhere, one register of AVX-512, two of AVX2, four of NEON, an array in the scalar set: a reduction then adds
//! the same numbers in the same order on all of them.

use crate::float::{bf16_at, f16_at, fma, nearest, sum16};

/// Operations on 16 lanes of `f32`. Each rounds exactly as IEEE 754 says; none depends on the instruction set.
pub trait Simd: Copy {
    /// 16 lanes.
    type F: Copy;
    /// A yes or no for each lane.
    type M: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Lane `i` is `x[i]`.
    fn load(self, x: &[f32; 16]) -> Self::F;
    /// The inverse of [`Simd::load`].
    fn store(self, v: Self::F, out: &mut [f32; 16]);
    /// Half-precision numbers, little endian, widened exactly.
    fn load_f16(self, x: &[[u8; 2]; 16]) -> Self::F;
    /// bfloat16 numbers, little endian, widened exactly.
    fn load_bf16(self, x: &[[u8; 2]; 16]) -> Self::F;
    /// Signed bytes.
    fn load_i8(self, x: &[u8; 16]) -> Self::F;
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`, lane by lane: the second where either is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`, lane by lane.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The square root, rounded correctly.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// `a` without its sign.
    fn abs(self, a: Self::F) -> Self::F;
    /// The bits of `a + 1.5 * 2^23` below the exponent, as an integer less 2^22: `a` rounded to the nearest integer, ties to even, if
    /// `|a| < 2^22`; what ggml's `nearest_int` gives if it is not, and 0 if `a` is not a number.
    fn nearest(self, a: Self::F) -> Self::F;
    /// `a > b`, lane by lane.
    fn gt(self, a: Self::F, b: Self::F) -> Self::M;
    /// Both.
    fn and(self, a: Self::M, b: Self::M) -> Self::M;
    /// `if m { a } else { b }`, lane by lane.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// For `t = n + 1.5 * 2^23` with integer `n` in -126..=127: `2^n`. The low bits of such a `t` are `n`.
    fn pow2_of_magic(self, t: Self::F) -> Self::F;
    /// The lanes added in halves: `i` and `i + 8`, then `i` and `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, v: Self::F) -> f32;
    /// [`Simd::sum`] of each.
    #[inline(always)]
    fn sums<const N: usize>(self, v: [Self::F; N]) -> [f32; N] {
        v.map(|v| self.sum(v))
    }

    /// Prefetches the line of memory at an address, which may be any, into the second cache. Does nothing where there is no such instruction.
    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    /// As [`Simd::prefetch`], into the first cache.
    #[inline(always)]
    fn prefetch_near(self, _at: *const u8) {}

    /// Up to 16 values, padded with `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        // Nearly always there are 16.
        if let Some(x) = x.as_array() {
            return self.load(x);
        }
        let mut lanes = [fill; 16];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// The first `out.len()` lanes.
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        if let Some(out) = out.as_mut_array() {
            return self.store(v, out);
        }
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// The token: always there.
#[derive(Clone, Copy)]
pub struct Scalar;

/// Applies an expression to every lane.
macro_rules! lanes {
    ($i:ident => $lane:expr) => {{
        let mut out = [0.0f32; 16];
        for $i in 0..16 {
            out[$i] = $lane;
        }
        out
    }};
}

impl Simd for Scalar {
    type F = [f32; 16];
    type M = [bool; 16];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], out: &mut [f32; 16]) {
        *out = v
    }
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; 16]) -> [f32; 16] {
        lanes!(i => f16_at(x[i]))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; 16]) -> [f32; 16] {
        lanes!(i => bf16_at(x[i]))
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> [f32; 16] {
        lanes!(i => x[i] as i8 as f32)
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        lanes!(i => fma(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i].sqrt())
    }
    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i].abs())
    }
    #[inline(always)]
    fn nearest(self, a: [f32; 16]) -> [f32; 16] {
        lanes!(i => nearest(a[i]))
    }
    #[inline(always)]
    fn gt(self, a: [f32; 16], b: [f32; 16]) -> [bool; 16] {
        std::array::from_fn(|i| a[i] > b[i])
    }
    #[inline(always)]
    fn and(self, a: [bool; 16], b: [bool; 16]) -> [bool; 16] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn select(self, m: [bool; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn pow2_of_magic(self, t: [f32; 16]) -> [f32; 16] {
        lanes!(i => f32::from_bits(t[i].to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    fn sum(self, v: [f32; 16]) -> f32 {
        sum16(v)
    }
}
