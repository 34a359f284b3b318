//! The scale of a group whose codes stand for the 16 uneven levels of the IQ4 formats: dense near zero, as weights are.

use super::symmetric::peak;
use super::{LANES, Tile, V};
use crate::simd::Simd;

/// What code `i` stands for. Source: ggml-common.h, `kvalues_iq4nl`.
pub const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The middle between level `i` and the next; values from there on belong to the next. All are exact in single precision.
const fn border(i: usize) -> f32 {
    (LEVELS[i] as f32 + LEVELS[i + 1] as f32) / 2.0
}

/// Codes of the levels nearest to `inverse * x`.
#[inline(always)]
pub fn round<S: Simd, const N: usize>(s: S, x: &Tile<N>, inverse: &[f32; LANES], codes: &mut Tile<N>) {
    let inverse = V::load(s, inverse);
    for i in 0..N {
        let x = inverse * V::load(s, &x[i]);
        let mut code = V::splat(s, 0.0);
        for i in 0..15 {
            code = code.or_else(V::splat(s, border(i)).gt(x), code + V::splat(s, 1.0));
        }
        code.store(&mut codes[i]);
    }
}

/// The weighted sums of `level * x` and `level^2`: their ratio is the best scale for the levels that `inverse` gives.
#[inline(always)]
fn sums<S: Simd, const N: usize>(s: S, x: &Tile<N>, w: &Tile<N>, inverse: V<S>) -> (V<S>, V<S>) {
    let (mut sum_qx, mut sum_q2) = (V::splat(s, 0.0), V::splat(s, 0.0));
    for i in 0..N {
        let (x, w) = (V::load(s, &x[i]), V::load(s, &w[i]));
        let scaled = inverse * x;
        let mut q = V::splat(s, LEVELS[0] as f32);
        for i in 0..15 {
            let step = V::splat(s, LEVELS[i + 1] as f32 - LEVELS[i] as f32);
            q = q.or_else(V::splat(s, border(i)).gt(scaled), q + step);
        }
        (sum_qx, sum_q2) = (sum_qx + w * q * x, sum_q2 + w * q * q);
    }
    (sum_qx, sum_q2)
}

/// The scale of each group: that which puts the largest value on the first level, or one of 15 about it, each corrected to the best for
/// its levels; the one of least error, with `w` the weights of the errors. Source: `quantize_row_iq4_nl_impl` of ggml.
#[inline(always)]
pub fn search<S: Simd, const N: usize>(s: S, x: &Tile<N>, w: &Tile<N>) -> [f32; LANES] {
    let zero = V::splat(s, 0.0);
    let (peak, live) = peak(s, x);
    let first = V::splat(s, LEVELS[0] as f32);
    let (sum_qx, sum_q2) = sums(s, x, w, V::splat(s, 1.0) / ((zero - peak) / first));
    let mut scale = (sum_qx / sum_q2).or_else(sum_q2.gt(zero), zero);
    let mut best = scale * sum_qx;
    for step in -7..=7 {
        let (sum_qx, sum_q2) = sums(s, x, w, V::splat(s, (step + LEVELS[0] as i32) as f32) / peak);
        let better = s.and(sum_q2.gt(zero), (sum_qx * sum_qx).gt(best * sum_q2));
        let this_scale = sum_qx / sum_q2;
        best = (this_scale * sum_qx).or_else(better, best);
        scale = this_scale.or_else(better, scale);
    }
    scale.or_else(live, zero).array()
}
