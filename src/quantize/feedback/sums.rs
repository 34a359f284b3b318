//! What a calibration text makes the matrices read, summed apart for what is learned from and for what of each text is held out.

use super::factor::Factor;
use super::moments::{MomentScratch, Moments};
use crate::error::Result;
use crate::eval::compare::Text;
use crate::eval::compare::text::Chunk;
use crate::quantize::held_out::held_out;
use std::ops::Range;
use strata_kernels::Cpu;

/// Tokens that follow each other, and the text whose held-out part they are; `None` if they are what is learned from.
pub type Span = (Range<usize>, Option<usize>);

/// The tokens of a text by their use.
pub fn spans(text: &Text) -> Vec<Span> {
    let mut end = 0;
    let span = |(chunk, held_out): (&Chunk, Option<usize>)| {
        let start = end;
        end += chunk.tokens.len();
        (start..end, held_out)
    };
    text.chunks.iter().zip(held_out(text)).map(span).collect()
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
        let mut texts: Vec<usize> = spans.iter().filter_map(|(_, text)| *text).collect();
        texts.dedup();
        let held_out = texts.iter().map(|_| Pair::new(cols, pull)).collect::<Result<_>>()?;
        Ok(Sums { spans, cols, seen: 0, learned: Pair::new(cols, pull)?, held_out, texts })
    }

    /// Adds what the next tokens make the input, `x (tokens, columns)`, and what pulls, `pull (tokens, pulls)`.
    pub fn see(&mut self, x: &[f32], pull: &[f32], cpu: &Cpu, scratch: &mut MomentScratch) {
        let tokens = x.len() / self.cols;
        let (here, pulls) = (self.seen..self.seen + tokens, pull.len() / tokens.max(1));
        // The spans follow each other, and so do the tokens.
        let first = self.spans.partition_point(|(span, _)| span.end <= here.start);
        for (span, text) in self.spans[first..].iter().take_while(|(span, _)| span.start < here.end) {
            let both = span.start.max(here.start) - here.start..span.end.min(here.end) - here.start;
            let x = &x[both.start * self.cols..both.end * self.cols];
            let place = text.and_then(|text| self.texts.binary_search(&text).ok());
            let pair = place.map_or(&mut self.learned, |place| &mut self.held_out[place]);
            pair.own.add(x, x, cpu, scratch);
            if let Some(moments) = &mut pair.pull {
                moments.add(&pull[both.start * pulls..both.end * pulls], x, cpu, scratch);
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
        let factor = Factor::new(&own, self.cols)?;
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
        Ok(InputMoments { pull: pulled(pull), held_out, factor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_summed_where_they_belong_however_they_come() {
        let (cols, spans) = (3, [(0..4, None), (4..6, Some(0)), (6..9, None), (9..10, Some(2))]);
        let x: Vec<f32> = (0..30).map(|i| (i as f32 * 0.7).sin()).collect();
        let (cpu, mut scratch) = (Cpu::new(strata_kernels::Isa::best(), 1), MomentScratch::default());
        let of = |tokens: &[usize], r: usize, c: usize| {
            tokens.iter().map(|t| x[t * cols + r] * x[t * cols + c]).sum::<f32>() / tokens.len() as f32
        };
        for piece in [1, 3, 10] {
            let mut sums = Sums::new(cols, Some(3), &spans).unwrap();
            x.chunks(piece * cols).for_each(|x| sums.see(x, x, &cpu, &mut scratch));
            let InputMoments { factor, pull, held_out } = sums.finish(&cpu, &mut scratch).unwrap();
            let pull = pull.unwrap();
            for (place, &c) in factor.order.iter().enumerate() {
                for r in 0..cols {
                    assert!((pull[r * cols + place] - of(&[0, 1, 2, 3, 6, 7, 8], r, c)).abs() < 1e-6);
                    for ((own, _), tokens) in held_out.iter().zip([&[4, 5][..], &[9]]) {
                        let row = factor.order.iter().position(|&of| of == r).unwrap();
                        assert!((own[row * cols + place] - of(tokens, r, c)).abs() < 1e-6);
                    }
                }
            }
        }
    }
}
