//! The exact result of a comparison: the scores of every token. Parts that several machines have made are merged to what one would have
//! made, bit for bit.

use super::scores::{CandidateScores, ReferenceScores};
use super::text::Chunk;
use super::{Candidate, Mode, Text, Transform};
use crate::error::{Error, Result};
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
    /// The tokens, and which of them were scored.
    pub text: Text,
    /// The reference.
    pub reference: CandidateFacts,
    /// The candidates.
    pub candidates: Vec<CandidateFacts>,
    /// The scores in each mode, of all scored tokens in the order of the text.
    pub modes: Vec<ModeScores>,
}

impl Comparison {
    /// The scores of each chunk, as ranges of those of all.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let mut next = |chunk: &Chunk| {
            end += chunk.scores();
            end - chunk.scores()..end
        };
        self.text.chunks.iter().map(&mut next).collect()
    }

    /// The places in `text.chunks` of the chunks of each text; a part of a comparison may have none of one.
    pub fn chunks_of_texts(&self) -> Vec<Range<usize>> {
        let mut first = 0;
        let place = |number: usize| self.text.chunks.partition_point(|chunk| chunk.number < number);
        let texts = self.text.texts.iter().map(|text| {
            first += text.chunks;
            place(first - text.chunks)..place(first)
        });
        texts.collect()
    }

    /// Merges the parts of a comparison; their chunks are put in order.
    ///
    /// # Errors
    /// If there is none, they are of different comparisons, or a chunk is in two of them.
    pub fn merge(parts: &[Comparison]) -> Result<Comparison> {
        let Some(first) = parts.first() else { return Err(Error::argument("parts to merge", "there is none")) };
        let of = |part: &Comparison| {
            let modes: Vec<Mode> = part.modes.iter().map(|mode| mode.mode).collect();
            (part.text.texts.clone(), part.reference.clone(), part.candidates.clone(), modes)
        };
        if let Some(other) = parts.iter().find(|part| of(part) != of(first)) {
            let names: Vec<&str> = other.text.texts.iter().map(|text| text.name.as_str()).collect();
            let what = format!("a part on {}", names.join(", "));
            return Err(Error::argument(what, "is of another text, other models or other modes than the first part"));
        }
        let ranges: Vec<_> = parts.iter().map(Comparison::ranges).collect();
        let of_part = |(p, part): (usize, &Comparison)| {
            let numbers = part.text.chunks.iter().map(|chunk| chunk.number);
            numbers.enumerate().map(|(i, number)| (number, p, i)).collect::<Vec<_>>()
        };
        let mut places: Vec<(usize, usize, usize)> = parts.iter().enumerate().flat_map(of_part).collect();
        places.sort_unstable();
        if let Some(twice) = places.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::argument(format!("chunk {}", twice[0].0), "is in two of the parts"));
        }
        let empty = |mode: &ModeScores| ModeScores {
            mode: mode.mode,
            reference: ReferenceScores::default(),
            candidates: vec![CandidateScores::default(); mode.candidates.len()],
        };
        let text = Text { chunks: Vec::with_capacity(places.len()), ..first.text.clone() };
        let mut merged = Comparison { text, modes: first.modes.iter().map(empty).collect(), ..first.clone() };
        for (_, part, place) in places {
            merged.text.chunks.push(parts[part].text.chunks[place].clone());
            let scores = ranges[part][place].clone();
            for (to, from) in merged.modes.iter_mut().zip(&parts[part].modes) {
                to.reference.nll.extend_from_slice(&from.reference.nll[scores.clone()]);
                for (to, from) in to.candidates.iter_mut().zip(&from.candidates) {
                    to.append(from, scores.clone());
                }
            }
        }
        Ok(merged)
    }
}
