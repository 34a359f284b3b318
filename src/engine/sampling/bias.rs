//! Logit bias: numbers added to the logits of single tokens.

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;
use std::collections::HashMap;

/// The sum of the biases of each token.
pub struct Bias(HashMap<u32, f64>);

impl Bias {
    /// `None` without a bias.
    pub fn new(settings: &Sampling) -> Option<Bias> {
        let mut sums = HashMap::new();
        for &(token, bias) in &settings.logit_bias {
            *sums.entry(token).or_insert(0.0) += f64::from(bias);
        }
        (!sums.is_empty()).then_some(Bias(sums))
    }
}

impl Filter for Bias {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        candidates.edit(&self.0, |logit, bias| logit + bias);
        candidates.drop_excluded();
    }
}
