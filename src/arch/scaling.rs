//! How checkpoints reach positions beyond those of their first training, and what GGUF files say of it.

use super::{Dim, Hyperparameters, rope};

/// A scaling of RoPE, as `config.json` names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies are divided by this.
    Linear(f32),
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Positions of the first training.
        original_context: f32,
    },
    /// YaRN: as Llama 3.1's, between frequencies that turn so many times within the original context, and larger queries and keys.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Positions of the first training.
        original_context: usize,
        /// Frequencies that turn more often are kept.
        beta_fast: f32,
        /// Frequencies that turn less often are divided.
        beta_slow: f32,
        /// What queries and keys are multiplied with, each.
        attention_factor: f32,
    },
    /// Dynamic NTK: beyond the context the base of the frequencies grows with the position.
    Dynamic {
        /// How much of the context it was made for.
        factor: f32,
    },
}

/// A number of a GGUF file's metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    U32(u32),
    /// Any number.
    F32(f32),
}

impl RopeScaling {
    /// The divisors `(head_dim / 2)` that the tensor `rope_freqs` stores, for the scaling that needs it: 1 for wavelengths that the
    /// original context held often enough, `factor` for those it hardly held, and an interpolation between. The single-precision
    /// operations are those of llama.cpp's converter, so that the bytes are the same.
    pub fn frequency_divisors(&self, of: &Hyperparameters) -> Option<Vec<f32>> {
        let RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context: context } =
            *self
        else {
            return None;
        };
        let divisor = |i: usize| {
            let frequency = 1.0 / libm::pow(of.rope_base as f64, (2 * i) as f64 / of.head_dim as f64) as f32;
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
        Some((0..of.len(Dim::RopePairs)).map(divisor).collect())
    }

    /// The value of the key [`rope::SCALING_TYPE`], for the scalings that have one.
    pub fn gguf_type(&self) -> Option<&'static str> {
        match self {
            RopeScaling::Linear(_) => Some("linear"),
            RopeScaling::Yarn { .. } => Some("yarn"),
            // The divisors say all of Llama 3.1's; of dynamic NTK llama.cpp knows no name, and refuses those that it does not know.
            RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Dynamic { .. } => None,
        }
    }

    /// The numbers of a GGUF file, by keys after the name of the architecture.
    pub fn gguf_numbers(&self) -> Vec<(&'static str, Number)> {
        match *self {
            RopeScaling::None | RopeScaling::Llama3 { .. } => Vec::new(),
            RopeScaling::Linear(factor) => vec![(rope::SCALING_FACTOR, Number::F32(factor))],
            RopeScaling::Dynamic { factor } => vec![(rope::DYNAMIC_FACTOR, Number::F32(factor))],
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
                // `Object::opt_count` lets no count beyond 2^31 pass.
                let mut all = vec![
                    (rope::SCALING_FACTOR, Number::F32(factor)),
                    (rope::ORIGINAL_CONTEXT, Number::U32(original_context as u32)),
                ];
                let more = attention_factor / rope::yarn_magnitude(factor.into()) as f32;
                let own = [
                    (rope::BETA_FAST, beta_fast, rope::BETAS[0]),
                    (rope::BETA_SLOW, beta_slow, rope::BETAS[1]),
                    (rope::ATTENTION_FACTOR, more, 1.0),
                ];
                all.extend(own.iter().filter(|(_, x, usual)| x != usual).map(|(key, x, _)| (*key, Number::F32(*x))));
                all
            }
        }
    }

    /// A sentence about what llama.cpp computes otherwise from the file, if it does.
    pub fn otherwise_in_llama_cpp(&self, context: usize) -> Option<String> {
        match *self {
            RopeScaling::Dynamic { .. } => Some(format!(
                "config.json: the rope type is \"dynamic\", which llama.cpp does not know: up to {context} tokens it computes the same"
            )),
            RopeScaling::Yarn { beta_fast, beta_slow, .. } if [beta_fast, beta_slow] != rope::BETAS => Some(format!(
                "config.json: \"beta_fast\" and \"beta_slow\" are {beta_fast} and {beta_slow}: llama.cpp takes {} and {} instead",
                rope::BETAS[0],
                rope::BETAS[1]
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::PRESETS;

    #[test]
    fn low_frequencies_are_divided_and_high_ones_kept() {
        let of = Hyperparameters { head_dim: 64, ..PRESETS[0].hyperparameters };
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 512.0 };
        let d = scaling.frequency_divisors(&of).unwrap();
        assert_eq!((d.len(), d[0], d[31]), (32, 1.0, 8.0));
        assert!(d.is_sorted());
        assert_eq!(RopeScaling::Linear(2.0).frequency_divisors(&of), None);
    }
}
