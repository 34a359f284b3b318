//! The exact result of a comparison: the scores of every token. Parts that several machines have made are merged to what one would have
//! made, bit for bit.

use super::scores::{CandidateScores, ReferenceScores};
use super::{Candidate, Mode, Transform};
use crate::error::{Error, Result};
use crate::io::hash::Digest;
use crate::model::Model;
use std::ops::Range;

/// What is known of a model without running it.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateFacts {
    /// Its name in reports.
    pub name: String,
    /// Its path, if it has a file.
    pub path: Option<String>,
    /// The bytes of its tensors.
    pub bytes: u64,
    /// The number of its weights.
    pub weights: u64,
}

impl CandidateFacts {
    /// Bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }

    /// Of a candidate.
    pub fn of(candidate: &Candidate, reference: &Model) -> CandidateFacts {
        let model = candidate.model.as_deref().unwrap_or(reference);
        let (bytes, weights) = sizes(model, &candidate.transform);
        let path = candidate.model.as_ref().map(|model| model.gguf().path().display().to_string());
        CandidateFacts { name: candidate.name.clone(), path, bytes, weights }
    }

    /// Of the reference.
    pub fn of_reference(model: &Model) -> CandidateFacts {
        let (bytes, weights) = sizes(model, &Transform::default());
        let path = model.gguf().path();
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        CandidateFacts { name, path: Some(path.display().to_string()), bytes, weights }
    }
}

/// The bytes of tensor data of a model whose matrices are transformed, and its weights.
fn sizes(model: &Model, transform: &Transform) -> (u64, u64) {
    let (mut bytes, mut weights) = (0, 0);
    for tensor in model.gguf().tensors() {
        let values: u64 = tensor.dims.iter().product();
        let ty = transform.stored_type(&tensor.name, tensor.ty);
        bytes += values / ty.block_len() as u64 * ty.block_bytes() as u64;
        weights += values;
    }
    (bytes, weights)
}

/// The scores of all tokens in one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct ModeScores {
    /// The mode.
    pub mode: Mode,
    /// Those of the reference.
    pub reference: ReferenceScores,
    /// Those of each candidate.
    pub candidates: Vec<CandidateScores>,
}

/// The result of a comparison, or of a part of the chunks.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The name of the text.
    pub text: String,
    /// The SHA-256 of its tokens.
    pub tokens_sha256: Digest,
    /// Tokens of a chunk.
    pub context: usize,
    /// The scored tokens of each chunk, as ranges of the scores.
    pub chunks: Vec<Range<usize>>,
    /// The number of each chunk in the whole text.
    pub chunk_numbers: Vec<usize>,
    /// The reference.
    pub reference: CandidateFacts,
    /// The candidates.
    pub candidates: Vec<CandidateFacts>,
    /// The scores in each mode.
    pub modes: Vec<ModeScores>,
}

impl Comparison {
    /// Merges the parts of a comparison; their chunks are put in order.
    ///
    /// # Errors
    /// If there is none, they are of different comparisons, or a chunk is in two of them.
    pub fn merge(parts: &[Comparison]) -> Result<Comparison> {
        let Some(first) = parts.first() else { return Err(Error::argument("parts to merge", "there is none")) };
        let alike = |part: &Comparison| {
            let modes = |c: &Comparison| c.modes.iter().map(|mode| mode.mode).collect::<Vec<_>>();
            (part.tokens_sha256, part.context) == (first.tokens_sha256, first.context)
                && part.candidates == first.candidates
                && part.reference == first.reference
                && modes(part) == modes(first)
        };
        if let Some(other) = parts.iter().find(|part| !alike(part)) {
            let what = format!("a part on {}", other.text);
            return Err(Error::argument(what, "is of another text, other models or other modes than the first part"));
        }
        let places = parts
            .iter()
            .enumerate()
            .flat_map(|(p, part)| part.chunk_numbers.iter().enumerate().map(move |(i, n)| (*n, p, i)));
        let mut places: Vec<(usize, usize, usize)> = places.collect();
        places.sort_unstable();
        if let Some(twice) = places.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::argument(format!("chunk {}", twice[0].0), "is in two of the parts"));
        }
        let mut merged = Comparison { chunks: Vec::new(), chunk_numbers: Vec::new(), ..first.clone() };
        let empty = |mode: &ModeScores| ModeScores {
            mode: mode.mode,
            reference: ReferenceScores::default(),
            candidates: vec![CandidateScores::default(); mode.candidates.len()],
        };
        merged.modes = first.modes.iter().map(empty).collect();
        let mut scored = 0;
        for (number, part, place) in places {
            let chunk = parts[part].chunks[place].clone();
            merged.chunks.push(scored..scored + chunk.len());
            merged.chunk_numbers.push(number);
            scored += chunk.len();
            for (to, from) in merged.modes.iter_mut().zip(&parts[part].modes) {
                to.reference.nll.extend_from_slice(&from.reference.nll[chunk.clone()]);
                for (to, from) in to.candidates.iter_mut().zip(&from.candidates) {
                    to.append(from, chunk.clone());
                }
            }
        }
        Ok(merged)
    }
}
