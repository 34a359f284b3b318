//! The frequencies of rotary position embedding (Su et al. 2021), and what Llama 3.1's and linear scaling make of them.

use super::hyperparameters::keys;
use super::{Architecture, Dim, Hyperparameters, Role};
use crate::error::{Error, Result, quoted};
use crate::gguf::Gguf;

/// Keys of linear scaling, after the name of the architecture.
pub const SCALING_TYPE: &str = "rope.scaling.type";
/// Its divisor of all frequencies.
pub const SCALING_FACTOR: &str = "rope.scaling.factor";
/// The divisor in older files.
const SCALE_LINEAR: &str = "rope.scale_linear";

/// Radians that each rotated pair of a head turns a position, `(pairs)`: `base^(-2i / dims)`, divided by the factors of the tensor
/// `rope_freqs` (Llama 3.1) and by the linear scaling, if the file has them.
///
/// # Errors
/// If a number is out of range, or the scaling is of another kind.
pub fn frequencies(gguf: &Gguf, of: &Hyperparameters) -> Result<Vec<f64>> {
    let architecture = Architecture::of(gguf)?;
    let head_dim = of.head_dim;
    let key = keys::ROPE_DIMS.of(architecture);
    let dims = gguf.u32(&key)?.map_or(head_dim, |n| n as usize);
    if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
        return Err(wrong(gguf, &key, format!("{dims} of {head_dim} values cannot be rotated")));
    }
    let (base, scale) = (of.rope_base as f64, linear_scaling(gguf, architecture)?);
    let pairs = (0..dims / 2).zip(divisors(gguf, architecture, dims / 2)?);
    Ok(pairs.map(|(i, d)| libm::pow(base, -2.0 * i as f64 / dims as f64) / d as f64 / scale).collect())
}

fn wrong(gguf: &Gguf, place: &str, problem: String) -> Error {
    Error::invalid(gguf.path(), place, problem, "convert the model again from its checkpoint")
}

/// The divisor of all frequencies.
fn linear_scaling(gguf: &Gguf, architecture: &Architecture) -> Result<f64> {
    let name = |suffix: &str| format!("{}.{suffix}", architecture.name);
    let [of_type, of_factor, of_older] = [SCALING_TYPE, SCALING_FACTOR, SCALE_LINEAR].map(name);
    let scaling = gguf.str(&of_type)?;
    let factor = match gguf.f32(&of_factor)? {
        Some(factor) => Some(factor),
        None => gguf.f32(&of_older)?,
    };
    let factor = match (scaling, factor) {
        (Some("linear"), Some(factor)) => factor as f64,
        (Some("linear"), None) => {
            return Err(wrong(gguf, &of_factor, "is missing, though the scaling is linear".into()));
        }
        // Old files carry a factor and no type: it was linear then.
        (None, factor) => factor.unwrap_or(1.0) as f64,
        (Some("none"), _) => 1.0,
        (Some(other), _) => {
            let problem = format!("{} is not supported", quoted(other));
            let remedy = "strata knows linear scaling and Llama 3.1's frequency factors";
            return Err(Error::invalid(gguf.path(), of_type, problem, remedy));
        }
    };
    if factor.is_finite() && factor > 0.0 {
        Ok(factor)
    } else {
        Err(wrong(gguf, &of_factor, format!("{factor} is not a positive number")))
    }
}

/// The divisor of each frequency, `(pairs)`: those of the tensor `rope_freqs`, else ones.
fn divisors(gguf: &Gguf, architecture: &Architecture, pairs: usize) -> Result<Vec<f32>> {
    let name = architecture.spec(Role::RopeFreqs).name(None);
    let mut divisors = vec![1.0; pairs];
    let Some(tensor) = gguf.tensor(&name) else { return Ok(divisors) };
    let cols = tensor.cols();
    let (Some(format), true) = (tensor.ty.format(), cols == pairs as u64 && tensor.rows() == 1) else {
        return Err(wrong(gguf, &name, format!("{cols} factors of type {} for {pairs} pairs", tensor.ty)));
    };
    (format.decode)(gguf.data(tensor), &mut divisors);
    match divisors.iter().find(|d| !(d.is_finite() && **d > 0.0)) {
        Some(d) => Err(wrong(gguf, &name, format!("{d} is not a positive number"))),
        None => Ok(divisors),
    }
}

/// How a checkpoint reaches positions beyond those of its first training.
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
