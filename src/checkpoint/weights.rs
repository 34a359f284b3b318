//! The weights of a checkpoint: one or many safetensors files, mapped, with or without an index.

use super::foreign;
use super::json;
use super::json::Object;
use super::{Config, read_json};
use crate::arch::{Group, Presence};
use crate::error::{Error, Result, quoted};
use crate::io::content::{Content, content};
use crate::io::file::Mapped;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use strata_quant::GgmlType;

/// The number types of checkpoints that are not quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// The ggml type of the same bytes.
    pub fn ggml(self) -> GgmlType {
        match self {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::Bf16 => GgmlType::BF16,
        }
    }
}

/// A tensor of the checkpoint.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The file it is in.
    pub path: &'a Path,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions, the slowest first: `(rows, columns)` or `(values)`.
    pub shape: &'a [usize],
    /// Its bytes: rows one after the other.
    pub data: &'a [u8],
    /// The number of the file it is in, in the order of [`Weights::shards`].
    pub shard: usize,
    /// Where its bytes start in that file.
    pub offset: u64,
}

/// All tensors of a checkpoint.
pub struct Weights {
    dir: PathBuf,
    shards: Vec<Mapped>,
    tensors: BTreeMap<String, At>,
}

struct At {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

const INDEX: &str = "model.safetensors.index.json";

impl Weights {
    /// Maps every shard.
    pub(super) fn open(dir: &Path) -> Result<Weights> {
        let index = Index::read(dir)?;
        let names = match &index {
            Some(index) => index.shards.clone(),
            None => shards_in(dir)?,
        };
        let mut weights = Weights { dir: dir.to_owned(), shards: Vec::new(), tensors: BTreeMap::new() };
        for name in names {
            weights.add(&dir.join(&name))?;
        }
        if let Some(index) = index {
            for (tensor, shard) in &index.tensors {
                let found = weights.tensors.get(tensor).map(|at| weights.shards[at.shard].path());
                if found != Some(dir.join(shard).as_path()) {
                    let problem =
                        format!("names tensor {} in {}, which does not have it", quoted(tensor), quoted(shard));
                    let remedy = "the index and the shards belong to different versions; get them again";
                    return Err(Error::invalid(&dir.join(INDEX), "\"weight_map\"", problem, remedy));
                }
            }
        }
        Ok(weights)
    }

    /// Maps one file.
    pub(crate) fn of_file(path: &Path) -> Result<Weights> {
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut weights = Weights { dir, shards: Vec::new(), tensors: BTreeMap::new() };
        weights.add(path)?;
        Ok(weights)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        if !path.exists() {
            let problem = "the shard is missing";
            return Err(Error::invalid(path, "file", problem, "download it into the checkpoint's folder"));
        }
        let map = Mapped::open(path)?;
        let bytes = map.bytes();
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| broken(path, bytes, &error))?;
        let start = header + 8;
        let mut text = vec![0; header];
        map.read_at(&mut text, 8)?;
        if let Some(error) = json::refusal(&text) {
            return Err(Error::invalid(path, "header", format!("is damaged ({error})"), "download the file again"));
        }
        // In the order of the file, so that of several faults always the same is reported.
        for name in &metadata.offset_keys() {
            let Some(info) = metadata.info(name) else { continue };
            let dtype = match info.dtype {
                safetensors::Dtype::F32 => Dtype::F32,
                safetensors::Dtype::F16 => Dtype::F16,
                safetensors::Dtype::BF16 => Dtype::Bf16,
                other => {
                    let problem = format!("numbers of type {other:?} are not supported");
                    let remedy = "convert a checkpoint in BF16, F16 or F32";
                    return Err(Error::invalid(path, format!("tensor {}", quoted(name)), problem, remedy));
                }
            };
            // `read_metadata` has made sure that the file ends where the last tensor does.
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let at = At { shard: self.shards.len(), dtype, shape: info.shape.clone(), range };
            if let Some(other) = self.tensors.insert(name.clone(), at) {
                let problem = format!("{} has it too", self.shards[other.shard].path().display());
                return Err(Error::invalid(
                    path,
                    format!("tensor {}", quoted(name)),
                    problem,
                    "remove the file that does not belong",
                ));
            }
        }
        self.shards.push(map);
        Ok(())
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<Source<'_>> {
        let at = self.tensors.get(name)?;
        let shard = &self.shards[at.shard];
        Some(Source {
            path: shard.path(),
            dtype: at.dtype,
            shape: &at.shape,
            data: &shard.bytes()[at.range.clone()],
            shard: at.shard,
            offset: at.range.start as u64,
        })
    }

    /// Gives up all shards.
    pub(crate) fn into_shards(self) -> Vec<Mapped> {
        self.shards
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = &Mapped> {
        self.shards.iter()
    }

    /// Every tensor that `config` calls for is there in the right shape, and no other.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let wanted: BTreeMap<String, (Vec<usize>, bool)> = wanted(config);
        for (name, (shape, optional)) in &wanted {
            match self.tensors.get(name) {
                Some(at) if at.shape == *shape => {}
                Some(at) => {
                    let problem = format!("shape {:?} where config.json calls for {shape:?}", at.shape);
                    let path = self.shards[at.shard].path();
                    let remedy = "config.json and the weights belong to different models; get them again";
                    return Err(Error::invalid(path, format!("tensor {}", quoted(name)), problem, remedy));
                }
                None if *optional => {}
                None => {
                    let remedy = "the checkpoint is incomplete; download all its safetensors files";
                    return Err(Error::invalid(&self.dir, format!("tensor {}", quoted(name)), "is missing", remedy));
                }
            }
        }
        let strangers: Vec<_> = self
            .tensors
            .keys()
            .filter(|name| {
                !wanted.contains_key(*name) && !config.architecture.hf_derived.iter().any(|end| name.ends_with(end))
            })
            .take(3)
            .collect();
        if !strangers.is_empty() {
            let strangers: Vec<_> = strangers.into_iter().map(|name| quoted(name)).collect();
            let problem = format!("{} are not part of a Llama model", strangers.join(", "));
            return Err(Error::invalid(
                &self.dir,
                "tensors",
                problem,
                "strata would lose them; this checkpoint is of another kind",
            ));
        }
        Ok(())
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
        let announced = match spec.group {
            Group::Attention => config.attention_bias,
            Group::Ffn => config.mlp_bias,
            Group::Model => false,
        };
        if announced && spec.may_have_bias {
            wanted.insert(bias, (vec![rows], false));
        }
    }
    wanted
}

/// The index of a checkpoint in several files.
struct Index {
    tensors: BTreeMap<String, String>,
    shards: Vec<String>,
}

impl Index {
    fn read(dir: &Path) -> Result<Option<Index>> {
        let path = dir.join(INDEX);
        let Some(json) = read_json(&path)? else { return Ok(None) };
        let file = Object::of_file(&path, &json, &[])?;
        let Some(map) = file.opt_object("weight_map")? else {
            return Err(file.wrong("weight_map", "the map from tensors to shards is missing"));
        };
        let (mut tensors, mut shards) = (BTreeMap::new(), BTreeSet::new());
        for tensor in map.keys() {
            let shard = map.opt_text(tensor)?.unwrap_or_default();
            if shard.is_empty() || shard.contains(['/', '\\']) || shard == ".." {
                return Err(map.wrong(tensor, format!("shard {} is no plain file name", quoted(shard))));
            }
            tensors.insert(tensor.to_owned(), shard.to_owned());
            shards.insert(shard.to_owned());
        }
        if shards.is_empty() {
            return Err(file.wrong("weight_map", "has no tensors"));
        }
        Ok(Some(Index { tensors, shards: shards.into_iter().collect() }))
    }
}

/// Shards of a checkpoint without an index: `model.safetensors`, or all `model-*.safetensors`.
fn shards_in(dir: &Path) -> Result<Vec<String>> {
    if dir.join("model.safetensors").exists() {
        return Ok(vec!["model.safetensors".to_owned()]);
    }
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let names: BTreeSet<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("model-") && name.ends_with(".safetensors"))
        .collect();
    let Some(first) = names.first() else {
        if let Some(error) = foreign::folder(dir)? {
            return Err(error);
        }
        let path = dir.join("model.safetensors");
        return Err(Error::invalid(&path, "file", "is missing", "download the checkpoint's safetensors files"));
    };
    // Shards are numbered: a gap is a shard that was not downloaded.
    if let Some(total) = first.strip_suffix(".safetensors").and_then(|n| n.rsplit("-of-").next()?.parse::<usize>().ok())
    {
        for i in 1..=total.min(99_999) {
            let name = format!("model-{i:05}-of-{total:05}.safetensors");
            if !names.contains(&name) {
                let problem = "the shard is missing";
                return Err(Error::invalid(
                    &dir.join(name),
                    "file",
                    problem,
                    "download it into the checkpoint's folder",
                ));
            }
        }
    }
    Ok(names.into_iter().collect())
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
