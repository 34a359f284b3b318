//! What divergences of distributions are made of: exponentials of logits and their sums, in double precision.
//!
//! Every operation is rounded on its own, and sums have 16 lanes that are added in halves: the same bits on every instruction set.

use std::array::from_fn;
use strata_quant::float::sum16;

/// Lanes of a sum.
const LANES: usize = 16;

/// `exp(x)` within 2 units in the last place for `x <= 0`; below -708 the value at -708.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite: ln 2 in two parts, `n` times the first is exact), `exp(r)` by its Taylor
/// polynomial of degree 13, whose remainder is below 2^-57.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8; // its last 21 bits are zeros
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: a sum with it is rounded to an integer
    const TERMS: [f64; 14] = {
        let (mut all, mut factorial, mut i) = ([1.0; 14], 1.0, 1);
        while i < 14 {
            factorial *= i as f64;
            all[i] = 1.0 / factorial;
            i += 1;
        }
        all
    };
    let x = if x > -708.0 { x } else { -708.0 };
    let t = x * std::f64::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = TERMS.iter().rev().fold(0.0, |p, term| p * r + term);
    p * f64::from_bits(t.to_bits().wrapping_add(1023) << 52)
}

/// `weights[v] = exp(z[v] - max)`, `max` the largest of the finite logits `z`; gives their sum.
#[inline(always)]
pub fn exponentials(z: &[f32], max: f32, weights: &mut [f64]) -> f64 {
    assert!(z.len() == weights.len());
    let max = f64::from(max);
    for (w, z) in weights.iter_mut().zip(z) {
        *w = exp(f64::from(*z) - max);
    }
    let (whole, rest) = weights.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for w in whole {
        sums = from_fn(|i| sums[i] + w[i]);
    }
    sums[..rest.len()].iter_mut().zip(rest).for_each(|(sum, w)| *sum += w);
    sum16(sums)
}

/// `sum_v weights[v] (b[v] - c[v])`
#[inline(always)]
pub fn weighted_difference(weights: &[f64], b: &[f32], c: &[f32]) -> f64 {
    assert!(weights.len() == b.len() && b.len() == c.len());
    let term = |w: f64, b: f32, c: f32| w * (f64::from(b) - f64::from(c));
    let (whole, rest) = weights.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (w, (b, c)) in whole.iter().zip(b.as_chunks::<LANES>().0.iter().zip(c.as_chunks::<LANES>().0)) {
        sums = from_fn(|i| sums[i] + term(w[i], b[i], c[i]));
    }
    let from = whole.len() * LANES;
    for (i, w) in rest.iter().enumerate() {
        sums[i] += term(*w, b[from + i], c[from + i]);
    }
    sum16(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn within_two_units_of_the_truth() {
        let mut x = 0.0f64;
        while x > -708.0 {
            let (ours, truth) = (exp(x), x.exp());
            assert!(
                (ours - truth).abs() <= 2.0 * (truth.next_up() - truth),
                "exp({x}) = {ours:e} instead of {truth:e}"
            );
            x -= 0.00317;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f64::MIN) > 0.0 && exp(f64::MIN) < 1e-307);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let logits = |phase: f32| (0..1009).map(|i| 20.0 * ((i as f32 * 0.73 + phase).sin())).collect::<Vec<f32>>();
        let (b, c) = (logits(0.0), logits(0.1));
        let of = |isa: Isa| {
            let mut weights = vec![0.0; b.len()];
            let sum = isa.exponentials(&b, 20.0, &mut weights);
            let difference = isa.weighted_difference(&weights, &b, &c);
            (sum.to_bits(), difference.to_bits(), weights.iter().map(|w| w.to_bits()).collect::<Vec<u64>>())
        };
        let expected: f64 = b.iter().map(|b| (f64::from(*b) - 20.0).exp()).sum();
        let first = of(Isa::available().next().unwrap());
        assert!((f64::from_bits(first.0) / expected - 1.0).abs() < 1e-14);
        Isa::available().for_each(|isa| assert_eq!(of(isa), first, "{}", isa.name()));
    }
}
