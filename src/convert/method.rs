//! Tensors that a method of its own makes, before all others are encoded row by row: as soon as one is written, a run that is stopped need
//! not make it again.

use super::output::Output;
use super::plan::Tensor;
use super::target::{Importance, Target};
use crate::error::{Error, Result};
use crate::io::hash::Digest;
use std::collections::HashMap;
use strata_quant::GgmlType;

/// Makes some of the tensors; the others are encoded as ever.
pub type Method<'m> = dyn FnMut(&mut Unmade<'_>) -> Result<()> + 'm;

/// The tensors of all targets, of which a method makes some.
pub struct Unmade<'a> {
    places: HashMap<&'a str, usize>,
    targets: &'a [Target],
    types: &'a [Vec<GgmlType>],
    importance: &'a [Vec<Option<Importance<'a>>>],
    outputs: &'a mut [Output],
}

impl<'a> Unmade<'a> {
    pub(super) fn new(
        tensors: &'a [Tensor],
        targets: &'a [Target],
        types: &'a [Vec<GgmlType>],
        importance: &'a [Vec<Option<Importance<'a>>>],
        outputs: &'a mut [Output],
    ) -> Unmade<'a> {
        let places = tensors.iter().enumerate().map(|(t, tensor)| (tensor.name.as_str(), t)).collect();
        Unmade { places, targets, types, importance, outputs }
    }

    /// The number of targets.
    pub fn targets(&self) -> usize {
        self.outputs.len()
    }

    /// The type in which a target still needs the tensor of this name; `None` if it has the tensor, or has none of this name.
    pub fn wants(&self, target: usize, name: &str) -> Option<GgmlType> {
        let t = *self.places.get(name)?;
        self.outputs[target].needs(t).then_some(self.types[target][t])
    }

    /// The type of the tensor of this name in a target.
    pub fn ty(&self, target: usize, name: &str) -> Option<GgmlType> {
        Some(self.types[target][*self.places.get(name)?])
    }

    /// The bytes of the tensor of this name that a target has already.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn written(&mut self, target: usize, name: &str) -> Result<Vec<u8>> {
        let &t = self.places.get(name).ok_or(Error::Internal("a tensor is read that no target has"))?;
        self.outputs[target].read(t)
    }

    /// What the errors in each column of the tensor of this name weigh in a target, if that has importance.
    pub fn importance(&self, target: usize, name: &str) -> Option<&'a [f32]> {
        self.importance[target][*self.places.get(name)?].map(|importance| importance.weights)
    }

    /// Whether what the errors in columns weigh in a target is to be measured.
    pub fn measures_importance(&self, target: usize) -> bool {
        self.targets[target].measures_importance
    }

    /// Writes the tensor of this name, all of its bytes in the type that the target wants.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, target: usize, name: &str, bytes: &[u8]) -> Result<()> {
        let &t = self.places.get(name).ok_or(Error::Internal("a tensor is made that no target has"))?;
        let output = &mut self.outputs[target];
        output.write(t, 0, bytes)?;
        output.finish_tensor(t, Digest::of(bytes), None)
    }
}
