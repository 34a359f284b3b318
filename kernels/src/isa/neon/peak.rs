//! The most multiply-adds: a set's own products on registers.

use super::DotProducts;
use crate::limits::{FACTOR, Sums};
use std::arch::aarch64::*;
use std::hint::black_box;

/// `rounds` steps of `SUMS` sums, which wait for nothing but the last step: as many as hide its latency and fit the registers beside
/// what a step needs. Returns the products that were added up.
#[inline(always)]
pub fn multiply_add<P: DotProducts, const SUMS: usize>(t: P, rounds: usize, places: &mut Sums) -> u64 {
    // SAFETY: the token proves NEON; a row has 64 bytes.
    unsafe {
        let mut sums = [vdupq_n_s32(0); SUMS];
        for i in 0..SUMS {
            sums[i] = vreinterpretq_s32_u8(vld1q_u8(places.0[i].as_ptr()));
        }
        let x = black_box(vdupq_n_s8(FACTOR));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = t.most(*sum, vreinterpretq_s8_s32(*sum), x);
            }
        }
        for i in 0..SUMS {
            vst1q_u8(places.0[i].as_mut_ptr(), vreinterpretq_u8_s32(sums[i]));
        }
    }
    (rounds * SUMS) as u64 * P::MOST
}
