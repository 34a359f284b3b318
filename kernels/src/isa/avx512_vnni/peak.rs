//! The most multiply-adds: `vpdpbusd` on registers, 64 products each.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums that wait for nothing but their own last step: latency times ports is 10 at most, and 24 fit beside the factors.
const SUMS: usize = 24;

/// `rounds` steps of every sum; the products that were added up.
#[target_feature(enable = "avx512f,avx512vnni")]
pub fn multiply_add(rounds: usize) -> u64 {
    let mut sums = black_box([_mm512_setzero_si512(); SUMS]);
    let (w, x) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(-5)));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, w, x);
        }
    }
    black_box(sums);
    (rounds * SUMS * 64) as u64
}
