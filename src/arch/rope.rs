//! The angles of rotary position embedding (Su et al. 2021), with the scalings that reach positions beyond those of the first training:
//! linear, Llama 3.1's divisors of each frequency, YaRN (Peng et al. 2023) and dynamic NTK.

use super::hyperparameters::keys;
use super::{Architecture, Hyperparameters, Role};
use crate::error::{Error, Result, quoted};
use crate::gguf::Gguf;

/// The kind of scaling, after the name of the architecture.
pub const SCALING_TYPE: &str = "rope.scaling.type";
/// Its divisor of frequencies.
pub const SCALING_FACTOR: &str = "rope.scaling.factor";
/// Positions of the first training.
pub const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";
/// YaRN: rotations within these positions, from which on a frequency is kept.
pub const BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
/// YaRN: the same, up to which a frequency is divided.
pub const BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";
/// The share of the weight of extrapolation that is taken; only 1 is known.
const EXT_FACTOR: &str = "rope.scaling.yarn_ext_factor";
/// The factor of queries and keys, of YaRN's own the more.
pub const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";
/// The factor of dynamic NTK. Strata's own key: llama.cpp has none, and rotates as without scaling.
pub const DYNAMIC_FACTOR: &str = "rope.scaling.dynamic_factor";
/// The divisor of linear scaling in older files.
const SCALE_LINEAR: &str = "rope.scale_linear";

/// The betas of YaRN where nothing else is said.
pub const BETAS: [f32; 2] = [32.0, 1.0];

/// The angles of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Angles {
    frequencies: Vec<f64>, // (pairs): radians a position
    magnitude: f64,        // of queries and keys
    growth: Option<Growth>,
}

/// Dynamic NTK: beyond `context` the base grows with the position, so that the lowest frequencies turn no further than they did within. A
/// position gets what transformers gives it when it comes alone, whatever it is computed with.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    base: f64,
    factor: f64,
    context: usize,
}

impl Angles {
    /// Reads the angles of a GGUF model.
    ///
    /// # Errors
    /// If a number is out of range, or the scaling is of another kind.
    pub fn read(gguf: &Gguf, of: &Hyperparameters) -> Result<Angles> {
        let architecture = Architecture::of(gguf)?;
        let head_dim = of.head_dim;
        let key = keys::ROPE_DIMS.of(architecture);
        let dims = gguf.u32(&key)?.map_or(head_dim, |n| n as usize);
        if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
            return Err(wrong(gguf, &key, format!("{dims} of {head_dim} values cannot be rotated")));
        }
        let base = of.rope_base as f64;
        let file = File { gguf, architecture };
        let mut frequencies: Vec<f64> = (0..dims / 2).map(|i| frequency(base, i, dims / 2)).collect();
        file.divide(&mut frequencies)?;
        let mut magnitude = file.positive(ATTENTION_FACTOR)?.unwrap_or(1.0);
        match file.scaling()? {
            Scaling::None => {}
            Scaling::Linear(factor) => frequencies.iter_mut().for_each(|f| *f /= factor),
            Scaling::Yarn(yarn) => {
                if base <= 1.0 {
                    let problem = format!("{base} is no base for YaRN, which takes its logarithm");
                    return Err(wrong(gguf, &keys::ROPE_BASE.of(architecture), problem));
                }
                yarn.scale(base, &mut frequencies);
                magnitude *= yarn_magnitude(yarn.factor);
            }
        }
        let growth = file.positive(DYNAMIC_FACTOR)?.map(|factor| Growth { base, factor, context: of.context });
        if growth.is_some() && dims == 2 {
            return Err(wrong(gguf, &key, "dynamic NTK needs more than one pair of values".into()));
        }
        Ok(Angles { frequencies, magnitude, growth })
    }

    /// Pairs of values of a head that are rotated.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Radians a position of every pair, within the context of the first training.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// The factor of queries and keys.
    pub fn magnitude(&self) -> f32 {
        self.magnitude as f32
    }

    /// Sine and cosine of a pair's angle at a position, each times the magnitude. In `f64`, so that position 131071 is as exact as position 1,
    /// and by libm, so that they are the same on every platform.
    pub fn at(&self, position: usize, pair: usize) -> (f32, f32) {
        let (sin, cos) = libm::sincos(position as f64 * self.frequency_at(position, pair));
        ((sin * self.magnitude) as f32, (cos * self.magnitude) as f32)
    }

    fn frequency_at(&self, position: usize, pair: usize) -> f64 {
        match self.growth {
            Some(Growth { base, factor, context }) if position >= context => {
                let pairs = self.pairs() as f64;
                let stretch = factor * (position + 1) as f64 / context as f64 - (factor - 1.0);
                frequency(base * libm::pow(stretch, pairs / (pairs - 1.0)), pair, self.pairs())
            }
            _ => self.frequencies[pair],
        }
    }
}

/// `base^(-2i / dims)`, where half as many pairs as `dims` are rotated.
fn frequency(base: f64, i: usize, pairs: usize) -> f64 {
    libm::pow(base, -2.0 * i as f64 / (2 * pairs) as f64)
}

/// What YaRN multiplies queries and keys with, each: `0.1 ln(factor) + 1`.
pub fn yarn_magnitude(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * libm::log(factor) + 1.0 }
}

/// The numbers of YaRN.
struct Yarn {
    factor: f64,
    original_context: f64,
    betas: [f64; 2],
}

impl Yarn {
    /// Divides low frequencies by the factor, keeps high ones, and interpolates between: `f / factor (1 - r) + f r`, where `r` falls from 1 to
    /// 0 between the pairs that turn `betas` times within the original context.
    fn scale(&self, base: f64, frequencies: &mut [f64]) {
        let dims = (2 * frequencies.len()) as f64;
        let pair = |turns: f64| {
            let positions = self.original_context / (turns * 2.0 * std::f64::consts::PI);
            dims * libm::log(positions) / (2.0 * libm::log(base))
        };
        let low = pair(self.betas[0]).floor().max(0.0);
        let high = pair(self.betas[1]).ceil().min(dims - 1.0);
        for (i, f) in frequencies.iter_mut().enumerate() {
            let kept = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            *f = *f / self.factor * (1.0 - kept) + *f * kept;
        }
    }
}

/// A scaling of the frequencies that a file names.
enum Scaling {
    None,
    Linear(f64),
    Yarn(Yarn),
}

fn wrong(gguf: &Gguf, place: &str, problem: String) -> Error {
    Error::invalid(gguf.path(), place, problem, "convert the model again from its checkpoint")
}

/// The keys of a file.
struct File<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
}

impl File<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture.name)
    }

    /// A positive number, if it is there.
    fn positive(&self, suffix: &str) -> Result<Option<f64>> {
        let key = self.key(suffix);
        match self.gguf.f32(&key)? {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(wrong(self.gguf, &key, format!("{x} is not a positive number")))
            }
            x => Ok(x.map(f64::from)),
        }
    }

    fn scaling(&self) -> Result<Scaling> {
        let of_type = self.key(SCALING_TYPE);
        let kind = self.gguf.str(&of_type)?;
        let factor = match self.positive(SCALING_FACTOR)? {
            Some(factor) => Some(factor),
            None => self.positive(SCALE_LINEAR)?,
        };
        let required = || {
            let problem = format!("is missing, though the scaling is {}", kind.unwrap_or_default());
            factor.ok_or_else(|| wrong(self.gguf, &self.key(SCALING_FACTOR), problem))
        };
        match kind {
            Some("linear") => Ok(Scaling::Linear(required()?)),
            Some("yarn") => Ok(Scaling::Yarn(self.yarn(required()?)?)),
            // Old files carry a factor and no type: it was linear then.
            None => Ok(factor.map_or(Scaling::None, Scaling::Linear)),
            Some("none") => Ok(Scaling::None),
            Some(other) => {
                let problem = format!("{} is not supported", quoted(other));
                let remedy = "strata knows linear scaling, yarn, and Llama 3.1's frequency factors";
                Err(Error::invalid(self.gguf.path(), of_type, problem, remedy))
            }
        }
    }

    fn yarn(&self, factor: f64) -> Result<Yarn> {
        let key = self.key(ORIGINAL_CONTEXT);
        let original_context = match self.gguf.u32(&key)? {
            Some(0) => return Err(wrong(self.gguf, &key, "is zero".into())),
            Some(n) => f64::from(n),
            None => f64::from(self.gguf.required_u32(&keys::CONTEXT.of(self.architecture))?),
        };
        let key = self.key(EXT_FACTOR);
        // -1 says that it is not set.
        if let Some(x) = self.gguf.f32(&key)?.filter(|x| ![1.0, -1.0].contains(x)) {
            let remedy = "strata would compute something else; use a model with the usual YaRN";
            return Err(Error::invalid(self.gguf.path(), key, format!("{x} is not supported"), remedy));
        }
        let beta = |suffix, default: f32| Ok::<_, Error>(self.positive(suffix)?.unwrap_or(default.into()));
        let betas = [beta(BETA_FAST, BETAS[0])?, beta(BETA_SLOW, BETAS[1])?];
        Ok(Yarn { factor, original_context, betas })
    }

    /// Divides each frequency by its number in the tensor `rope_freqs` (Llama 3.1), if the file has it.
    fn divide(&self, frequencies: &mut [f64]) -> Result<()> {
        let Some(spec) = self.architecture.find_spec(Role::RopeFreqs) else { return Ok(()) };
        let (gguf, name, pairs) = (self.gguf, spec.name(None), frequencies.len());
        let Some(tensor) = gguf.tensor(&name) else { return Ok(()) };
        let cols = tensor.cols();
        let (Some(format), true) = (tensor.ty.format(), cols == pairs as u64 && tensor.rows() == 1) else {
            return Err(wrong(gguf, &name, format!("{cols} factors of type {} for {pairs} pairs", tensor.ty)));
        };
        let mut divisors = vec![1.0; pairs];
        (format.decode)(gguf.data(tensor), &mut divisors);
        if let Some(d) = divisors.iter().find(|d| !(d.is_finite() && **d > 0.0)) {
            return Err(wrong(gguf, &name, format!("{d} is not a positive number")));
        }
        frequencies.iter_mut().zip(divisors).for_each(|(f, d)| *f /= f64::from(d));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_keeps_high_frequencies_and_divides_low_ones() {
        let plain: Vec<f64> = (0..32).map(|i| frequency(10_000.0, i, 32)).collect();
        let mut scaled = plain.clone();
        Yarn { factor: 4.0, original_context: 1024.0, betas: [32.0, 1.0] }.scale(10_000.0, &mut scaled);
        let shares: Vec<f64> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
        assert!(shares.is_sorted() && shares[0] == 1.0 && (shares[31] - 4.0).abs() < 1e-12, "{shares:?}");
        assert_eq!(yarn_magnitude(0.5), 1.0);
        assert!((yarn_magnitude(4.0) - 1.138_629_436).abs() < 1e-9);
    }

    #[test]
    fn a_growing_base_leaves_the_first_context_as_it_was() {
        let frequencies: Vec<f64> = (0..8).map(|i| frequency(10_000.0, i, 8)).collect();
        let plain = Angles { frequencies, magnitude: 1.0, growth: None };
        let growth = Some(Growth { base: 10_000.0, factor: 2.0, context: 64 });
        let grown = Angles { growth, ..plain.clone() };
        for position in [0, 1, 63] {
            assert!((0..8).all(|pair| plain.at(position, pair) == grown.at(position, pair)));
        }
        assert!(grown.frequency_at(64, 7) < plain.frequency_at(64, 7));
        // The highest frequency is always 1; at twice the context the lowest is that of the first context over 3.
        assert_eq!(grown.frequency_at(127, 0), 1.0);
        assert!((plain.frequencies[7] / grown.frequency_at(127, 7) - 3.0).abs() < 1e-9);
    }
}
