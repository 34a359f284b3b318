//! Random numbers that are the same on every machine.

/// The next 64 random bits (SplitMix64: Steele, Lea and Flood, 2014).
pub fn bits(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The next number in 0..1.
pub fn uniform(state: &mut u64) -> f64 {
    (bits(state) >> 11) as f64 / (1u64 << 53) as f64
}

/// The next number of mean 0 and variance 1, nearly normal: twelve uniform ones added up.
pub fn normal(state: &mut u64) -> f32 {
    ((0..12).map(|_| uniform(state)).sum::<f64>() - 6.0) as f32
}
