//! The sampler draws from the same tokens, with the same probabilities, as the chains of llama.cpp in `data/sampler.json`.

use serde::Deserialize;
use strata::sampler::{Sampler, Sampling};

/// Written by `data/make_sampler.py`.
#[derive(Deserialize)]
struct Vectors {
    logits: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

/// A chain and what it leaves, the most likely token first.
#[derive(Deserialize)]
struct Case {
    logits: usize, // which of them
    top_k: usize,
    top_p: f32,
    min_p: f32,
    temperature: f32,
    tokens: Vec<usize>,
    probabilities: Vec<f64>,
}

/// What rounding in `f32` and six printed digits add up to.
const TOLERANCE: f64 = 2e-5;

/// The seed whose first random number is `uniform`: SplitMix64, backwards.
fn seed_of(uniform: f64) -> u64 {
    let unshift = |z: u64, shift: u32| (0..64 / shift).fold(z, |x, _| z ^ (x >> shift));
    let divide = |z: u64, factor: u64| {
        // Newton: each step doubles the digits of the inverse that are right.
        let inverse = (0..6).fold(factor, |x, _| x.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(x))));
        z.wrapping_mul(inverse)
    };
    let z = unshift(((uniform * (1u64 << 53) as f64) as u64) << 11, 31);
    let z = unshift(divide(z, 0x94d0_49bb_1331_11eb), 27);
    unshift(divide(z, 0xbf58_476d_1ce4_e5b9), 30).wrapping_sub(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn chains_keep_what_llama_cpp_keeps_with_the_same_probabilities() {
    let vectors: Vectors = serde_json::from_str(include_str!("data/sampler.json")).unwrap();
    assert!(vectors.cases.len() >= 90);
    for case in &vectors.cases {
        let &Case { top_k, top_p, min_p, temperature, .. } = case;
        let draw = |uniform: f64| {
            let sampling = Sampling { temperature, top_k, top_p, min_p, seed: seed_of(uniform) };
            Sampler::new(sampling).sample(&vectors.logits[case.logits]).unwrap() as usize
        };
        let what = format!("logits {} {top_k} {top_p} {min_p} {temperature}", case.logits);
        // Each token has its stretch of the random numbers, in the order of the probabilities.
        let mut start = 0.0;
        for (&token, &p) in case.tokens.iter().zip(&case.probabilities) {
            let end = start + p;
            if p > 3.0 * TOLERANCE {
                assert_eq!(draw(start + TOLERANCE), token, "{what}: at {start}");
                assert_eq!(draw(end - TOLERANCE), token, "{what}: before {end}");
            }
            start = end;
        }
        assert!((start - 1.0).abs() < TOLERANCE, "{what}: {start}");
        // Nothing else is kept: the end of the random numbers belongs to the last tokens.
        let last = draw(1.0 - f64::EPSILON / 2.0);
        let last =
            case.tokens.iter().position(|&token| token == last).unwrap_or_else(|| panic!("{what}: {last} is kept"));
        assert!(case.probabilities[last + 1..].iter().sum::<f64>() < 1e-10, "{what}: the last are dropped");
    }
}
