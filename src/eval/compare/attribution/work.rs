//! What all steps of an attribution work on: the reference, the text, and the models that are set beside the reference.

use crate::error::Result;
use crate::eval::compare::ranges::ranges;
use crate::eval::compare::{Candidate, Text};
use crate::model::sequences::groups_and_rows;
use crate::model::{Model, States};
use crate::weights::Transform;
use crate::weights::owned::OwnedLayer;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use strata_quant::GgmlType;

/// The reference and the text.
pub struct Work<'a> {
    /// The reference.
    pub reference: &'a Model,
    /// What decodes its matrices.
    pub decoded: Transform,
    /// What leaves them in their types.
    pub stored: Transform,
    /// The text.
    pub text: &'a Text,
    /// The tokens of all chunks.
    pub tokens: Vec<u32>,
    /// The number of tokens of each chunk.
    pub lengths: Vec<usize>,
    /// The place in `tokens` of the token before each scored one.
    pub rows: Vec<usize>,
    spill: Option<&'a Path>,
}

impl<'a> Work<'a> {
    /// With hidden states in files in the folder `spill`, or in memory.
    pub fn new(reference: &'a Model, text: &'a Text, spill: Option<&'a Path>) -> Work<'a> {
        let rows = text.scored().iter().map(|scored| scored.row).collect();
        let (tokens, lengths) = (text.tokens(), text.lengths());
        let (decoded, stored) = (Transform::decoded(), Transform::default());
        Work { reference, decoded, stored, text, tokens, lengths, rows, spill }
    }

    /// New hidden states; none yet.
    ///
    /// # Errors
    /// If their file cannot be made.
    pub fn states(&self) -> Result<States> {
        States::new(self.spill, self.reference.hyperparameters().hidden)
    }

    /// The scored tokens of each chunk, as ranges of [`Work::rows`].
    pub fn scored(&self) -> Vec<Range<usize>> {
        ranges(self.text.chunks.iter().map(|chunk| chunk.scores()))
    }

    /// The chunks that go through a layer together, and their tokens: about `tokens` each time, and at least one chunk.
    pub fn groups(&self, tokens: usize) -> Vec<(Range<usize>, Range<usize>)> {
        groups_and_rows(&self.lengths, tokens)
    }
}

/// A candidate, or the same with its tensors in larger types.
pub struct Variant<'a> {
    /// The model whose tensors are transformed.
    pub model: &'a Model,
    /// True unless that is the reference.
    pub own: bool,
    /// What becomes of its matrices.
    pub encoded: Transform,
    /// The same, decoded to F32.
    pub decoded: Transform,
    /// The name of the tensor that gives the logits.
    pub output: String,
}

impl<'a> Variant<'a> {
    /// A candidate of this reference.
    pub fn of(candidate: &'a Candidate, reference: &'a Model) -> Variant<'a> {
        let model = candidate.model.as_deref().unwrap_or(reference);
        Variant {
            model,
            own: candidate.model.is_some(),
            encoded: candidate.transform.clone(),
            decoded: candidate.transform.clone().and_decode(),
            output: model.output_name(),
        }
    }

    /// The reference's tensors in these types, with the importance of this candidate.
    pub fn retyped<'r>(&self, reference: &'r Model, types: HashMap<String, GgmlType>) -> Variant<'r> {
        let encoded = self.encoded.retyped(types);
        let decoded = encoded.clone().and_decode();
        Variant { model: reference, own: false, encoded, decoded, output: self.output.clone() }
    }

    /// True if the token embedding gives the logits.
    pub fn is_tied(&self) -> bool {
        self.output == self.model.embedding_name()
    }

    /// The type of a tensor.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn ty(&self, name: &str) -> Result<GgmlType> {
        Ok(self.encoded.stored_type(name, self.model.gguf().required_tensor(name)?.ty))
    }
}

/// Where a candidate's gradients are taken: at this share of the way from the reference to it.
pub const HALFWAY: f32 = 0.5;

/// A layer of the reference and of the variants of a candidate, in their types.
pub struct Layers {
    /// Of the reference.
    pub ours: OwnedLayer,
    /// Of the variants.
    pub theirs: Vec<OwnedLayer>,
}

impl Layers {
    /// Reads layer `i`; then its pages are released.
    pub fn read<'v>(work: &Work<'_>, variants: impl IntoIterator<Item = &'v Variant<'v>>, i: usize) -> Layers {
        let read = |model: &Model, transform: &Transform| {
            let layer = OwnedLayer::of(&model.weights().mapped_layer(i), i, model.architecture(), transform);
            model.weights().release();
            layer
        };
        let theirs = variants.into_iter().map(|variant| read(variant.model, &variant.encoded)).collect();
        Layers { ours: read(work.reference, &work.stored), theirs }
    }

    /// The layer halfway from the reference's to that of the first variant; the reference's if there is none.
    pub fn halfway(&self) -> OwnedLayer {
        self.ours.towards(self.theirs.first().unwrap_or(&self.ours), HALFWAY)
    }
}
