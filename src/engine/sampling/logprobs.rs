//! Log-probabilities of tokens as the model gives them, before any filter.

use super::candidates::Candidates;
use crate::error::{Error, Result};
use strata_quant::float::all_finite;

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// The id of the token.
    pub token: u32,
    /// The logarithm, at most 0.
    pub logprob: f64,
}

/// Log-probabilities in the place of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// That of the token itself.
    pub chosen: f64,
    /// The most likely tokens, the most likely first; the lower id wins a tie.
    pub top: Vec<Logprob>,
}

/// The log-probability of a token of `logits`, `(vocab)`, and the `n` most likely tokens.
///
/// # Errors
/// If there is no logit, one is not finite, or the token is not among them.
pub fn logprobs(logits: &[f32], token: u32, n: usize) -> Result<TokenLogprobs> {
    let (mut candidates, normalizer) = normalized(logits)?;
    let logprob = |logit: f64| (logit - normalizer).min(0.0);
    let vocab = logits.len();
    let chosen = logits.get(token as usize).ok_or(Error::TokenOutOfVocabulary { token, vocab })?;
    candidates.keep_best(n);
    candidates.sort();
    let top = candidates.list().iter().take(n).map(|c| Logprob { token: c.token, logprob: logprob(c.logit) });
    Ok(TokenLogprobs { chosen: logprob(f64::from(*chosen)), top: top.collect() })
}

/// All tokens, and the logarithm of the sum of `exp(logit)`.
fn normalized(logits: &[f32]) -> Result<(Candidates, f64)> {
    if logits.is_empty() || !all_finite(logits) {
        return Err(Error::NoCandidate);
    }
    let mut candidates = Candidates::new();
    candidates.fill(logits);
    let peak = candidates.peak();
    let normalizer = peak + libm::log(candidates.total(peak));
    Ok((candidates, normalizer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_come_first_and_add_up() {
        let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.2, 0.1].iter().map(|p| p.ln() + 7.0).collect();
        let top = logprobs(&logits, 0, 3).unwrap().top;
        assert_eq!(top.iter().map(|t| t.token).collect::<Vec<_>>(), [1, 2, 3]);
        for (t, p) in top.iter().zip([0.4, 0.2, 0.2]) {
            assert!((libm::exp(t.logprob) - p).abs() < 1e-6, "{t:?}");
            assert_eq!(logprobs(&logits, t.token, 0).unwrap(), TokenLogprobs { chosen: t.logprob, top: Vec::new() });
        }
        let all = logprobs(&logits, 0, usize::MAX).unwrap().top;
        assert!((all.iter().map(|t| libm::exp(t.logprob)).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(logprobs(&logits, 5, 1).unwrap_err().to_string().contains("token 5"));
        for bad in [&[][..], &[f32::NAN], &[1.0, f32::INFINITY]] {
            assert!(logprobs(bad, 0, 1).is_err(), "{bad:?}");
        }
    }
}
