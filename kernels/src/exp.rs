//! The one exponential: the same polynomial on every instruction set.

use strata_quant::float::ROUND;
use strata_quant::simd::Simd;

/// `exp(x)` within 2 units in the last place, for x in -87.3..=88.3; beyond, the value at the end of the range.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite: ln 2 in two parts), `exp(r)` by its Taylor polynomial of degree 7, whose
/// remainder is below 2^-27.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = s.min(s.max(x, s.splat(-87.3)), s.splat(88.3));
    let t = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(t, s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.mul(p, s.pow2_of_magic(t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_quant::simd::Scalar;

    #[test]
    fn within_two_units_of_the_truth() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let mut y = [0.0; 16];
            Scalar.store(exp(Scalar, Scalar.splat(x)), &mut y);
            let truth = (x as f64).exp();
            let unit = (truth as f32).to_bits();
            let unit = f32::from_bits(unit + 1) as f64 - f32::from_bits(unit) as f64;
            assert!((y[7] as f64 - truth).abs() <= 2.0 * unit, "exp({x}) = {} instead of {truth}", y[7]);
            x += 0.0137;
        }
    }

    #[test]
    fn ends_of_the_range() {
        let mut y = [0.0; 16];
        Scalar.store(exp(Scalar, Scalar.load_part(&[-1e30, 1e30, 0.0], 0.0)), &mut y);
        assert!(y[0] > 0.0 && y[0] < 1.3e-38 && y[1].is_finite() && y[2] == 1.0);
    }
}
