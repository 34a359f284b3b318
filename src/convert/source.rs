//! What is converted: a checkpoint or a GGUF model, as files that are read once, from the first byte to the last.
//!
//! The memory map that opened them serves only for their headers. Weights come by positioned reads of the same open file, so that a
//! file cut short meanwhile is an error and not the end of the process.

use super::naming;
use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::io::direct::{Stream, request_bytes};
use crate::io::file::{Mapped, read_at};
use crate::io::hash::{Digest, Hasher};
use crate::io::inputs::Inputs;
use crate::io::stamp::Stamp;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A model to convert.
pub enum Input {
    /// A Hugging Face folder.
    Checkpoint(Box<Checkpoint>),
    /// A GGUF file, or all parts of a split one.
    Gguf(Box<Gguf>),
}

impl Input {
    /// Opens a checkpoint's folder, or a GGUF file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Gguf::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Input> {
        let path = path.as_ref();
        // A pipe or a device is refused as a file that is not regular.
        if path.is_dir() || !path.exists() {
            Ok(Input::Checkpoint(Box::new(Checkpoint::open(path)?)))
        } else {
            Ok(Input::Gguf(Box::new(Gguf::open(path)?)))
        }
    }

    /// A name for files that are made of it: that of the file without its ending, or of the checkpoint's folder; of a folder in the
    /// cache of Hugging Face, that of the model.
    pub fn name(&self) -> String {
        let name = match self {
            Input::Checkpoint(checkpoint) => naming::of_folder(&checkpoint.dir),
            Input::Gguf(gguf) => {
                gguf.path().file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
        };
        match name.rsplit('/').next() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "model".to_owned(),
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        match self {
            Input::Checkpoint(checkpoint) => &checkpoint.dir,
            Input::Gguf(gguf) => gguf.path(),
        }
    }

    /// Merges adapters into what is converted, one after the other.
    ///
    /// # Errors
    /// As [`Checkpoint::merge`]; also if this is a GGUF file.
    pub fn merge(&mut self, adapters: Vec<Adapter>) -> Result<()> {
        match self {
            Input::Checkpoint(checkpoint) => checkpoint.merge(adapters),
            Input::Gguf(gguf) => {
                let problem = "is a GGUF file, into which adapters are not merged";
                Err(Error::invalid(
                    gguf.path(),
                    "base model",
                    problem,
                    "name the folder of the base model's checkpoint",
                ))
            }
        }
    }

    /// The adapters that are merged.
    pub fn adapters(&self) -> &[Arc<Adapter>] {
        match self {
            Input::Checkpoint(checkpoint) => &checkpoint.adapters,
            Input::Gguf(_) => &[],
        }
    }

    /// Its files, in the order in which they are read.
    pub(crate) fn files(&self) -> Vec<SourceFile<'_>> {
        match self {
            Input::Checkpoint(checkpoint) => checkpoint.weights.shards().map(SourceFile::new).collect(),
            Input::Gguf(gguf) => gguf.files().map(SourceFile::new).collect(),
        }
    }

    /// Its own files.
    pub fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::default();
        match self {
            Input::Checkpoint(checkpoint) => {
                let what = "a file of the checkpoint";
                inputs.add_folder(&checkpoint.dir, what);
                checkpoint.weights.shards().for_each(|shard| inputs.add(shard.path(), what));
                checkpoint.adapters.iter().for_each(|adapter| inputs.add_folder(adapter.dir(), "a file of an adapter"));
            }
            Input::Gguf(gguf) => inputs.add_model(gguf),
        }
        inputs
    }
}

/// A file of the model.
pub struct SourceFile<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its name without folders.
    pub name: String,
    /// Its length, as its header was checked against.
    pub bytes: u64,
    /// What it was when it was opened.
    pub stamp: Stamp,
    file: &'a File,
}

/// Bytes of a file's beginning that are compared before a conversion goes on.
const HEAD: u64 = 1 << 20;

impl<'a> SourceFile<'a> {
    fn new(mapped: &'a Mapped) -> SourceFile<'a> {
        let (path, file) = (mapped.path(), mapped.file());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bytes = mapped.bytes().len() as u64;
        SourceFile { path, name, bytes, stamp: mapped.stamp().clone(), file }
    }

    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    /// Also if the file has been cut short since it was opened.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read_at(self.file, buffer, offset).map_err(|error| self.failed(error, offset + buffer.len() as u64))
    }

    /// The error of a read up to `end`.
    fn failed(&self, error: std::io::Error, end: u64) -> Error {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let problem = format!("the file ends before it; it had {} bytes when it was opened", self.bytes);
                Error::invalid(self.path, format!("byte {end}"), problem, LEAVE_IT)
            }
            _ => Error::io("read", self.path)(error),
        }
    }

    /// Of its first bytes.
    pub fn head(&self) -> Result<Digest> {
        let mut head = vec![0; self.bytes.min(HEAD) as usize];
        self.read(&mut head, 0)?;
        Ok(Digest::of(&head))
    }

    /// Of the whole file; `progress` is told how many bytes were read, and stops it by an error.
    pub fn digest(&self, progress: impl Fn(u64) -> Result<()>) -> Result<Digest> {
        let (mut hasher, mut piece, mut at) = (Hasher::default(), vec![0; HEAD as usize], 0);
        let mut reading = self.stream(request_bytes(u64::MAX))?;
        while at < self.bytes {
            let piece = &mut piece[..(self.bytes - at).min(HEAD) as usize];
            reading.fill(piece)?;
            hasher.update(piece);
            at += piece.len() as u64;
            progress(piece.len() as u64)?;
        }
        Ok(hasher.digest())
    }

    /// The file from its first byte to its last, by requests of so many bytes; see [`Stream::open`].
    pub fn stream(&self, request: usize) -> Result<Reading<'_>> {
        let stream = Stream::open(self.path, self.file, self.bytes, request).map_err(Error::io("read", self.path))?;
        Ok(Reading { file: self, stream, at: 0 })
    }

    /// An error if the file is not what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.stamp.check(self.file, self.path, self.bytes)
    }
}

/// A file that is being read from its first byte to its last.
pub struct Reading<'a> {
    file: &'a SourceFile<'a>,
    stream: Stream,
    at: u64,
}

impl Reading<'_> {
    /// Fills `buffer` with the next bytes.
    ///
    /// # Errors
    /// As [`SourceFile::read`].
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let end = self.at + buffer.len() as u64;
        self.stream.fill(buffer).map_err(|error| self.file.failed(error, end))?;
        self.at = end;
        Ok(())
    }
}

const LEAVE_IT: &str = "nothing may write to it during a conversion; get the file again";
