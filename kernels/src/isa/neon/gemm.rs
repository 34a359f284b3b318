//! Panels of 16 rows: four vectors of 4 lanes, times tiles of four columns: 16 sums, 4 registers of weights and one of activations leave
//! 11 of 32 for the rest.

use super::super::gemm::panel::{Expand, Panel, Vector};
use super::super::gemm::tile::Columns;
use super::DotProducts;
use std::arch::aarch64::*;

/// Lanes of a vector.
pub const L: usize = 4;

/// The token of a set with the way `P` to multiply, which proves its instructions.
#[derive(Clone, Copy)]
pub struct Panels<P>(pub P);

/// One intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves NEON and the products; registers, and loads and stores of whole arrays of their size.
        unsafe { $e }
    };
}

impl<P: DotProducts> Vector<L> for Panels<P> {
    const SUMS_I16: bool = false;
    type I = int32x4_t;
    type F = float32x4_t;

    #[inline(always)]
    fn sums<F: Expand, const S: usize, const C: usize>(
        self,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        i: usize,
    ) -> [[int32x4_t; C]; S] {
        P::sums::<F, S, C>(self, panel, x, i)
    }
    #[inline(always)]
    fn finish<F: Expand, const S: usize>(self, panel: &mut Panel<L, S>) {
        self.0.finish(panel)
    }
    #[inline(always)]
    fn ints(self, v: &[i32; L]) -> int32x4_t {
        op!(vld1q_s32(v.as_ptr()))
    }
    #[inline(always)]
    fn store_ints(self, v: int32x4_t, out: &mut [i32; L]) {
        op!(vst1q_s32(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn floats(self, v: &[f32; L]) -> float32x4_t {
        op!(vld1q_f32(v.as_ptr()))
    }
    #[inline(always)]
    fn store_floats(self, v: float32x4_t, out: &mut [f32; L]) {
        op!(vst1q_f32(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn codes(self, v: &[[i8; 4]; L]) -> int32x4_t {
        op!(vreinterpretq_s32_s8(vld1q_s8(v.as_flattened().as_ptr())))
    }
    #[inline(always)]
    fn store_codes(self, v: int32x4_t, out: &mut [[i8; 4]; L]) {
        op!(vst1q_s8(out.as_flattened_mut().as_mut_ptr(), vreinterpretq_s8_s32(v)))
    }
    #[inline(always)]
    fn splat(self, v: u32) -> int32x4_t {
        op!(vdupq_n_s32(v as i32))
    }
    #[inline(always)]
    fn splat_float(self, v: f32) -> float32x4_t {
        op!(vdupq_n_f32(v))
    }
    #[inline(always)]
    fn dot<F: Expand>(self, acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        op!(self.0.fours(acc, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x)))
    }
    #[inline(always)]
    fn scaled(self, acc: int32x4_t, sum: int32x4_t, scale: int32x4_t) -> int32x4_t {
        op!(vmlaq_s32(acc, sum, scale))
    }
    #[inline(always)]
    fn mul_ints(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!(vmulq_s32(a, b))
    }
    #[inline(always)]
    fn pairs(self, acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!({
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(a, b)))
        })
    }
    #[inline(always)]
    fn to_floats(self, v: int32x4_t) -> float32x4_t {
        op!(vcvtq_f32_s32(v))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        op!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn fnma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        op!(vfmsq_f32(c, a, b))
    }
    #[inline(always)]
    fn add(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!(vaddq_s32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!(vsubq_s32(a, b))
    }
    #[inline(always)]
    fn sub_bytes(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!(vreinterpretq_s32_s8(vsubq_s8(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))))
    }
    #[inline(always)]
    fn and(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!(vandq_s32(a, b))
    }
    #[inline(always)]
    fn or(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        op!(vorrq_s32(a, b))
    }
    #[inline(always)]
    fn shl(self, v: int32x4_t, n: u32) -> int32x4_t {
        op!(vshlq_s32(v, vdupq_n_s32(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: int32x4_t, n: u32) -> int32x4_t {
        op!(vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vdupq_n_s32(-(n as i32)))))
    }
    #[inline(always)]
    fn sar(self, v: int32x4_t, n: u32) -> int32x4_t {
        op!(vshlq_s32(v, vdupq_n_s32(-(n as i32))))
    }
    #[inline(always)]
    fn look_up(self, table: &[i8; 16], v: int32x4_t) -> int32x4_t {
        op!(vreinterpretq_s32_s8(vqtbl1q_s8(vld1q_s8(table.as_ptr()), vreinterpretq_u8_s32(v))))
    }
    #[inline(always)]
    fn halves(self, v: int32x4_t) -> float32x4_t {
        op!(vcvt_f32_f16(vreinterpret_f16_s16(vmovn_s32(v))))
    }
    #[inline(always)]
    fn load_halves(self, v: &[u16; L]) -> float32x4_t {
        op!(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(v.as_ptr()))))
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch is part of every aarch64; it reads nothing and may name any address.
        unsafe { std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
    }
    #[inline(always)]
    fn transpose(self, rows: [&[u8; 16]; L]) -> [int32x4_t; 4] {
        let [a, b, c, d] = rows;
        op!({
            let load = |row: &[u8; 16]| vreinterpretq_s32_u8(vld1q_u8(row.as_ptr()));
            let (a, b, c, d) = (load(a), load(b), load(c), load(d));
            let (even, odd) = ([vzip1q_s32(a, c), vzip2q_s32(a, c)], [vzip1q_s32(b, d), vzip2q_s32(b, d)]);
            [
                vzip1q_s32(even[0], odd[0]),
                vzip2q_s32(even[0], odd[0]),
                vzip1q_s32(even[1], odd[1]),
                vzip2q_s32(even[1], odd[1]),
            ]
        })
    }
}

/// Four codes of each of up to four columns from `first` on, zeros after the last.
///
/// # Safety
/// NEON, which every aarch64 processor has.
#[inline(always)]
pub unsafe fn four<const C: usize>(x: &[[u8; 4]; C], first: usize) -> int8x16_t {
    let left = &x[first..];
    let at: *const i32 = left.as_ptr().cast();
    // SAFETY: NEON by the caller's promise; no load goes past `left`, whose items are 32 bits each.
    let v = unsafe {
        match left.len() {
            0 => vdupq_n_s32(0),
            1 => vsetq_lane_s32::<0>(at.read_unaligned(), vdupq_n_s32(0)),
            2 => vcombine_s32(vld1_s32(at), vdup_n_s32(0)),
            3 => vcombine_s32(vld1_s32(at), vset_lane_s32::<0>(at.add(2).read_unaligned(), vdup_n_s32(0))),
            _ => vld1q_s32(at),
        }
    };
    // SAFETY: NEON by the caller's promise; registers only.
    unsafe { vreinterpretq_s8_s32(v) }
}
