//! Many requests through one model: each pass carries a piece of the prompts and one token of every answer (continuous batching).
//!
//! A request waits for one of the slots. It begins with the longest beginning that is there already: in its slot, in another, which it is
//! copied from, or on disk (`prefix_cache/`). A prompt that another slot is just computing waits for that. By idea 3 of the design an answer
//! has the same bits, whatever else is in its passes and wherever its beginning comes from.

mod collect;
mod slot;

pub use collect::{Collected, Collecting, collect};

use super::answer::Answer;
use super::prefix_cache::PrefixCache;
use super::request::{Cancel, End, Listener, Request};
use crate::error::{Error, Result};
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;
pub(super) use slot::common;
use slot::{Slot, Work, whole_spans};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Settings of a [`Scheduler`].
pub struct SchedulerOptions {
    /// The most requests that are answered at the same time.
    pub slots: usize,
    /// The tokens of a prompt and its answer together, for each slot.
    pub context: usize,
    /// The types of keys and values.
    pub types: CacheTypes,
    /// The most tokens of prompts in a pass: while they are computed, answers wait.
    pub batch: usize,
    /// Keys and values on disk.
    pub prefix_cache: Option<PrefixCache>,
}

impl SchedulerOptions {
    /// One slot of so many tokens, whose prompt is computed in one pass.
    pub fn single(context: usize) -> SchedulerOptions {
        let (types, prefix_cache) = (CacheTypes::default(), None);
        SchedulerOptions { slots: 1, context, types, batch: context, prefix_cache }
    }

    /// The memory that a scheduler takes beside the weights of a model `of` these hyperparameters.
    ///
    /// # Errors
    /// If a cache cannot have these types.
    pub fn need(&self, of: &crate::arch::Hyperparameters) -> Result<MemoryNeed> {
        let kv = KvCache::bytes(of, self.context, self.types)?.saturating_mul(self.slots as u64);
        Ok(MemoryNeed::passes(of, kv, self.batch.saturating_add(self.slots), self.slots))
    }
}

/// What a slot does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// True if it works on a request.
    pub is_processing: bool,
    /// Tokens of the prompt of that; 0 without one.
    pub prompt_tokens: usize,
    /// Tokens whose keys and values it has.
    pub cached_tokens: usize,
    /// Tokens of the answer so far.
    pub answer_tokens: usize,
}

/// A request that has no slot yet.
struct Waiting {
    prompt: Vec<u32>,
    work: Work,
}

/// Answers requests; whoever owns it calls [`Scheduler::step`].
pub struct Scheduler {
    model: Arc<Model>,
    tokenizer: Option<Arc<Tokenizer>>,
    context: usize,
    batch: usize,
    prefix_cache: Option<PrefixCache>,
    scratch: Scratch,
    slots: Vec<Slot>,
    waiting: VecDeque<Waiting>,
    requests: u64,
    passes: u64,
}

/// A beginning that another slot is computing is worth waiting for, if it is longer than what is there by so many tokens.
const WORTH_WAITING: usize = 32;

impl Scheduler {
    /// A scheduler without requests. A model without a vocabulary answers in token ids.
    ///
    /// # Errors
    /// If the memory for keys and values cannot be had.
    pub fn new(model: Arc<Model>, tokenizer: Option<Arc<Tokenizer>>, options: SchedulerOptions) -> Result<Scheduler> {
        let slot = |_| Ok(Slot::new(KvCache::with_types(model.hyperparameters(), options.context, options.types)?));
        let slots = (0..options.slots.max(1)).map(slot).collect::<Result<Vec<_>>>()?;
        let (context, batch, prefix_cache) = (options.context, options.batch.max(1), options.prefix_cache);
        let (scratch, waiting) = (Scratch::default(), VecDeque::new());
        Ok(Scheduler {
            model,
            tokenizer,
            context,
            batch,
            prefix_cache,
            scratch,
            slots,
            waiting,
            requests: 0,
            passes: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokenizer, if the model has a vocabulary.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// Takes a request, which waits for a slot; `listener` hears of it in [`Scheduler::step`].
    ///
    /// # Errors
    /// If it can never be answered: its prompt is empty, longer than the context or not of this vocabulary, or its settings are none.
    pub fn submit(&mut self, request: Request, listener: Listener) -> Result<()> {
        let vocab = self.model.hyperparameters().vocab;
        let prompt = &request.prompt;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&token) = prompt.iter().find(|token| **token as usize >= vocab) {
            return Err(Error::TokenOutOfVocabulary { token, vocab });
        }
        if prompt.len() > self.context {
            return Err(Error::ContextFull { have: 0, more: prompt.len(), room: self.context });
        }
        let answer = Answer::new(&request, vocab, self.tokenizer.as_ref())?;
        self.requests += 1;
        let Request { prompt, cancel, .. } = request;
        let work = Work::new(self.requests, prompt.len(), answer, listener, cancel);
        self.waiting.push_back(Waiting { prompt, work });
        Ok(())
    }

    /// Requests without a slot.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True if there is no request.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.iter().all(|slot| slot.work.is_none())
    }

    /// What each slot does.
    pub fn slots(&self) -> Vec<SlotStatus> {
        let status = |slot: &Slot| SlotStatus {
            is_processing: slot.work.is_some(),
            prompt_tokens: slot.work.as_ref().map_or(0, |work| work.prompt),
            cached_tokens: slot.cache.len(),
            answer_tokens: slot.work.as_ref().map_or(0, |work| work.answer.tokens()),
        };
        self.slots.iter().map(status).collect()
    }

    /// Steps until there is no request.
    ///
    /// # Errors
    /// As [`Scheduler::step`].
    pub fn run(&mut self, progress: &dyn Progress) -> Result<()> {
        while !self.is_idle() {
            self.step(progress)?;
        }
        Ok(())
    }

    /// One pass for all slots. What goes wrong is told to the requests that it concerns.
    ///
    /// # Errors
    /// Only if `progress` stops it; then it can go on later.
    pub fn step(&mut self, progress: &dyn Progress) -> Result<()> {
        progress.check()?;
        self.drop_cancelled();
        self.save(progress);
        self.admit(progress);
        let pieces = self.pieces();
        if pieces.is_empty() {
            return Ok(());
        }
        self.passes += 1;
        match self.pass(&pieces, progress) {
            Ok(()) => {}
            Err(Error::Cancelled) if progress.cancelled() => return Err(Error::Cancelled),
            Err(Error::Cancelled) => {} // all requests of the pass: the next step drops them
            Err(error) => {
                let error = Arc::new(error);
                pieces.iter().for_each(|&(i, _)| self.slots[i].fail(error.clone()));
            }
        }
        self.save(progress);
        Ok(())
    }

    /// What the next pass carries: slots and how many of their tokens. An answer needs one; prompts share the rest of the batch, in the
    /// order of the requests.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let mut left = self.batch;
        let mut slots: Vec<usize> = (0..self.slots.len()).filter(|&i| self.slots[i].work.is_some()).collect();
        slots.sort_by_key(|&i| self.slots[i].work.as_ref().map(|work| work.id));
        let piece = |i: usize| {
            let slot = &self.slots[i];
            if !slot.is_prefilling() {
                return Some((i, slot.ahead()));
            }
            let tokens = slot.ahead().min(left);
            left -= tokens;
            (tokens > 0).then_some((i, tokens))
        };
        let mut pieces: Vec<_> = slots.into_iter().filter_map(piece).collect();
        pieces.sort_unstable();
        pieces
    }

    /// Computes the pieces, and takes the next token of each slot whose tokens are then all computed.
    fn pass(&mut self, pieces: &[(usize, usize)], progress: &dyn Progress) -> Result<()> {
        let Scheduler { model, slots, scratch, passes, .. } = self;
        let cancels: Vec<Cancel> =
            pieces.iter().filter_map(|&(i, _)| Some(slots[i].work.as_ref()?.cancel.clone())).collect();
        let watched = UnlessAllCancelled { progress, cancels };
        let mut segments = Vec::with_capacity(pieces.len());
        let (mut rows, mut complete, mut prefilling, mut end) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut of = pieces.iter().peekable();
        for (i, slot) in slots.iter_mut().enumerate() {
            let Some(&(_, tokens)) = of.next_if(|piece| piece.0 == i) else { continue };
            let start = slot.cache.len();
            slot.used = *passes;
            prefilling.extend(slot.is_prefilling().then_some(i));
            end += tokens;
            if start + tokens == slot.tokens.len() {
                rows.push(end - 1);
                complete.push(i);
            }
            segments.push(Segment { tokens: &slot.tokens[start..start + tokens], cache: &mut slot.cache });
        }
        let hidden = model.pass(scratch, &mut segments, &watched)?;
        let logits = if rows.is_empty() { &[][..] } else { hidden.logits_after(&rows, &watched)? };
        model.check()?;
        let vocab = model.hyperparameters().vocab;
        prefilling.into_iter().for_each(|i| slots[i].tell_prefill());
        complete.into_iter().zip(logits.chunks_exact(vocab)).for_each(|(i, logits)| slots[i].take(logits));
        Ok(())
    }

    /// Ends requests that nobody wants any more.
    fn drop_cancelled(&mut self) {
        for slot in &mut self.slots {
            if slot.work.as_ref().is_some_and(|work| work.cancel.is_cancelled()) {
                slot.finish(End::Cancelled);
            }
        }
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting.work.cancel.is_cancelled() {
                true => waiting.work.end(End::Cancelled),
                false => self.waiting.push_back(waiting),
            }
        }
    }

    /// Gives free slots to waiting requests, the first first; one whose beginning is just being computed lets others pass.
    fn admit(&mut self, progress: &dyn Progress) {
        let mut i = 0;
        while i < self.waiting.len() && self.slots.iter().any(|slot| slot.work.is_none()) {
            let reusable = reusable(&self.waiting[i].prompt);
            let common: Vec<usize> = self.slots.iter().map(|slot| slot.common(reusable)).collect();
            let there = common.iter().copied().max().unwrap_or(0);
            let coming = self.slots.iter().filter(|slot| slot.is_prefilling());
            let coming = coming.map(|slot| slot::common(&slot.tokens, reusable)).max();
            if coming.is_some_and(|coming| coming > there + WORTH_WAITING) {
                i += 1;
            } else if let Some(waiting) = self.waiting.remove(i) {
                self.begin(waiting, &common, progress);
            }
        }
    }

    /// Puts a request into a free slot. Each slot holds so many tokens in `common` with its prompt.
    fn begin(&mut self, Waiting { prompt, mut work }: Waiting, common: &[usize], progress: &dyn Progress) {
        work.clock.begun = Some(Instant::now());
        let i = self.choose(common);
        let best = (0..common.len()).max_by_key(|&j| common[j]).unwrap_or(i);
        if common[best] > common[i]
            && let Ok([slot, from]) = self.slots.get_disjoint_mut([i, best])
        {
            slot.cache.become_beginning(&from.cache, common[best]);
            slot.saved = from.saved;
        }
        let slot = &mut self.slots[i];
        slot.cache.truncate(common[best]);
        slot.saved = whole_spans(slot.saved.min(slot.cache.len()));
        if let Some(cache) = &mut self.prefix_cache {
            slot.saved = slot.saved.max(cache.restore(reusable(&prompt), &mut slot.cache, progress));
        }
        work.reused = slot.cache.len();
        (slot.tokens, slot.work) = (prompt, Some(work));
    }

    /// The free slot that a prompt is continued in: the one with the longest common beginning, if that is most of what it holds; else the
    /// one that was not used for the longest time.
    fn choose(&self, common: &[usize]) -> usize {
        let free = || (0..self.slots.len()).filter(|&i| self.slots[i].work.is_none());
        let fits = free().filter(|&i| 2 * common[i] >= self.slots[i].cache.len().max(1)).max_by_key(|&i| common[i]);
        fits.or_else(|| free().min_by_key(|&i| self.slots[i].used)).expect("a slot is free")
    }

    /// Saves spans that are complete, and all of a sequence that has ended.
    fn save(&mut self, progress: &dyn Progress) {
        let Some(cache) = &mut self.prefix_cache else { return };
        for slot in &mut self.slots {
            let ended = slot.work.is_none();
            let (held, Slot { tokens, cache: kv, saved, .. }) = (slot.cache.len(), slot);
            let whole = whole_spans(held);
            if whole > *saved || (ended && held > *saved) {
                cache.save(&tokens[..held], kv, *saved, ended, progress);
                *saved = if ended { held } else { whole };
            }
        }
    }
}

/// What of a prompt can be there already: the last token is computed always, since its logits are wanted.
fn reusable(prompt: &[u32]) -> &[u32] {
    &prompt[..prompt.len() - 1]
}

/// Progress of a pass that ends within a layer when nobody wants its results.
struct UnlessAllCancelled<'a> {
    progress: &'a dyn Progress,
    cancels: Vec<Cancel>,
}

impl Progress for UnlessAllCancelled<'_> {
    fn begin(&self, what: &str, total: u64) {
        self.progress.begin(what, total);
    }
    fn step(&self, what: &str) {
        self.progress.step(what);
    }
    fn step_left(&self, what: &str, left: f64) {
        self.progress.step_left(what, left);
    }
    fn advance(&self, units: u64) {
        self.progress.advance(units);
    }
    fn end(&self) {
        self.progress.end();
    }
    fn warn(&self, what: &str) {
        self.progress.warn(what);
    }
    fn cancelled(&self) -> bool {
        self.progress.cancelled() || self.cancels.iter().all(Cancel::is_cancelled)
    }
}
