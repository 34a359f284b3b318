//! The chain: runs the filters, draws a token, and tells the filters what was chosen.

use super::bias::Bias;
use super::candidates::Candidates;
use super::dry::Dry;
use super::mirostat::Mirostat;
use super::penalties::Penalties;
use super::sequence::FilterKind;
use super::settings::Sampling;
use super::temperature::Temperature;
use super::truncation::{MinP, TopK, TopNSigma, TopP};
use super::typical::Typical;
use super::xtc::Xtc;
use crate::engine::grammar::TokenMask;
use crate::error::Result;
use crate::random::uniform;
use crate::tokenizer::Tokenizer;
use std::sync::Arc;
use strata_quant::float::all_finite;

/// One step of the chain. It leaves at least one of the candidates it is given, each with a finite logit.
pub trait Filter: Send {
    /// Drops candidates, or changes their logits.
    fn apply(&mut self, candidates: &mut Candidates, random: &mut u64);

    /// Appends a token of the prompt or of the answer to the history.
    fn accept(&mut self, _token: u32) {}

    /// Learns the probability of the token that was drawn.
    fn chosen(&mut self, _probability: f64) {}

    /// True if the most likely candidate always stays the most likely.
    fn keeps_the_best(&self) -> bool {
        false
    }

    /// True if it leaves one candidate only, the most likely.
    fn leaves_one(&self) -> bool {
        false
    }
}

/// A chain of filters with its history and its random state.
pub struct Sampler {
    filters: Vec<Box<dyn Filter>>,
    is_greedy: bool,
    random: u64,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab` tokens, at the start of its random numbers and without history. `tokenizer` tells it the text
    /// of tokens, in which DRY's sequence breakers are looked for; without one there are none.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(settings: &Sampling, vocab: usize, tokenizer: Option<&Arc<Tokenizer>>) -> Result<Sampler> {
        settings.check(vocab)?;
        let filters = filters(settings, vocab, tokenizer);
        // What follows the filter that leaves one candidate changes nothing.
        let is_greedy = filters
            .iter()
            .position(|filter| filter.leaves_one())
            .is_some_and(|one| filters[..one].iter().all(|filter| filter.keeps_the_best()));
        Ok(Sampler { filters, is_greedy, random: settings.seed, candidates: Candidates::new() })
    }

    /// Appends a token of the prompt or of the answer to the history that repetitions are looked for in.
    pub fn accept(&mut self, token: u32) {
        for filter in &mut self.filters {
            filter.accept(token);
        }
    }

    /// Samples a token from `logits`, `(vocab)`; the lower id wins a tie. It is not part of the history before it is
    /// [accepted](Sampler::accept). `None` if there is no logit, one is not finite and so cannot be compared, or a bias excludes all.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        if !all_finite(logits) {
            return None;
        }
        if self.is_greedy {
            return self.best((0..).zip(logits.iter().copied()));
        }
        self.candidates.fill(logits);
        self.filtered()
    }

    /// [Samples](Sampler::sample) a token that the mask allows: the same one as if a bias of minus infinity excluded the others. `None` also
    /// if the mask allows none.
    pub fn sample_masked(&mut self, logits: &[f32], mask: &TokenMask) -> Option<u32> {
        if !all_finite(logits) {
            return None;
        }
        let allowed = mask.tokens().map_while(|token| Some((token, *logits.get(token as usize)?)));
        if self.is_greedy {
            return self.best(allowed);
        }
        self.candidates.fill_from(allowed);
        self.filtered()
    }

    /// The token with the largest logit, which becomes the only candidate.
    fn best(&mut self, mut logits: impl Iterator<Item = (u32, f32)>) -> Option<u32> {
        let first = logits.next()?;
        let (token, logit) = logits.fold(first, |best, other| if other.1 > best.1 { other } else { best });
        self.candidates.only(token, logit);
        Some(token)
    }

    /// A token of the candidates that the filters leave.
    fn filtered(&mut self) -> Option<u32> {
        for filter in &mut self.filters {
            if self.candidates.len() == 0 {
                return None;
            }
            filter.apply(&mut self.candidates, &mut self.random);
        }
        let (token, probability) = self.draw()?;
        for filter in &mut self.filters {
            filter.chosen(probability);
        }
        Some(token)
    }

    /// A token at random, with its probability.
    fn draw(&mut self) -> Option<(u32, f64)> {
        let peak = self.candidates.peak();
        let total = self.candidates.total(peak);
        let mut left = uniform(&mut self.random) * total;
        let mut last = None;
        for c in self.candidates.list() {
            let weight = libm::exp(c.logit - peak);
            left -= weight;
            // Rounding may leave a little for what can be chosen last.
            if weight > 0.0 {
                last = Some((c.token, weight / total));
            }
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// What the last token was drawn from: each candidate with its probability, the most likely first.
    pub fn probabilities(&self) -> Vec<(u32, f64)> {
        let peak = self.candidates.peak();
        let total = self.candidates.total(peak);
        let probability = |logit: f64| libm::exp(logit - peak) / total;
        let mut all: Vec<(u32, f64)> = self.candidates.list().iter().map(|c| (c.token, probability(c.logit))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }
}

/// The filters that are on, in their order.
fn filters(settings: &Sampling, vocab: usize, tokenizer: Option<&Arc<Tokenizer>>) -> Vec<Box<dyn Filter>> {
    fn boxed<F: Filter + 'static>(filter: Option<F>) -> Option<Box<dyn Filter>> {
        filter.map(|filter| Box::new(filter) as Box<dyn Filter>)
    }
    let of = |kind: &FilterKind| match kind {
        FilterKind::Penalties => boxed(Penalties::new(settings)),
        FilterKind::Dry => boxed(Dry::new(settings, tokenizer)),
        FilterKind::TopNSigma => boxed(TopNSigma::new(settings)),
        FilterKind::TopK => boxed(TopK::new(settings)),
        FilterKind::Typical => boxed(Typical::new(settings)),
        FilterKind::TopP => boxed(TopP::new(settings)),
        FilterKind::MinP => boxed(MinP::new(settings)),
        FilterKind::Xtc => boxed(Xtc::new(settings)),
        FilterKind::Temperature => boxed(Temperature::new(settings)),
    };
    let bias = boxed(Bias::new(settings));
    if let Some(mirostat) = boxed(Mirostat::new(settings, vocab)) {
        return bias.into_iter().chain(boxed(Temperature::fixed(settings))).chain([mirostat]).collect();
    }
    bias.into_iter().chain(settings.sequence.kinds().iter().filter_map(of)).collect()
}
