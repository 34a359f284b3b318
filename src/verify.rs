//! Looking at every byte of a model: each weight must be a number, and each tensor have the SHA-256 that the file itself records.
//!
//! The file is read once, by positioned reads: while one window is hashed and decoded, the next is read.

use crate::convert::Input;
use crate::error::{Error, Result, Setting, quoted};
use crate::gguf::keys::{SOURCE_FILES, SOURCE_HASHES, TENSOR_HASHES};
use crate::gguf::{ArrayRef, Gguf, TensorInfo};
use crate::io::file::{Mapped, read_at};
use crate::io::hash::{Digest, Hasher};
use crate::progress::{Progress, Within};
use rayon::prelude::*;
use strata_quant::{Format, GgmlType};

/// Values looked at together.
const CHUNK: usize = 1 << 16;

/// Bytes read together.
const WINDOW: usize = 8 << 20;

/// What was looked at.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// The names of types that Strata cannot decode, whose values were not looked at.
    pub unknown: Vec<&'static str>,
    /// True if the file records hashes of its tensors, and all are right.
    pub hashes: bool,
    /// The source files whose hashes are those that the file records.
    pub sources: Vec<String>,
}

/// Reads every tensor: decodes it and looks for values that are no finite numbers, and compares its SHA-256 with the one recorded, if the
/// file records any. With `source`, also the model it was made of. `progress` counts bytes.
///
/// # Errors
/// Names the first tensor that is not what was written, or the row and column of a value that is no number, or the source file that
/// differs; or a file has changed meanwhile, or the user stopped.
pub fn model(gguf: &Gguf, source: Option<&Input>, progress: &dyn Progress) -> Result<Verified> {
    let verified = gguf.unless_changed(tensors(gguf, source, progress))?;
    gguf.check().map(|()| verified)
}

fn tensors(gguf: &Gguf, source: Option<&Input>, progress: &dyn Progress) -> Result<Verified> {
    let mut verified = Verified::default();
    let recorded = recorded(gguf)?;
    let files: Vec<&Mapped> = gguf.files().collect();
    progress.begin("verifying", gguf.tensors().iter().map(|t| t.bytes).sum());
    for (i, tensor) in gguf.tensors().iter().enumerate() {
        progress.step(&tensor.name);
        let format = tensor.ty.format();
        if format.is_none() && !verified.unknown.contains(&tensor.ty.name()) {
            verified.unknown.push(tensor.ty.name());
        }
        let wanted = recorded.as_ref().map(|digests| digests[i]);
        let mut check = Check { gguf, tensor, format, hasher: wanted.map(|_| Hasher::default()), at: 0, progress };
        check.tensor(&files)?;
        if check.hasher.map(|hasher| hasher.digest()) != wanted {
            let problem = "its bytes do not have the SHA-256 that strata recorded when it wrote them: they were damaged, or another \
                           program has changed them and kept the record";
            return Err(damaged(gguf, &tensor.name, problem));
        }
    }
    progress.end();
    verified.hashes = recorded.is_some();
    if let Some(source) = source {
        verified.sources = sources(gguf, source, progress)?;
    }
    Ok(verified)
}

/// Looks for a weight that is not finite: in the tensors whose names start with `first`, then in all others. `progress` hears the names.
///
/// # Errors
/// Names it; or a file cannot be read, or the user stopped.
pub(crate) fn weights(gguf: &Gguf, first: &str, progress: &dyn Progress) -> Result<()> {
    let files: Vec<&Mapped> = gguf.files().collect();
    let (near, far): (Vec<_>, Vec<_>) = gguf.tensors().iter().partition(|tensor| tensor.name.starts_with(first));
    for tensor in near.into_iter().chain(far) {
        progress.step(&format!("looking for a weight that is not finite: {}", quoted(&tensor.name)));
        let progress = &Within::uncounted(progress);
        Check { gguf, tensor, format: tensor.ty.format(), hasher: None, at: 0, progress }.tensor(&files)?;
    }
    Ok(())
}

/// The error of a weight that is not finite, at this row and column.
pub(crate) fn bad_weight(gguf: &Gguf, tensor: &str, (row, column): (u64, u64), value: f32) -> Error {
    damaged(gguf, tensor, format!("{value} at row {row}, column {column}"))
}

fn damaged(gguf: &Gguf, tensor: &str, problem: impl Into<String>) -> Error {
    let place = format!("tensor {}", quoted(tensor));
    Error::invalid(gguf.path(), place, problem, "the file is damaged; get or convert it again")
}

/// The hashes of all tensors that the file records, if it does.
fn recorded(gguf: &Gguf) -> Result<Option<Vec<Digest>>> {
    let Some(digests) = digests(gguf, TENSOR_HASHES)? else { return Ok(None) };
    if digests.len() != gguf.tensors().len() {
        let problem = format!("has {} hashes for {} tensors", digests.len(), gguf.tensors().len());
        return Err(wrong_key(gguf, TENSOR_HASHES, problem));
    }
    Ok(Some(digests))
}

fn digests(gguf: &Gguf, key: &str) -> Result<Option<Vec<Digest>>> {
    let Some(array) = gguf.array(key)? else { return Ok(None) };
    let digests: Option<Vec<Digest>> =
        strings(array).map(|texts| texts.iter().map(|t| t.parse().ok()).collect()).unwrap_or(None);
    digests.map(Some).ok_or_else(|| wrong_key(gguf, key, "is not a list of SHA-256 in hexadecimal digits"))
}

fn strings(array: ArrayRef<'_>) -> Option<Vec<String>> {
    match array.to_owned() {
        crate::gguf::Array::String(texts) => Some(texts),
        _ => None,
    }
}

fn wrong_key(gguf: &Gguf, key: &str, problem: impl Into<String>) -> Error {
    Error::invalid(gguf.path(), format!("key {key:?}"), problem, "the file is damaged; get or convert it again")
}

/// Compares the files of a model with what `gguf` records of those it was made of.
fn sources(gguf: &Gguf, source: &Input, progress: &dyn Progress) -> Result<Vec<String>> {
    let names = gguf.array(SOURCE_FILES)?.and_then(strings);
    let (Some(names), Some(digests)) = (names, digests(gguf, SOURCE_HASHES)?) else {
        let problem = "the file does not record what it was made of";
        let error =
            Error::invalid(gguf.path(), format!("key {SOURCE_FILES:?}"), problem, "verify it without its source");
        return Err(error.with_setting(Setting::Source));
    };
    let files = source.files();
    let found: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if names.len() != digests.len() || names != found {
        let problem = format!("the file was made of {}; here are {}", names.join(", "), found.join(", "));
        return Err(Error::invalid(source.path(), "source", problem, "name the source that it was made of"));
    }
    progress.begin("hashing the source", files.iter().map(|file| file.bytes).sum());
    for (file, was) in files.iter().zip(digests) {
        progress.step(&file.name);
        let now = file.digest(|bytes| {
            progress.advance(bytes);
            progress.check()
        })?;
        if now != was {
            let problem = format!("has the SHA-256 {now}, but {} was made of one with {was}", gguf.path().display());
            return Err(Error::invalid(file.path, "file", problem, "one of the two was changed; get it again"));
        }
    }
    progress.end();
    Ok(names)
}

/// A tensor on its way through the checks.
struct Check<'a> {
    gguf: &'a Gguf,
    tensor: &'a TensorInfo,
    format: Option<&'static Format>,
    hasher: Option<Hasher>,
    at: u64, // bytes that are checked
    progress: &'a dyn Progress,
}

impl Check<'_> {
    /// All of it.
    fn tensor(&mut self, files: &[&Mapped]) -> Result<()> {
        match files.get(self.tensor.part) {
            Some(file) => self.file(file),
            None => self.window(self.gguf.data(self.tensor)),
        }
    }

    /// All of it, from its file.
    fn file(&mut self, file: &Mapped) -> Result<()> {
        let (start, len) = (self.tensor.offset, self.tensor.bytes);
        // Whole blocks.
        let block = self.tensor.ty.block_bytes();
        let window = (WINDOW / block * block) as u64;
        let read = |buffer: &mut Vec<u8>, at: u64| {
            buffer.resize(window.min(len - at) as usize, 0);
            read_at(file.file(), buffer, start + at).map_err(Error::io("read", file.path()))
        };
        let (mut now, mut next) = (Vec::new(), Vec::new());
        read(&mut now, 0)?;
        let mut at = 0;
        while at < len {
            let after = at + now.len() as u64;
            let (checked, was_read) =
                rayon::join(|| self.window(&now), || if after < len { read(&mut next, after) } else { Ok(()) });
            checked?;
            was_read?;
            std::mem::swap(&mut now, &mut next);
            at = after;
        }
        Ok(())
    }

    /// The next blocks.
    fn window(&mut self, bytes: &[u8]) -> Result<()> {
        self.progress.check()?;
        let (hasher, format) = (&mut self.hasher, self.format);
        let hash = || hasher.iter_mut().for_each(|hasher| hasher.update(bytes));
        let ((), bad) = rayon::join(hash, || format.and_then(|format| not_finite(format, bytes)));
        self.progress.advance(bytes.len() as u64);
        if let Some((at, value)) = bad {
            let ty: GgmlType = self.tensor.ty;
            let at = self.at / ty.block_bytes() as u64 * ty.block_len() as u64 + at;
            let (row, column) = (at / self.tensor.cols(), at % self.tensor.cols());
            return Err(bad_weight(self.gguf, &self.tensor.name, (row, column), value));
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// The first value of whole blocks that is no finite number, and its place.
fn not_finite(format: &Format, bytes: &[u8]) -> Option<(u64, f32)> {
    let (len, size) = (format.ty.block_len(), format.ty.block_bytes());
    let blocks = (CHUNK / len).max(1);
    bytes.par_chunks(blocks * size).enumerate().find_map_first(|(i, chunk)| {
        let mut values = vec![0.0; chunk.len() / size * len];
        (format.decode)(chunk, &mut values);
        let at = values.iter().position(|v| !v.is_finite())?;
        Some(((i * blocks * len + at) as u64, values[at]))
    })
}
