//! The weights of a candidate that has no file: made of those of its reference, a layer at a time, and never written.
//!
//! A candidate type is encoded as a conversion would encode it. For a comparison of weights alone, whatever a matrix is stored as is decoded
//! to F32: then the kernels multiply it with activations in F32.

use crate::arch::{Architecture, Hyperparameters};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::io::hash::Digest;
use crate::model::Model;
use crate::model::forward::Derive;
use crate::progress::Progress;
use crate::recipe::{Recipe, TensorFacts};
use crate::weights::Layer;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use strata_kernels::{Isa, Matrix};
use strata_quant::{Activations, GgmlType};

/// What matrices become.
#[derive(Clone, Default)]
pub struct Transform {
    /// By the name of the tensor; `None` leaves the types of the source.
    types: Option<HashMap<String, GgmlType>>,
    /// By the name of the tensor, the weight of each column's error.
    importance: BTreeMap<String, Vec<f32>>,
    /// Decodes the result to F32.
    decode: bool,
}

impl Transform {
    /// Decodes every matrix to F32 and changes nothing else.
    pub fn decoded() -> Transform {
        Transform { decode: true, ..Transform::default() }
    }

    /// Encodes every matrix in the type that a conversion with `recipe` would give it. `decode` decodes the result to F32.
    ///
    /// # Errors
    /// If the recipe wants importance that is not there.
    pub fn quantized(
        gguf: &Gguf,
        of: &Hyperparameters,
        recipe: &Recipe,
        importance: Option<BTreeMap<String, Vec<f32>>>,
        decode: bool,
    ) -> Result<Transform> {
        if recipe.requires_importance() && importance.is_none() {
            return Err(Error::ImportanceMissing { mix: recipe.mix.name });
        }
        let facts = gguf.tensors().iter().map(|t| TensorFacts { name: &t.name, dims: &t.dims, kept: t.ty });
        let facts: Vec<_> = facts.collect();
        let types = recipe.types(of, &facts, importance.is_some());
        let types = facts.iter().zip(types).map(|(fact, ty)| (fact.name.to_owned(), ty)).collect();
        Ok(Transform { types: Some(types), importance: importance.unwrap_or_default(), decode })
    }

    /// The same, with the result decoded to F32.
    pub fn and_decode(self) -> Transform {
        Transform { decode: true, ..self }
    }

    /// The same importance with other types, by the names of the tensors; the result stays as it is encoded.
    pub(super) fn retyped(&self, types: HashMap<String, GgmlType>) -> Transform {
        Transform { types: Some(types), importance: self.importance.clone(), decode: false }
    }

    /// All of it in words, to tell transforms apart.
    pub(super) fn identify(&self) -> String {
        let mut types: Vec<_> = self.types.iter().flatten().collect();
        types.sort();
        let importance = self.importance.iter().map(|(name, weights)| {
            let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
            format!("{name} {}", Digest::of(&bytes))
        });
        format!("{types:?} {:?} {}", importance.collect::<Vec<_>>(), self.decode)
    }

    /// True if matrices stay as they are.
    pub fn is_identity(&self) -> bool {
        self.types.is_none() && !self.decode
    }

    /// The type that the tensor of this name is stored as by the candidate, of which the source has `ty`.
    pub fn stored_type(&self, name: &str, ty: GgmlType) -> GgmlType {
        self.types.as_ref().and_then(|types| types.get(name)).copied().unwrap_or(ty)
    }

    /// The type in which a matrix is multiplied that is stored as `ty`.
    fn kernel_type(&self, ty: GgmlType) -> GgmlType {
        if self.decode { GgmlType::F32 } else { ty }
    }

    /// The matrix of this name into `bytes`: its type there.
    pub fn matrix(&self, name: &str, source: &Matrix<'_>, bytes: &mut Vec<u8>) -> GgmlType {
        let stored = self.stored_type(name, source.ty());
        let kernel = self.kernel_type(stored);
        let (rows, cols) = (source.rows(), source.cols());
        let row_bytes = kernel.row_bytes(cols).expect("a recipe gives types whose blocks divide the rows");
        bytes.resize(rows * row_bytes, 0);
        let importance = self.importance.get(name).map(Vec::as_slice);
        bytes.par_chunks_mut(row_bytes).enumerate().for_each_init(Default::default, |scratch, (r, out)| {
            self.row(source, r, (stored, kernel), importance, scratch, out);
        });
        kernel
    }

    /// Row `r` of a matrix.
    fn row(
        &self,
        source: &Matrix<'_>,
        r: usize,
        (stored, kernel): (GgmlType, GgmlType),
        importance: Option<&[f32]>,
        (values, blocks): &mut (Vec<f32>, Vec<u8>),
        out: &mut [u8],
    ) {
        values.resize(source.cols(), 0.0);
        source.decode_row(r, values);
        let isa = Isa::best();
        if stored != source.ty() {
            if stored == kernel {
                return isa.encode(stored, values, importance, out);
            }
            blocks.resize(stored.row_bytes(values.len()).unwrap_or(0), 0);
            isa.encode(stored, values, importance, blocks);
            let format = stored.format().expect("a recipe gives types that can be written");
            (format.decode)(blocks, values);
        } else if kernel == stored {
            return out.copy_from_slice(source.row(r));
        }
        out.as_chunks_mut().0.iter_mut().zip(&*values).for_each(|(out, value)| *out = value.to_le_bytes());
    }

    /// The values of a row of the token embedding, of which the source has `values`.
    pub fn embedding(&self, name: &str, ty: GgmlType, values: &mut [f32]) {
        let stored = self.stored_type(name, ty);
        if stored != ty {
            let mut blocks = vec![0; stored.row_bytes(values.len()).unwrap_or(0)];
            let importance = self.importance.get(name).map(Vec::as_slice);
            Isa::best().encode(stored, values, importance, &mut blocks);
            let format = stored.format().expect("a recipe gives types that can be written");
            (format.decode)(&blocks, values);
        }
    }
}

/// The layers of a candidate, each made of the source's when it is wanted.
pub struct Derived<'t> {
    transform: &'t Transform,
    architecture: &'static Architecture,
    matrices: Vec<(GgmlType, Vec<u8>)>, // of the layer made last
}

impl<'t> Derived<'t> {
    /// Of a source of this architecture.
    pub fn new(transform: &'t Transform, architecture: &'static Architecture) -> Derived<'t> {
        Derived { transform, architecture, matrices: Vec::new() }
    }
}

impl Derive for Derived<'_> {
    fn derive<'a>(&'a mut self, i: usize, w: &'a Layer<'_>) -> Result<Layer<'a>> {
        let linears = w.linears();
        self.matrices.resize_with(linears.len(), || (GgmlType::F32, Vec::new()));
        for ((role, linear), (ty, bytes)) in linears.into_iter().zip(&mut self.matrices) {
            let name = self.architecture.spec(role).name(Some(i));
            *ty = self.transform.matrix(&name, &linear.weight, bytes);
        }
        let matrices = &self.matrices;
        Ok(w.with_matrices(|m, linear| {
            let ((ty, bytes), source) = (&matrices[m], &linear.weight);
            Matrix::new(*ty, source.rows(), source.cols(), bytes).expect("`Transform::matrix` fills whole rows")
        }))
    }
}

/// Makes logits of a candidate's hidden states.
pub struct Head<'m> {
    model: &'m Model,
    transform: &'m Transform,
    name: String,
    output: Option<(GgmlType, Vec<u8>)>, // unless it is the source's, or decoded in parts
    x: Activations,                      // (rows, hidden): the normed states
    part: (Vec<u8>, Vec<f32>),           // of a decoded matrix: (PART, hidden), and its results (rows, PART)
}

/// Rows of the output matrix that are decoded to F32 together.
const PART: usize = 2048;

impl<'m> Head<'m> {
    /// Of a model whose matrices are transformed.
    pub fn new(model: &'m Model, transform: &'m Transform) -> Head<'m> {
        let name = model.output_name();
        let source = model.weights().output().weight;
        let output = (!transform.decode && transform.stored_type(&name, source.ty()) != source.ty()).then(|| {
            let mut bytes = Vec::new();
            (transform.matrix(&name, &source, &mut bytes), bytes)
        });
        Head { model, transform, name, output, x: Activations::default(), part: Default::default() }
    }

    /// The instruction set that its model runs with.
    pub fn isa(&self) -> Isa {
        self.model.cpu().isa()
    }

    /// The logits `(rows, vocab)` of hidden states `(rows, hidden)` into `logits`.
    ///
    /// # Errors
    /// If one is not finite.
    pub fn logits(&mut self, h: &[f32], logits: &mut Vec<f32>, progress: &dyn Progress) -> Result<()> {
        let (of, cpu, weights) = (self.model.hyperparameters(), self.model.cpu(), self.model.weights());
        let rows = h.len() / of.hidden;
        self.model.output_norm(h, &mut self.x, progress)?;
        let source = weights.output();
        logits.resize(rows * of.vocab, 0.0);
        let matrix = match &self.output {
            Some((ty, bytes)) => Matrix::new(*ty, of.vocab, of.hidden, bytes),
            None if !self.transform.decode || source.weight.ty() == GgmlType::F32 => Some(source.weight),
            None => None,
        };
        match matrix {
            Some(matrix) => cpu.matmul(matrix, &mut self.x, logits),
            None => self.decoded(&source.weight, rows, logits),
        }
        if let Some(bias) = source.bias {
            // Checked with all logits.
            let _ = cpu.add_bias(logits, bias);
        }
        self.model.check_logits(logits, progress)
    }

    /// The products with a matrix of which a part at a time is decoded to F32.
    fn decoded(&mut self, source: &Matrix<'_>, rows: usize, logits: &mut [f32]) {
        let (of, (bytes, y)) = (self.model.hyperparameters(), &mut self.part);
        for first in (0..of.vocab).step_by(PART) {
            let part = source.rows_in(first..(first + PART).min(of.vocab));
            self.transform.matrix(&self.name, &part, bytes);
            y.resize(rows * part.rows(), 0.0);
            let w = Matrix::new(GgmlType::F32, part.rows(), of.hidden, bytes).expect("whole rows of F32");
            self.model.cpu().matmul(w, &mut self.x, y);
            for (y, logits) in y.chunks_exact(part.rows()).zip(logits.chunks_exact_mut(of.vocab)) {
                logits[first..first + part.rows()].copy_from_slice(y);
            }
        }
    }
}
