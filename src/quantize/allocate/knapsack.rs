//! The choice of one type for each tensor that costs least in all and fits into a number of bytes: the multiple-choice knapsack problem.
//!
//! Solved by dynamic programming over the budget in [`STEPS`] steps. Sizes are rounded to the nearest step, whose errors all but cancel out in
//! the sum over many tensors; what is left over is then spent one exact choice after the other.

/// Steps of the budget.
const STEPS: usize = 1 << 15;

/// A choice for an item: its bytes, and its cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub bytes: u64,
    pub cost: f64,
}

/// Which choice each item takes, of at most `budget` bytes in all, with the least cost; `None` if none is small enough. Every item has a choice.
pub fn choose(items: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let smallest = |choices: &Vec<Choice>| choices.iter().map(|choice| choice.bytes).min();
    let least: u64 = items.iter().filter_map(smallest).sum();
    if least > budget {
        return None;
    }
    let mut room = budget;
    loop {
        // The smallest choices are of exactly `least` bytes: only what is more is rounded.
        let chosen = solve(items, room - least);
        let bytes = total(items, &chosen);
        if bytes <= budget {
            return Some(spend(items, chosen, budget - bytes));
        }
        room = room.saturating_sub(bytes - budget).max(least);
    }
}

/// The bytes of a choice of every item.
fn total(items: &[Vec<Choice>], chosen: &[usize]) -> u64 {
    items.iter().zip(chosen).map(|(choices, &at)| choices[at].bytes).sum()
}

/// The best choices whose rounded sizes are at most `extra` bytes more than those of the smallest.
fn solve(items: &[Vec<Choice>], extra: u64) -> Vec<usize> {
    let step = (extra as f64 / STEPS as f64).max(1.0);
    let capacity = (extra as f64 / step) as usize;
    let mut best = vec![0.0; capacity + 1]; // by steps that may be taken: the least cost of the items so far
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(items.len());
    let steps: Vec<Vec<usize>> = items.iter().map(|choices| more_steps(choices, step)).collect();
    for (choices, steps) in items.iter().zip(&steps) {
        let (mut next, mut of_item) = (vec![f64::INFINITY; capacity + 1], vec![0u8; capacity + 1]);
        for (at, (choice, &steps)) in choices.iter().zip(steps).enumerate() {
            for (room, best) in best.iter().take((capacity + 1).saturating_sub(steps)).enumerate() {
                let cost = best + choice.cost;
                if cost < next[room + steps] {
                    (next[room + steps], of_item[room + steps]) = (cost, at as u8);
                }
            }
        }
        best = next;
        taken.push(of_item);
    }
    let (mut room, mut chosen) = (capacity, vec![0; items.len()]);
    for (i, steps) in steps.iter().enumerate().rev() {
        chosen[i] = usize::from(taken[i][room]);
        room -= steps[chosen[i]];
    }
    chosen
}

/// The steps that each choice takes more than the smallest one.
fn more_steps(choices: &[Choice], step: f64) -> Vec<usize> {
    let smallest = choices.iter().map(|choice| choice.bytes).min().unwrap_or(0);
    choices.iter().map(|choice| ((choice.bytes - smallest) as f64 / step).round() as usize).collect()
}

/// Spends what is left over: the exchange that saves most comes first, until none fits.
fn spend(items: &[Vec<Choice>], mut chosen: Vec<usize>, mut left: u64) -> Vec<usize> {
    loop {
        let exchanges = items.iter().enumerate().flat_map(|(i, choices)| {
            let now = choices[chosen[i]];
            let saves = move |other: &Choice| now.cost - other.cost;
            let fits = move |other: &Choice| other.bytes <= now.bytes + left;
            choices
                .iter()
                .enumerate()
                .filter(move |(_, other)| saves(other) > 0.0 && fits(other))
                .map(move |(at, other)| (saves(other), i, at))
        });
        let Some((_, i, at)) = exchanges.max_by(|a, b| a.0.total_cmp(&b.0)) else { return chosen };
        left = left + items[i][chosen[i]].bytes - items[i][at].bytes;
        chosen[i] = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(items: &[Vec<Choice>], chosen: &[usize]) -> f64 {
        items.iter().zip(chosen).map(|(choices, &at)| choices[at].cost).sum()
    }

    /// The least cost of all choices.
    fn brute(items: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = items.split_first() else { return Some(0.0) };
        let with = |choice: &Choice| Some(choice.cost + brute(rest, budget.checked_sub(choice.bytes)?)?);
        first.iter().filter_map(with).min_by(f64::total_cmp)
    }

    fn items(n: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut state = seed;
        let mut next = |below: u64| crate::random::bits(&mut state) % below;
        (0..n)
            .map(|_| {
                let (mut bytes, mut cost) = (next(500) + 1, 1000.0 + next(1000) as f64);
                let mut choices = Vec::new();
                for _ in 0..4 {
                    choices.push(Choice { bytes, cost });
                    bytes += 1 + next(400);
                    cost = (cost * next(100) as f64 / 100.0).floor(); // whole: sums are exact
                }
                choices
            })
            .collect()
    }

    #[test]
    fn the_best_choices_are_found() {
        for seed in 0..40 {
            let items = items(6, seed);
            let least: u64 = items.iter().map(|choices| choices[0].bytes).sum();
            let most: u64 = items.iter().map(|choices| choices[3].bytes).sum();
            for budget in [least, least + (most - least) / 3, least + (most - least) / 2, most, 2 * most] {
                let chosen = choose(&items, budget).unwrap();
                assert!(total(&items, &chosen) <= budget);
                assert_eq!(cost(&items, &chosen), brute(&items, budget).unwrap(), "{seed} {budget}");
            }
            assert_eq!(choose(&items, least - 1), None);
        }
    }

    #[test]
    fn large_sizes_are_within_the_budget_and_use_it() {
        let mut items = items(300, 7);
        items.iter_mut().flatten().for_each(|choice| choice.bytes *= 1_000_003);
        let least: u64 = items.iter().map(|choices| choices[0].bytes).sum();
        let most: u64 = items.iter().map(|choices| choices[3].bytes).sum();
        let budget = least + (most - least) / 3;
        let used = total(&items, &choose(&items, budget).unwrap());
        assert!(used <= budget && budget - used < budget / 1000, "{used} of {budget}");
    }
}
