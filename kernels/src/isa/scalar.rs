//! The set that every processor has: the reference that the others must equal.

use crate::simd::Simd;
use crate::table::{Matmul, instantiate};
use strata_quant::GgmlType;
use strata_quant::float::{bf16_at, f16_at, fma, sum16};

/// The token: always there.
#[derive(Clone, Copy)]
pub struct Scalar;

/// Applies an expression to every lane.
macro_rules! lanes {
    ($i:ident => $lane:expr) => {{
        let mut out = [0.0f32; 16];
        for $i in 0..16 {
            out[$i] = $lane;
        }
        out
    }};
}

impl Simd for Scalar {
    type F = [f32; 16];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], out: &mut [f32; 16]) {
        *out = v
    }
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; 16]) -> [f32; 16] {
        lanes!(i => f16_at(x[i]))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; 16]) -> [f32; 16] {
        lanes!(i => bf16_at(x[i]))
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        lanes!(i => fma(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn pow2_of_magic(self, t: [f32; 16]) -> [f32; 16] {
        lanes!(i => f32::from_bits(t[i].to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    fn sum(self, v: [f32; 16]) -> f32 {
        sum16(v)
    }
}

/// Blocks are multiplied by their formats' own `dot`.
fn blocks(_: GgmlType) -> Option<Matmul> {
    None
}

instantiate!(Scalar, 1 x 1, blocks);
