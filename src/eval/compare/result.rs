//! The exact result of a comparison: the scores of every token. Parts that several machines have made are merged to what one would have
//! made, bit for bit.

use super::astray::Worst;
use super::ranges::ranges;
use super::scores::{CandidateScores, ReferenceScores};
use super::text::Chunk;
use super::{Candidate, Mode, Text, Transform};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::io::hash::Digest;
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The tensors of one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeShare {
    /// The type's name.
    pub ty: String,
    /// How many tensors are of it.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// By what a model is known again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// [`Gguf::digest`](crate::gguf::Gguf::digest).
    pub sha256: Digest,
    /// True if that covers the weights.
    pub covers_weights: bool,
}

/// What is known of a model without running it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateFacts {
    /// Its name in reports.
    pub name: String,
    /// Its path, if it has a file.
    pub path: Option<String>,
    /// The bytes of its tensors.
    pub bytes: u64,
    /// The number of its weights.
    pub weights: u64,
    /// The types of its tensors, the one with the most bytes first.
    pub types: Vec<TypeShare>,
    /// By what its file is known again; `None` if it has none.
    pub identity: Option<Identity>,
}

impl CandidateFacts {
    /// Bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }

    /// Of a candidate.
    pub fn of(candidate: &Candidate, reference: &Model) -> CandidateFacts {
        let model = candidate.model.as_deref();
        CandidateFacts::new(candidate.name.clone(), model, model.unwrap_or(reference), &candidate.transform)
    }

    /// Of the reference.
    pub fn of_reference(model: &Model) -> CandidateFacts {
        let name = model.gguf().path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        CandidateFacts::new(name, Some(model), model, &Transform::default())
    }

    /// Of a model whose matrices are transformed; `own` if it is that of its own file.
    fn new(name: String, own: Option<&Model>, model: &Model, transform: &Transform) -> CandidateFacts {
        let (types, weights) = types(model, transform);
        let gguf = own.map(Model::gguf);
        let identity = |gguf: &Gguf| Identity { sha256: gguf.digest(), covers_weights: gguf.records_tensor_hashes() };
        CandidateFacts {
            name,
            path: gguf.map(|gguf| gguf.path().display().to_string()),
            bytes: types.iter().map(|share| share.bytes).sum(),
            weights,
            types,
            identity: gguf.map(identity),
        }
    }
}

/// The types of the tensors of a model whose matrices are transformed, and the number of its weights.
fn types(model: &Model, transform: &Transform) -> (Vec<TypeShare>, u64) {
    let (mut types, mut weights) = (BTreeMap::new(), 0);
    for tensor in model.gguf().tensors() {
        let values: u64 = tensor.dims.iter().product();
        let ty = transform.stored_type(&tensor.name, tensor.ty);
        let share = types.entry(ty.name()).or_insert((0, 0));
        *share = (share.0 + 1, share.1 + values / ty.block_len() as u64 * ty.block_bytes() as u64);
        weights += values;
    }
    let share = |(ty, (tensors, bytes)): (&str, (u64, u64))| TypeShare { ty: ty.to_owned(), tensors, bytes };
    let mut types: Vec<TypeShare> = types.into_iter().map(share).collect();
    types.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    (types, weights)
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
    /// The bytes of the tokens that the scores name as astray, where they are known.
    pub pieces: BTreeMap<u32, Vec<u8>>,
}

impl Comparison {
    /// The scores of each chunk, as ranges of those of all.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        ranges(self.text.chunks.iter().map(Chunk::scores))
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

    /// Adds the bytes of the tokens that are astray, so that a report needs no model.
    ///
    /// # Errors
    /// If one is not in the vocabulary.
    pub fn name_tokens(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let pieces = self.astray_tokens().into_iter().map(|token| Ok((token, tokenizer.token_bytes(token)?)));
        self.pieces = pieces.collect::<Result<_>>()?;
        Ok(())
    }

    /// Every token that is named as astray, or beside one.
    fn astray_tokens(&self) -> BTreeSet<u32> {
        let candidates = self.modes.iter().flat_map(|mode| &mode.candidates);
        candidates.flat_map(|candidate| candidate.astray.tokens()).flat_map(|one| one.tokens(&self.text)).collect()
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
        for (m, mode) in merged.modes.iter_mut().enumerate() {
            for (c, candidate) in mode.candidates.iter_mut().enumerate() {
                let all = parts.iter().flat_map(|part| part.modes[m].candidates[c].astray.tokens());
                candidate.astray = Worst::of(all.cloned());
            }
        }
        let named = merged.astray_tokens();
        let pieces = parts.iter().flat_map(|part| &part.pieces).filter(|(token, _)| named.contains(token));
        merged.pieces = pieces.map(|(token, piece)| (*token, piece.clone())).collect();
        Ok(merged)
    }
}
