//! The scale and the least value of a group: `x = scale * code + min`, codes from 0. The searches keep `min` at most 0.
//!
//! For a series of guesses of the scale: round every value to a code, then take the scale and `min` that are best for those codes
//! (weighted least squares), and keep the guess whose error is least. Source: `make_qkx2_quants` and `make_qkx3_quants` of ggml, which
//! are the same for finite values.

use super::{LANES, Tile, V};
use crate::simd::Simd;

/// A search.
#[derive(Clone, Copy)]
pub struct Affine {
    /// The largest code.
    pub top: f32,
    /// Guess `i` of the inverse scale is `(first + delta * i + top) / (max - min)`, with the best `min` so far.
    pub first: f32,
    /// See `first`.
    pub delta: f32,
    /// The last guess.
    pub last: usize,
    /// The error is the absolute difference instead of its square.
    pub absolute: bool,
}

impl Affine {
    /// The search that llama-quantize does where there is importance.
    pub const fn important(top: f32) -> Affine {
        Affine { top, first: -0.9, delta: 0.05, last: 36, absolute: false }
    }

    /// `(scale, min)` of each group, and how the best guess rounds; `w` are the weights of the errors.
    #[inline(always)]
    pub fn search<S: Simd, const N: usize>(
        self,
        s: S,
        x: &Tile<N>,
        w: &Tile<N>,
    ) -> ([f32; LANES], [f32; LANES], Rounding<S>) {
        let mut codes = [[0.0; LANES]; N];
        let zero = V::splat(s, 0.0);
        let (mut min, max) = range(s, x);
        let (mut sum_w, mut sum_x) = (zero, zero);
        for i in 0..N {
            let (x, w) = (V::load(s, &x[i]), V::load(s, &w[i]));
            (sum_w, sum_x) = (sum_w + w, sum_x + w * x);
        }
        min = min.min(zero);
        let live = max.gt(min);

        // What decides the codes of the best guess so far: its inverse scale, and `min` at the time.
        let (mut best_inverse, mut best_min) = (V::splat(s, self.top) / (max - min), min);
        let mut scale = V::splat(s, 1.0) / best_inverse;
        self.round(s, x, best_inverse, min, &mut codes);
        let mut best_error = self.error(s, x, w, scale, min, &codes);
        for guess in 0..=self.last {
            let inverse = V::splat(s, self.first + self.delta * guess as f32 + self.top) / (max - min);
            self.round(s, x, inverse, min, &mut codes);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
            for i in 0..N {
                let (x, w, l) = (V::load(s, &x[i]), V::load(s, &w[i]), V::load(s, &codes[i]));
                (sum_l, sum_l2, sum_xl) = (sum_l + w * l, sum_l2 + w * l * l, sum_xl + w * l * x);
            }
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            let this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            let positive = this_min.gt(zero);
            let this_scale = (sum_xl / sum_l2).or_else(positive, this_scale);
            let this_min = zero.or_else(positive, this_min);
            let this_error = self.error(s, x, w, this_scale, this_min, &codes);
            let better = s.and(determinant.gt(zero), best_error.gt(this_error));
            best_inverse = inverse.or_else(better, best_inverse);
            best_min = min.or_else(better, best_min);
            best_error = this_error.or_else(better, best_error);
            scale = this_scale.or_else(better, scale);
            min = this_min.or_else(better, min);
        }
        let rounding = Rounding { search: self, inverse: best_inverse, min: best_min, live };
        (scale.or_else(live, zero).array(), min.array(), rounding)
    }

    /// `code = clamp(round(inverse * (x - min)), 0, top)`
    #[inline(always)]
    fn round<S: Simd, const N: usize>(self, s: S, x: &Tile<N>, inverse: V<S>, min: V<S>, codes: &mut Tile<N>) {
        let (zero, top) = (V::splat(s, 0.0), V::splat(s, self.top));
        for i in 0..N {
            (inverse * (V::load(s, &x[i]) - min)).nearest().clamp(zero, top).store(&mut codes[i]);
        }
    }

    /// The weighted error of `scale * code + min`.
    #[inline(always)]
    fn error<S: Simd, const N: usize>(
        self,
        s: S,
        x: &Tile<N>,
        w: &Tile<N>,
        scale: V<S>,
        min: V<S>,
        codes: &Tile<N>,
    ) -> V<S> {
        let mut sum = V::splat(s, 0.0);
        for i in 0..N {
            let difference = scale * V::load(s, &codes[i]) + min - V::load(s, &x[i]);
            let cost = if self.absolute { difference.abs() } else { difference * difference };
            sum = sum + V::load(s, &w[i]) * cost;
        }
        sum
    }
}

/// Rounds to the codes of a search's best guess; those of groups whose values are all one are 0.
pub struct Rounding<S: Simd> {
    search: Affine,
    inverse: V<S>,
    min: V<S>,
    live: S::M,
}

impl<S: Simd> Rounding<S> {
    /// Fills `codes`.
    #[inline(always)]
    pub fn round<const N: usize>(&self, s: S, x: &Tile<N>, codes: &mut Tile<N>) {
        self.search.round(s, x, self.inverse, self.min, codes);
        for row in codes.iter_mut() {
            V::load(s, row).or_else(self.live, V::splat(s, 0.0)).store(row);
        }
    }
}

/// The smallest and the largest value of each group.
#[inline(always)]
fn range<S: Simd, const N: usize>(s: S, x: &Tile<N>) -> (V<S>, V<S>) {
    let first = V::load(s, &x[0]);
    let (mut min, mut max) = (first, first);
    for row in &x[1..] {
        let x = V::load(s, row);
        (min, max) = (x.min(min), x.max(max));
    }
    (min, max)
}

/// Without a search: `scale = (max - min) / top`; `min` may be of either sign. Source: `quantize_row_q4_1_ref` of ggml.
#[inline(always)]
pub fn plain<S: Simd, const N: usize>(s: S, x: &Tile<N>, top: f32) -> ([f32; LANES], [f32; LANES], PlainRounding<S>) {
    let (zero, top) = (V::splat(s, 0.0), V::splat(s, top));
    let (min, max) = range(s, x);
    let scale = (max - min) / top;
    let inverse = (V::splat(s, 1.0) / scale).or_else(scale.abs().gt(zero), zero);
    (scale.array(), min.array(), PlainRounding { inverse, min, top })
}

/// `code = min(top, trunc((x - min) / scale + 0.5))`
pub struct PlainRounding<S: Simd> {
    inverse: V<S>,
    min: V<S>,
    top: V<S>,
}

impl<S: Simd> PlainRounding<S> {
    /// Fills `codes`.
    #[inline(always)]
    pub fn round<const N: usize>(&self, s: S, x: &Tile<N>, codes: &mut Tile<N>) {
        let half = V::splat(s, 0.5);
        for i in 0..N {
            ((V::load(s, &x[i]) - self.min) * self.inverse + half).floor().min(self.top).store(&mut codes[i]);
        }
    }
}
