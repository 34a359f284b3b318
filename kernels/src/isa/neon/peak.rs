//! The most multiply-adds: a set's own products on registers.

use super::DotProducts;
use std::arch::aarch64::*;
use std::hint::black_box;

/// `rounds` steps of `SUMS` sums, which wait for nothing but the last step: as many as hide its latency and fit the registers beside
/// what a step needs. Returns the products that were added up. Another sum is one factor: with constant factors the compiler would
/// multiply once, before the loop.
#[inline(always)]
pub fn multiply_add<P: DotProducts, const SUMS: usize>(t: P, rounds: usize) -> u64 {
    // SAFETY: the token proves NEON; registers only.
    unsafe {
        let mut sums = black_box([vdupq_n_s32(3); SUMS]);
        let x = black_box(vdupq_n_s8(-5));
        for _ in 0..rounds {
            for i in 0..SUMS {
                sums[i] = t.most(sums[i], vreinterpretq_s8_s32(sums[(i + 1) % SUMS]), x);
            }
        }
        black_box(sums);
    }
    (rounds * SUMS) as u64 * P::MOST
}
