//! Targets: the files to write, and for each tensor its file, type and importance.

use super::plan::Tensor;
use super::source::Input;
use crate::arch::Hyperparameters;
use crate::error::{Error, Result, Setting, quoted};
use crate::gguf::Value;
use crate::gguf::shards::{SplitLimit, plan_shards, shard_path};
use crate::imatrix::{some, tensors as count};
use crate::recipe::{Recipe, TensorFacts, measured};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use strata_quant::GgmlType;

/// A model to make, in one file or several.
#[derive(Clone, Debug)]
pub struct Target {
    /// The path of the file; of a split model, the path from which the names of its files are made.
    pub path: PathBuf,
    /// The type of each tensor.
    pub recipe: Recipe,
    /// The weight of the errors in each column, `(matrices, columns)`, by the tensor's name in the file. `None` without importance.
    pub importance: Option<BTreeMap<String, Vec<f32>>>,
    /// The file of the importance, for error messages.
    pub importance_file: Option<PathBuf>,
    /// Whether the method that makes the matrices of layers measures what the errors in their columns weigh; `importance` is `None` then.
    pub measures_importance: bool,
    /// Metadata keys to set over those of the source.
    pub metadata: Vec<(String, Value)>,
    /// Other settings that decide the bytes; a resumed run must have the same.
    pub record: Map<String, Json>,
    /// The number of files.
    pub split: Split,
}

/// The number of files of a target.
#[derive(Clone, Copy, Debug, Default)]
pub enum Split {
    /// One file.
    #[default]
    Whole,
    /// As many files as the limit demands; the flag puts only metadata into the first.
    Limit(SplitLimit, bool),
    /// The files of the source, with the same tensors in each.
    AsSource,
}

/// The weight of the errors in each column of a tensor.
#[derive(Clone, Copy)]
pub(super) struct Importance<'a> {
    /// The weights, `(matrices, cols)`.
    pub weights: &'a [f32],
    /// The importance matrix's file.
    pub file: &'a Path,
}

/// One of the files of a target.
pub(super) struct Shard {
    /// The path of the file.
    pub path: PathBuf,
    /// Its tensors, as indices into the list of all.
    pub tensors: Range<usize>,
}

impl Target {
    /// A target of one file without importance.
    pub fn new(path: impl Into<PathBuf>, recipe: Recipe) -> Target {
        let (importance_file, metadata, record) = Default::default();
        Target {
            path: path.into(),
            recipe,
            importance: None,
            importance_file,
            measures_importance: false,
            metadata,
            record,
            split: Split::Whole,
        }
    }

    /// The type of each tensor of a model with the hyperparameters `of`. `requantize` allows sources that are quantized already.
    ///
    /// # Errors
    /// If the recipe wants importance that is not there, the importance is of another model, or a tensor cannot be read.
    pub(super) fn types(
        &self,
        input: &Input,
        of: &Hyperparameters,
        tensors: &[Tensor],
        requantize: bool,
    ) -> Result<Vec<GgmlType>> {
        let facts: Vec<_> = (tensors.iter())
            .map(|tensor| TensorFacts { name: &tensor.name, dims: &tensor.dims, kept: kept_type(input, tensor) })
            .collect();
        let types = self.recipe.types(of, &facts, self.has_importance());
        let known: BTreeSet<&str> = facts.iter().map(|fact| fact.name).collect();
        if let Some(name) = self.recipe.by_name.keys().find(|name| !known.contains(name.as_str())) {
            let problem = format!("the recipe names the tensor {}, which the model does not have", quoted(name));
            return Err(Error::invalid(input.path(), "recipe", problem, "take a recipe of a model of this shape"));
        }
        if self.recipe.requires_importance() && !self.has_importance() {
            return Err(Error::ImportanceMissing { mix: self.recipe.mix.name });
        }
        for (tensor, &ty) in tensors.iter().zip(&types) {
            let Some(stored) = tensor.stored() else { continue };
            let bad = |problem: String, remedy: &str| {
                Error::invalid(input.path(), format!("tensor {}", quoted(&stored.name)), problem, remedy)
            };
            if ty.format().is_none() && stored.ty != ty {
                return Err(bad(format!("cannot be written as {ty}"), "choose another type"));
            }
            if stored.ty != ty && stored.ty.format().is_none() {
                let problem = format!("is of type {}, which strata cannot read", stored.ty);
                return Err(bad(problem, "convert the original checkpoint"));
            }
            let lossy = stored.packed.as_ref().map_or(stored.ty.block_len() > 1, |packed| packed.lossy);
            if !stored.is_as_written(ty) && lossy && !requantize {
                let problem = format!("is quantized already ({})", stored.kind());
                let error = bad(problem, "convert the original checkpoint, or accept the loss");
                return Err(error.with_setting(Setting::Requantize));
            }
        }
        let importance = self.importance(tensors)?;
        if self.importance.is_some() && importance.iter().all(Option::is_none) {
            let problem =
                "none of its tensors is one of the model's: it is of another model, or filters have left nothing of it";
            return Err(self.bad_importance("tensors".to_owned(), problem.to_owned()));
        }
        for ((tensor, &ty), importance) in tensors.iter().zip(&types).zip(importance) {
            let missing = importance.is_none() && !self.measures_importance;
            if missing && self.recipe.requires_importance_of(&tensor.name, ty) {
                let problem =
                    format!("has no data for it, without which {ty} is of no use in {}", self.recipe.mix.name);
                return Err(self.bad_importance(format!("tensor {}", quoted(&tensor.name)), problem));
            }
        }
        Ok(types)
    }

    /// Whether importance is given, or will be measured.
    fn has_importance(&self) -> bool {
        self.importance.is_some() || self.measures_importance
    }

    fn bad_importance(&self, place: String, problem: String) -> Error {
        Error::invalid(self.importance_path(), place, problem, "make one of this model with strata calibrate")
    }

    /// The importance matrix's file, for error messages.
    fn importance_path(&self) -> &Path {
        self.importance_file.as_deref().unwrap_or(Path::new("importance matrix"))
    }

    /// The importance of each tensor's columns.
    ///
    /// # Errors
    /// If a tensor has other columns, or is of other matrices.
    pub(super) fn importance(&self, tensors: &[Tensor]) -> Result<Vec<Option<Importance<'_>>>> {
        let of = |tensor: &Tensor| {
            let Some(weights) = self.importance.as_ref().and_then(|all| all.get(&tensor.name)) else { return Ok(None) };
            let matrices: u64 = tensor.dims.iter().skip(2).product();
            if weights.len() as u64 != tensor.cols as u64 * matrices {
                let (n, cols) = (weights.len(), tensor.cols);
                let of = if matrices == 1 { String::new() } else { format!(" in each of {matrices} matrices") };
                let problem = format!("has {n} values, the model has {cols} columns{of}: it is of another model");
                return Err(self.bad_importance(format!("tensor {}", quoted(&tensor.name)), problem));
            }
            Ok(Some(Importance { weights, file: self.importance_path() }))
        };
        tensors.iter().map(of).collect()
    }

    /// The files, of which each has consecutive tensors.
    ///
    /// # Errors
    /// If the name of a split model cannot carry the numbers of its files.
    pub(super) fn shards(&self, input: &Input, tensors: &[Tensor], types: &[GgmlType]) -> Result<Vec<Shard>> {
        let ranges: Vec<Range<usize>> = match self.split {
            Split::Whole => std::iter::once(0..tensors.len()).collect(),
            Split::Limit(limit, first_without_tensors) => {
                let padded = |(tensor, &ty): (&Tensor, &GgmlType)| tensor.bytes(ty).next_multiple_of(32);
                let sizes: Vec<u64> = tensors.iter().zip(types).map(padded).collect();
                plan_shards(&sizes, limit, first_without_tensors)
            }
            Split::AsSource => {
                // The caller has put them in the order of their files.
                let file = |tensor: &Tensor| tensor.stored().map_or(0, |stored| stored.file);
                let up_to = |n: usize| tensors.partition_point(|tensor| file(tensor) < n);
                (0..input.files().len()).map(|n| up_to(n)..up_to(n + 1)).collect()
            }
        };
        let count = ranges.len();
        if count == 1 && !matches!(self.split, Split::Limit(..)) {
            return Ok(ranges.into_iter().map(|tensors| Shard { path: self.path.clone(), tensors }).collect());
        }
        let name = self.path.to_str().ok_or_else(|| {
            Error::invalid(&self.path, "output", "is no text, to which numbers could be added", "name another file")
        })?;
        let prefix = Path::new(name.strip_suffix(".gguf").unwrap_or(name));
        let shard = |(no, tensors)| Shard { path: shard_path(prefix, no, count), tensors };
        Ok(ranges.into_iter().enumerate().map(shard).collect())
    }
}

/// Warnings about importance: tensors whose type would use it and that have none, except the two that llama-imatrix does not measure, and
/// data for tensors that the model does not have.
pub(super) fn importance_notes(targets: &[Target], tensors: &[Tensor], types: &[Vec<GgmlType>]) -> Vec<String> {
    let known: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let (mut without, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for (target, types) in targets.iter().zip(types) {
        let Some(importance) = &target.importance else { continue };
        unknown.extend(importance.keys().filter(|name| !known.contains(name.as_str())).map(|name| quoted(name)));
        for (tensor, ty) in tensors.iter().zip(types) {
            let used = ty.block_len() > 1 && *ty != GgmlType::Q8_0 && measured(&tensor.name);
            if used && !importance.contains_key(&tensor.name) {
                without.insert(quoted(&tensor.name));
            }
        }
    }
    let [without, unknown] = [without, unknown].map(|names| names.into_iter().collect::<Vec<_>>());
    let mut notes = Vec::new();
    if !without.is_empty() {
        notes.push(format!("no importance for {} ({}): quantized without", count(&without), some(&without)));
    }
    if !unknown.is_empty() {
        notes.push(format!("importance for {} that the model does not have ({})", count(&unknown), some(&unknown)));
    }
    notes
}

/// The type of a tensor that the recipe does not quantize: F32 for vectors of a checkpoint, which are few, BF16 for its quantized matrices,
/// else that of the source.
fn kept_type(input: &Input, tensor: &Tensor) -> GgmlType {
    match (input, tensor.stored()) {
        (_, None) => GgmlType::F32,
        (Input::Checkpoint(_), Some(_)) if tensor.dims.len() == 1 => GgmlType::F32,
        (_, Some(stored)) if stored.packed.is_some() => GgmlType::BF16,
        (_, Some(stored)) => stored.ty,
    }
}
