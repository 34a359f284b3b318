//! The weights of a candidate that has no file: made of those of its reference, a layer at a time, and never written.

use crate::arch::Architecture;
use crate::error::Result;
use crate::model::Model;
use crate::model::forward::Derive;
use crate::progress::Progress;
use crate::weights::{Layer, Transform};
use strata_kernels::{Isa, Matrix};
use strata_quant::{Activations, GgmlType};

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
        let output = (!transform.decodes() && transform.stored_type(&name, source.ty()) != source.ty()).then(|| {
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
            None if !self.transform.decodes() || source.weight.ty() == GgmlType::F32 => Some(source.weight),
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
        self.model.finish_logits(logits, progress)
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
