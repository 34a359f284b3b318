//! The gate of the feed-forward network, SwiGLU (Shazeer, 2020), and plain sums.

use crate::exp::exp;
use crate::finite::Finite;
use strata_quant::simd::Simd;

/// `out = silu(gate) * up` with `silu(g) = g / (1 + exp(-g))`; all of one length. False if a result is not finite.
#[inline(always)]
pub fn silu_mul<S: Simd>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) -> bool {
    assert!(gate.len() == up.len() && gate.len() == out.len());
    let mut finite = Finite::new(s);
    for ((g, u), y) in gate.chunks(16).zip(up.chunks(16)).zip(out.chunks_mut(16)) {
        let (g, u) = (s.load_part(g, 0.0), s.load_part(u, 0.0));
        let e = exp(s, s.sub(s.splat(0.0), g));
        let gated = s.mul(s.div(g, s.add(s.splat(1.0), e)), u);
        finite.check(gated);
        s.store_part(gated, y);
    }
    finite.all()
}

/// `x += y`, of one length. False if a sum is not finite.
#[inline(always)]
pub fn add<S: Simd>(s: S, x: &mut [f32], y: &[f32]) -> bool {
    assert!(x.len() == y.len());
    let mut finite = Finite::new(s);
    for (x, y) in x.chunks_mut(16).zip(y.chunks(16)) {
        let sum = s.add(s.load_part(x, 0.0), s.load_part(y, 0.0));
        finite.check(sum);
        s.store_part(sum, x);
    }
    finite.all()
}
