//! Three ways to multiply 8-bit numbers and add the products up. The instructions that the standard library has no stable functions for are
//! written out.

use super::DotProducts;
use super::gemm::{L, Panels, four};
use crate::isa::gemm::panel::{Expand, Panel, Vector, step};
use crate::isa::gemm::tile::Columns;
use std::arch::{aarch64::*, asm};

/// By products of 16 bits.
#[derive(Clone, Copy)]
pub struct Widening(());

impl Widening {
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn new() -> Widening {
        Widening(())
    }
}

impl DotProducts for Widening {
    #[inline(always)]
    fn products(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves NEON; registers only. Two products fit 16 bits: 2 * 128 * 127.
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vmlal_s8(low, vget_high_s8(w), vget_high_s8(x)))
        }
    }
    #[inline(always)]
    fn fours(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves NEON; registers only. Two products fit 16 bits.
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
    }
}

/// By `sdot`.
#[derive(Clone, Copy)]
pub struct Sdot(());

impl Sdot {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub fn new() -> Sdot {
        Sdot(())
    }
}

/// `sdot`: four products a lane.
///
/// # Safety
/// The processor has dotprod.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches its three registers only.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// `sdot` of every lane of `w` with dword `I` of `x`: no instruction to spread it first.
///
/// # Safety
/// The processor has dotprod.
#[inline(always)]
unsafe fn sdot_with<const I: usize>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches its three registers only.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{i}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            i = const I,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

impl DotProducts for Sdot {
    #[inline(always)]
    fn products(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves dotprod.
        unsafe { sdot(acc, w, x) }
    }
    #[inline(always)]
    fn fours(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves dotprod.
        unsafe { sdot(acc, w, x) }
    }
    #[inline(always)]
    fn sums<F: Expand, const S: usize, const C: usize>(
        t: Panels<Sdot>,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        i: usize,
    ) -> [[int32x4_t; C]; S] {
        let mut sums = [[t.splat(0); C]; S];
        let steps = const { step::<Panels<Sdot>, F, L>() } / 4;
        for k in i * steps..(i + 1) * steps {
            panel.prefetch::<Panels<Sdot>, F>(t, k);
            // SAFETY: the token proves NEON with dotprod; registers only.
            unsafe {
                let mut w = [vdupq_n_s8(0); S];
                for s in 0..S {
                    w[s] = vreinterpretq_s8_s32(t.codes(&panel.codes[k][s]));
                }
                let x = [four(&x.codes[k], 0), four(&x.codes[k], C.min(4))];
                for c in 0..C {
                    for s in 0..S {
                        let (sum, x) = (sums[s][c], x[c / 4]);
                        sums[s][c] = match c % 4 {
                            0 => sdot_with::<0>(sum, w[s], x),
                            1 => sdot_with::<1>(sum, w[s], x),
                            2 => sdot_with::<2>(sum, w[s], x),
                            _ => sdot_with::<3>(sum, w[s], x),
                        };
                    }
                }
            }
        }
        sums
    }
}

/// By `smmla` in GEMM, by `sdot` in GEMV.
#[derive(Clone, Copy)]
pub struct Smmla(());

impl Smmla {
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    pub fn new() -> Smmla {
        Smmla(())
    }
}

/// `smmla`: two rows `w` of eight codes times two columns `x` of eight, `(rows, columns)`.
///
/// # Safety
/// The processor has i8mm.
#[inline(always)]
unsafe fn smmla(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches its three registers only.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

impl DotProducts for Smmla {
    #[inline(always)]
    fn products(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves dotprod.
        unsafe { sdot(acc, w, x) }
    }
    #[inline(always)]
    fn fours(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves dotprod.
        unsafe { sdot(acc, w, x) }
    }

    const MOST: u64 = 32;
    #[inline(always)]
    fn most(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves i8mm.
        unsafe { smmla(acc, w, x) }
    }

    /// Two steps at a time: rows 0 and 1 with eight values of k each, then rows 2 and 3.
    #[inline(always)]
    fn finish<const S: usize>(self, panel: &mut Panel<L, S>) {
        let t = Panels(self);
        let (pairs, _) = panel.codes.as_chunks_mut::<2>();
        for [first, second] in pairs {
            for s in 0..S {
                let (a, b) = (t.codes(&first[s]), t.codes(&second[s]));
                // SAFETY: the token proves NEON; registers only.
                let (low, high) = unsafe { (vzip1q_s32(a, b), vzip2q_s32(a, b)) };
                t.store_codes(low, &mut first[s]);
                t.store_codes(high, &mut second[s]);
            }
        }
    }

    /// `(rows 0 and 1, columns c and c + 1)` gather in the sums of column c, those of rows 2 and 3 in the sums of column c + 1. A last,
    /// single column stands for two.
    #[inline(always)]
    fn sums<F: Expand, const S: usize, const C: usize>(
        t: Panels<Smmla>,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        i: usize,
    ) -> [[int32x4_t; C]; S] {
        let zero = t.splat(0);
        let (mut sums, mut beyond) = ([[zero; C]; S], [zero; S]);
        let steps = const { step::<Panels<Smmla>, F, L>() } / 4;
        for k in (i * steps..(i + 1) * steps).step_by(2) {
            panel.prefetch::<Panels<Smmla>, F>(t, k);
            panel.prefetch::<Panels<Smmla>, F>(t, k + 1);
            for c in (0..C).step_by(2) {
                // SAFETY: the token proves NEON with i8mm; registers only.
                unsafe {
                    let two = |k: usize| vreinterpretq_s32_s8(four(&x.codes[k], c));
                    let x = if c + 1 < C {
                        vzip1q_s32(two(k), two(k + 1))
                    } else {
                        let one = vzip1q_s32(two(k), two(k + 1));
                        vcombine_s32(vget_low_s32(one), vget_low_s32(one))
                    };
                    let x = vreinterpretq_s8_s32(x);
                    for s in 0..S {
                        let w = |k: usize| vreinterpretq_s8_s32(t.codes(&panel.codes[k][s]));
                        let high = if c + 1 < C { &mut sums[s][c + 1] } else { &mut beyond[s] };
                        *high = smmla(*high, w(k + 1), x);
                        sums[s][c] = smmla(sums[s][c], w(k), x);
                    }
                }
            }
        }
        for s in 0..S {
            for c in (0..C).step_by(2) {
                // SAFETY: the token proves NEON; registers only.
                unsafe {
                    let (low, high) = (sums[s][c], if c + 1 < C { sums[s][c + 1] } else { beyond[s] });
                    sums[s][c] = vuzp1q_s32(low, high);
                    if c + 1 < C {
                        sums[s][c + 1] = vuzp2q_s32(low, high);
                    }
                }
            }
        }
        sums
    }
}
