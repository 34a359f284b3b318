//! The most multiply-adds: `vpmaddubsw` and `vpaddw` on registers, 32 products each, as GEMM of small codes has them (`gemm.rs`).
//! What widens the words once in several steps is left out.

use crate::limits::{FACTOR, Sums};
use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums that wait for nothing but their own last step of six cycles, at two instructions a cycle or three; 14 fit beside the factor and one
/// product.
const SUMS: usize = 14;

/// `rounds` steps of every sum; the products that were added up.
#[target_feature(enable = "avx2")]
pub fn multiply_add(rounds: usize, places: &mut Sums) -> u64 {
    let mut sums: [_; SUMS] = load(places);
    let x = black_box(_mm256_set1_epi8(FACTOR));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, x));
        }
    }
    store(sums, places);
    (rounds * SUMS * 32) as u64
}

/// The first `N` sums.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load<const N: usize>(places: &Sums) -> [__m256i; N] {
    let mut sums = [_mm256_setzero_si256(); N];
    for i in 0..N {
        // SAFETY: AVX2 by this function's feature; a row has 64 bytes.
        sums[i] = unsafe { _mm256_loadu_si256(places.0[i].as_ptr().cast()) };
    }
    sums
}

/// The inverse of [`load`].
#[inline]
#[target_feature(enable = "avx2")]
pub fn store<const N: usize>(sums: [__m256i; N], places: &mut Sums) {
    for i in 0..N {
        // SAFETY: AVX2 by this function's feature; a row has 64 bytes.
        unsafe { _mm256_storeu_si256(places.0[i].as_mut_ptr().cast(), sums[i]) };
    }
}
