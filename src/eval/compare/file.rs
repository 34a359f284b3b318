//! The file of an exact result: what a machine makes of its part of the chunks, for [`Comparison::merge`].
//!
//! ```text
//! "STRATACR"   bytes of the header u64   header: JSON
//! tokens of all chunks u32
//! for each mode, of all scored tokens: nll of the reference f64; for each candidate: nll f64, kld f64, same_top u8,
//!                common_top u8                                                            all little-endian
//! SHA-256 of all that, 64 hexadecimal digits
//! ```

use super::astray::{Astray, Worst};
use super::result::{CandidateFacts, Comparison, ModeScores};
use super::scores::{CandidateScores, ReferenceScores, TOP};
use super::text::{Chunk, TextFacts};
use super::{Mode, Text};
use crate::error::{Error, Result};
use crate::io::file::read_regular;
use crate::io::hash::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 8] = b"STRATACR";

/// The most bytes of a file: that of ten thousand chunks of 8,192 tokens with fifty candidates.
const MAX_BYTES: u64 = 64 << 30;

#[derive(Serialize, Deserialize)]
struct Header {
    texts: Vec<TextFacts>,
    chunks: Vec<ChunkHeader>,
    reference: CandidateFacts,
    candidates: Vec<CandidateFacts>,
    modes: Vec<String>,
    astray: Vec<Vec<Vec<Astray>>>, // (modes, candidates)
    pieces: BTreeMap<u32, Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct ChunkHeader {
    number: usize,
    tokens: usize,
    scored: Vec<Range<usize>>,
}

impl Comparison {
    /// The file of this result.
    pub fn to_bytes(&self) -> Vec<u8> {
        let chunks = self.text.chunks.iter().map(|Chunk { number, tokens, scored }| ChunkHeader {
            number: *number,
            tokens: tokens.len(),
            scored: scored.clone(),
        });
        let astray = |candidate: &CandidateScores| candidate.astray.tokens().to_vec();
        let header = Header {
            texts: self.text.texts.clone(),
            chunks: chunks.collect(),
            reference: self.reference.clone(),
            candidates: self.candidates.clone(),
            modes: self.modes.iter().map(|mode| mode.mode.name().to_owned()).collect(),
            astray: self.modes.iter().map(|mode| mode.candidates.iter().map(astray).collect()).collect(),
            pieces: self.pieces.clone(),
        };
        let header = serde_json::to_vec(&header).expect("a header has text keys and numbers only");
        let mut file = MAGIC.to_vec();
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header);
        file.extend(self.text.tokens().iter().flat_map(|token| token.to_le_bytes()));
        let put = |file: &mut Vec<u8>, values: &[f64]| file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        for mode in &self.modes {
            put(&mut file, &mode.reference.nll);
            for candidate in &mode.candidates {
                put(&mut file, &candidate.nll);
                put(&mut file, &candidate.kld);
                file.extend(candidate.same_top.iter().map(|&same| u8::from(same)));
                file.extend(&candidate.common_top);
            }
        }
        let digest = Digest::of(&file).to_string();
        file.extend(digest.as_bytes());
        file
    }

    /// Reads the file of a result.
    ///
    /// # Errors
    /// If it is not one, or damaged.
    pub fn open(path: &Path) -> Result<Comparison> {
        let bytes = read_regular(path, MAX_BYTES)?;
        Comparison::from_bytes(&bytes).ok_or_else(|| {
            let problem = "is not a result of strata compare, or is damaged";
            Error::invalid(path, "file", problem, "make the part again")
        })
    }

    /// What is in such a file, if all of it is as it must be.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Comparison> {
        parse(bytes)
    }
}

/// What is in a file, if all of it is as it must be.
fn parse(file: &[u8]) -> Option<Comparison> {
    let (body, digest) = file.split_at_checked(file.len().checked_sub(Digest::LEN)?)?;
    if digest != Digest::of(body).to_string().as_bytes() {
        return None;
    }
    let (len, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (header, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let (text, mut rest) = text(header.texts, header.chunks, rest)?;
    let scores = text.scores();
    let mut take = |bytes: usize| {
        let (taken, others) = rest.split_at_checked(bytes.checked_mul(scores)?)?;
        rest = others;
        Some(taken)
    };
    let floats = |bytes: &[u8]| -> Option<Vec<f64>> {
        let values: Vec<f64> = bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        values.iter().all(|value| value.is_finite()).then_some(values)
    };
    let places: Vec<(usize, usize)> = text.scored().iter().map(|token| (token.chunk, token.place)).collect();
    let mut modes = Vec::new();
    if header.astray.len() != header.modes.len() {
        return None;
    }
    for (name, astray) in header.modes.iter().zip(header.astray) {
        let mode = Mode::ALL.into_iter().find(|mode| mode.name() == name)?;
        let reference = ReferenceScores { nll: floats(take(8)?)? };
        let mut candidates = Vec::new();
        if astray.len() != header.candidates.len() {
            return None;
        }
        for astray in astray {
            let (nll, kld) = (floats(take(8)?)?, floats(take(8)?)?);
            let same_top = take(1)?.iter().map(|&same| same == 1).collect();
            let common_top = take(1)?.to_vec();
            if common_top.iter().any(|&n| usize::from(n) > TOP) {
                return None;
            }
            let astray = Worst::of(astray);
            if !astray.tokens().iter().all(Astray::is_sound) || !astray.are_of(&kld, places.iter().copied()) {
                return None;
            }
            candidates.push(CandidateScores { nll, kld, same_top, common_top, astray });
        }
        modes.push(ModeScores { mode, reference, candidates });
    }
    rest.is_empty().then_some(Comparison {
        text,
        reference: header.reference,
        candidates: header.candidates,
        modes,
        pieces: header.pieces,
    })
}

/// The texts and chunks, and what follows their tokens in `bytes`.
fn text(texts: Vec<TextFacts>, chunks: Vec<ChunkHeader>, bytes: &[u8]) -> Option<(Text, &[u8])> {
    let all = texts.iter().try_fold(0usize, |all, text| all.checked_add(text.chunks))?;
    let numbers: Vec<usize> = chunks.iter().map(|chunk| chunk.number).collect();
    if !numbers.is_sorted_by(|a, b| a < b) || *numbers.last()? >= all {
        return None;
    }
    let mut text = Text { texts, chunks: Vec::new() };
    let mut rest = bytes;
    for ChunkHeader { number, tokens, scored } in chunks {
        let (taken, others) = rest.split_at_checked(tokens.checked_mul(4)?)?;
        let apart = scored.is_sorted_by(|a, b| a.end <= b.start) && scored.iter().all(|span| span.start < span.end);
        if !apart || scored.last().is_some_and(|span| span.end >= tokens) {
            return None;
        }
        let tokens = taken.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        text.chunks.push(Chunk { number, tokens, scored });
        rest = others;
    }
    Some((text, rest))
}

#[cfg(test)]
mod tests {
    use super::super::astray::tests::astray;
    use super::super::result::{Identity, TypeShare};
    use super::*;

    fn small() -> Comparison {
        let facts = |name: &str| CandidateFacts {
            name: name.to_owned(),
            path: None,
            bytes: 17,
            weights: 4,
            types: vec![TypeShare { ty: "Q4_0".to_owned(), tensors: 2, bytes: 17 }],
            identity: Some(Identity { sha256: Digest::of(b"f"), covers_weights: true }),
        };
        let scores = |x: f64| CandidateScores {
            nll: vec![x, 0.1 + 0.2, 1e-300],
            kld: vec![0.0, x, 2.5],
            same_top: vec![true, false, true],
            common_top: vec![5, 0, 3],
            astray: Worst::of([astray(x, 0, 3), astray(2.5, 4, 1)]),
        };
        Comparison {
            text: Text {
                texts: vec![TextFacts {
                    name: "t".to_owned(),
                    tokens_sha256: Digest::of(b"t"),
                    chunks: 5,
                    tasks: None,
                }],
                chunks: vec![
                    Chunk { number: 0, tokens: vec![1, 2, 3, 4], scored: vec![0..1, 2..3] },
                    Chunk { number: 4, tokens: vec![5, 6], scored: vec![0..1] },
                ],
            },
            reference: facts("r"),
            candidates: vec![facts("a"), facts("b")],
            modes: vec![ModeScores {
                mode: Mode::WeightsOnly,
                reference: ReferenceScores { nll: vec![1.0 / 3.0, 2.0, 3.0] },
                candidates: vec![scores(0.7), scores(1.0 / 7.0)],
            }],
            pieces: [(3, b"\xff\0<".to_vec()), (9, Vec::new())].into(),
        }
    }

    #[test]
    fn a_result_is_read_as_it_was_written_and_a_damaged_one_is_not() {
        let (result, file) = (small(), small().to_bytes());
        assert_eq!(parse(&file), Some(result));
        for i in 0..file.len() {
            let mut damaged = file.clone();
            damaged[i] ^= 1;
            assert!(parse(&damaged).is_none(), "byte {i}");
            assert!(parse(&file[..i]).is_none(), "cut at {i}");
        }
        // Sound by its hash, and still no result.
        type Damage = fn(&mut Text);
        let damages: [Damage; 5] = [
            |text| text.chunks[1].number = 0,
            |text| text.chunks[1].number = 5,
            |text| text.chunks[0].scored = vec![0..2, 1..2],
            |text| text.chunks[0].scored = vec![0..1, 3..4],
            |text| text.texts[0].chunks = usize::MAX,
        ];
        for (i, damage) in damages.into_iter().enumerate() {
            let mut result = small();
            damage(&mut result.text);
            assert_eq!(parse(&result.to_bytes()).is_none(), i < 4, "{i}");
        }
        let mut result = small();
        result.text.texts.push(result.text.texts[0].clone());
        result.text.texts[0].chunks = usize::MAX;
        assert!(parse(&result.to_bytes()).is_none());
        // One that is not the worst, and a probability that is no number.
        let mut result = small();
        result.modes[0].candidates[1].astray = Worst::of([astray(2.5, 0, 1)]);
        assert!(parse(&result.to_bytes()).is_none());
        let mut wrong = astray(2.5, 4, 1);
        wrong.reference.token = f64::NAN;
        let others = [astray(1.0 / 7.0, 0, 3)];
        result.modes[0].candidates[1].astray = Worst::of(others.into_iter().chain([wrong]));
        assert!(parse(&result.to_bytes()).is_none());
    }
}
