//! A GGUF model opened for reading: one mapped file, or all parts of a split model as if they were one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, TENSOR_HASHES};
use super::metadata::{ArrayRef, Metadata, ValueRef};
use super::parse::{self, CONVERT_AGAIN, GET_AGAIN, Parsed, Stop, TensorInfo};
use super::shards::shard_ending;
use super::write::{Layout, Placed};
use crate::error::{Error, Result, quoted};
use crate::io::content::is_another_gguf;
use crate::io::file::Mapped;
use crate::io::hash::{Digest, Hasher};

/// A checked GGUF model. Opening walks the metadata and the tensor table once; the data stays in the file until it is used.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>, // name to place in `tensors`
    parts: Vec<Arc<Backing>>,
}

impl Gguf {
    /// Opens the model at `path`; of a split model any part may be named, and all are opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let path = path.as_ref();
        let mapped = Backing::Mapped(Mapped::open(path)?);
        let gguf = Gguf::single(path, mapped, 0)?;
        match gguf.split()? {
            Some(split) => Gguf::join(path, split),
            None => Ok(gguf),
        }
    }

    /// Reads a file from memory; a part of a split model then stands alone.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Gguf> {
        Gguf::from_contents(Path::new("(memory)"), bytes.into())
    }

    /// [`Gguf::from_bytes`] of what was read from the file at `path`, which errors name.
    pub(crate) fn from_contents(path: &Path, bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::single(path, Backing::Owned(bytes), 0)
    }

    /// A model whose tensors lie in files of another format: `header` describes it as a GGUF file would, `tensors` say where its tensors
    /// are, in `files` or, after these, in `computed`.
    ///
    /// # Errors
    /// If no GGUF file can have that header.
    ///
    /// # Panics
    /// If a tensor does not lie in its file.
    pub(crate) fn over(
        path: &Path,
        mut header: Layout,
        tensors: Vec<TensorInfo>,
        files: Vec<Mapped>,
        computed: Vec<u8>,
    ) -> Result<Gguf> {
        let Placed { header, file_bytes, .. } = header.place()?;
        let Parsed { version, pairs, sorted, .. } =
            parse::parse(path, &header, file_bytes, 0).map_err(|stop| match stop {
                Stop::Wrong(error) => error,
                Stop::Short => Error::invalid(path, "header", "is cut short", CONVERT_AGAIN),
            })?;
        let parts = files.into_iter().map(Backing::Mapped).chain([Backing::Owned(computed)]);
        let parts: Vec<_> = parts.map(Arc::new).collect();
        for tensor in &tensors {
            assert!(tensor.offset + tensor.bytes <= parts[tensor.part].bytes().len() as u64);
        }
        let metadata = Metadata::new(header, version > 1, pairs, sorted);
        let index = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Gguf { path: path.to_owned(), version, metadata, tensors, index, parts })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The version of the container: 1, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value pairs; of a split model, those of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in file order, those of all parts.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor of that name, or an error that it is missing.
    pub fn required_tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name).ok_or_else(|| {
            Error::invalid(&self.path, format!("tensor {}", quoted(name)), "is missing", "use a complete model")
        })
    }

    /// The blocks of one of this model's tensors.
    ///
    /// # Panics
    ///
    /// If `tensor` is of another model and does not fit into this one.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let bytes = self.parts[tensor.part].bytes();
        &bytes[tensor.offset as usize..][..tensor.bytes as usize]
    }

    /// Prefetches the first `bytes` bytes of a tensor into the page cache.
    pub fn prefetch(&self, tensor: &TensorInfo, bytes: usize) {
        if let Backing::Mapped(mapped) = &*self.parts[tensor.part]
            && bytes > 0
        {
            mapped.prefetch(tensor.offset as usize..tensor.offset as usize + bytes);
        }
    }

    /// The SHA-256 of the header, of a split model that of its first file, and of the names, types and dimensions of all tensors. It covers
    /// the weights if the header records hashes of them: [`Gguf::records_tensor_hashes`].
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(self.metadata.header());
        for tensor in &self.tensors {
            hasher.update(format!("{} {} {:?}\n", tensor.name, tensor.ty.name(), tensor.dims).as_bytes());
        }
        hasher.digest()
    }

    /// True if the header has the SHA-256 of every tensor, as the files that Strata writes.
    pub fn records_tensor_hashes(&self) -> bool {
        let recorded = self.metadata.get(TENSOR_HASHES).and_then(ValueRef::as_array);
        recorded.is_some_and(|hashes| hashes.len() == self.tensors.len())
    }

    /// The bytes of all files of the model.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes().len() as u64).sum()
    }

    /// The files of the model in the order of its parts; none of a model in memory.
    pub fn files(&self) -> impl Iterator<Item = &Mapped> {
        self.parts.iter().filter_map(|part| match &**part {
            Backing::Mapped(mapped) => Some(mapped),
            Backing::Owned(_) => None,
        })
    }

    /// Checks that no file has changed since it was opened, so that what was read so far is right.
    ///
    /// # Errors
    /// Names the file that was truncated or written to.
    pub fn check(&self) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.check())
    }

    /// `result`; an error is replaced by that of [`Gguf::check`] if a file has changed, which then is its cause.
    pub fn unless_changed<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.check().err().unwrap_or(error))
    }

    /// The value of a key as an integer of any type that fits a u32; `None` if the key is absent.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 2^32-1", |v| v.as_u64()?.try_into().ok())
    }

    /// The value of a key as an integer of any type that fits a u64; `None` if the key is absent.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer not below 0", ValueRef::as_u64)
    }

    /// The value of a key as a float of either type; `None` if the key is absent.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        if let Some(ValueRef::F64(v)) = self.metadata.get(key)
            && ValueRef::F64(v).as_f32().is_none()
        {
            return Err(self.wrong(key, format!("{v} is beyond what a float of 32 bits holds"), CONVERT_AGAIN));
        }
        self.typed(key, "a float", ValueRef::as_f32)
    }

    /// The value of a key as a bool; `None` if the key is absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", ValueRef::as_bool)
    }

    /// The value of a key as a string; `None` if the key is absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", ValueRef::as_str)
    }

    /// The value of a key as an array; `None` if the key is absent.
    pub fn array(&self, key: &str) -> Result<Option<ArrayRef<'_>>> {
        self.typed(key, "an array", ValueRef::as_array)
    }

    /// [`u32`](Gguf::u32), or an error if the key is missing.
    pub fn required_u32(&self, key: &str) -> Result<u32> {
        self.required(key, self.u32(key)?)
    }

    /// [`u64`](Gguf::u64), or an error if the key is missing.
    pub fn required_u64(&self, key: &str) -> Result<u64> {
        self.required(key, self.u64(key)?)
    }

    /// [`f32`](Gguf::f32), or an error if the key is missing.
    pub fn required_f32(&self, key: &str) -> Result<f32> {
        self.required(key, self.f32(key)?)
    }

    /// [`str`](Gguf::str), or an error if the key is missing.
    pub fn required_str(&self, key: &str) -> Result<&str> {
        self.required(key, self.str(key)?)
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, as_t: impl Fn(ValueRef<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        as_t(value).map(Some).ok_or_else(|| {
            let problem = match value.as_i64() {
                Some(v) => format!("must be {wanted}, is {v} of type {}", value.ty()),
                None => format!("must be {wanted}, is of type {}", value.ty()),
            };
            self.wrong(key, problem, CONVERT_AGAIN)
        })
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(key, "is missing", CONVERT_AGAIN))
    }

    fn wrong(&self, key: &str, problem: impl Into<String>, remedy: &str) -> Error {
        Error::invalid(&self.path, format!("key {}", quoted(key)), problem, remedy)
    }

    /// The model of one file, or of one part of a split model alone.
    fn single(path: &Path, source: Backing, part: usize) -> Result<Gguf> {
        let (mut bytes, parsed) = header(path, &source, part)?;
        let Parsed { version, pairs, sorted, tensors, header } = parsed;
        bytes.truncate(header);
        bytes.shrink_to_fit();
        refuse_joined(path, &source, header, &tensors)?;
        let source = Arc::new(source);
        let metadata = Metadata::new(bytes, version > 1, pairs, sorted);
        let index = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Gguf { path: path.to_owned(), version, metadata, tensors, index, parts: vec![source] })
    }

    /// The place of this file in a split model; `None` if it is not split.
    fn split(&self) -> Result<Option<Split>> {
        // Merged files keep the key, with 0.
        let count = self.u32(SPLIT_COUNT)?.unwrap_or(0);
        if count < 2 {
            return Ok(None);
        }
        let no = self.required_u32(SPLIT_NO)?;
        if no >= count {
            return Err(self.wrong(SPLIT_NO, format!("is {no}, but {SPLIT_COUNT} is {count}"), GET_AGAIN));
        }
        Ok(Some(Split { no, count }))
    }

    /// Opens all parts of the split model of which the file at `path` is the part `opened`.
    fn join(path: &Path, opened: Split) -> Result<Gguf> {
        let count = opened.count;
        let ending = |no: u32| shard_ending(no as usize, count as usize);
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(stem) = name.and_then(|name| name.strip_suffix(&ending(opened.no))) else {
            let problem = format!("is part {} of {count} of a split model, but is not named so", opened.no + 1);
            let remedy = format!("rename it to end in {}, like its other parts", ending(opened.no));
            return Err(Error::invalid(path, "file name", problem, remedy));
        };

        let part_path = |no: u32| path.with_file_name(format!("{stem}{}", ending(no)));
        let mut whole: Option<Gguf> = None;
        for no in 0..count {
            let at = part_path(no);
            if !at.exists() {
                let problem = format!("part {} of {count} is missing: {}", no + 1, at.display());
                return Err(Error::invalid(path, "split model", problem, "put all parts into one folder"));
            }
            let part = Gguf::single(&at, Backing::Mapped(Mapped::open(&at)?), no as usize)?;
            if part.split()? != Some(Split { no, count }) {
                let problem = format!("is not part {} of {count}, which its name promises", no + 1);
                return Err(part.wrong(SPLIT_NO, problem, "get all parts again, from one place"));
            }
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.append(part)?,
            }
        }
        let mut whole = whole.expect("there are at least two parts: split() gives no fewer");
        let total = whole.required_u64(SPLIT_TENSORS)?;
        if total != whole.tensors.len() as u64 {
            let problem = format!("is {total}, but the parts have {} tensors", whole.tensors.len());
            return Err(whole.wrong(SPLIT_TENSORS, problem, "get all parts again, from one place"));
        }
        whole.path = path.to_owned();
        Ok(whole)
    }

    fn append(&mut self, part: Gguf) -> Result<()> {
        for tensor in part.tensors {
            if self.index.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                let place = format!("tensor {}", quoted(&tensor.name));
                let problem = "is also in an earlier part of the split model";
                return Err(Error::invalid(&part.path, place, problem, "get all parts again, from one place"));
            }
            self.tensors.push(tensor);
        }
        self.parts.extend(part.parts);
        Ok(())
    }
}

/// The lengths of the file's beginning that are copied in turn until the header fits; that of Llama 3 has 8 MB.
const BEGINNINGS: [u64; 4] = [1 << 20, 16 << 20, 128 << 20, 1 << 30];

/// A copy of the beginning of a file with the whole header, and the parsed header.
fn header(path: &Path, source: &Backing, part: usize) -> Result<(Vec<u8>, Parsed)> {
    let file_bytes = source.bytes().len() as u64;
    let mut bytes = Vec::new();
    for beginning in BEGINNINGS {
        let known = bytes.len();
        bytes.resize(file_bytes.min(beginning) as usize, 0);
        match source {
            Backing::Mapped(mapped) => mapped.read_at(&mut bytes[known..], known as u64)?,
            Backing::Owned(all) => {
                let upto = bytes.len();
                bytes[known..].copy_from_slice(&all[known..upto]);
            }
        }
        match parse::parse(path, &bytes, file_bytes, part) {
            Ok(parsed) => return Ok((bytes, parsed)),
            Err(Stop::Short) => {}
            // The file may have been written to meanwhile.
            Err(Stop::Wrong(error)) => return Err(source.check().err().unwrap_or(error)),
        }
    }
    let problem = format!("is longer than {} bytes", bytes.len());
    Err(Error::invalid(path, "header", problem, GET_AGAIN))
}

/// The most bytes after the last tensor that are searched for another GGUF file.
const AFTER: usize = 1 << 16;

/// Refuses a file of concatenated parts of a split model.
fn refuse_joined(path: &Path, source: &Backing, header: usize, tensors: &[TensorInfo]) -> Result<()> {
    // Whole numbers that the checking pass has compared with the file's length.
    let end = tensors.iter().map(|tensor| tensor.offset + tensor.bytes).max().unwrap_or(header as u64);
    let rest = source.bytes().len() - end as usize;
    let mut after = vec![0; rest.min(AFTER)];
    match source {
        Backing::Mapped(mapped) => mapped.read_at(&mut after, end)?,
        Backing::Owned(bytes) => after.copy_from_slice(&bytes[end as usize..][..rest.min(AFTER)]),
    }
    if !is_another_gguf(&after) {
        return Ok(());
    }
    let problem =
        format!("another GGUF file follows after byte {end}, as if parts of a split model were joined by `cat`");
    Err(Error::invalid(path, "file", problem, "get the parts again and join them with `strata merge`"))
}

/// The place of a file in a split model.
#[derive(Clone, Copy, PartialEq)]
struct Split {
    no: u32, // from 0
    count: u32,
}

/// The bytes of a part: mapped from its file, or in memory.
#[derive(Debug)]
pub(super) enum Backing {
    Mapped(Mapped),
    Owned(Vec<u8>),
}

impl Backing {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Backing::Mapped(mapped) => mapped.bytes(),
            Backing::Owned(bytes) => bytes,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Backing::Mapped(mapped) => mapped.check(0),
            Backing::Owned(_) => Ok(()),
        }
    }
}
