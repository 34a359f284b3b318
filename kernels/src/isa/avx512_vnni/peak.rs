//! The most multiply-adds: `vpdpbusd` on registers, 64 products each.

use crate::limits::{FACTOR, Sums};
use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums that wait for nothing but their own last step: latency times ports is 10 at most, and 24 fit beside the factor.
const SUMS: usize = 24;

/// `rounds` steps of every sum; the products that were added up.
#[target_feature(enable = "avx512f,avx512vnni")]
pub fn multiply_add(rounds: usize, places: &mut Sums) -> u64 {
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for i in 0..SUMS {
        // SAFETY: AVX-512F by this function's features; a row has 64 bytes.
        sums[i] = unsafe { _mm512_loadu_si512(places.0[i].as_ptr().cast()) };
    }
    let x = black_box(_mm512_set1_epi8(FACTOR));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, *sum, x);
        }
    }
    for i in 0..SUMS {
        // SAFETY: AVX-512F by this function's features; a row has 64 bytes.
        unsafe { _mm512_storeu_si512(places.0[i].as_mut_ptr().cast(), sums[i]) };
    }
    (rounds * SUMS * 64) as u64
}
