//! NEON: four registers of 4 lanes. Two sets: that of every aarch64 processor, and the one with 8-bit dot products (`sdot`), which is a
//! single instruction where the other has four.

mod blocks256;
mod blocks32;
mod lanes;
mod peak;

use super::walk::Acc;
use std::arch::aarch64::*;

/// Products of 16 codes with 16 activations, added within groups of four lanes of `acc`, in some order: integers do not care.
pub trait Products {
    /// # Safety
    /// The processor has the instructions.
    unsafe fn products(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
}

/// The set of every aarch64 processor.
pub mod base {
    use super::lanes::Neon;
    use super::{Products, blocks32, blocks256, peak};
    use crate::table::{Matmul, instantiate};
    use std::arch::aarch64::*;
    use strata_quant::GgmlType;

    /// Always: NEON is part of aarch64.
    pub fn detected() -> bool {
        true
    }

    /// By products of 16 bits.
    pub struct Widening;

    impl Products for Widening {
        #[inline(always)]
        unsafe fn products(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            // SAFETY: the caller's promise; registers only. Two products fit 16 bits: 2 * 127 * 127.
            unsafe {
                let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
                vpadalq_s16(acc, vmlal_s8(low, vget_high_s8(w), vget_high_s8(x)))
            }
        }
    }

    fn blocks(ty: GgmlType) -> Option<Matmul> {
        blocks32::product::<Widening>(ty).or_else(|| blocks256::product::<Widening>(ty))
    }

    #[target_feature(enable = "neon")]
    fn multiply_add(rounds: usize) -> u64 {
        // SAFETY: the function's features.
        unsafe { peak::multiply_add::<Widening, 8>(rounds) }
    }

    instantiate!(Neon::new(), #[target_feature(enable = "neon")], 4 x 2, 1, blocks, None, multiply_add);
}

/// With `sdot`.
pub mod dotprod {
    use super::lanes::Neon;
    use super::{Products, blocks32, blocks256, peak};
    use crate::table::{Matmul, instantiate};
    use std::arch::{aarch64::*, is_aarch64_feature_detected};
    use strata_quant::GgmlType;

    /// True if the processor has `sdot`.
    pub fn detected() -> bool {
        is_aarch64_feature_detected!("dotprod")
    }

    /// By `sdot`, which the standard library has no stable function for.
    pub struct Sdot;

    impl Products for Sdot {
        #[inline(always)]
        unsafe fn products(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            // SAFETY: the caller's promise of dotprod; the instruction touches its three registers only.
            unsafe {
                std::arch::asm!(
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
    }

    fn blocks(ty: GgmlType) -> Option<Matmul> {
        blocks32::product::<Sdot>(ty).or_else(|| blocks256::product::<Sdot>(ty))
    }

    #[target_feature(enable = "neon,dotprod")]
    fn multiply_add(rounds: usize) -> u64 {
        // SAFETY: the function's features.
        unsafe { peak::multiply_add::<Sdot, 16>(rounds) }
    }

    instantiate!(Neon::new(), #[target_feature(enable = "neon,dotprod")], 4 x 2, 1, blocks, None, multiply_add);
}

impl Acc for float32x4_t {
    #[inline(always)]
    fn zero() -> float32x4_t {
        // SAFETY: NEON is part of aarch64; registers only.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    fn values(self) -> [f32; 4] {
        let mut values = [0.0; 4];
        // SAFETY: NEON is part of aarch64; `values` has the four that are written.
        unsafe { vst1q_f32(values.as_mut_ptr(), self) };
        values
    }
}

/// The lanes of each of four registers added: `(registers)`.
#[inline]
#[target_feature(enable = "neon")]
fn totals(v: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]))
}

/// The half-precision numbers at `at` of four rows.
#[inline]
#[target_feature(enable = "neon")]
fn halves<const N: usize>(rows: [&[u8; N]; 4], at: usize) -> float32x4_t {
    let half = |r: usize| u16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
    let halves = [half(0), half(1), half(2), half(3)];
    // SAFETY: NEON by the function's feature; the load is the four halves.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(halves.as_ptr()) }))
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8], at: usize) -> uint8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: NEON by the function's feature; the slice has the 16 bytes that are read.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// 16 signed bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load_signed(bytes: &[i8], at: usize) -> int8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: NEON by the function's feature; the slice has the 16 bytes that are read.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}
