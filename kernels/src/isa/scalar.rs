//! The set that every processor has: the reference that the others must equal.

use super::instantiate::instantiate;
use crate::limits::{FACTOR, Sums};
use std::hint::black_box;
use strata_quant::simd::Scalar;

/// `rounds` steps of 32 sums, as fast as the compiler makes them; the products that were added up.
fn multiply_add(rounds: usize, sums: &mut Sums) -> u64 {
    let places = &mut sums.0[..2].as_flattened_mut().as_chunks_mut::<4>().0[..32];
    let mut sums: [i32; 32] = std::array::from_fn(|i| i32::from_le_bytes(places[i]));
    let x = i32::from(black_box(FACTOR));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.wrapping_add(i32::from(*sum as i8) * x);
        }
    }
    places.copy_from_slice(&sums.map(i32::to_le_bytes));
    (rounds * sums.len()) as u64
}

// Blocks are multiplied by their formats' own `dot`.
instantiate!(Scalar, 1 x 1, 1, [], None, multiply_add);
