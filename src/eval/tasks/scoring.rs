//! From log-probabilities of scored tokens to answers, and from answers to figures.

use super::{Chunk, Kind, Tasks};

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_54;

/// The answers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// The number of the chosen answer of each task.
    pub chosen: Vec<usize>,
    /// Whether it is right.
    pub right: Vec<bool>,
    /// For each task the score of each answer: the mean log-probability of its tokens.
    pub scores: Vec<Vec<f64>>,
}

/// A share of tasks and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The share.
    pub value: f64,
    /// The ends of the interval.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// How the answers of a candidate differ from those of its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flips {
    /// Tasks with another answer: also with another wrong one.
    pub changed: Share,
    /// Tasks whose right answer became a wrong one.
    pub right_to_wrong: usize,
    /// Tasks whose wrong answer became the right one.
    pub wrong_to_right: usize,
    /// The change of accuracy, with the interval of differences of the same tasks.
    pub accuracy: Share,
}

impl Answers {
    /// Of tasks with these sequences, whose scored tokens cost `nll`, in their order, in nats. `None` if sequences are missing, or are not
    /// those of the tasks.
    pub fn of(tasks: &Tasks, sequences: &[Chunk], nll: &[f64]) -> Option<Answers> {
        let (mut sequences, mut nll) = (sequences, nll);
        let mut answers = Answers { chosen: Vec::new(), right: Vec::new(), scores: Vec::new() };
        for task in &tasks.tasks {
            let (own, others) = sequences.split_at_checked(task.sequences)?;
            let (of_task, rest) = nll.split_at_checked(own.iter().map(Chunk::scores).sum())?;
            let scores = task.answers.iter().map(|scored| mean(of_task.get(scored.clone())?));
            let scores = scores.collect::<Option<Vec<f64>>>()?;
            let chosen = choose(tasks.kind, &scores)?;
            answers.right.push(*task.right.get(chosen)?);
            answers.chosen.push(chosen);
            answers.scores.push(scores);
            (sequences, nll) = (others, rest);
        }
        (sequences.is_empty() && nll.is_empty() && !answers.chosen.is_empty()).then_some(answers)
    }

    /// The share of right answers.
    pub fn accuracy(&self) -> Share {
        share(count(&self.right), self.right.len())
    }

    /// How these answers differ from those of a reference to the same tasks.
    pub fn flips(&self, reference: &Answers) -> Flips {
        let n = self.chosen.len();
        let changed = self.chosen.iter().zip(&reference.chosen).filter(|(a, b)| a != b).count();
        let of = |from: bool, to: bool| {
            reference.right.iter().zip(&self.right).filter(|(a, b)| (**a, **b) == (from, to)).count()
        };
        let (right_to_wrong, wrong_to_right) = (of(true, false), of(false, true));
        let accuracy = difference(wrong_to_right, right_to_wrong, n);
        Flips { changed: share(changed, n), right_to_wrong, wrong_to_right, accuracy }
    }
}

/// The mean log-probability of the tokens of an answer.
fn mean(nll: &[f64]) -> Option<f64> {
    (!nll.is_empty()).then(|| -nll.iter().sum::<f64>() / nll.len() as f64)
}

/// The answer with the greatest score; of equals the first, but the second choice of Winogrande, as llama.cpp has it.
fn choose(kind: Kind, scores: &[f64]) -> Option<usize> {
    let better = |a: f64, b: f64| if kind == Kind::Winogrande { a >= b } else { a > b };
    (0..scores.len()).reduce(|best, i| if better(scores[i], scores[best]) { i } else { best })
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

/// `k` of `n`, with Wilson's score interval (Wilson 1927), which llama.cpp prints as well.
pub fn share(k: usize, n: usize) -> Share {
    let (n, value) = (n as f64, k as f64 / n as f64);
    let z = Z * Z / n;
    let half = Z * ((value * (1.0 - value) + z / 4.0) / n).sqrt();
    let end = |sign: f64| ((value + z / 2.0 + sign * half) / (1.0 + z)).clamp(0.0, 1.0);
    Share { value, low: end(-1.0), high: end(1.0) }
}

/// The difference of two shares of the same `n` tasks, of which `gained` are only in the first and `lost` only in the second, with the
/// adjusted Wald interval of matched pairs (Agresti and Min 2005).
fn difference(gained: usize, lost: usize, n: usize) -> Share {
    let (gained, lost, all) = (gained as f64, lost as f64, n as f64);
    let (b, c, n) = (gained + 0.5, lost + 0.5, all + 2.0);
    let half = Z * (b + c - (b - c).powi(2) / n).sqrt() / n;
    let middle = (b - c) / n;
    let value = (gained - lost) / all;
    Share { value, low: (middle - half).clamp(-1.0, value), high: (middle + half).clamp(value, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::tasks::Task;

    fn near(share: Share, value: f64, low: f64, high: f64) {
        let Share { value: v, low: l, high: h } = share;
        assert!((v - value).abs() < 5e-5 && (l - low).abs() < 5e-5 && (h - high).abs() < 5e-5, "{share:?}");
    }

    #[test]
    fn intervals() {
        // R: prop.test(15, 20, correct = FALSE), prop.test(0, 10, correct = FALSE)
        near(share(15, 20), 0.75, 0.5313, 0.8881);
        near(share(0, 10), 0.0, 0.0, 0.2775);
        near(share(10, 10), 1.0, 0.7225, 1.0);
        let nothing = difference(0, 0, 100);
        assert!(nothing.value == 0.0 && nothing.low < 0.0 && nothing.high == -nothing.low);
        // b = 20.5, c = 5.5, n = 102: 15 / 102 +- 1.96 sqrt(26 - 225 / 102) / 102
        near(difference(20, 5, 100), 0.15, 0.0533, 0.2408);
    }

    #[test]
    fn answers_are_means_and_equals_fall_as_in_llama_cpp() {
        let sequence = |n: usize| Chunk { number: 0, tokens: vec![0; n + 1], scored: vec![0..n] };
        let sequences = [sequence(2), sequence(3)];
        let right = vec![false, true, false];
        let task = Task { place: String::new(), sequences: 2, answers: vec![0..2, 2..3, 3..5], right };
        let tasks = Tasks { kind: Kind::HellaSwag, tasks: vec![task], in_file: 1 };
        let nll = [1.0, 3.0, 2.0, 0.5, 0.5];
        let answers = Answers::of(&tasks, &sequences, &nll).unwrap();
        assert_eq!(answers.scores, [[-2.0, -2.0, -0.5]]);
        assert_eq!((&answers.chosen[..], &answers.right[..]), (&[2][..], &[false][..]));
        for (sequences, nll) in [(&sequences[..1], &nll[..2]), (&sequences, &nll[..4]), (&sequences[..0], &[])] {
            assert!(Answers::of(&tasks, sequences, nll).is_none());
        }
        for (kind, best) in [(Kind::HellaSwag, 0), (Kind::MultipleChoice, 0), (Kind::Winogrande, 1)] {
            assert_eq!(choose(kind, &[-2.0, -2.0]), Some(best));
        }
        assert_eq!(choose(Kind::HellaSwag, &[-2.0, -1.0, -3.0, -0.5]), Some(3));
        assert_eq!(choose(Kind::HellaSwag, &[]), None);
    }

    #[test]
    fn flips_are_counted_by_what_they_did() {
        let of = |chosen: &[usize]| Answers {
            chosen: chosen.to_vec(),
            right: chosen.iter().map(|answer| *answer == 0).collect(),
            scores: Vec::new(),
        };
        let flips = of(&[0, 1, 0, 2, 0]).flips(&of(&[0, 0, 1, 1, 0]));
        assert_eq!((flips.right_to_wrong, flips.wrong_to_right), (1, 1));
        assert_eq!((flips.changed.value, flips.accuracy.value), (0.6, 0.0));
    }
}
