//! The few float operations that every result rests on, exact on every machine.

use std::ops::Add;

/// `a * b + c` rounded once, as the fused multiply-add of every instruction set computes it.
///
/// Where the target has no such instruction, `f32::mul_add` would be a library call. The product of two `f32` is exact in `f64`; the
/// sum is rounded to odd there, so that the second rounding, to `f32`, cannot go wrong (Boldo and Melquiond, "Emulation of FMA and
/// correctly rounded sums: proved algorithms using rounding to odd", 2008).
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    let product = a as f64 * b as f64;
    let c = c as f64;
    let sum = product + c;
    // TwoSum (Knuth): the part of the sum that the rounding lost.
    let c_part = sum - product;
    let lost = (product - (sum - c_part)) + (c - c_part);
    let even = sum.to_bits() & 1 == 0;
    let inexact = (lost > 0.0) | (lost < 0.0);
    let away = (lost > 0.0) == (sum > 0.0);
    let odd = if away { sum.to_bits().wrapping_add(1) } else { sum.to_bits().wrapping_sub(1) };
    f64::from_bits(if inexact & even { odd } else { sum.to_bits() }) as f32
}

/// The sum of 16 lanes in the one order that every kernel uses: halves are added until one is left.
#[inline(always)]
pub fn sum16<T: Copy + Add<Output = T>>(mut lanes: [T; 16]) -> T {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] = lanes[i] + lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// 1.5 * 2^23: a sum of it and `x`, `|x| < 2^22`, has no bits for a fraction. Its lowest bits are `x` rounded to the nearest integer, ties
/// to even.
pub const ROUND: f32 = 12_582_912.0;

/// What ggml's `nearest_int` gives, as a float: see [`crate::simd::Simd::nearest`].
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    ((x + ROUND).to_bits() as i32 & 0x7f_ffff).wrapping_sub(0x40_0000) as f32
}

/// True if every value is finite.
pub fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // No early end inside a chunk: the compiler then takes several values at a time.
    values.chunks(1024).all(|chunk| chunk.iter().fold(true, |all, v| all & (v.to_bits() & EXPONENT != EXPONENT)))
}

/// The value of a half-precision number, little endian.
#[inline(always)]
pub fn f16_at(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// The value of a bfloat16 number, little endian: the upper half of an `f32`.
#[inline(always)]
pub fn bf16_at(bytes: [u8; 2]) -> f32 {
    f32::from_bits((u16::from_le_bytes(bytes) as u32) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200_000))]
        #[test]
        fn fma_rounds_once(a: u32, b: u32, c: u32, near in 0u32..4) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            // Uniform bits rarely cancel or round at the edge: some cases put c near -a*b.
            let c = if near == 0 { f32::from_bits(c) } else { -(a * b) + f32::from_bits(c) * 1e-30 };
            let (ours, exact) = (fma(a, b, c), a.mul_add(b, c));
            prop_assert!(ours.to_bits() == exact.to_bits() || (ours.is_nan() && exact.is_nan()), "{a:e} {b:e} {c:e}");
        }

        #[test]
        fn rounding_is_to_even(x in -4e6f32..4e6) {
            prop_assert_eq!(nearest(x), x.round_ties_even());
            let half = x.trunc() + 0.5;
            prop_assert_eq!(nearest(half), half.round_ties_even());
        }
    }

    /// Sums so near the middle between two `f32` that rounding to `f64` first falls on it: random numbers never are.
    #[test]
    fn fma_is_not_rounded_twice() {
        const UNIT: f32 = f32::EPSILON;
        let mut twice = 0;
        for i in 1..=64 {
            for j in 0..64 {
                let (a, b, c) = (1.0 + i as f32 * UNIT, 1.0 - i as f32 * UNIT, 1.0 + j as f32 * UNIT);
                for (a, b, c) in [(a, b * UNIT / 2.0, c), (-a, b * UNIT / 2.0, -c), (a, -b * UNIT / 2.0, c)] {
                    assert_eq!(fma(a, b, c).to_bits(), a.mul_add(b, c).to_bits(), "{a:e} {b:e} {c:e}");
                    twice += usize::from(((a as f64 * b as f64) + c as f64) as f32 != a.mul_add(b, c));
                }
            }
        }
        assert!(twice > 1000, "only {twice} of these sums tell one rounding from two");
    }

    #[test]
    fn fma_at_the_edges() {
        for a in [0.0f32, -0.0, 1.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, 1.0000001] {
            for b in [0.0f32, -0.0, -1.0, 1e-45, 0.5, f32::MAX, f32::NEG_INFINITY, 0.99999994] {
                for c in [0.0f32, -0.0, 1.0, -1e-45, f32::MIN, f32::INFINITY, 3e-39] {
                    let (ours, exact) = (fma(a, b, c), a.mul_add(b, c));
                    assert!(
                        ours.to_bits() == exact.to_bits() || (ours.is_nan() && exact.is_nan()),
                        "{a:e} {b:e} {c:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn lanes_are_added_in_halves() {
        // 2^24 + 1 is not representable: the order decides what is left.
        let mut lanes = [0.0f32; 16];
        (lanes[0], lanes[8], lanes[4], lanes[12]) = (16_777_216.0, 1.0, 1.0, 1.0);
        assert_eq!(sum16(lanes), 16_777_218.0);
    }
}
