//! Sixteen numbers with the operators of arithmetic, so that a search reads like its formula.

use super::LANES;
use crate::simd::Simd;
use std::ops::{Add, Div, Mul, Sub};

/// One number for each of 16 groups, in the registers of `S`.
#[derive(Clone, Copy)]
pub struct V<S: Simd> {
    s: S,
    lanes: S::F,
}

impl<S: Simd> V<S> {
    #[inline(always)]
    fn new(s: S, lanes: S::F) -> V<S> {
        V { s, lanes }
    }

    /// The same number for all groups.
    #[inline(always)]
    pub fn splat(s: S, x: f32) -> V<S> {
        V::new(s, s.splat(x))
    }

    /// A number for each group.
    #[inline(always)]
    pub fn load(s: S, x: &[f32; LANES]) -> V<S> {
        V::new(s, s.load(x))
    }

    /// The inverse of [`V::load`].
    #[inline(always)]
    pub fn store(self, out: &mut [f32; LANES]) {
        self.s.store(self.lanes, out)
    }

    /// The numbers.
    #[inline(always)]
    pub fn array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        self.store(&mut out);
        out
    }

    /// See [`Simd::nearest`].
    #[inline(always)]
    pub fn nearest(self) -> V<S> {
        V::new(self.s, self.s.nearest(self.lanes))
    }

    /// The integer not above it, for `|x| < 2^22`.
    #[inline(always)]
    pub fn floor(self) -> V<S> {
        let near = self.nearest();
        (near - V::splat(self.s, 1.0)).or_else(near.gt(self), near)
    }

    /// Not below `low`, not above `high`.
    #[inline(always)]
    pub fn clamp(self, low: V<S>, high: V<S>) -> V<S> {
        V::new(self.s, self.s.max(self.s.min(self.lanes, high.lanes), low.lanes))
    }

    /// The smaller.
    #[inline(always)]
    pub fn min(self, other: V<S>) -> V<S> {
        V::new(self.s, self.s.min(self.lanes, other.lanes))
    }

    /// The larger.
    #[inline(always)]
    pub fn max(self, other: V<S>) -> V<S> {
        V::new(self.s, self.s.max(self.lanes, other.lanes))
    }

    /// Without the sign.
    #[inline(always)]
    pub fn abs(self) -> V<S> {
        V::new(self.s, self.s.abs(self.lanes))
    }

    /// The square root.
    #[inline(always)]
    pub fn sqrt(self) -> V<S> {
        V::new(self.s, self.s.sqrt(self.lanes))
    }

    /// For which groups it is larger.
    #[inline(always)]
    pub fn gt(self, other: V<S>) -> S::M {
        self.s.gt(self.lanes, other.lanes)
    }

    /// This where `mask` says so, else `other`.
    #[inline(always)]
    pub fn or_else(self, mask: S::M, other: V<S>) -> V<S> {
        V::new(self.s, self.s.select(mask, self.lanes, other.lanes))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl<S: Simd> $trait for V<S> {
            type Output = V<S>;
            #[inline(always)]
            fn $method(self, other: V<S>) -> V<S> {
                V::new(self.s, self.s.$method(self.lanes, other.lanes))
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);
