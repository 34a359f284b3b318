//! Penalties for tokens that have been there: repeat (Keskar et al., 2019), presence and frequency (OpenAI).

use super::candidates::Candidates;
use super::chain::Filter;
use super::settings::Sampling;
use std::collections::{HashMap, VecDeque};

/// The penalties, and how often each of the last tokens has been there.
pub struct Penalties {
    last_n: usize,
    repeat: f64,
    presence: f64,
    frequency: f64,
    recent: VecDeque<u32>,
    counts: HashMap<u32, usize>,
}

impl Penalties {
    /// `None` if they are off.
    pub fn new(settings: &Sampling) -> Option<Penalties> {
        let penalties = Penalties {
            last_n: settings.repeat_last_n,
            repeat: settings.repeat_penalty.into(),
            presence: settings.presence_penalty.into(),
            frequency: settings.frequency_penalty.into(),
            recent: VecDeque::new(),
            counts: HashMap::new(),
        };
        let off = (penalties.repeat, penalties.presence, penalties.frequency) == (1.0, 0.0, 0.0);
        (penalties.last_n > 0 && !off).then_some(penalties)
    }
}

impl Filter for Penalties {
    fn accept(&mut self, token: u32) {
        if self.recent.len() >= self.last_n
            && let Some(old) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_insert(0) += 1;
    }

    fn apply(&mut self, candidates: &mut Candidates, _: &mut u64) {
        candidates.edit(&self.counts, |logit, &count| {
            // The paper divides always, which would make a token with a negative logit more likely.
            let repeated = if logit > 0.0 { logit / self.repeat } else { logit * self.repeat };
            repeated - (count as f64 * self.frequency + self.presence)
        });
    }
}
