//! The set that every processor has: the reference that the others must equal.

use super::instantiate::instantiate;
use std::hint::black_box;
use strata_quant::simd::Scalar;

/// `rounds` steps of 32 sums, as fast as the compiler makes them; the products that were added up. The sum itself is one factor: with
/// constant factors it would multiply once, before the loop.
fn multiply_add(rounds: usize) -> u64 {
    let mut sums = black_box([3i32; 32]);
    let x = i32::from(black_box(-5i8));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.wrapping_add(i32::from(*sum as i8) * x);
        }
    }
    black_box(sums);
    (rounds * sums.len()) as u64
}

// Blocks are multiplied by their formats' own `dot`.
instantiate!(Scalar, 1 x 1, 1, [], None, multiply_add);
