//! The most multiply-adds: `vpmaddubsw` and `vpaddw` on registers, 32 products each, as GEMM of small codes has them (`gemm.rs`).
//! What widens the words once in several steps is left out.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums that wait for nothing but their own last step of six cycles, at two instructions a cycle or three; 14 fit beside the factor and one
/// product.
const SUMS: usize = 14;

/// `rounds` steps of every sum; the products that were added up. The sum itself is one factor: with constant factors the compiler
/// would multiply once, before the loop.
#[target_feature(enable = "avx2")]
pub fn multiply_add(rounds: usize) -> u64 {
    let mut sums = black_box([_mm256_set1_epi8(3); SUMS]);
    let x = black_box(_mm256_set1_epi8(-5));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, x));
        }
    }
    black_box(sums);
    (rounds * SUMS * 32) as u64
}
