//! The most multiply-adds: `vpmaddubsw`, `vpmaddwd` and `vpaddd` on registers, 32 products each.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums that wait for nothing but their own last step of some 11 cycles, at two instructions a cycle; 13 fit beside the factors and one product.
const SUMS: usize = 13;

/// `rounds` steps of every sum; the products that were added up. The sum itself is one factor: with constant factors the compiler
/// would multiply once, before the loop.
#[target_feature(enable = "avx2")]
pub fn multiply_add(rounds: usize) -> u64 {
    let mut sums = black_box([_mm256_set1_epi8(3); SUMS]);
    let (x, ones) = black_box((_mm256_set1_epi8(-5), _mm256_set1_epi16(1)));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(*sum, x), ones));
        }
    }
    black_box(sums);
    (rounds * SUMS * 32) as u64
}
