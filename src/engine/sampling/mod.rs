//! Sampling: chooses the next token from logits by a chain of small filters.
//!
//! The chain is llama.cpp's, with its order, defaults and names. [`Sampling`] holds the settings, [`Sampler`] runs them. Each filter drops
//! [`Candidate`]s or changes their logits, then a token is drawn from what is left:
//!
//! ```text
//! logits -> bias -> penalties -> dry -> top-n-sigma -> top-k -> typical -> top-p -> min-p -> xtc -> temperature -> draw
//! logits -> bias -> temperature -> mirostat -> draw, if mirostat is on
//! ```
//!
//! All arithmetic after the logits is in `f64` with exponentials that are the same on every platform, in a fixed order, and the lower id
//! wins a tie, so a seed gives the same text everywhere. Whatever the settings are, a filter leaves at least one candidate; only a bias of
//! minus infinity takes a token away for good.

mod bias;
mod candidates;
mod chain;
mod defaults;
mod dry;
mod logprobs;
mod mirostat;
mod penalties;
mod sequence;
mod settings;
mod temperature;
mod truncation;
mod typical;
mod xtc;

pub use candidates::Candidate;
pub use chain::Sampler;
pub use logprobs::{Logprob, TokenLogprobs, logprobs};
pub use mirostat::MirostatVersion;
pub use sequence::{FilterKind, Sequence};
pub use settings::{
    AT_LEAST_ONE, BREAKER_BYTES, BREAKERS, FINITE, MULTIPLIERS, NumberRange, PROBABILITIES, Sampling, TEMPERATURES,
    wanted,
};
