//! What every walk does with a matrix once the moments of its input are known: it is rounded, written and reported.

use super::moments::MomentScratch;
use super::sums::InputMoments;
use super::tensor::{Pull, Setting, TensorReport, TensorScratch};
use crate::convert::method::Unmade;
use crate::error::{Error, Result, quoted};
use crate::model::Model;
use crate::progress::Progress;
use strata_kernels::Matrix;
use strata_quant::{Codec, GgmlType};

/// The tensors that are still to be made, and what making them takes.
pub struct Maker<'m, 'u, 'a> {
    /// The source.
    pub model: &'m Model,
    /// The tensors of all targets.
    pub unmade: &'u mut Unmade<'a>,
    /// Hears of every tensor.
    pub progress: &'m dyn Progress,
    /// Buffers for moments.
    pub moments: MomentScratch,
    /// What became of the tensors so far.
    pub reports: Vec<TensorReport>,
    scratch: TensorScratch,
}

impl<'m, 'u, 'a> Maker<'m, 'u, 'a> {
    /// With nothing made yet.
    pub fn new(model: &'m Model, unmade: &'u mut Unmade<'a>, progress: &'m dyn Progress) -> Maker<'m, 'u, 'a> {
        let (moments, scratch) = (MomentScratch::default(), TensorScratch::default());
        Maker { model, unmade, progress, moments, reports: Vec::new(), scratch }
    }

    /// Makes a matrix for a target, if that still wants it in a type with codes; its blocks then.
    ///
    /// # Errors
    /// If no finite scales are found for its values, the tensor cannot be written, or the user stopped.
    pub fn make(
        &mut self,
        target: usize,
        name: &str,
        matrix: Matrix<'_>,
        (moments, pull): (&InputMoments, Pull),
    ) -> Result<Option<Vec<u8>>> {
        let Some((ty, codec)) = wants(self.unmade, target, name) else { return Ok(None) };
        self.progress.check()?;
        self.progress.step(name);
        let measured = self.unmade.measures_importance(target).then_some(&moments.importance[..]);
        let importance = measured.or_else(|| self.unmade.importance(target, name));
        let setting = Setting { cpu: self.model.cpu(), moments, pull, ty, codec: &codec, importance };
        let (bytes, report) = setting.round(matrix, &mut self.scratch);
        if let Some(block) = ty.format().and_then(|format| format.bad_block(&bytes)) {
            let (row, column) = (block * ty.block_len() / matrix.cols(), block * ty.block_len() % matrix.cols());
            let problem = format!(
                "row {row}, columns from {column} on: no finite scale of {ty} is found; the values, or those that the calibration text makes \
                 the matrix read, are too large"
            );
            let place = format!("tensor {}", quoted(name));
            return Err(Error::invalid(
                self.model.gguf().path(),
                place,
                problem,
                "choose the type bf16 for this tensor",
            ));
        }
        self.unmade.write(target, name, &bytes)?;
        self.reports.push(TensorReport { target, name: name.to_owned(), ..report });
        Ok(Some(bytes))
    }
}

/// The type in which a target still wants the tensor of this name, with its codec; `None` also if the type has no codes.
pub fn wants(unmade: &Unmade<'_>, target: usize, name: &str) -> Option<(GgmlType, Codec)> {
    let ty = unmade.wants(target, name)?;
    Some((ty, ty.format()?.codec?))
}
