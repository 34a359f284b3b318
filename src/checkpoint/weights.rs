//! The weights of a checkpoint: one or many files of safetensors or PyTorch, mapped, with or without an index.

use super::Config;
use super::files::Files;
use super::json;
use super::quantized::{self, Packed, is_of_activations};
use super::torch;
use crate::arch::{Bias, Group, Presence};
use crate::error::{Error, Result, quoted};
use crate::io::content::{Content, content};
use crate::io::file::Mapped;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_quant::GgmlType;

/// The number types of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    /// One that only tensors of quantized checkpoints have.
    Other(safetensors::Dtype),
}

impl Dtype {
    fn of(dtype: safetensors::Dtype) -> Dtype {
        match dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => Dtype::Other(other),
        }
    }

    /// The ggml type of the same bytes, if a model can have it.
    pub fn ggml(self) -> Option<GgmlType> {
        match self {
            Dtype::F32 => Some(GgmlType::F32),
            Dtype::F16 => Some(GgmlType::F16),
            Dtype::Bf16 => Some(GgmlType::BF16),
            Dtype::Other(_) => None,
        }
    }

    /// Its name in safetensors files.
    pub fn name(self) -> String {
        match self {
            Dtype::Other(other) => format!("{other:?}"),
            plain => plain.ggml().map_or("", GgmlType::name).to_owned(),
        }
    }
}

/// A tensor of the checkpoint, by its place.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its name.
    pub name: String,
    /// The file it is in.
    pub path: PathBuf,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// The number of the file it is in, in the order of [`Weights::shards`].
    pub shard: usize,
    /// Where its bytes start in that file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// How files share a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each has some of its rows.
    Rows,
    /// Each has some columns of all its rows.
    Columns,
}

/// Where a part of a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the file, in the order of [`Weights::shards`].
    pub shard: usize,
    /// The offset in that file.
    pub offset: u64,
}

/// A tensor of the checkpoint.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Its name in its file.
    pub name: &'a str,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions, the slowest first: `(rows, columns)` or `(values)`.
    pub shape: &'a [usize],
    /// Its bytes.
    pub bytes: u64,
    /// Its parts in their order, all of the same length: one, unless files share it. Each is rows one after the other.
    pub parts: &'a [Place],
    /// How files share it.
    pub split: Split,
    /// The bytes of its first part: all, unless files share it.
    pub data: &'a [u8],
}

/// All tensors of a checkpoint.
pub struct Weights {
    dir: PathBuf,
    shards: Vec<Mapped>,
    tensors: BTreeMap<String, At>,         // by the names of Hugging Face
    packed: BTreeMap<String, Arc<Packed>>, // matrices made of several tensors
    /// True if the values of a head that rotate together are neighbours, as in GGUF, and not half a head apart.
    pub(crate) interleaved: bool,
}

struct At {
    entry: Entry, // of the whole tensor, but the range of the first part
    parts: Vec<Place>,
    split: Split,
}

/// A tensor of a file.
pub(super) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

impl Entry {
    /// The tensors of a file, in the order in which faults are reported.
    pub fn all_of(map: &Mapped) -> Result<Vec<Entry>> {
        match map.path().extension().is_some_and(|ending| ending == "safetensors") {
            true => Entry::of_safetensors(map),
            false => Entry::of_torch(map),
        }
    }

    fn of_torch(map: &Mapped) -> Result<Vec<Entry>> {
        let entry = |tensor: torch::TorchTensor| {
            let torch::TorchTensor { name, dtype, shape, range } = tensor;
            let dtype = dtype.map_err(|other| unsupported(map.path(), &name, other))?;
            Ok(Entry { name, dtype, shape, range })
        };
        torch::tensors(map)?.into_iter().map(entry).collect()
    }

    fn of_safetensors(map: &Mapped) -> Result<Vec<Entry>> {
        let (path, bytes) = (map.path(), map.bytes());
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| broken(path, bytes, &error))?;
        let start = header + 8;
        let mut text = vec![0; header];
        map.read_at(&mut text, 8)?;
        if let Err(error) = json::parse(&text) {
            return Err(Error::invalid(path, "header", format!("is damaged ({error})"), "download the file again"));
        }
        let mut entries = Vec::new();
        // In the order of the file, so that of several faults always the same is reported.
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            // `read_metadata` has made sure that the file ends where the last tensor does.
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            entries.push(Entry { name, dtype: Dtype::of(info.dtype), shape: info.shape.clone(), range });
        }
        Ok(entries)
    }
}

impl Weights {
    /// Maps every shard.
    pub(super) fn open(dir: &Path) -> Result<Weights> {
        let files = Files::find(dir)?;
        let mut weights = Weights::empty(dir);
        for name in &files.names {
            weights.add(&dir.join(name))?;
        }
        for (tensor, shard) in &files.tensors {
            let found = weights.tensors.get(tensor).map(|at| weights.path(at.parts[0].shard));
            if found != Some(dir.join(shard).as_path()) {
                let problem = format!("names tensor {} in {}, which does not have it", quoted(tensor), quoted(shard));
                let remedy = "the index and the shards belong to different versions; get them again";
                return Err(Error::invalid(&dir.join(files.index), "\"weight_map\"", problem, remedy));
            }
        }
        Ok(weights)
    }

    /// Adds a file with all its tensors.
    fn add(&mut self, path: &Path) -> Result<()> {
        if !path.exists() {
            let problem = "the shard is missing";
            return Err(Error::invalid(path, "file", problem, "download it into the checkpoint's folder"));
        }
        let map = Mapped::open(path)?;
        let (shard, entries) = (self.shards.len(), Entry::all_of(&map)?);
        self.push(map);
        for entry in entries {
            let place = Place { shard, offset: entry.range.start as u64 };
            self.insert(shard, entry.name.clone(), entry, vec![place], Split::Rows)?;
        }
        Ok(())
    }

    /// Without a file.
    pub(super) fn empty(dir: &Path) -> Weights {
        let (shards, tensors, packed) = Default::default();
        Weights { dir: dir.to_owned(), shards, tensors, packed, interleaved: false }
    }

    /// Maps one file, whose tensors have numbers of types that a model can have.
    pub(crate) fn of_file(path: &Path) -> Result<Weights> {
        let mut weights = Weights::empty(path.parent().unwrap_or(Path::new("")));
        weights.add(path)?;
        match weights.tensors.iter().find(|(_, at)| at.entry.dtype.ggml().is_none()) {
            Some((name, at)) => Err(unsupported(path, name, &at.entry.dtype.name())),
            None => Ok(weights),
        }
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Adds a file, but none of its tensors.
    pub(super) fn push(&mut self, map: Mapped) {
        self.shards.push(map);
    }

    /// Adds a tensor that file `shard` has, or has the first part of.
    pub(super) fn insert(
        &mut self,
        shard: usize,
        name: String,
        entry: Entry,
        parts: Vec<Place>,
        split: Split,
    ) -> Result<()> {
        let place = format!("tensor {}", quoted(&name));
        match self.tensors.insert(name, At { entry, parts, split }) {
            None => Ok(()),
            Some(other) => {
                let problem = format!("{} has it too", self.path(other.parts[0].shard).display());
                Err(Error::invalid(self.path(shard), place, problem, "remove the file that does not belong"))
            }
        }
    }

    /// Removes the tensor with this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// The path of a shard.
    pub(super) fn path(&self, shard: usize) -> &Path {
        self.shards[shard].path()
    }

    /// Whether `len` bytes at two places are the same; usually the first tell.
    pub(super) fn same(&self, a: Place, b: Place, len: u64) -> Result<bool> {
        const PIECE: u64 = 1 << 20;
        let (mut at, mut buffers) = (0, [Vec::new(), Vec::new()]);
        while a != b && at < len {
            let n = if at == 0 { len.min(4096) } else { PIECE.min(len - at) };
            for (place, buffer) in [a, b].into_iter().zip(&mut buffers) {
                buffer.resize(n as usize, 0);
                self.shards[place.shard].read_at(buffer, place.offset + at)?;
            }
            if buffers[0] != buffers[1] {
                return Ok(false);
            }
            at += n;
        }
        Ok(true)
    }

    /// The tensor with this name of Hugging Face.
    pub fn get(&self, name: &str) -> Option<Source<'_>> {
        let At { entry, parts, split } = self.tensors.get(name)?;
        let bytes = (entry.range.len() * parts.len()) as u64;
        let data = &self.shards[parts.first()?.shard].bytes()[entry.range.clone()];
        let Entry { name, dtype, shape, .. } = entry;
        Some(Source { name, dtype: *dtype, shape, bytes, parts, split: *split, data })
    }

    /// The place of the tensor with this name, unless files share it.
    pub(crate) fn part(&self, name: &str) -> Option<Part> {
        let source = self.get(name)?;
        let &[Place { shard, offset }] = source.parts else { return None };
        let (dtype, shape, bytes) = (source.dtype, source.shape.to_vec(), source.bytes);
        Some(Part { name: name.to_owned(), path: self.path(shard).to_owned(), dtype, shape, shard, offset, bytes })
    }

    /// The bytes of a small tensor.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn read(&self, part: &Part) -> Result<Vec<u8>> {
        let mut bytes = vec![0; part.bytes as usize]; // of a mapped file
        self.shards[part.shard].read_at(&mut bytes, part.offset)?;
        Ok(bytes)
    }

    /// The matrix with this name, if it is quantized.
    pub(crate) fn packed(&self, name: &str) -> Option<&Arc<Packed>> {
        self.packed.get(name)
    }

    /// Gives up all shards.
    pub(crate) fn into_shards(self) -> Vec<Mapped> {
        self.shards
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = &Mapped> {
        self.shards.iter()
    }

    /// Every tensor that `config` calls for is there in the right shape, or all that it is made of, and no other.
    pub(super) fn check(&mut self, config: &Config) -> Result<()> {
        let wanted: BTreeMap<String, (Vec<usize>, bool)> = wanted(config);
        for (name, (shape, optional)) in &wanted {
            if let Some(packed) = self.find_packed(config, name, shape)? {
                self.packed.insert(name.clone(), Arc::new(packed));
                continue;
            }
            match self.tensors.get(name) {
                Some(at) => self.check_plain(config, name, at, shape)?,
                None if *optional => {}
                None => {
                    let remedy = "the checkpoint is incomplete; download all its files of weights";
                    return Err(Error::invalid(&self.dir, format!("tensor {}", quoted(name)), "is missing", remedy));
                }
            }
        }
        self.refuse_strangers(config, &wanted)
    }

    /// The tensors that a matrix is made of; `None` if it is stored as it is.
    fn find_packed(&self, config: &Config, name: &str, shape: &[usize]) -> Result<Option<Packed>> {
        match (&config.quantization, shape) {
            (Some(scheme), &[rows, cols]) => scheme.find(self, name, (rows, cols)),
            (None, &[rows, cols]) => quantized::plain_float8(self, name, (rows, cols)),
            _ => Ok(None),
        }
    }

    fn check_plain(&self, config: &Config, name: &str, at: &At, shape: &[usize]) -> Result<()> {
        let path = self.path(at.parts[0].shard);
        if at.entry.shape != shape {
            let file = config.path.file_name().unwrap_or_default().display();
            let problem = format!("shape {:?} where {file} calls for {shape:?}", at.entry.shape);
            let remedy = format!("{file} and the weights belong to different models; get them again");
            return Err(Error::invalid(path, format!("tensor {}", quoted(name)), problem, remedy));
        }
        match at.entry.dtype.ggml() {
            Some(_) => Ok(()),
            None => Err(unsupported(path, name, &at.entry.dtype.name())),
        }
    }

    /// An error if there are tensors that belong to no part of the model.
    fn refuse_strangers(&self, config: &Config, wanted: &BTreeMap<String, (Vec<usize>, bool)>) -> Result<()> {
        let parts: BTreeSet<&str> =
            self.packed.values().flat_map(|packed| packed.parts()).map(|part| part.name.as_str()).collect();
        let known = |name: &str| {
            wanted.contains_key(name)
                || parts.contains(name)
                || config.architecture.hf_derived.iter().any(|end| name.ends_with(end))
                || config.quantization.is_some() && is_of_activations(name)
        };
        let strangers: Vec<_> = self.tensors.keys().filter(|name| !known(name)).take(3).collect();
        if strangers.is_empty() {
            return Ok(());
        }
        let strangers: Vec<_> = strangers.into_iter().map(|name| quoted(name)).collect();
        let problem = format!("{} are not part of a {} model", strangers.join(", "), config.architecture.name);
        let remedy = "strata would lose them; this checkpoint is of another kind";
        Err(Error::invalid(&self.dir, "tensors", problem, remedy))
    }
}

/// Name, shape, and whether it may be absent.
fn wanted(config: &Config) -> BTreeMap<String, (Vec<usize>, bool)> {
    let of = &config.hyperparameters;
    let mut wanted = BTreeMap::new();
    for (spec, layer) in config.architecture.all_tensors(of.layers) {
        let Some([weight, bias]) = spec.hf_names(layer) else { continue };
        let (rows, cols) = spec.shape(of);
        let shape = if spec.is_matrix() { vec![rows, cols] } else { vec![cols] };
        wanted.insert(weight, (shape, spec.presence == Presence::TiedToEmbedding && config.tie_word_embeddings));
        // Those that config.json does not announce are refused as strangers: the original model would not use them.
        let has_bias = match (spec.bias, spec.group) {
            (Bias::Never, _) => false,
            (Bias::Always, _) => true,
            (Bias::Announced, Group::Attention) => config.attention_bias,
            (Bias::Announced, Group::Ffn) => config.mlp_bias,
            (Bias::Announced, Group::Model) => false,
        };
        if has_bias {
            wanted.insert(bias, (vec![rows], false));
        }
    }
    wanted
}

/// The error of a tensor whose numbers are of another type.
fn unsupported(path: &Path, tensor: &str, numbers: &str) -> Error {
    let problem = format!("numbers of type {numbers} are not supported");
    Error::invalid(path, format!("tensor {}", quoted(tensor)), problem, "convert a checkpoint in BF16, F16 or F32")
}

/// What the safetensors crate found wrong, with the sizes where the file is cut off.
fn broken(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> Error {
    use safetensors::SafeTensorError as E;
    if let Some(content) = content(bytes).filter(|content| *content != Content::Safetensors) {
        return content.error(path, "a safetensors file");
    }
    let len = bytes.len() as u64;
    match error {
        E::MetadataIncompleteBuffer | E::HeaderTooSmall | E::InvalidHeaderLength => {
            let wanted = wanted_len(bytes);
            let problem = if len < wanted {
                format!("the file is cut off: {len} bytes of at least {wanted}")
            } else {
                format!("the file has {len} bytes where its header accounts for {wanted}")
            };
            Error::invalid(path, "header", problem, "download the file again")
        }
        other => Error::invalid(path, "header", format!("is damaged ({other})"), "download the file again"),
    }
}

/// How long a file must be by its own header, or for the header to be whole.
fn wanted_len(bytes: &[u8]) -> u64 {
    let Some(header) = bytes.first_chunk() else { return 8 };
    let data = u64::from_le_bytes(*header).saturating_add(8);
    let text = usize::try_from(data).ok().and_then(|data| bytes.get(8..data));
    let metadata = text.and_then(|text| serde_json::from_slice::<safetensors::tensor::Metadata>(text).ok());
    data.saturating_add(metadata.map_or(0, |metadata| metadata.data_len() as u64))
}
