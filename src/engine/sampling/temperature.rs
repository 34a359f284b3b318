//! Temperature: divides the logits, by a fixed number or by one that follows the entropy.

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;

/// A temperature; with a range it moves with the entropy: `low + (high - low) * (H / H_max)^exponent`.
pub struct Temperature {
    low: f64,
    high: f64,
    exponent: f64,
}

/// Below this a temperature would make logits infinite.
const COLDEST: f64 = f32::MIN_POSITIVE as f64;

impl Temperature {
    /// The temperature of the chain; `None` if it changes nothing.
    pub fn new(settings: &Sampling) -> Option<Temperature> {
        let (middle, range) = (f64::from(settings.temperature), f64::from(settings.dynatemp_range));
        let (low, high) = ((middle - range).max(0.0), middle + range);
        ((low, high) != (1.0, 1.0)).then_some(Temperature { low, high, exponent: settings.dynatemp_exponent.into() })
    }

    /// The same without a range.
    pub fn fixed(settings: &Sampling) -> Option<Temperature> {
        Temperature::new(&Sampling { dynatemp_range: 0.0, ..settings.clone() })
    }
}

impl Filter for Temperature {
    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        if candidates.len() < 2 {
            return;
        }
        let temperature = if self.low < self.high {
            let peak = candidates.peak();
            let entropy = candidates.entropy(peak, candidates.total(peak));
            // Rounding may leave it a little outside.
            let share = (entropy / libm::log(candidates.len() as f64)).clamp(0.0, 1.0);
            self.low + (self.high - self.low) * libm::pow(share, self.exponent)
        } else {
            self.low
        };
        if temperature > 0.0 {
            candidates.scale(|logit| logit / temperature.max(COLDEST));
        } else {
            candidates.keep_best(1);
        }
    }

    fn keeps_the_best(&self) -> bool {
        true
    }

    fn leaves_one(&self) -> bool {
        self.high <= 0.0
    }
}
