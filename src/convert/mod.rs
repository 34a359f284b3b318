//! From a checkpoint or a GGUF model to GGUF files that llama.cpp loads and answers the same: several types in one read of the source,
//! in bounded memory, and resumable after any interruption.
//!
//! * `source.rs`: the files that are read; `sequential.rs`: one of them, from its first byte to its last;
//! * `target.rs`: the files to write; `plan.rs`: the tensors and their order;
//! * `acceptance.rs`: a check that the result can be read;
//! * `metadata.rs`: the metadata keys; `naming.rs`: the parts of a model's name; `vocabulary/`: the tokenizer;
//! * `pipeline.rs`: reading, encoding and writing at the same time; `buffers.rs`: the sizes of buffers; `rows.rs`: encoding of rows;
//! * `view.rs`: a checkpoint as it would be converted, to run it at once;
//! * [`method`]: tensors that are made otherwise;
//! * `output.rs`: the unfinished file; `sync.rs`: syncs to the disk; `journal.rs`: the record of what is written.

mod acceptance;
mod buffers;
mod journal;
mod metadata;
pub mod method;
mod naming;
mod output;
mod pipeline;
mod plan;
mod rows;
mod sequential;
mod source;
mod sync;
mod target;
mod view;
mod vocabulary;

pub(crate) use acceptance::check_overrides;
pub use source::Input;
pub use target::{Split, Target};
pub use view::open_model;

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::gguf::Layout;
use crate::gguf::keys::{SOURCE_FILES, SOURCE_HASHES, TENSOR_HASHES};
use crate::gguf::shards::shard_metadata;
use crate::io::claim::Claim;
use crate::io::file::free_bytes;
use crate::io::hash::Digest;
use crate::io::inputs::Inputs;
use crate::io::partial::Partial;
use crate::progress::Progress;
use crate::threads;
use acceptance::Accepted;
use journal::{Head, SourceHead, TensorHead};
use method::{Method, Unmade};
use output::{Output, OutputFile};
use plan::{Stored, Tensor};
use serde_json::{Map, Value as Json};
use source::SourceFile;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_kernels::Isa;
use strata_quant::GgmlType;
use target::Shard;

/// Settings of a conversion that do not depend on the target.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's name in the file, instead of that of the source.
    pub name: Option<String>,
    /// The most bytes that all buffers together take; 1 GiB if not given.
    pub memory: Option<u64>,
    /// Threads to encode with; as many as the system offers if not given.
    pub threads: Option<usize>,
    /// Instructions to encode with. The bytes do not depend on them.
    pub isa: Isa,
    /// Discards what an earlier run left instead of resuming it.
    pub restart: bool,
    /// Takes quantized tensors for a source, though that costs quality.
    pub requantize: bool,
    /// Files that the caller reads beside the model, which no output may replace.
    pub inputs: Inputs,
}

impl Default for Options {
    fn default() -> Options {
        let (isa, inputs) = (Isa::best(), Inputs::default());
        Options { name: None, memory: None, threads: None, isa, restart: false, requantize: false, inputs }
    }
}

/// A finished target.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file, or the first of several.
    pub path: PathBuf,
    /// The number of files.
    pub files: usize,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of weights in all tensors.
    pub weights: u64,
    /// The bytes of all files.
    pub bytes: u64,
    /// Bits of tensor data per weight.
    pub bits_per_weight: f64,
    /// The number of tensors that an earlier run had written.
    pub resumed: usize,
}

/// The conversion of one tensor.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// The name in the file.
    pub name: String,
    /// The dimensions, the length of a row first.
    pub dims: Vec<u64>,
    /// The type in the source, or what its quantization is called.
    pub from: String,
    /// The bytes in the source; 0 if the tensor is computed.
    pub bytes_from: u64,
    /// The type in the target.
    pub to: GgmlType,
    /// The bytes in the target.
    pub bytes_to: u64,
}

/// The tensors and files of a target.
#[derive(Clone, Debug)]
pub struct TargetPlan {
    /// The tensors, in file order.
    pub tensors: Vec<TensorPlan>,
    /// The files and the bytes of each.
    pub files: Vec<(PathBuf, u64)>,
}

/// Plans a target without writing anything.
///
/// # Errors
/// Those of [`convert`] that do not depend on weights.
pub fn plan(input: &Input, target: &Target, options: &Options) -> Result<TargetPlan> {
    let job = Job::new(input, std::slice::from_ref(target), options)?;
    let planned = |(tensor, &to): (&Tensor, &GgmlType)| {
        let from = tensor.stored().map_or(to.name(), Stored::kind).to_owned();
        let bytes_from = tensor.stored().map_or(0, Stored::all_bytes);
        let (name, dims) = (tensor.name.clone(), tensor.dims.clone());
        TensorPlan { name, dims, from, bytes_from, to, bytes_to: tensor.bytes(to) }
    };
    let tensors = job.tensors.iter().zip(&job.types[0]).map(planned).collect();
    let (parts, _) = job.parts(0, &vec![Digest::of(&[]); job.files.len()])?;
    let files = parts.into_iter().map(|mut part| Ok((part.path, part.layout.place()?.file_bytes)));
    Ok(TargetPlan { tensors, files: files.collect::<Result<_>>()? })
}

/// Makes all targets in one read of the source. Each file gets its name only when it is complete; until then it is `NAME.partial`, with a
/// journal beside it. A run that was stopped, killed or short of space is resumed by the next one with the same arguments, and ends in the
/// same bytes. `progress` counts bytes of the source.
///
/// # Errors
/// If the source is incomplete, damaged, of a kind that Strata does not know, or was changed since the run that is resumed; if a type
/// cannot be written, the memory is too small, the folder of a target is missing, or its disk too small; if another process writes
/// the same file; if the user stopped.
pub fn convert(input: &Input, targets: &[Target], options: &Options, progress: &dyn Progress) -> Result<Vec<Report>> {
    convert_with(input, targets, options, None, progress)
}

/// [`convert`], where a `method` makes some of the tensors. The targets' `record` must tell it and all that its bytes depend on.
///
/// # Errors
/// As there; and those of the method.
pub fn convert_with(
    input: &Input,
    targets: &[Target],
    options: &Options,
    method: Option<&mut Method<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<Report>> {
    if method.is_some() && !input.adapters().is_empty() {
        let problem =
            "a method that runs the base model would not see them: merge them in one run, and quantize in another";
        return Err(Error::argument("adapters", problem));
    }
    let job = Job::new(input, targets, options)?;
    job.notes.iter().for_each(|note| progress.warn(note));
    let heads = job.files.iter().map(SourceFile::head).collect::<Result<Vec<_>>>()?;
    let mut outputs = Vec::with_capacity(targets.len());
    for (i, target) in targets.iter().enumerate() {
        let (parts, head) = job.parts(i, &heads)?;
        let mut output = Output::open(&target.path, parts, head, options.restart, progress)?;
        output.check_sources(&job.files, &heads)?;
        outputs.push(output);
    }
    let pool = threads::pool(options.threads.unwrap_or_else(rayon::current_num_threads))?;
    for output in &mut outputs {
        pool.install(|| output.check_finished(progress))?;
    }
    check_space(&outputs)?;
    let resumed: Vec<usize> =
        outputs.iter().map(|output| (0..job.tensors.len()).filter(|&t| !output.needs(t)).count()).collect();
    let importance = targets.iter().map(|target| target.importance(&job.tensors)).collect::<Result<Vec<_>>>()?;
    let work = pipeline::Work {
        files: &job.files,
        known: job.files.iter().map(|file| known_digest(file, &outputs)).collect(),
        tensors: &job.tensors,
        types: &job.types,
        importance: &importance,
        isa: options.isa,
        pool: &pool,
        memory: options.memory,
        progress,
    };
    let mut todo = pipeline::Todo::new(&work, &outputs)?;
    outputs.iter_mut().try_for_each(|output| output.begin(todo.request()))?;
    if let Some(method) = method {
        method(&mut Unmade::new(&job.tensors, targets, &job.types, &importance, &mut outputs))?;
        todo = pipeline::Todo::new(&work, &outputs)?;
    }
    let digests = pipeline::run(&work, todo, &mut outputs)?;
    input.adapters().iter().try_for_each(|adapter| adapter.check())?;
    for output in &mut outputs {
        write_computed(&job.tensors, output)?;
        output.complete(&digests)?;
    }
    // Only now: a run killed between two names finds by the journal that the first file is complete.
    for output in &outputs {
        output.remove_journal()?;
    }
    Ok((0..targets.len()).map(|i| job.report(i, &outputs[i], resumed[i])).collect())
}

/// Everything that is decided before the first weight is read.
struct Job<'a> {
    input: &'a Input,
    targets: &'a [Target],
    options: &'a Options,
    of_source: Layout,  // the metadata of the source; see `metadata::of`
    notes: Vec<String>, // warnings about source and targets
    tensors: Vec<Tensor>,
    files: Vec<SourceFile<'a>>,
    types: Vec<Vec<GgmlType>>, // [target][tensor]
    shards: Vec<Vec<Shard>>,   // [target]
}

impl<'a> Job<'a> {
    fn new(input: &'a Input, targets: &'a [Target], options: &'a Options) -> Result<Job<'a>> {
        if targets.is_empty() {
            return Err(Error::argument("targets", "none is given"));
        }
        let mut tensors = plan::tensors(input)?;
        if targets.iter().any(|target| matches!(target.split, Split::AsSource)) {
            // The files of a split model have consecutive tensors; what is computed goes with the metadata.
            tensors.sort_by_key(|tensor| tensor.stored().map_or(0, |stored| stored.file));
        }
        let (of_source, mut notes) = metadata::of(input, options.name.as_deref(), &tensors)?;
        let (mut types, mut shards) = (Vec::new(), Vec::new());
        let mut accepted: Option<Accepted> = None;
        for (i, target) in targets.iter().enumerate() {
            // Targets differ in types only, unless the caller says otherwise.
            let accepted = match accepted {
                Some(ref accepted) if target.metadata == targets[i - 1].metadata => accepted,
                _ => {
                    let layout = of_target(&of_source, target)?;
                    let new = acceptance::check(&layout, input, &tensors)?;
                    notes.extend(new.note.clone());
                    accepted.insert(new)
                }
            };
            let of_target = target.types(input, &accepted.hyperparameters, &tensors, options.requantize)?;
            shards.push(target.shards(input, &tensors, &of_target)?);
            types.push(of_target);
        }
        let mut inputs = input.inputs();
        inputs.extend(&options.inputs);
        check_paths(&inputs, targets, &shards)?;
        notes.extend(target::importance_notes(targets, &tensors, &types));
        Ok(Job { input, targets, options, of_source, notes, tensors, files: input.files(), types, shards })
    }

    /// The files of target `i` and the first line of its journal. The hashes are still zeros. Files after the first have no metadata but
    /// their place.
    fn parts(&self, i: usize, heads: &[Digest]) -> Result<(Vec<OutputFile>, Head)> {
        let (target, types, shards) = (&self.targets[i], &self.types[i], &self.shards[i]);
        let mut recipe = Map::new();
        recipe.insert("strata".to_owned(), env!("CARGO_PKG_VERSION").into());
        recipe.extend(target.recipe.describe());
        recipe.extend(self.options.name.clone().map(|name| ("name".to_owned(), name.into())));
        recipe.extend(adapters(self.input));
        recipe.extend(target.record.clone());
        recipe.sort_keys();
        let (mut parts, mut metadata, mut tensors) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (no, shard) in shards.iter().enumerate() {
            let mut layout = Layout::new();
            if no == 0 {
                layout = self.metadata(target, &recipe)?;
            }
            if shards.len() > 1 || matches!(target.split, Split::Limit(..)) {
                for (key, value) in shard_metadata(no, shards.len(), self.tensors.len())? {
                    layout.set(key, value);
                }
            }
            for t in shard.tensors.clone() {
                layout.tensor(self.tensors[t].name.as_str(), &self.tensors[t].dims, types[t]);
            }
            for (t, range) in shard.tensors.clone().zip(layout.place()?.tensors) {
                let (name, ty) = (self.tensors[t].name.clone(), types[t].name().to_owned());
                tensors.push(TensorHead { name, ty, part: no, offset: range.start, bytes: range.end - range.start });
            }
            metadata.extend(layout.metadata.iter().map(|(key, value)| (key.clone(), Digest::of(&value.bytes()))));
            parts.push(OutputFile { path: shard.path.clone(), layout });
        }
        let source_head = |(file, &head): (&SourceFile<'_>, &Digest)| {
            let (name, bytes) = (file.name.clone(), file.bytes);
            SourceHead { name, bytes, head }
        };
        let sources = self.files.iter().zip(heads).map(source_head).collect();
        let name = |part: &OutputFile| Some(Partial::path_for(&part.path).file_name()?.to_string_lossy().into_owned());
        let partials = parts.iter().filter_map(name).collect();
        Ok((parts, Head { journal: journal::VERSION, recipe, metadata, sources, tensors, partials }))
    }

    /// The metadata of a target; the hashes are still zeros.
    fn metadata(&self, target: &Target, recipe: &Map<String, Json>) -> Result<Layout> {
        let mut layout = of_target(&self.of_source, target)?;
        let zeros = |n: usize| vec!["0".repeat(Digest::LEN); n];
        layout.set("strata.version", env!("CARGO_PKG_VERSION"));
        layout.set("strata.recipe", Json::Object(recipe.clone()).to_string());
        layout.set(SOURCE_FILES, self.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>());
        layout.set(SOURCE_HASHES, zeros(self.files.len()));
        layout.set(TENSOR_HASHES, zeros(self.tensors.len()));
        Ok(layout)
    }

    fn report(&self, i: usize, output: &Output, resumed: usize) -> Report {
        let weights: u64 = self.tensors.iter().map(Tensor::weights).sum();
        let data: u64 = self.tensors.iter().zip(&self.types[i]).map(|(tensor, &ty)| tensor.bytes(ty)).sum();
        Report {
            path: self.shards[i][0].path.clone(),
            files: self.shards[i].len(),
            tensors: self.tensors.len(),
            weights,
            bytes: output.file_bytes(),
            bits_per_weight: data as f64 * 8.0 / weights.max(1) as f64,
            resumed,
        }
    }
}

/// The adapters that are merged, for the record.
fn adapters(input: &Input) -> Option<(String, Json)> {
    let adapter = |adapter: &Arc<Adapter>| {
        let (name, scale, sha256) = (adapter.name(), adapter.scale(), adapter.sha256().to_string());
        serde_json::json!({"name": name, "scale": scale, "sha256": sha256})
    };
    let all = input.adapters();
    (!all.is_empty()).then(|| ("lora".to_owned(), all.iter().map(adapter).collect()))
}

/// The source's metadata with what a target changes of it.
fn of_target(of_source: &Layout, target: &Target) -> Result<Layout> {
    let mut layout = of_source.clone();
    if !target.recipe.mix.is_copy() {
        layout.set(metadata::FILE_TYPE, target.recipe.mix.file_type);
    }
    acceptance::check_overrides(&layout, &target.metadata)?;
    for (key, value) in &target.metadata {
        layout.set(key.as_str(), value.clone());
    }
    Ok(layout)
}

/// An error if a path is an input's or another output's.
fn check_paths(inputs: &Inputs, targets: &[Target], shards: &[Vec<Shard>]) -> Result<()> {
    let mut paths = HashSet::new();
    for (target, shards) in targets.iter().zip(shards) {
        let own = shards.iter().flat_map(|shard| [shard.path.clone(), Partial::path_for(&shard.path)]);
        for path in own.chain([Claim::path_for(&target.path)]) {
            if !paths.insert(canonical(&path)) {
                let problem = "is the name of two outputs, or of what one needs beside it";
                return Err(Error::invalid(&path, "output", problem, "name each output its own way"));
            }
            inputs.refuse(&path)?;
        }
    }
    Ok(())
}

/// The path with its folder in canonical form.
fn canonical(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
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

/// Writes the tensors that are computed and not read.
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
