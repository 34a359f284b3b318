//! Root-mean-square norm (Zhang and Sennrich, 2019): `y = x / sqrt(mean(x^2) + eps) * w`.

use crate::finite::Finite;
use strata_quant::simd::Simd;

/// The mean of the squares of a row.
#[inline(always)]
fn mean_square<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut squares = s.splat(0.0);
    for part in x.chunks(16) {
        let v = s.load_part(part, 0.0);
        squares = s.fma(v, v, squares);
    }
    s.sum(squares) / x.len() as f32
}

/// Normalizes one row: `x`, `w` and `y` have one length. False if a number of `x` or `y`, or the mean of the squares, is not finite.
#[inline(always)]
pub fn rms_norm<S: Simd>(s: S, x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> bool {
    assert!(x.len() == w.len() && x.len() == y.len());
    let mean = mean_square(s, x);
    let (scale, mut finite) = (s.splat(1.0 / (mean + eps).sqrt()), Finite::new(s));
    for ((x, w), y) in x.chunks(16).zip(w.chunks(16)).zip(y.chunks_mut(16)) {
        let normed = s.mul(s.mul(s.load_part(x, 0.0), scale), s.load_part(w, 0.0));
        finite.check(normed);
        s.store_part(normed, y);
    }
    mean.is_finite() && finite.all()
}

/// Normalizes every head of a row in place: `x (heads, d)`, `w (d)`. False if the mean of the squares of a head is not finite.
#[inline(always)]
pub fn rms_norm_heads<S: Simd>(s: S, x: &mut [f32], w: &[f32], eps: f32) -> bool {
    let mut finite = true;
    for head in x.chunks_exact_mut(w.len()) {
        let mean = mean_square(s, head);
        finite &= mean.is_finite();
        let scale = s.splat(1.0 / (mean + eps).sqrt());
        for (x, w) in head.chunks_mut(16).zip(w.chunks(16)) {
            let normed = s.mul(s.mul(s.load_part(x, 0.0), scale), s.load_part(w, 0.0));
            s.store_part(normed, x);
        }
    }
    finite
}
