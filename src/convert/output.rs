//! One output: its bytes go to `NAME.partial` in any order, and only the complete file gets its name.
//!
//! What an earlier run left is taken up where its journal's claims prove true; see `journal.rs`.

use super::journal::{FileRead, Finished, Head, Journal, Line, Record};
use super::source::SourceFile;
use super::target::Part;
use crate::error::{Error, Result};
use crate::file::{PARTIAL, free_bytes, output_folder, read_at, sync_folder, with_ending, write_at};
use crate::gguf::{Layout, Placed};
use crate::hash::{Digest, Hasher};
use crate::progress::Progress;
use rayon::prelude::*;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Metadata keys of Strata's own. Their values have the same lengths whatever the hashes are, so the data can be placed before.
pub const SOURCE_FILES: &str = "strata.source.files";
/// The SHA-256 of each of these files.
pub const SOURCE_HASHES: &str = "strata.source.sha256";
/// The SHA-256 of the data of each tensor, in file order.
pub const TENSOR_HASHES: &str = "strata.tensors.sha256";

/// Bytes after which the system is made to write what it has gathered: what a power cut costs, and a last sync of seconds.
const SYNC: u64 = 1 << 30;

/// Bytes read at a time where a tensor is checked.
const PIECE: usize = 1 << 20;

/// A file being written, by this process alone.
pub struct Output {
    /// The name it will have.
    pub path: PathBuf,
    folder: PathBuf,
    partial: PathBuf,
    journal: Journal,
    head: Head,
    record: Option<Record>, // what an earlier run left
    layout: Layout,
    placed: Placed,
    file: Option<File>,        // the .partial, once begun
    slots: Vec<Option<usize>>, // where this file has each tensor of the model, if it has it
    done: Vec<Option<Digest>>, // by slot
    state: State,
    unsynced: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Nothing was changed yet.
    Locked,
    /// The `.partial` is this run's.
    Begun,
    /// The file has its name.
    Named,
}

impl Output {
    /// Locks the output of one `part` of a model of `tensors` tensors, and reads what an earlier run left of it, unless `restart` says that it does not count.
    ///
    /// # Errors
    /// If the path cannot be one, another process writes it, or an earlier run left something else than `head` says.
    pub fn open(part: &Part, tensors: usize, mut layout: Layout, head: Head, restart: bool) -> Result<Output> {
        let path = part.path.as_path();
        let mut slots = vec![None; tensors];
        for (slot, &tensor) in part.tensors.iter().enumerate() {
            slots[tensor] = Some(slot);
        }
        let folder = output_folder(path)?;
        let partial = with_ending(path, PARTIAL);
        if fs::symlink_metadata(&partial).is_ok_and(|about| !about.is_file()) {
            return Err(Error::invalid(&partial, "output", "is not a regular file", "remove it"));
        }
        let placed = layout.place()?;
        let journal = Journal::lock(&Journal::path_for(&partial), path)?;
        let (done, state) = (vec![None; placed.tensors.len()], State::Locked);
        let path = path.to_owned();
        let (record, file, unsynced) = (None, None, 0);
        let mut output =
            Output { path, folder, partial, journal, head, record, layout, placed, file, slots, done, state, unsynced };
        if !restart {
            let record = output.journal.read();
            // With no .partial there is no work to lose: a journal alone binds nobody.
            let binding = output.partial.exists();
            output.record = match record {
                Ok(record) => record.filter(|record| !record.finished.is_empty()),
                Err(_) if !binding => None,
                Err(error) => return Err(error),
            };
            let differences = output.record.as_ref().map(|record| record.head.differences(&output.head));
            match differences {
                Some(found) if !found.is_empty() && binding => return Err(output.another(&found)),
                Some(found) if !found.is_empty() => output.record = None,
                _ => {}
            }
        }
        Ok(output)
    }

    fn another(&self, differences: &[String]) -> Error {
        let mut problem =
            format!("an earlier run began another file: {}", differences[..differences.len().min(3)].join("; "));
        if differences.len() > 3 {
            problem += &format!("; and {} differences more", differences.len() - 3);
        }
        Error::invalid(&self.partial, "output", problem, "give --restart to discard it, or name another output")
    }

    /// Compares the beginnings of the source's files with what an earlier run saw; `heads` are theirs now. Forgets that run if it left
    /// nothing to lose.
    ///
    /// # Errors
    /// Names the file that was changed.
    pub fn check_sources(&mut self, files: &[SourceFile<'_>], heads: &[Digest]) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let checked = same_sources(&record.head, files, heads, &self.partial);
        if checked.is_err() && !self.partial.exists() {
            self.record = None;
            return Ok(());
        }
        checked
    }

    /// What an earlier run read of the source.
    pub fn read_before(&self, name: &str) -> Option<&FileRead> {
        self.record.as_ref()?.read.get(name)
    }

    /// The SHA-256 of the source file up to the end of that tensor, if an earlier run has made the tensor.
    pub fn source_mark(&self, tensor: usize) -> Option<Digest> {
        self.record.as_ref()?.finished.get(&self.head.tensors[self.slots[tensor]?].name)?.source
    }

    /// Hashes the tensors that an earlier run claims to have written; those that are as it says need not be written again.
    pub fn check_finished(&mut self, progress: &dyn Progress) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        // Killed between the renaming and the removal of the journal, that run has left the complete file.
        let named = !self.partial.exists();
        let path = if named { &self.path } else { &self.partial };
        let file = match File::open(path) {
            Ok(file) if !named || record.complete => file,
            Ok(_) => return self.forget(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.forget(),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let claimed: Vec<_> = self.head.tensors.iter().map(|tensor| record.finished.get(&tensor.name)).collect();
        let bytes =
            claimed.iter().zip(&self.head.tensors).filter(|(claim, _)| claim.is_some()).map(|(_, t)| t.bytes).sum();
        progress.begin("checking what is there", bytes);
        let done: Result<Vec<_>> = (claimed.into_par_iter().zip(&self.placed.tensors))
            .map(|(claim, range)| {
                let Some(claim) = claim else { return Ok(None) };
                let digest = hash_range(&file, range.clone(), progress).map_err(|error| match error {
                    Some(error) => Error::io("read", path)(error),
                    None => Error::Cancelled,
                })?;
                Ok((digest == Some(claim.sha256)).then_some(claim.sha256))
            })
            .collect();
        self.done = done?;
        progress.end();
        if !named {
            return Ok(());
        }
        let read = |name: &str| self.read_before(name).map(|read| read.sha256);
        let sources: Option<Vec<_>> = self.head.sources.iter().map(|source| read(&source.name)).collect();
        let mut header = vec![0; self.placed.header.len()];
        let whole = file.metadata().is_ok_and(|about| about.len() == self.placed.file_bytes)
            && self.done.iter().all(Option::is_some)
            && read_at(&file, &mut header, 0).is_ok();
        match sources {
            Some(sources) if whole && self.header(&sources)? == header => self.state = State::Named,
            _ => self.forget()?,
        }
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        self.record = None;
        self.done.fill(None);
        Ok(())
    }

    /// Bytes that the disk must still give.
    pub fn missing_bytes(&self) -> u64 {
        if self.state == State::Named {
            return 0;
        }
        let have = fs::metadata(&self.partial).map_or(0, |about| allocated(&about));
        self.placed.file_bytes.saturating_sub(have)
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.placed.file_bytes
    }

    /// True if that tensor is still to be written here.
    pub fn needs(&self, tensor: usize) -> bool {
        self.slots[tensor].is_some_and(|slot| self.done[slot].is_none())
    }

    /// The number of tensors that are written.
    pub fn finished(&self) -> usize {
        self.done.iter().flatten().count()
    }

    /// # Errors
    /// If this file does not have that tensor.
    fn slot(&self, tensor: usize) -> Result<usize> {
        self.slots[tensor].ok_or_else(|| Error::Request(format!("{} has no tensor {tensor}", self.path.display())))
    }

    /// Opens the `.partial`, or makes it.
    pub fn begin(&mut self) -> Result<()> {
        if self.state == State::Named {
            return Ok(());
        }
        match &self.record {
            Some(record) => self.journal.go_on(record)?,
            None => self.journal.begin(&self.head)?,
        }
        self.state = State::Begun;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(self.record.is_none())
            .open(&self.partial)
            .map_err(Error::io("create", &self.partial))?;
        file.set_len(self.placed.file_bytes).map_err(|error| self.failed(error))?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes bytes of a tensor, `at` bytes after its start.
    pub fn write(&mut self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let range = &self.placed.tensors[self.slot(tensor)?];
        let place = range.start + at;
        debug_assert!(place + bytes.len() as u64 <= range.end);
        let file = self.file()?;
        write_at(file, bytes, place).map_err(|error| self.failed(error))?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC {
            self.file()?.sync_data().map_err(|error| self.failed(error))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// A tensor is written whole; `source` as in [`Finished`].
    pub fn finish_tensor(&mut self, tensor: usize, sha256: Digest, source: Option<Digest>) -> Result<()> {
        let slot = self.slot(tensor)?;
        let name = self.head.tensors[slot].name.clone();
        self.journal.append(&Line::Tensor(Finished { name, sha256, source })).map_err(|error| self.explained(error))?;
        self.done[slot] = Some(sha256);
        Ok(())
    }

    /// A source file was read to its end.
    pub fn finish_source(&mut self, file: &SourceFile<'_>, sha256: Digest) -> Result<()> {
        if self.state == State::Named {
            return Ok(());
        }
        let read = FileRead { name: file.name.clone(), sha256, stamp: file.stamp.clone() };
        self.journal.append(&Line::Source(read)).map_err(|error| self.explained(error))
    }

    /// All tensors are written: writes the header, brings everything to the disk, and gives the file its name.
    pub fn complete(&mut self, sources: &[Digest]) -> Result<()> {
        if self.state == State::Named {
            return Ok(());
        }
        let header = self.header(sources)?;
        let file = self.file()?;
        let written = write_at(file, &header, 0).and_then(|()| file.sync_all());
        written.map_err(|error| self.failed(error))?;
        self.journal.append(&Line::Complete(true)).map_err(|error| self.explained(error))?;
        self.journal.sync()?;
        // Closed before the rename, which some systems refuse for open files.
        self.file = None;
        fs::rename(&self.partial, &self.path).map_err(Error::io("rename the finished .partial to", &self.path))?;
        self.state = State::Named;
        sync_folder(&self.folder)
    }

    /// Removes the journal of a complete output.
    pub fn remove_journal(&self) -> Result<()> {
        self.journal.remove()
    }

    fn header(&self, sources: &[Digest]) -> Result<Vec<u8>> {
        let mut layout = self.layout.clone();
        let missing = || Error::Request(format!("cannot complete {}: a tensor is missing", self.path.display()));
        let tensors: Option<Vec<Digest>> = self.done.iter().copied().collect();
        let tensors = tensors.ok_or_else(missing)?;
        let text = |digests: &[Digest]| digests.iter().map(Digest::to_string).collect::<Vec<_>>();
        if layout.metadata.iter().any(|(key, _)| key == SOURCE_HASHES) {
            layout.set(SOURCE_HASHES, text(sources));
        }
        layout.set(TENSOR_HASHES, text(&tensors));
        Ok(layout.place()?.header)
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| Error::Request(format!("{} was not begun", self.partial.display())))
    }

    /// The error of a write; a full disk with what it lacks.
    fn failed(&self, error: io::Error) -> Error {
        if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Error::io("write", &self.partial)(error);
        }
        let missing = self.missing_bytes();
        let free = free_bytes(&self.folder).unwrap_or(0);
        let problem = format!("is full ({error}): {missing} bytes are still to be written, {free} are free");
        let need = missing.saturating_sub(free).max(1);
        let remedy = format!("free some space, {need} bytes or more: the same command then goes on from here");
        Error::invalid(&self.partial, "disk", problem, remedy)
    }

    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => self.failed(source),
            other => other,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let nothing_done = self.done.iter().all(Option::is_none);
        // What cannot be removed here is overwritten by the next run.
        match self.state {
            State::Begun if nothing_done => {
                self.file = None;
                let _ = fs::remove_file(&self.partial);
                let _ = self.journal.remove();
            }
            State::Locked if self.journal.is_empty() => drop(self.journal.remove()),
            _ => {}
        }
    }
}

/// An error if a file of the source is not what an earlier run saw, as far as its beginning tells.
fn same_sources(head: &Head, files: &[SourceFile<'_>], heads: &[Digest], partial: &Path) -> Result<()> {
    let names = |sources: &mut dyn Iterator<Item = &str>| sources.collect::<Vec<_>>().join(", ");
    let was = names(&mut head.sources.iter().map(|source| source.name.as_str()));
    let is = names(&mut files.iter().map(|file| file.name.as_str()));
    if was != is {
        let problem = format!("an earlier run read other files: {was}; now there are {is}");
        return Err(Error::invalid(partial, "source", problem, "give --restart to discard what it did"));
    }
    for ((was, file), &head) in head.sources.iter().zip(files).zip(heads) {
        if was.bytes != file.bytes {
            return Err(changed(file.path, format!("it had {} bytes, it has {}", was.bytes, file.bytes)));
        }
        if was.head != head {
            return Err(changed(file.path, "its beginning is another".to_owned()));
        }
    }
    Ok(())
}

/// The error of a source that is not what it was.
pub fn changed(path: &Path, how: String) -> Error {
    let problem = format!("was changed since this conversion began: {how}");
    Error::invalid(path, "file", problem, "get the original back, or give --restart to begin anew with this one")
}

/// Bytes that a file takes on the disk: a sparse one fewer than it is long.
fn allocated(about: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(about).saturating_mul(512).min(about.len());
    #[cfg(not(unix))]
    return about.len();
}

/// The SHA-256 of a range of a file; `None` if the file ends before it does.
fn hash_range(
    file: &File,
    range: std::ops::Range<u64>,
    progress: &dyn Progress,
) -> std::result::Result<Option<Digest>, Option<io::Error>> {
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; PIECE]);
    let mut at = range.start;
    while at < range.end {
        if progress.cancelled() {
            return Err(None);
        }
        let piece = &mut piece[..(range.end - at).min(PIECE as u64) as usize];
        match read_at(file, piece, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(Some)?,
        }
        hasher.update(piece);
        progress.advance(piece.len() as u64);
        at += piece.len() as u64;
    }
    Ok(Some(hasher.digest()))
}
