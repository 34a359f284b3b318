//! The scale of a group whose codes have a sign: `x = scale * code`, codes from `-half` to `half - 1`.
//!
//! The scale may be negative: the value of largest magnitude gets the code `-half`, which has no positive counterpart.

use super::{LANES, TINY, Tile, V};
use crate::simd::Simd;

/// The first value of largest magnitude of each group, and for which groups it is none of the [`TINY`].
#[inline(always)]
pub fn peak<S: Simd, const N: usize>(s: S, x: &Tile<N>) -> (V<S>, S::M) {
    let (mut peak, mut largest) = (V::splat(s, 0.0), V::splat(s, 0.0));
    for row in x {
        let v = V::load(s, row);
        let larger = v.abs().gt(largest);
        (largest, peak) = (v.abs().or_else(larger, largest), v.or_else(larger, peak));
    }
    // Not smaller than: larger than the number before.
    (peak, largest.gt(V::splat(s, TINY.next_down())))
}

/// `code = clamp(round(inverse * x), -half, half - 1)` for value `i`.
#[inline(always)]
fn code<S: Simd, const N: usize>(s: S, x: &Tile<N>, inverse: V<S>, half: f32, i: usize) -> V<S> {
    (inverse * V::load(s, &x[i])).nearest().clamp(V::splat(s, -half), V::splat(s, half - 1.0))
}

/// The weighted sums of `code * x` and `code^2`: their ratio is the best scale for the codes that `inverse` gives.
#[inline(always)]
fn sums<S: Simd, const N: usize>(s: S, x: &Tile<N>, w: &Tile<N>, inverse: V<S>, half: f32) -> (V<S>, V<S>) {
    let (mut sum_lx, mut sum_l2) = (V::splat(s, 0.0), V::splat(s, 0.0));
    for i in 0..N {
        let (l, x, w) = (code(s, x, inverse, half, i), V::load(s, &x[i]), V::load(s, &w[i]));
        (sum_lx, sum_l2) = (sum_lx + w * x * l, sum_l2 + w * l * l);
    }
    (sum_lx, sum_l2)
}

/// Tries 19 scales about the one that gives the largest value the code `-half`, each corrected to the best for its codes, and keeps the
/// one of least error, with `w` the weights of the errors. Source: `make_qx_quants` of ggml.
#[inline(always)]
pub fn search<S: Simd, const N: usize>(s: S, x: &Tile<N>, w: &Tile<N>, half: f32) -> ([f32; LANES], Rounding<S>) {
    let zero = V::splat(s, 0.0);
    let (peak, live) = peak(s, x);
    let mut best_inverse = V::splat(s, -half) / peak;
    let (sum_lx, sum_l2) = sums(s, x, w, best_inverse, half);
    let mut scale = (sum_lx / sum_l2).or_else(sum_l2.abs().gt(zero), zero);
    let mut best = scale * sum_lx;
    for step in -9..=9 {
        if step == 0 {
            continue;
        }
        let inverse = V::splat(s, -(half + 0.1 * step as f32)) / peak;
        let (sum_lx, sum_l2) = sums(s, x, w, inverse, half);
        let better = s.and(sum_l2.gt(zero), (sum_lx * sum_lx).gt(best * sum_l2));
        let this_scale = sum_lx / sum_l2;
        best_inverse = inverse.or_else(better, best_inverse);
        best = (this_scale * sum_lx).or_else(better, best);
        scale = this_scale.or_else(better, scale);
    }
    (scale.or_else(live, zero).array(), Rounding { inverse: best_inverse, half, live })
}

/// Rounds to the codes of a search's best scale, shifted up by `half`; those of groups that are none are 0.
pub struct Rounding<S: Simd> {
    inverse: V<S>,
    half: f32,
    live: S::M,
}

impl<S: Simd> Rounding<S> {
    /// The code 0 for every value.
    #[inline(always)]
    pub fn zeros(s: S) -> Rounding<S> {
        let zero = V::splat(s, 0.0);
        Rounding { inverse: zero, half: 0.0, live: zero.gt(zero) }
    }

    /// Fills `codes`.
    #[inline(always)]
    pub fn round<const N: usize>(&self, s: S, x: &Tile<N>, codes: &mut Tile<N>) {
        let (zero, half) = (V::splat(s, 0.0), V::splat(s, self.half));
        for i in 0..N {
            (code(s, x, self.inverse, self.half, i) + half).or_else(self.live, zero).store(&mut codes[i]);
        }
    }
}

/// Without a search: `scale = peak / -half`. Source: `quantize_row_q4_0_ref` of ggml.
#[inline(always)]
pub fn plain<S: Simd, const N: usize>(s: S, x: &Tile<N>, half: f32) -> ([f32; LANES], PlainRounding<S>) {
    let zero = V::splat(s, 0.0);
    let scale = peak(s, x).0 / V::splat(s, -half);
    let inverse = (V::splat(s, 1.0) / scale).or_else(scale.abs().gt(zero), zero);
    (scale.array(), PlainRounding { inverse, half })
}

/// `code = min(2 half - 1, trunc(x / scale + half + 0.5))`
pub struct PlainRounding<S: Simd> {
    inverse: V<S>,
    half: f32,
}

impl<S: Simd> PlainRounding<S> {
    /// Fills `codes`.
    #[inline(always)]
    pub fn round<const N: usize>(&self, s: S, x: &Tile<N>, codes: &mut Tile<N>) {
        let (middle, top) = (V::splat(s, self.half + 0.5), V::splat(s, 2.0 * self.half - 1.0));
        for i in 0..N {
            (V::load(s, &x[i]) * self.inverse + middle).floor().min(top).store(&mut codes[i]);
        }
    }
}

/// Coordinate descent: starts from the scale that gives the largest value the code `-half` and improves one code after the other, five times
/// over, with `x^2` the weights of the errors. Fills `codes`, shifted up by `half`. Source: `make_q3_quants` of ggml.
#[inline(always)]
pub fn descend<S: Simd, const N: usize>(s: S, x: &Tile<N>, half: f32, codes: &mut Tile<N>) -> [f32; LANES] {
    let zero = V::splat(s, 0.0);
    let (low, high) = (V::splat(s, -half), V::splat(s, half - 1.0));
    let (peak, live) = peak(s, x);
    let inverse = low / peak;
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let x = V::load(s, &x[i]);
        let (l, w) = ((inverse * x).nearest().clamp(low, high), x * x);
        l.store(&mut codes[i]);
        (sum_lx, sum_l2) = (sum_lx + w * x * l, sum_l2 + w * l * l);
    }
    // A group that has settled stays as it is: ggml leaves the loop there, to the same end.
    for _ in 0..5 {
        for i in 0..N {
            let (x, l) = (V::load(s, &x[i]), V::load(s, &codes[i]));
            let w = x * x;
            let (rest_lx, rest_l2) = (sum_lx - w * x * l, sum_l2 - w * l * l);
            let new = (x * rest_l2 / rest_lx).nearest().clamp(low, high);
            let (new_lx, new_l2) = (rest_lx + w * x * new, rest_l2 + w * new * new);
            let gain = (new_lx * new_lx * sum_l2).gt(sum_lx * sum_lx * new_l2);
            let better = s.and(s.and(rest_lx.gt(zero), new_l2.gt(zero)), s.and((new - l).abs().gt(zero), gain));
            new.or_else(better, l).store(&mut codes[i]);
            (sum_lx, sum_l2) = (new_lx.or_else(better, sum_lx), new_l2.or_else(better, sum_l2));
        }
    }
    for row in codes.iter_mut() {
        (V::load(s, row) - low).or_else(live, zero).store(row);
    }
    (sum_lx / sum_l2).or_else(s.and(live, sum_l2.gt(zero)), zero).array()
}
