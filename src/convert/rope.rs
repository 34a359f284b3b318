//! `rope_freqs.weight`: Llama 3.1's RoPE scaling as the divisor of each frequency.

/// The divisors, `(head_dim / 2)`: 1 for wavelengths far below the original context length, `factor` for those near or above it, and an
/// interpolation between. The single-precision operations are those of the reference converter, so that the bytes are the same.
pub fn frequency_divisors(head_dim: usize, theta: f32, factor: f32, low: f32, high: f32, context: f32) -> Vec<f32> {
    let divisor = |i: usize| {
        let frequency = 1.0 / libm::pow(theta as f64, (2 * i) as f64 / head_dim as f64) as f32;
        let wavelength = (1.0 / frequency) * (2.0 * std::f64::consts::PI) as f32;
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = ((1.0 / wavelength) * context - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(divisor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_frequencies_are_divided_and_high_ones_kept() {
        let d = frequency_divisors(64, 500_000.0, 8.0, 1.0, 4.0, 512.0);
        assert_eq!((d.len(), d[0], d[31]), (32, 1.0, 8.0));
        assert!(d.is_sorted());
    }
}
