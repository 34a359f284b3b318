//! What becomes of the matrices of a model in memory: encoded as a conversion would encode them, or decoded to F32, for which the kernels
//! multiply with activations in F32.

use crate::arch::Hyperparameters;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::io::hash::Digest;
use crate::recipe::{Recipe, TensorFacts};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use strata_kernels::{Isa, Matrix};
use strata_quant::GgmlType;

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

    /// Encodes the matrices of these names in these types, with this importance.
    pub fn typed(types: HashMap<String, GgmlType>, importance: BTreeMap<String, Vec<f32>>) -> Transform {
        Transform { types: Some(types), importance, decode: false }
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
    pub(crate) fn retyped(&self, types: HashMap<String, GgmlType>) -> Transform {
        Transform::typed(types, self.importance.clone())
    }

    /// All of it in words, to tell transforms apart.
    pub(crate) fn identify(&self) -> String {
        let mut types: Vec<_> = self.types.iter().flatten().collect();
        types.sort();
        let importance = self.importance.iter().map(|(name, weights)| {
            let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
            format!("{name} {}", Digest::of(&bytes))
        });
        format!("{types:?} {:?} {}", importance.collect::<Vec<_>>(), self.decode)
    }

    /// True if whatever a matrix is stored as is decoded to F32.
    pub fn decodes(&self) -> bool {
        self.decode
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
