//! The most multiply-adds: a set's own products on registers, 16 each.

use super::Products;
use std::arch::aarch64::*;
use std::hint::black_box;

/// Sums that wait for nothing but their own last step: latency times ports is 16 at most, and 24 fit beside the factors.
const SUMS: usize = 24;

/// `rounds` steps of every sum; the products that were added up. The sum itself is one factor: with constant factors the compiler
/// would multiply once, before the loop.
///
/// # Safety
/// The processor has the instructions of `P`.
#[inline(always)]
pub unsafe fn multiply_add<P: Products>(rounds: usize) -> u64 {
    // SAFETY: NEON is part of aarch64, the rest is the caller's promise; registers only.
    unsafe {
        let mut sums = black_box([vdupq_n_s32(3); SUMS]);
        let x = black_box(vdupq_n_s8(-5));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = P::products(*sum, vreinterpretq_s8_s32(*sum), x);
            }
        }
        black_box(sums);
    }
    (rounds * SUMS * 16) as u64
}
