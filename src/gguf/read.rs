//! An open GGUF file, or all parts of a split one: metadata and tensors by name.

use super::array::ValueRef;
use super::parse::{PairAt, Parsed, parse, text};
use crate::error::{Error, Result};
use crate::file::Mapped;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use strata_quant::GgmlType;

/// A model file, mapped and checked.
pub struct Gguf {
    parts: Vec<Mapped>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// A tensor of a model file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// The type of its blocks.
    pub ty: GgmlType,
    /// 1 to 4 dimensions, the fastest (the length of a row) first.
    pub dims: Vec<u64>,
    /// Where its data starts in the file of its part.
    pub offset: u64,
    /// Bytes of its data.
    pub bytes: u64,
    /// The part it is in; 0 unless the model is split.
    pub part: usize,
}

impl TensorInfo {
    /// The length of a row.
    pub fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// Rows, over all other dimensions.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

/// The metadata, in the order of the file.
pub struct Metadata {
    pairs: Vec<PairAt>,
    by_key: HashMap<String, usize>,
}

/// Metadata with the bytes it lies in.
#[derive(Clone, Copy)]
pub struct MetadataRef<'a> {
    metadata: &'a Metadata,
    file: &'a [u8],
    version: u32,
}

impl<'a> MetadataRef<'a> {
    /// Pairs.
    pub fn len(&self) -> usize {
        self.metadata.pairs.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values, in the order of the file.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> {
        let MetadataRef { metadata, file, version } = self;
        metadata.pairs.iter().map(move |pair| (text(&file[pair.key.clone()]), pair.read(file, version)))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<ValueRef<'a>> {
        let pair = &self.metadata.pairs[*self.metadata.by_key.get(key)?];
        Some(pair.read(self.file, self.version))
    }
}

impl Gguf {
    /// Opens a file and, if it is part of a split model, all the other parts.
    ///
    /// # Errors
    /// If a part is missing or breaks a rule of the format.
    pub fn open(path: &Path) -> Result<Gguf> {
        let (map, parsed) = open_part(path)?;
        let number = |key: &str| parsed.find(map.bytes(), key).and_then(ValueRef::as_u64);
        let Some(count) = number("split.count").filter(|&count| count > 1) else {
            return Gguf::assemble(vec![(map, parsed)]);
        };
        let (no, total) = (number("split.no").unwrap_or(count), number("split.tensors.count"));
        if no >= count || count > 99_999 {
            let problem = format!("part {no} of {count} cannot be");
            return Err(Error::invalid(path, "metadata \"split.no\"", problem, "split the model again"));
        }
        let mut parts = Vec::new();
        for i in 0..count {
            let part = part_path(path, no, i, count)?;
            let (map, parsed) = open_part(&part)?;
            let says = ["split.no", "split.count"].map(|key| parsed.find(map.bytes(), key).and_then(ValueRef::as_u64));
            if says != [Some(i), Some(count)] {
                let problem = format!("the part calls itself {says:?} where {i} of {count} is expected");
                let remedy = "the parts belong to different models or were renamed; get them again";
                return Err(Error::invalid(&part, "metadata \"split.no\"", problem, remedy));
            }
            parts.push((map, parsed));
        }
        let gguf = Gguf::assemble(parts)?;
        match total {
            Some(total) if total != gguf.tensors.len() as u64 => {
                let problem = format!("{total} tensors are announced and {} are there", gguf.tensors.len());
                Err(Error::invalid(path, "metadata \"split.tensors.count\"", problem, "get all parts again"))
            }
            _ => Ok(gguf),
        }
    }

    fn assemble(files: Vec<(Mapped, Parsed)>) -> Result<Gguf> {
        let mut gguf: Option<Gguf> = None;
        for (part, (map, parsed)) in files.into_iter().enumerate() {
            let gguf = gguf.get_or_insert_with(|| Gguf {
                parts: Vec::new(),
                version: parsed.version,
                metadata: Metadata::new(&parsed, map.bytes()),
                tensors: Vec::new(),
                by_name: HashMap::new(),
            });
            for tensor in parsed.tensors {
                let name = text(&map.bytes()[tensor.name]).to_owned();
                if gguf.by_name.insert(name.clone(), gguf.tensors.len()).is_some() {
                    let place = format!("tensor {name:?}");
                    return Err(Error::invalid(map.path(), place, "another part has it too", "get the parts again"));
                }
                let (ty, dims, offset, bytes) = (tensor.ty, tensor.dims, tensor.offset, tensor.bytes);
                gguf.tensors.push(TensorInfo { name, ty, dims, offset, bytes, part });
            }
            gguf.parts.push(map);
        }
        gguf.ok_or_else(|| Error::Request("a model has at least one part".into()))
    }

    /// The path of the first part.
    pub fn path(&self) -> &Path {
        self.parts[0].path()
    }

    /// The version of the format: 1, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes().len() as u64).sum()
    }

    /// The metadata; of a split model, the first part's.
    pub fn metadata(&self) -> MetadataRef<'_> {
        MetadataRef { metadata: &self.metadata, file: self.parts[0].bytes(), version: self.version }
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of one of this file's tensors.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.parts[tensor.part].bytes()[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]
    }

    /// An integer of any type that fits, or `None` if the key is absent.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.value(key, "an integer from 0 to 4294967295", |v| v.as_u64()?.try_into().ok())
    }

    /// A number of any type, or `None` if the key is absent.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.value(key, "a number", |v| v.as_f32())
    }

    /// A truth value, or `None` if the key is absent.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.value(key, "true or false", |v| v.as_bool())
    }

    /// A string, or `None` if the key is absent.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.value(key, "a string", |v| v.as_str())
    }

    /// As [`Gguf::u32`], but the key must be there.
    ///
    /// # Errors
    /// If it is not, or its value is something else.
    pub fn required_u32(&self, key: &str) -> Result<u32> {
        self.u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Gguf::f32`], but the key must be there.
    ///
    /// # Errors
    /// If it is not, or its value is something else.
    pub fn required_f32(&self, key: &str) -> Result<f32> {
        self.f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Gguf::str`], but the key must be there.
    ///
    /// # Errors
    /// If it is not, or its value is something else.
    pub fn required_str(&self, key: &str) -> Result<&str> {
        self.str(key)?.ok_or_else(|| self.missing(key))
    }

    fn value<'a, T>(&'a self, key: &str, what: &str, f: impl Fn(ValueRef<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata().get(key) else { return Ok(None) };
        match f(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let place = format!("metadata {key:?}");
                Err(Error::invalid(self.path(), place, format!("is not {what}"), "convert the model again"))
            }
        }
    }

    fn missing(&self, key: &str) -> Error {
        Error::invalid(self.path(), format!("metadata {key:?}"), "the key is missing", "convert the model again")
    }
}

impl Metadata {
    fn new(parsed: &Parsed, file: &[u8]) -> Metadata {
        let keys = parsed.pairs.iter().enumerate();
        let by_key = keys.map(|(i, pair)| (text(&file[pair.key.clone()]).to_owned(), i)).collect();
        Metadata { pairs: parsed.pairs.clone(), by_key }
    }
}

fn open_part(path: &Path) -> Result<(Mapped, Parsed)> {
    let map = Mapped::open(path)?;
    let parsed = parse(path, map.bytes())?;
    Ok((map, parsed))
}

/// The path of part `i`, from that of part `no`: `NAME-00002-of-00003.gguf`.
fn part_path(path: &Path, no: u64, i: u64, count: u64) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&format!("-{:05}-of-{count:05}.gguf", no + 1)) else {
        let expected = format!("NAME-{:05}-of-{count:05}.gguf", no + 1);
        return Err(Error::invalid(
            path,
            "file name",
            "a part of a split model has lost its name",
            format!("rename it to {expected}"),
        ));
    };
    Ok(path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", i + 1)))
}
