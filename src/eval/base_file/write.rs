//! Writing a base file, a few rows of logits at a time.

use super::{MAGIC, RANGE, Shape};
use crate::error::{Error, Result};
use crate::io::file::{free_bytes, output_folder};
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;
use rayon::prelude::*;
use std::path::Path;

/// A base file that is being written; it has its name once it is finished.
pub struct BaseWriter {
    file: Outputs,
    shape: Shape,
    left: usize,    // rows
    bytes: Vec<u8>, // of rows
}

impl BaseWriter {
    /// Begins the file of a text of `tokens (chunks, context)`.
    ///
    /// # Errors
    /// If a size does not fit into the file's 32 bits, the disk has no room for it, or `path` cannot be an output or is an input.
    ///
    /// # Panics
    /// If `tokens` are not `chunks * context`.
    pub fn create(path: &Path, inputs: &Inputs, shape: Shape, tokens: &[u32]) -> Result<BaseWriter> {
        assert_eq!(tokens.len(), shape.chunks * shape.context);
        let sizes = [shape.context, shape.vocab, shape.chunks].map(i32::try_from);
        let [Ok(context), Ok(vocab), Ok(chunks)] = sizes else {
            let problem = format!("{shape:?} does not fit into 32 bits");
            return Err(Error::invalid(path, "output", problem, "take a smaller part of the text"));
        };
        if let Some(free) = free_bytes(&output_folder(path)?)
            && shape.file_bytes() > u128::from(free)
        {
            let problem = format!("it will have {} bytes, and the disk has {free} free", shape.file_bytes());
            return Err(Error::invalid(path, "output", problem, "free some space, or take fewer chunks"));
        }
        let mut file = Outputs::single("perplexity", path, inputs)?;
        file.write_all(MAGIC)?;
        [context, vocab, chunks].into_iter().try_for_each(|size| file.write_all(&size.to_le_bytes()))?;
        tokens.iter().try_for_each(|token| file.write_all(&token.to_le_bytes()))?;
        Ok(BaseWriter { file, shape, left: shape.chunks * shape.scored(), bytes: Vec::new() })
    }

    /// Appends the distributions of the next scored tokens: finite logits `(rows, vocab)`.
    ///
    /// # Errors
    /// If they cannot be written.
    ///
    /// # Panics
    /// If there are more rows than were announced.
    pub fn rows(&mut self, logits: &[f32]) -> Result<()> {
        let (vocab, row_bytes) = (self.shape.vocab, self.shape.row_bytes());
        let rows = logits.len() / vocab;
        self.left = self.left.checked_sub(rows).expect("no more rows than the chunks have");
        self.bytes.clear();
        self.bytes.resize(rows * row_bytes, 0);
        self.bytes.par_chunks_mut(row_bytes).zip(logits.par_chunks(vocab)).for_each(|(out, row)| encode(row, out));
        self.file.write_all(&self.bytes)
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// If rows are missing, or it cannot be written.
    pub fn finish(self) -> Result<()> {
        match self.left {
            0 => self.file.commit(),
            _ => Err(Error::Internal("rows of a base file are missing")),
        }
    }
}

/// A row of logits: in single precision as llama.cpp computes it, so that equal logits have equal codes.
fn encode(logits: &[f32], out: &mut [u8]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - RANGE);
    let sum: f64 = logits.iter().map(|logit| libm::exp(f64::from(logit - max))).sum();
    let log_sum = libm::log(sum) as f32;
    let scale = (max - min) / 65535.0;
    let (head, codes) = out.split_at_mut(8);
    head[..4].copy_from_slice(&scale.to_le_bytes());
    head[4..].copy_from_slice(&(min - max - log_sum).to_le_bytes());
    // Of equal logits every code is zero.
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (code, &logit) in codes.as_chunks_mut().0.iter_mut().zip(logits) {
        let steps = if logit > min { (inverse * (logit - min)).round_ties_even() } else { 0.0 };
        *code = (steps as u16).to_le_bytes();
    }
}
