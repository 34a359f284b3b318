//! Numbers that are not finite, noticed in registers: softmax, the exponential and quantizing to 8 bits would swallow them.

use strata_quant::simd::Simd;

/// Sixteen sums of `0 * x`: zero as long as every `x` was finite, since infinity and NaN give NaN, which stays.
#[derive(Clone, Copy)]
pub struct Finite<S: Simd> {
    s: S,
    sums: S::F,
}

impl<S: Simd> Finite<S> {
    /// No number checked yet.
    #[inline(always)]
    pub fn new(s: S) -> Finite<S> {
        Finite { s, sums: s.splat(0.0) }
    }

    /// Takes sixteen numbers in.
    #[inline(always)]
    pub fn check(&mut self, v: S::F) {
        self.sums = self.s.fma(v, self.s.splat(0.0), self.sums);
    }

    /// True if all were finite.
    #[inline(always)]
    pub fn all(self) -> bool {
        self.s.sum(self.sums) == 0.0
    }
}
