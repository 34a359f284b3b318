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

/// The `n` most likely tokens of `logits`, `(vocab)`, the most likely first; the lower id wins a tie.
///
/// # Errors
/// If there is no logit, or one is not finite.
pub fn top_logprobs(logits: &[f32], n: usize) -> Result<Vec<Logprob>> {
    let (mut candidates, normalizer) = normalized(logits)?;
    candidates.keep_best(n);
    candidates.sort();
    let best = candidates.list().iter().take(n);
    Ok(best.map(|c| Logprob { token: c.token, logprob: (c.logit - normalizer).min(0.0) }).collect())
}

/// The log-probability of one token of `logits`, `(vocab)`.
///
/// # Errors
/// If there is no logit, one is not finite, or the token is not among them.
pub fn logprob(logits: &[f32], token: u32) -> Result<Logprob> {
    let (_, normalizer) = normalized(logits)?;
    let vocab = logits.len();
    let logit = logits.get(token as usize).ok_or(Error::TokenOutOfVocabulary { token, vocab })?;
    Ok(Logprob { token, logprob: (f64::from(*logit) - normalizer).min(0.0) })
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
        let top = top_logprobs(&logits, 3).unwrap();
        assert_eq!(top.iter().map(|t| t.token).collect::<Vec<_>>(), [1, 2, 3]);
        for (t, p) in top.iter().zip([0.4, 0.2, 0.2]) {
            assert!((libm::exp(t.logprob) - p).abs() < 1e-6, "{t:?}");
            assert_eq!(logprob(&logits, t.token).unwrap(), *t);
        }
        let all = top_logprobs(&logits, usize::MAX).unwrap();
        assert!((all.iter().map(|t| libm::exp(t.logprob)).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(top_logprobs(&logits, 0).unwrap(), []);
        assert!(logprob(&logits, 5).unwrap_err().to_string().contains("token 5"));
        for bad in [&[][..], &[f32::NAN], &[1.0, f32::INFINITY]] {
            assert!(top_logprobs(bad, 1).is_err() && logprob(bad, 0).is_err(), "{bad:?}");
        }
    }
}
