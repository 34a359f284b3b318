//! The tokens that can still be chosen, and the few things that filters do with them.

use std::cmp::Ordering;
use std::collections::HashMap;

/// A token that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its logit, as the filters have changed it; always finite, and never a negative zero, which would come behind a zero.
    pub logit: f64,
}

/// What is known of the order of candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Ids,
    BestFirst,
    Other,
}

/// The tokens that can still be chosen: in the order of their ids, of their logits, or in one that a filter has left.
///
/// No sum depends on how a selection has shuffled what it did not sort: a filter that selects without sorting all drops the rest.
#[derive(Debug)]
pub struct Candidates {
    list: Vec<Candidate>,
    order: Order,
}

/// The first batch of [`Candidates::rank`]; each further one is four times as large.
const BATCH: usize = 256;

/// The order of probability; the lower id wins a tie.
pub fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The same number, without the sign of a zero.
fn positive_zero(logit: f64) -> f64 {
    logit + 0.0
}

impl Candidates {
    /// No candidates.
    pub fn new() -> Candidates {
        Candidates { list: Vec::new(), order: Order::Ids }
    }

    /// Starts over with a token for each logit, which must be finite.
    pub fn fill(&mut self, logits: &[f32]) {
        self.fill_from((0..).zip(logits.iter().copied()));
    }

    /// Starts over with these tokens, in the order of their ids, and their logits, which must be finite.
    pub fn fill_from(&mut self, logits: impl Iterator<Item = (u32, f32)>) {
        self.list.clear();
        self.list.extend(logits.map(|(token, logit)| Candidate { token, logit: positive_zero(logit.into()) }));
        self.order = Order::Ids;
    }

    /// Starts over with one token.
    pub fn only(&mut self, token: u32, logit: f32) {
        self.list.clear();
        self.list.push(Candidate { token, logit: logit.into() });
        self.order = Order::BestFirst;
    }

    /// The candidates.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// The number of candidates.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The largest logit; minus infinity if there is none.
    pub fn peak(&self) -> f64 {
        match self.order {
            Order::BestFirst => self.list.first().map_or(f64::NEG_INFINITY, |best| best.logit),
            _ => self.list.iter().fold(f64::NEG_INFINITY, |peak, c| peak.max(c.logit)),
        }
    }

    /// The sum of the unnormalized probabilities `exp(logit - peak)`.
    pub fn total(&self, peak: f64) -> f64 {
        self.list.iter().map(|c| libm::exp(c.logit - peak)).sum()
    }

    /// The entropy in nats, of the same [`peak`](Candidates::peak) and [`total`](Candidates::total).
    pub fn entropy(&self, peak: f64, total: f64) -> f64 {
        let ln_total = libm::log(total);
        // p ln p, which is 0 where p is too small for a number.
        let term = |c: &Candidate| libm::exp(c.logit - peak) / total * (c.logit - peak - ln_total);
        -self.list.iter().map(term).sum::<f64>()
    }

    /// Sorts all, the best first.
    pub fn sort(&mut self) {
        if self.order != Order::BestFirst {
            self.list.sort_unstable_by(best_first);
            self.order = Order::BestFirst;
        }
    }

    /// Sorts the next batch behind the `sorted` best, which are in their place already, and returns how many are then. What it leaves
    /// behind them is in no order: the caller drops it, or goes on.
    pub fn rank(&mut self, sorted: usize) -> usize {
        let end = sorted.saturating_mul(4).max(BATCH).min(self.list.len());
        if self.order != Order::BestFirst && sorted < end {
            let rest = &mut self.list[sorted..];
            if end - sorted < rest.len() {
                rest.select_nth_unstable_by(end - sorted - 1, best_first);
            }
            rest[..end - sorted].sort_unstable_by(best_first);
            self.order = if end == self.list.len() { Order::BestFirst } else { Order::Other };
        }
        end
    }

    /// Keeps the first `n`, which [`rank`](Candidates::rank) or [`sort`](Candidates::sort) has put in their place; at least one.
    pub fn keep_sorted(&mut self, n: usize) {
        self.list.truncate(n.max(1));
        self.order = Order::BestFirst;
    }

    /// Keeps the `n` best, sorted; does nothing if there are no more. At least one stays.
    pub fn keep_best(&mut self, n: usize) {
        let n = n.max(1);
        if n < self.list.len() {
            if self.order != Order::BestFirst {
                self.drop_most(n);
                self.list.select_nth_unstable_by(n - 1, best_first);
                self.list[..n].sort_unstable_by(best_first);
            }
            self.keep_sorted(n);
        }
    }

    /// Drops most of what is not among the `n` best: in one walk, everything behind the `n` best so far.
    fn drop_most(&mut self, n: usize) {
        let (room, mut kept, mut last) = (n.saturating_mul(2).max(BATCH), 0, None);
        for i in 0..self.list.len() {
            let candidate = self.list[i];
            if last.is_none_or(|last| best_first(&candidate, &last).is_lt()) {
                self.list[kept] = candidate;
                kept += 1;
            }
            if kept == room {
                last = Some(*self.list[..room].select_nth_unstable_by(n - 1, best_first).1);
                kept = n;
            }
        }
        self.list.truncate(kept);
    }

    /// Drops the `n` best of sorted candidates.
    pub fn drop_sorted(&mut self, n: usize) {
        self.list.drain(..n);
    }

    /// Keeps those whose logit is at least `least`, in their order, or the `min_keep` best if these are more; at least one.
    pub fn keep_from(&mut self, least: f64, min_keep: usize) {
        let min_keep = min_keep.max(1);
        match self.order {
            Order::BestFirst => {
                let kept = self.list.partition_point(|c| c.logit >= least);
                self.list.truncate(kept.max(min_keep));
            }
            _ if self.list.iter().filter(|c| c.logit >= least).take(min_keep).count() < min_keep => {
                self.keep_best(min_keep);
            }
            _ => self.list.retain(|c| c.logit >= least),
        }
    }

    /// Replaces the candidates by some of them, in an order of their own.
    pub fn replace(&mut self, list: impl Iterator<Item = Candidate>) {
        self.list.clear();
        self.list.extend(list);
        self.order = Order::Other;
    }

    /// Changes every logit by a function that keeps their order.
    pub fn scale(&mut self, change: impl Fn(f64) -> f64) {
        for candidate in &mut self.list {
            candidate.logit = positive_zero(change(candidate.logit));
        }
    }

    /// Changes the logits of the tokens that `of` has a value for.
    pub fn edit<T>(&mut self, of: &HashMap<u32, T>, change: impl Fn(f64, &T) -> f64) {
        if self.order == Order::Ids {
            for (&token, value) in of {
                if let Ok(i) = self.list.binary_search_by_key(&token, |c| c.token) {
                    self.list[i].logit = positive_zero(change(self.list[i].logit, value));
                }
            }
            return;
        }
        for candidate in &mut self.list {
            if let Some(value) = of.get(&candidate.token) {
                candidate.logit = positive_zero(change(candidate.logit, value));
            }
        }
        self.order = Order::Other;
    }

    /// Drops those whose logit is minus infinity, which may be all.
    pub fn drop_excluded(&mut self) {
        self.list.retain(|c| c.logit > f64::NEG_INFINITY);
    }
}
