//! What a calibration text makes the matrices read, summed apart for what is learned from and for what of each text is held out.

use super::factor::Factor;
use super::moments::{MomentScratch, Moments};
use crate::error::Result;
use crate::eval::compare::Text;
use crate::eval::compare::text::Chunk;
use crate::quantize::held_out::held_out;
use std::ops::Range;
use strata_kernels::Cpu;

/// Tokens that follow each other.
#[derive(Clone, Debug)]
pub struct Span {
    /// Which they are.
    tokens: Range<usize>,
    /// What they are for.
    part: Part,
}

/// What tokens are for.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// To learn from, each as if there were so many of it.
    Learned(f32),
    /// To judge by: the held-out part of the text of this number.
    HeldOut(usize),
}

/// The tokens of a text by their use. `weights` says how much each of the texts counts, whatever its length.
pub fn spans(text: &Text, weights: &[f64]) -> Vec<Span> {
    let (of_chunk, held_out) = (text.of_chunk(), held_out(text));
    let mut learned = vec![0; text.texts.len()]; // tokens
    for ((chunk, &of), held_out) in text.chunks.iter().zip(&of_chunk).zip(&held_out) {
        learned[of] += if held_out.is_some() { 0 } else { chunk.tokens.len() };
    }
    // A token counts once in the mean over all.
    let all = learned.iter().sum::<usize>() as f64 / weights.iter().sum::<f64>();
    let mut end = 0;
    let span = |((chunk, of), held_out): ((&Chunk, usize), Option<usize>)| {
        let start = end;
        end += chunk.tokens.len();
        let part = held_out.map_or(Part::Learned((all * weights[of] / learned[of] as f64) as f32), Part::HeldOut);
        Span { tokens: start..end, part }
    };
    text.chunks.iter().zip(of_chunk).zip(held_out).map(span).collect()
}

/// The moments of one input of a layer, still growing.
pub struct Sums<'s> {
    spans: &'s [Span],
    cols: usize,
    seen: usize, // tokens
    learned: Pair,
    held_out: Vec<Pair>, // of the texts that have such a part
    texts: Vec<usize>,   // which these are
}

/// `sum x x^T`, and `sum d x^T` where something pulls.
struct Pair {
    own: Moments,
    pull: Option<Moments>,
}

impl Pair {
    fn new(cols: usize, pull: Option<usize>) -> Result<Pair> {
        Ok(Pair { own: Moments::of_one(cols)?, pull: pull.map(|rows| Moments::of_two(rows, cols)).transpose()? })
    }

    fn mean(self, cpu: &Cpu, scratch: &mut MomentScratch) -> (Vec<f32>, Option<Vec<f32>>) {
        (self.own.mean(cpu, scratch), self.pull.map(|pull| pull.mean(cpu, scratch)))
    }
}

/// The moments of one input of a layer.
pub struct InputMoments {
    /// The factor of what is learned from.
    pub factor: Factor,
    /// The mean squares of what is learned from, `(columns)`: an importance matrix's. In the order of the matrix.
    pub importance: Vec<f32>,
    /// What the results of the matrix should change by, `(pulls, columns)`, on what is learned from; `None` if nothing pulls.
    pub pull: Option<Vec<f32>>,
    /// Of each held-out part the moment `(columns, columns)`, and its pull. All columns are in the order of the factor.
    pub held_out: Vec<(Vec<f32>, Option<Vec<f32>>)>,
}

impl<'s> Sums<'s> {
    /// Of an input of `cols` columns, with a pull of so many values a token or none.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(cols: usize, pull: Option<usize>, spans: &'s [Span]) -> Result<Sums<'s>> {
        let held_out = |span: &Span| if let Part::HeldOut(text) = span.part { Some(text) } else { None };
        let mut texts: Vec<usize> = spans.iter().filter_map(held_out).collect();
        texts.dedup();
        let held_out = texts.iter().map(|_| Pair::new(cols, pull)).collect::<Result<_>>()?;
        Ok(Sums { spans, cols, seen: 0, learned: Pair::new(cols, pull)?, held_out, texts })
    }

    /// Adds what the next tokens make the input, `x (tokens, columns)`, and what pulls, `pull (tokens, pulls)`.
    pub fn see(&mut self, x: &[f32], pull: &[f32], cpu: &Cpu, scratch: &mut MomentScratch) {
        let tokens = x.len() / self.cols;
        let (here, pulls) = (self.seen..self.seen + tokens, pull.len() / tokens.max(1));
        // The spans follow each other, and so do the tokens.
        let first = self.spans.partition_point(|span| span.tokens.end <= here.start);
        for Span { tokens, part } in self.spans[first..].iter().take_while(|span| span.tokens.start < here.end) {
            let both = tokens.start.max(here.start) - here.start..tokens.end.min(here.end) - here.start;
            let x = &x[both.start * self.cols..both.end * self.cols];
            let (pair, weight) = match *part {
                Part::Learned(weight) => (&mut self.learned, weight),
                Part::HeldOut(text) => {
                    let place = self.texts.binary_search(&text).expect("all texts of the spans are there");
                    (&mut self.held_out[place], 1.0)
                }
            };
            pair.own.add(x, x, weight, cpu, scratch);
            if let Some(moments) = &mut pair.pull {
                moments.add(&pull[both.start * pulls..both.end * pulls], x, weight, cpu, scratch);
            }
        }
        self.seen = here.end;
    }

    /// The means, and the factor.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn finish(self, cpu: &Cpu, scratch: &mut MomentScratch) -> Result<InputMoments> {
        let (own, pull) = self.learned.mean(cpu, scratch);
        let importance = (0..self.cols).map(|c| own[c * self.cols + c]).collect();
        let factor = Factor::new(cpu, &own, self.cols)?;
        drop(own);
        let pulled = |pull: Option<Vec<f32>>| {
            pull.map(|mut pull| {
                factor.permute_columns(&mut pull);
                pull
            })
        };
        let mut held_out = Vec::with_capacity(self.held_out.len());
        for pair in self.held_out {
            let (own, pull) = pair.mean(cpu, scratch);
            held_out.push((factor.permuted(&own)?, pulled(pull)));
        }
        let pull = pulled(pull);
        Ok(InputMoments { factor, importance, pull, held_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_summed_where_they_belong_however_they_come() {
        let span = |tokens, part| Span { tokens, part };
        let spans = [
            span(0..4, Part::Learned(0.5)),
            span(4..6, Part::HeldOut(0)),
            span(6..9, Part::Learned(2.0)),
            span(9..10, Part::HeldOut(2)),
        ];
        let cols = 3;
        let x: Vec<f32> = (0..30).map(|i| (i as f32 * 0.7).sin()).collect();
        let (cpu, mut scratch) = (Cpu::new(strata_kernels::Isa::best(), 1), MomentScratch::default());
        let of = |tokens: &[(usize, f32)], r: usize, c: usize| {
            let sum: f32 = tokens.iter().map(|(t, weight)| weight * x[t * cols + r] * x[t * cols + c]).sum();
            sum / tokens.iter().map(|(_, weight)| weight).sum::<f32>()
        };
        let learned = [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5), (6, 2.0), (7, 2.0), (8, 2.0)];
        for piece in [1, 3, 10] {
            let mut sums = Sums::new(cols, Some(3), &spans).unwrap();
            x.chunks(piece * cols).for_each(|x| sums.see(x, x, &cpu, &mut scratch));
            let InputMoments { factor, importance, pull, held_out } = sums.finish(&cpu, &mut scratch).unwrap();
            let pull = pull.unwrap();
            for (c, importance) in importance.into_iter().enumerate() {
                assert!((importance - of(&learned, c, c)).abs() < 1e-6);
            }
            for (place, &c) in factor.order.iter().enumerate() {
                for r in 0..cols {
                    assert!((pull[r * cols + place] - of(&learned, r, c)).abs() < 1e-6);
                    for ((own, _), tokens) in held_out.iter().zip([&[(4, 1.0), (5, 1.0)][..], &[(9, 1.0)]]) {
                        let row = factor.order.iter().position(|&of| of == r).unwrap();
                        assert!((own[row * cols + place] - of(tokens, r, c)).abs() < 1e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn texts_count_by_their_weight_and_not_by_their_length() {
        let chunks = |n: usize| vec![Chunk { number: 0, tokens: vec![1; 4], scored: Vec::new() }; n];
        let mut text = Text::of_chunks("long", chunks(10));
        text.append(Text::of_chunks("short", chunks(3)));
        let weights = [1.0, 3.0];
        let spans = spans(&text, &weights);
        let sum = |chunks: Range<usize>| -> f32 {
            let weight = |span: &Span| if let Part::Learned(weight) = span.part { 4.0 * weight } else { 0.0 };
            spans[chunks].iter().map(weight).sum()
        };
        let (long, short) = (sum(0..10), sum(10..13));
        assert!((short / long - 3.0).abs() < 1e-5 && (long + short - 44.0).abs() < 1e-4, "{long} {short}");
    }
}
