//! The settings of a sampler: llama.cpp's, with its defaults and valid ranges.

use super::mirostat::MirostatVersion;
use super::sequence::Sequence;
use crate::error::{Error, Result, quoted};
use std::ops::RangeInclusive;

/// The valid values of a number; NaN is never among them.
pub type NumberRange = RangeInclusive<f32>;

/// Temperatures, their range and exponent, and other numbers that are not negative.
pub const TEMPERATURES: NumberRange = 0.0..=f32::MAX;
/// Probabilities.
pub const PROBABILITIES: NumberRange = 0.0..=1.0;
/// Numbers that may be negative.
pub const FINITE: NumberRange = f32::MIN..=f32::MAX;
/// Factors that a number can be divided by.
pub const MULTIPLIERS: NumberRange = f32::MIN_POSITIVE..=f32::MAX;
/// Bases of powers that grow.
pub const AT_LEAST_ONE: NumberRange = 1.0..=f32::MAX;
/// The most sequence breakers, and the most bytes of one: every token is searched for each of them.
pub const BREAKERS: usize = 100;
/// See [`BREAKERS`].
pub const BREAKER_BYTES: usize = 100;

/// What a number in `range` is, as a message says it.
pub fn wanted(range: &NumberRange) -> String {
    match (*range.start(), *range.end()) {
        (f32::MIN, f32::MAX) => "a finite number".to_owned(),
        (f32::MIN_POSITIVE, f32::MAX) => "a number above 0".to_owned(),
        (least, f32::MAX) => format!("a number of at least {least}"),
        (least, most) => format!("a number from {least} to {most}"),
    }
}

/// Settings of a sampler. [`Default`] has llama.cpp's; of its filters, only top-k, top-p, min-p and temperature are then on.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The filters in the order in which they are applied.
    pub sequence: Sequence,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The fewest candidates that top-p, min-p, typical and XTC leave; 0 and 1 are the same.
    pub min_keep: usize,
    /// Numbers added to the logits of tokens; minus infinity excludes one.
    pub logit_bias: Vec<(u32, f32)>,
    /// How many of the last tokens are penalized; 0 turns the three penalties off.
    pub repeat_last_n: usize,
    /// The divisor of a positive logit and factor of a negative one, if its token has been there; 1 is off.
    pub repeat_penalty: f32,
    /// What is subtracted from the logit of a token that has been there.
    pub presence_penalty: f32,
    /// What is subtracted from the logit of a token for each time that it has been there.
    pub frequency_penalty: f32,
    /// The factor of the penalty for continuing a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// The penalty grows by this factor with each token that the repetition is longer.
    pub dry_base: f32,
    /// The longest repetition, in tokens, that is continued without a penalty above the multiplier.
    pub dry_allowed_length: usize,
    /// How many of the last tokens are searched for repetitions; 0 is off.
    pub dry_last_n: usize,
    /// Texts over which no repetition reaches: at most [`BREAKERS`], each of 1 to [`BREAKER_BYTES`] bytes.
    pub dry_breakers: Vec<String>,
    /// Keeps logits within so many standard deviations of the largest; 0 or less is off.
    pub top_n_sigma: f32,
    /// Keeps so many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most typical tokens up to this total probability; 1 keeps all.
    pub typical_p: f32,
    /// Keeps the most likely tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one.
    pub min_p: f32,
    /// How often XTC is applied; 0 is off.
    pub xtc_probability: f32,
    /// Of the tokens at least this likely, XTC keeps only the least likely; above 0.5 it is off.
    pub xtc_threshold: f32,
    /// The divisor of logits; 0 selects the most likely token.
    pub temperature: f32,
    /// How far the temperature departs from `temperature` with the entropy; 0 is off.
    pub dynatemp_range: f32,
    /// The exponent of the entropy, as a share of its maximum.
    pub dynatemp_exponent: f32,
    /// Mirostat, which takes the place of all filters but the bias and the fixed temperature.
    pub mirostat: Option<MirostatVersion>,
    /// The surprise that Mirostat aims at, in bits.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate.
    pub mirostat_eta: f32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            sequence: Sequence::default(),
            seed: 0,
            min_keep: 0,
            logit_bias: Vec::new(),
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: 64,
            dry_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            top_n_sigma: -1.0,
            top_k: 40,
            typical_p: 1.0,
            top_p: 0.95,
            min_p: 0.05,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            mirostat: None,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
        }
    }
}

impl Sampling {
    /// Settings that always choose the most likely token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Checks every setting, with a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// If a number is out of its range, a token of the bias not in the vocabulary, or a breaker empty, too long or one too many.
    pub fn check(&self, vocab: usize) -> Result<()> {
        for (name, value, range) in [
            ("repeat_penalty", self.repeat_penalty, MULTIPLIERS),
            ("presence_penalty", self.presence_penalty, FINITE),
            ("frequency_penalty", self.frequency_penalty, FINITE),
            ("dry_multiplier", self.dry_multiplier, TEMPERATURES),
            ("dry_base", self.dry_base, AT_LEAST_ONE),
            ("top_n_sigma", self.top_n_sigma, FINITE),
            ("typical_p", self.typical_p, PROBABILITIES),
            ("top_p", self.top_p, PROBABILITIES),
            ("min_p", self.min_p, PROBABILITIES),
            ("xtc_probability", self.xtc_probability, PROBABILITIES),
            ("xtc_threshold", self.xtc_threshold, PROBABILITIES),
            ("temperature", self.temperature, TEMPERATURES),
            ("dynatemp_range", self.dynatemp_range, TEMPERATURES),
            ("dynatemp_exponent", self.dynatemp_exponent, TEMPERATURES),
            ("mirostat_tau", self.mirostat_tau, TEMPERATURES),
            ("mirostat_eta", self.mirostat_eta, TEMPERATURES),
        ] {
            if !range.contains(&value) {
                return Err(Error::argument(name, format!("is {value}, not {}", wanted(&range))));
            }
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab {
                return Err(Error::TokenOutOfVocabulary { token, vocab });
            }
            if !FINITE.contains(&bias) && bias != f32::NEG_INFINITY {
                let problem = format!("is {bias} for token {token}, not a number or minus infinity");
                return Err(Error::argument("logit_bias", problem));
            }
        }
        if self.dry_breakers.len() > BREAKERS {
            let problem = format!("{} are too many; give at most {BREAKERS}", self.dry_breakers.len());
            return Err(Error::argument("dry_sequence_breakers", problem));
        }
        match self.dry_breakers.iter().find(|text| text.is_empty() || text.len() > BREAKER_BYTES) {
            Some(text) => {
                let problem = format!("{} does not have 1 to {BREAKER_BYTES} bytes", quoted(text));
                Err(Error::argument("dry_sequence_breakers", problem))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_out_of_its_range() {
        let plain = Sampling::default;
        plain().check(1).unwrap();
        Sampling { dry_breakers: vec!["x".repeat(100); 100], ..plain() }.check(1).unwrap();
        Sampling { logit_bias: vec![(7, f32::NEG_INFINITY), (7, -f32::MAX)], ..plain() }.check(8).unwrap();
        for (wrong, words) in [
            (Sampling { temperature: f32::NAN, ..plain() }, "temperature: is NaN, not a number of at least 0"),
            (Sampling { temperature: -1.0, ..plain() }, "temperature"),
            (Sampling { dynatemp_range: f32::INFINITY, ..plain() }, "dynatemp_range"),
            (Sampling { dynatemp_exponent: -1.0, ..plain() }, "dynatemp_exponent"),
            (Sampling { top_p: 1.5, ..plain() }, "top_p: is 1.5, not a number from 0 to 1"),
            (Sampling { min_p: -0.1, ..plain() }, "min_p"),
            (Sampling { typical_p: f32::NAN, ..plain() }, "typical_p"),
            (Sampling { xtc_probability: 2.0, ..plain() }, "xtc_probability"),
            (Sampling { xtc_threshold: -1.0, ..plain() }, "xtc_threshold"),
            (Sampling { top_n_sigma: f32::NAN, ..plain() }, "top_n_sigma: is NaN, not a finite number"),
            (Sampling { repeat_penalty: 0.0, ..plain() }, "repeat_penalty: is 0, not a number above 0"),
            (Sampling { repeat_penalty: 1e-40, ..plain() }, "repeat_penalty"),
            (Sampling { presence_penalty: f32::INFINITY, ..plain() }, "presence_penalty"),
            (Sampling { frequency_penalty: f32::NAN, ..plain() }, "frequency_penalty"),
            (Sampling { dry_multiplier: -1.0, ..plain() }, "dry_multiplier"),
            (Sampling { dry_base: 0.5, ..plain() }, "dry_base: is 0.5, not a number of at least 1"),
            (Sampling { mirostat_tau: -1.0, ..plain() }, "mirostat_tau"),
            (Sampling { mirostat_eta: f32::NAN, ..plain() }, "mirostat_eta"),
            (Sampling { logit_bias: vec![(8, 0.0)], ..plain() }, "token 8 is not in the vocabulary of 8"),
            (Sampling { logit_bias: vec![(7, f32::INFINITY)], ..plain() }, "logit_bias: is inf for token 7"),
            (Sampling { logit_bias: vec![(7, f32::NAN)], ..plain() }, "logit_bias: is NaN"),
            (Sampling { dry_breakers: vec![String::new()], ..plain() }, "dry_sequence_breakers: \"\""),
            (Sampling { dry_breakers: vec!["x".repeat(101)], ..plain() }, "1 to 100 bytes"),
            (Sampling { dry_breakers: vec!["x".to_owned(); 101], ..plain() }, "101 are too many"),
        ] {
            let error = wrong.check(8).unwrap_err().to_string();
            assert!(error.contains(words), "{error}: {words}");
        }
    }
}
