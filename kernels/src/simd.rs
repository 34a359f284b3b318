//! The waist between arithmetic that is written once and the instruction sets: 16 lanes of `f32`.
//!
//! An instruction set is a *token*: a value that exists only if the processor has the instructions, so that holding one is the proof
//! that they may be executed. All methods are inlined into functions compiled for that set (`table::instantiate!`).
//!
//! Sixteen lanes everywhere, one register of AVX-512, two of AVX2, four of NEON, an array in the scalar set: a reduction then adds
//! the same numbers in the same order on all of them.

/// Operations on 16 lanes of `f32`. Each rounds exactly as IEEE 754 says; none depends on the instruction set.
pub trait Simd: Copy {
    /// 16 lanes.
    type F: Copy;

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
    /// For `t = n + 1.5 * 2^23` with integer `n` in -126..=127: `2^n`. The low bits of such a `t` are `n`.
    fn pow2_of_magic(self, t: Self::F) -> Self::F;
    /// The lanes added in halves: `i` and `i + 8`, then `i` and `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, v: Self::F) -> f32;

    /// Up to 16 values, filled up with `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        let mut lanes = [fill; 16];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// The first `out.len()` lanes.
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}
