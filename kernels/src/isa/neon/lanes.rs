//! Sixteen lanes of `f32` in four registers.

use std::arch::aarch64::*;
use strata_quant::float::ROUND;
use strata_quant::simd::Simd;

/// The token. Made only inside functions compiled for NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn new() -> Neon {
        Neon(())
    }
}

/// Lanes 0..4, 4..8, 8..12, 12..16.
type Four = [float32x4_t; 4];

/// An expression for each register.
macro_rules! each {
    ($i:ident => $e:expr) => {{
        // SAFETY: the token proves NEON; registers only, or loads and stores inside the 16 values.
        unsafe {
            let of = |$i: usize| $e;
            [of(0), of(1), of(2), of(3)]
        }
    }};
}

impl Simd for Neon {
    type F = Four;
    type M = [uint32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Four {
        each!(_i => vdupq_n_f32(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Four {
        each!(i => vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, v: Four, out: &mut [f32; 16]) {
        // SAFETY: the token proves NEON; the four stores are the 16 values.
        unsafe {
            let p = out.as_mut_ptr();
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; 16]) -> Four {
        let p: *const u16 = x.as_ptr().cast();
        each!(i => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p.add(4 * i)))))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; 16]) -> Four {
        let p: *const u16 = x.as_ptr().cast();
        each!(i => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * i)))))
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> Four {
        // SAFETY: the token proves NEON; the load is the 16 bytes.
        unsafe {
            let v = vld1q_s8(x.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: the instruction is part of aarch64, reads nothing and may name any address.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly))
        }
    }
    #[inline(always)]
    fn add(self, a: Four, b: Four) -> Four {
        each!(i => vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Four, b: Four) -> Four {
        each!(i => vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Four, b: Four) -> Four {
        each!(i => vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Four, b: Four) -> Four {
        each!(i => vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: Four, b: Four, c: Four) -> Four {
        each!(i => vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: Four, b: Four) -> Four {
        each!(i => vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: Four, b: Four) -> Four {
        each!(i => vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: Four) -> Four {
        each!(i => vsqrtq_f32(a[i]))
    }
    #[inline(always)]
    fn abs(self, a: Four) -> Four {
        each!(i => vabsq_f32(a[i]))
    }
    #[inline(always)]
    fn nearest(self, a: Four) -> Four {
        each!(i => {
            let bits = vreinterpretq_s32_f32(vaddq_f32(a[i], vdupq_n_f32(ROUND)));
            let low = vandq_s32(bits, vdupq_n_s32(0x7f_ffff));
            vcvtq_f32_s32(vsubq_s32(low, vdupq_n_s32(0x40_0000)))
        })
    }
    #[inline(always)]
    fn gt(self, a: Four, b: Four) -> [uint32x4_t; 4] {
        each!(i => vcgtq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn and(self, a: [uint32x4_t; 4], b: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
        each!(i => vandq_u32(a[i], b[i]))
    }
    #[inline(always)]
    fn select(self, m: [uint32x4_t; 4], a: Four, b: Four) -> Four {
        each!(i => vbslq_f32(m[i], a[i], b[i]))
    }
    #[inline(always)]
    fn pow2_of_magic(self, t: Four) -> Four {
        each!(i => {
            let n = vaddq_s32(vreinterpretq_s32_f32(t[i]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
        })
    }
    #[inline(always)]
    fn sum(self, v: Four) -> f32 {
        // SAFETY: the token proves NEON; registers only.
        unsafe {
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}
