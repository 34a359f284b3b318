//! Embeddings: a vector for each text, the mean of what the model makes of its tokens.

use crate::error::{Error, Result};
use crate::model::{CacheTypes, Model, Scratch, WholeSequences};
use crate::progress::Progress;
use strata_quant::Activations;

/// The embedding `(hidden)` of each text, all in one pass: the mean over its tokens of the hidden states after the last norm, of length 1.
/// Of a text of zeros it is zeros.
///
/// # Errors
/// If a text has no token or one that is not in the vocabulary, the memory cannot be had, a number is not finite, or the user stopped.
pub fn embed(model: &Model, texts: &[Vec<u32>], progress: &dyn Progress) -> Result<Vec<Vec<f32>>> {
    if texts.iter().any(Vec::is_empty) {
        return Err(Error::EmptyPrompt);
    }
    let (of, tokens) = (model.hyperparameters(), texts.concat());
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let (mut scratch, mut x) = (Scratch::default(), Activations::default());
    let sequences = WholeSequences::new(of, &tokens, &lengths, CacheTypes::default())?;
    let hidden = model.pass_whole(&mut scratch, sequences, progress)?;
    let mut states = hidden.states(); // (tokens, hidden)
    let mut embeddings = Vec::with_capacity(texts.len());
    for tokens in lengths {
        let (h, rest) = states.split_at(tokens * of.hidden);
        states = rest;
        model.output_norm(h, &mut x, progress)?;
        embeddings.push(mean_direction(x.values(), of.hidden));
    }
    Ok(embeddings)
}

/// The mean of the rows of `x (rows, width)`, divided by its length.
fn mean_direction(x: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for row in x.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    sum.iter().map(|value| if length > 0.0 { (value / length) as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_length_one() {
        assert_eq!(mean_direction(&[3.0, 0.0, 3.0, 8.0], 2), [0.6, 0.8]);
        assert_eq!(mean_direction(&[0.0; 4], 2), [0.0, 0.0]);
    }
}
