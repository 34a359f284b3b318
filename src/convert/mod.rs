//! From a checkpoint or a GGUF model to GGUF files that llama.cpp loads and answers the same: several types in one read of the source,
//! in bounded memory, and nothing lost when it is stopped.
//!
//! * `source.rs`: the files that are read; `plan.rs`: which tensor becomes which, in what order;
//! * `metadata.rs`: what the file says of the model; `naming.rs`: what its names tell; `vocabulary.rs`: the tokenizer;
//! * `pipeline.rs`: reading, encoding and writing at the same time; `slab.rs`: how much at a time; `rows.rs`: the weights themselves;
//! * `output.rs`: the file that grows; `sync.rs`: it reaches the disk; `journal.rs`: what of it is done.

mod journal;
mod metadata;
mod naming;
mod output;
mod pipeline;
mod plan;
mod rope;
mod rows;
mod slab;
mod source;
mod sync;
mod vocabulary;

pub use output::{SOURCE_FILES, SOURCE_HASHES, TENSOR_HASHES};
pub use source::Input;

use crate::error::{Error, Result};
use crate::file::{PARTIAL, free_bytes, with_ending};
use crate::gguf::{Layout, Value};
use crate::hash::Digest;
use crate::progress::Progress;
use journal::{Head, SourceHead, TensorHead};
use output::{Output, Part};
use plan::Tensor;
use serde_json::{Map, Value as Json};
use source::SourceFile;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use strata_kernels::Isa;
use strata_quant::GgmlType;

/// A file to make.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its path.
    pub path: PathBuf,
    /// The type of all matrices whose rows it divides; the others become F16.
    pub ty: GgmlType,
    /// By the tensor's name in the file, what the errors of each column weigh: `(matrices, columns)`.
    pub importance: BTreeMap<String, Vec<f32>>,
    /// Metadata on top of what the source says.
    pub metadata: Vec<(String, Value)>,
    /// What else decides the bytes, for the record: a resumed run must have the same.
    pub recipe: Map<String, Json>,
}

impl Target {
    /// A file of mostly one type.
    pub fn new(path: impl Into<PathBuf>, ty: GgmlType) -> Target {
        let (importance, metadata, recipe) = Default::default();
        Target { path: path.into(), ty, importance, metadata, recipe }
    }

    /// Where it grows until it is complete: what remains of a run that was stopped.
    pub fn partial(&self) -> PathBuf {
        with_ending(&self.path, PARTIAL)
    }
}

/// How to make them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's name, where the source's own is not wanted.
    pub name: Option<String>,
    /// The sum of all buffers, in bytes, at most; 1 GiB if not given.
    pub memory: Option<u64>,
    /// Threads to encode with; as many as the system offers if not given.
    pub threads: Option<usize>,
    /// Instructions to encode with. The bytes do not depend on them.
    pub isa: Isa,
    /// Discards what an earlier run left.
    pub restart: bool,
    /// Takes quantized tensors for a source, though that costs quality.
    pub requantize: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { name: None, memory: None, threads: None, isa: Isa::best(), restart: false, requantize: false }
    }
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Tensors.
    pub tensors: usize,
    /// Weights in all tensors.
    pub weights: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bits of tensor data a weight.
    pub bits_per_weight: f64,
    /// Tensors that an earlier run had written.
    pub resumed: usize,
}

/// Makes all targets in one read of the source. Each appears under its name only when it is complete; until then it grows beside it as
/// `NAME.partial` with a journal. A run that is stopped, killed or short of space is taken up by the next one with the same arguments,
/// and ends in the same bytes. `progress` counts bytes of the source.
///
/// # Errors
/// If the source is incomplete, damaged, of a kind that Strata does not know, or was changed since the run that is taken up; if a type
/// cannot be written, the memory does not suffice, the folder of a target is missing, or its disk too small; if another process writes
/// the same file; if the user stopped.
pub fn convert(input: &Input, targets: &[Target], options: &Options, progress: &dyn Progress) -> Result<Vec<Report>> {
    check_targets(input, targets)?;
    let tensors = plan::tensors(input)?;
    let files = input.files()?;
    let types = targets.iter().map(|target| types(input, &tensors, target, options)).collect::<Result<Vec<_>>>()?;
    let importance = targets.iter().map(|target| importance(&tensors, target)).collect::<Result<Vec<_>>>()?;
    let heads = files.iter().map(SourceFile::head).collect::<Result<Vec<_>>>()?;

    let mut outputs = Vec::with_capacity(targets.len());
    for (target, types) in targets.iter().zip(&types) {
        let (layout, head) = layout(input, &tensors, &files, &heads, target, types, options)?;
        let parts = vec![Part { path: target.path.clone(), layout }];
        let mut output = Output::open(&target.path, parts, head, options.restart)?;
        output.check_sources(&files, &heads)?;
        outputs.push(output);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build();
    let pool =
        pool.map_err(|error| Error::Request(format!("cannot start threads: {error}; give fewer by --threads")))?;
    for output in &mut outputs {
        pool.install(|| output.check_finished(progress))?;
    }
    check_space(&outputs)?;
    let resumed: Vec<usize> =
        outputs.iter().map(|output| (0..tensors.len()).filter(|&t| !output.needs(t)).count()).collect();
    let known = files.iter().map(|file| known_digest(file, &outputs)).collect();
    let work = pipeline::Work {
        files: &files,
        known,
        tensors: &tensors,
        types: &types,
        importance: &importance,
        isa: options.isa,
        pool: &pool,
        memory: options.memory,
        progress,
    };
    let todo = pipeline::Todo::new(&work, &outputs)?;
    outputs.iter_mut().try_for_each(Output::begin)?;
    let digests = pipeline::run(&work, todo, &mut outputs)?;
    for output in &mut outputs {
        write_computed(&tensors, output)?;
        output.complete(&digests)?;
    }
    // Only now: a run killed between two names finds by the journal that the first file is complete.
    for output in &outputs {
        output.remove_journal()?;
    }
    let weights: u64 = tensors.iter().map(Tensor::weights).sum();
    let report = |((output, types), resumed): ((&Output, &Vec<GgmlType>), usize)| {
        let data: u64 = tensors.iter().zip(types).map(|(tensor, &ty)| tensor.bytes(ty)).sum();
        let (path, bytes) = (output.path.clone(), output.file_bytes());
        let bits_per_weight = data as f64 * 8.0 / weights as f64;
        Report { path, tensors: tensors.len(), weights, bytes, bits_per_weight, resumed }
    };
    Ok(outputs.iter().zip(&types).zip(resumed).map(report).collect())
}

/// An error if a target cannot be: its type, or a path that is the source's or another target's.
fn check_targets(input: &Input, targets: &[Target]) -> Result<()> {
    if targets.is_empty() {
        return Err(Error::Request("nothing to convert to: give a type".to_owned()));
    }
    let mut paths = HashSet::new();
    for target in targets {
        if target.ty.format().is_none() {
            let have: Vec<_> = GgmlType::with_format().map(|format| format.ty.name()).collect();
            return Err(Error::Request(format!(
                "type {} cannot be written; choose one of {}",
                target.ty,
                have.join(", ")
            )));
        }
        input.refuse_as_output(&target.path)?;
        let own = [target.path.clone(), target.partial(), journal::Journal::path_for(&target.path)];
        for path in own {
            if !paths.insert(canonical(&path)) {
                let problem = "is the name of two outputs, or of what one needs beside it";
                return Err(Error::invalid(&path, "output", problem, "name each output its own way"));
            }
            input.refuse_as_output(&path)?;
        }
    }
    Ok(())
}

/// The path with the folder that it is really in.
fn canonical(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// The type of each tensor in a target.
fn types(input: &Input, tensors: &[Tensor], target: &Target, options: &Options) -> Result<Vec<GgmlType>> {
    let of = |tensor: &Tensor| {
        let Some(stored) = tensor.stored() else { return Ok(GgmlType::F32) };
        let ty = match tensor.dims.len() {
            // Vectors are few and stay exact; those of a GGUF file stay as they are.
            1 if matches!(input, Input::Gguf(_)) => stored.ty,
            1 => GgmlType::F32,
            // As with the reference converter.
            _ if target.ty.row_bytes(tensor.cols).is_none() => GgmlType::F16,
            _ => target.ty,
        };
        let place = || format!("tensor {:?}", stored.name);
        if stored.ty != ty && stored.ty.format().is_none() {
            let problem = format!("is of type {}, which strata cannot read", stored.ty);
            return Err(Error::invalid(input.path(), place(), problem, "convert the original checkpoint"));
        }
        if stored.ty != ty && stored.ty.block_len() > 1 && !options.requantize {
            let problem = format!("is quantized already ({})", stored.ty);
            let remedy = "convert the original checkpoint, or accept the loss with --allow-requantize";
            return Err(Error::invalid(input.path(), place(), problem, remedy));
        }
        Ok(ty)
    };
    tensors.iter().map(of).collect()
}

/// The importance of each tensor's columns in a target.
fn importance<'a>(tensors: &[Tensor], target: &'a Target) -> Result<Vec<Option<&'a [f32]>>> {
    let of = |tensor: &Tensor| {
        let Some(weights) = target.importance.get(&tensor.name) else { return Ok(None) };
        let matrices = weights.len() / tensor.cols;
        if !weights.len().is_multiple_of(tensor.cols) || matrices == 0 || !tensor.rows.is_multiple_of(matrices) {
            return Err(Error::Request(format!(
                "the importance matrix has {} values for {}, whose rows have {}; it is of another model",
                weights.len(),
                tensor.name,
                tensor.cols
            )));
        }
        Ok(Some(weights.as_slice()))
    };
    tensors.iter().map(of).collect()
}

/// What the file of a target will hold, and what its journal will say of it. The hashes are zeros still.
fn layout(
    input: &Input,
    tensors: &[Tensor],
    files: &[SourceFile<'_>],
    heads: &[Digest],
    target: &Target,
    types: &[GgmlType],
    options: &Options,
) -> Result<(Layout, Head)> {
    let mut layout = Layout::new();
    metadata::set(&mut layout, input, options.name.as_deref(), target.ty, tensors)?;
    for (key, value) in &target.metadata {
        layout.set(key.as_str(), value.clone());
    }
    let mut recipe = Map::new();
    recipe.insert("strata".to_owned(), env!("CARGO_PKG_VERSION").into());
    recipe.insert("type".to_owned(), target.ty.name().into());
    recipe.extend(options.name.clone().map(|name| ("name".to_owned(), name.into())));
    recipe.extend(target.recipe.clone());
    recipe.sort_keys();
    let zeros = |n: usize| vec!["0".repeat(Digest::LEN); n];
    layout.set("strata.version", env!("CARGO_PKG_VERSION"));
    layout.set("strata.recipe", Json::Object(recipe.clone()).to_string());
    layout.set(SOURCE_FILES, files.iter().map(|file| file.name.clone()).collect::<Vec<_>>());
    layout.set(SOURCE_HASHES, zeros(files.len()));
    layout.set(TENSOR_HASHES, zeros(tensors.len()));
    for (tensor, &ty) in tensors.iter().zip(types) {
        layout.tensor(tensor.name.as_str(), &tensor.dims, ty);
    }

    let ranges = layout.place()?.tensors;
    let tensor_head = |((tensor, ty), range): ((&Tensor, &GgmlType), &std::ops::Range<u64>)| TensorHead {
        name: tensor.name.clone(),
        ty: ty.name().to_owned(),
        part: 0,
        offset: range.start,
        bytes: range.end - range.start,
    };
    let source_head = |(file, &head): (&SourceFile<'_>, &Digest)| {
        let (name, bytes) = (file.name.clone(), file.bytes);
        SourceHead { name, bytes, head }
    };
    let head = Head {
        journal: journal::VERSION,
        recipe,
        metadata: layout.metadata.iter().map(|(key, value)| (key.clone(), Digest::of(&value.bytes()))).collect(),
        sources: files.iter().zip(heads).map(source_head).collect(),
        tensors: tensors.iter().zip(types).zip(&ranges).map(tensor_head).collect(),
    };
    Ok((layout, head))
}

/// An error if a disk cannot take what is still to be written.
fn check_space(outputs: &[Output]) -> Result<()> {
    let mut disks: BTreeMap<u64, (u64, &Output)> = BTreeMap::new();
    for output in outputs {
        disks.entry(disk(output.folder())).or_insert((0, output)).0 += output.missing_bytes();
    }
    for (missing, output) in disks.into_values() {
        let Some(free) = free_bytes(output.folder()) else { continue };
        if missing > free {
            let lack = missing - free;
            let problem = format!("{missing} bytes are to be written, {free} are free");
            let remedy = format!("free some space, {lack} bytes or more, or choose another disk");
            return Err(Error::invalid(&output.path, "disk", problem, remedy));
        }
    }
    Ok(())
}

/// The number of the file system that a folder is on.
fn disk(folder: &Path) -> u64 {
    #[cfg(unix)]
    return std::fs::metadata(folder).map_or(0, |about| std::os::unix::fs::MetadataExt::dev(&about));
    #[cfg(not(unix))]
    return folder.as_os_str().is_empty().into();
}

/// Writes what comes from no file.
fn write_computed(tensors: &[Tensor], output: &mut Output) -> Result<()> {
    for (t, tensor) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.stored().is_none()) {
        if let (plan::From::Computed(values), true) = (&tensor.from, output.needs(t)) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            output.write(t, 0, &bytes)?;
            output.finish_tensor(t, Digest::of(&bytes), None)?;
        }
    }
    Ok(())
}

/// The SHA-256 of a file that an earlier run has read, if nothing has touched the file since.
fn known_digest(file: &SourceFile<'_>, outputs: &[Output]) -> Option<Digest> {
    let read = outputs.iter().filter_map(|output| output.read_before(&file.name)).find(|read| read.stamp == file.stamp);
    read.map(|read| read.sha256)
}
