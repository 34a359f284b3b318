//! One output: its bytes go to `NAME.partial` in any order, and only the complete file gets its name. A split output has several such
//! files and one journal.
//!
//! What an earlier run left is resumed as far as its bytes have the hashes in the journal; see `journal.rs`.

use super::journal::{Earlier, FileRead, Finished, Head, Journal, Line, Record};
use super::source::SourceFile;
use super::sync::Syncer;
use crate::error::{Error, Result, Setting};
use crate::gguf::Layout;
use crate::gguf::keys::{SOURCE_HASHES, TENSOR_HASHES};
use crate::io::direct::Sink;
use crate::io::file::{Folder, free_bytes, open_regular, output_folder, read_at, write_at};
use crate::io::hash::{Digest, Hasher};
use crate::io::partial::{self, Partial};
use crate::progress::Progress;
use rayon::prelude::*;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at a time where a tensor is checked.
const PIECE: usize = 1 << 20;

/// A file of an output.
pub struct OutputFile {
    /// The final path.
    pub path: PathBuf,
    /// Its metadata and tensors.
    pub layout: Layout,
}

/// An output that this process alone writes: one file, or the files of a split model.
pub struct Output {
    /// The path of the only file, or the one from which the names of several are made.
    pub path: PathBuf,
    folder: Folder,
    parts: Vec<UnfinishedFile>,
    places: Vec<Place>, // by tensor
    journal: Journal,
    head: Head,
    record: Option<Record>,    // what an earlier run left
    worthless: Vec<PathBuf>,   // .partial files of earlier runs, to be removed unless they are gone on with
    done: Vec<Option<Digest>>, // by tensor
    begun: bool,               // the journal and the .partial files are this run's
    syncer: Option<Syncer>,    // once begun
    request: usize,
    sink: Option<(usize, Sink)>, // of the part that is being written
}

/// A file that is not complete yet, or has just become so.
struct UnfinishedFile {
    path: PathBuf,
    partial: PathBuf,
    layout: Layout,
    header_bytes: u64,
    file_bytes: u64,
    file: Option<Partial>, // that of an earlier run, or once begun
    resumed: bool,         // it is that of an earlier run
    named: bool,           // complete, under its name
}

/// Extra bytes of an unfinished file. Nothing is written there, so that a file which another program has truncated stays too short and is
/// noticed, whatever was written since.
const BEYOND: u64 = 1;

/// The location of a tensor.
struct Place {
    part: usize,
    range: Range<u64>,
}

impl Output {
    /// Locks the output at `path`, and reads what an earlier run left of it unless `restart` discards that. The tensors of
    /// the parts, in their order, are those of `head`; the first part has the keys of hashes.
    ///
    /// # Errors
    /// If the path cannot be one, another process writes it, or an earlier run left something else than `head` says.
    pub fn open(
        path: &Path,
        parts: Vec<OutputFile>,
        head: Head,
        restart: bool,
        progress: &dyn Progress,
    ) -> Result<Output> {
        let folder = Folder::open(&output_folder(path)?)?;
        let (mut growing, mut places) = (Vec::with_capacity(parts.len()), Vec::new());
        for OutputFile { path, mut layout } in parts {
            output_folder(&path)?;
            let partial = Partial::path_for(&path);
            let placed = layout.place()?;
            places.extend(placed.tensors.into_iter().map(|range| Place { part: growing.len(), range }));
            let (header_bytes, file_bytes) = (placed.header.len() as u64, placed.file_bytes);
            let (file, resumed, named) = (None, false, false);
            growing.push(UnfinishedFile { path, partial, layout, header_bytes, file_bytes, file, resumed, named });
        }
        let mut journal = Journal::lock(path)?;
        let earlier = journal.read()?;
        let (path, parts, done) = (path.to_owned(), growing, vec![None; places.len()]);
        let (record, worthless, begun, syncer, request, sink) = (None, Vec::new(), false, None, 0, None);
        let mut output = Output {
            path,
            folder,
            parts,
            places,
            journal,
            head,
            record,
            worthless,
            done,
            begun,
            syncer,
            request,
            sink,
        };
        output.consider(earlier, restart, progress)?;
        Ok(output)
    }

    /// Decides whether what an earlier run has left is resumed, replaced or refused.
    fn consider(&mut self, earlier: Earlier, restart: bool, progress: &dyn Progress) -> Result<()> {
        match earlier {
            Earlier::Other(partials, error) => {
                if !restart && partials.iter().any(|partial| partial.exists()) {
                    return Err(error);
                }
                self.worthless = partials;
            }
            Earlier::Nothing => {
                let unknown = |_: &&UnfinishedFile| !restart;
                let remedy = "move it away, name another output, or discard it";
                let mut unknown = self.parts.iter().filter(unknown);
                unknown
                    .try_for_each(|part| Partial::refuse_existing(&part.path, remedy))
                    .map_err(|error| error.with_setting(Setting::Restart))?;
            }
            Earlier::Unknown(error) if !restart && self.has_partials() => return Err(error),
            Earlier::Unknown(_) => {}
            Earlier::Record(record) => {
                self.worthless = self.journal.partials(&record);
                let differences = record.head.differences(&self.head);
                if !restart && !differences.is_empty() && self.has_partials() {
                    return Err(self.another(&differences));
                }
                if !restart && differences.is_empty() {
                    if let Some(line) = record.damaged {
                        progress.warn(&format!(
                            "{}: line {line} is damaged, by another program or when power was lost: what it and the lines after it \
                             say is done again",
                            self.journal.path().display()
                        ));
                    }
                    self.record = Some(*record).filter(|record| !record.finished.is_empty());
                }
            }
        }
        // The journal says that its files are Strata's own; where it cannot be read, the user does.
        self.worthless.extend(self.parts.iter().map(|part| part.partial.clone()));
        Ok(())
    }

    /// True if there is unfinished work to lose; a journal alone is none.
    fn has_partials(&self) -> bool {
        self.parts.iter().map(|part| &part.partial).chain(&self.worthless).any(|partial| partial.exists())
    }

    /// True if every file has its name.
    fn is_named(&self) -> bool {
        self.parts.iter().all(|part| part.named)
    }

    fn another(&self, differences: &[String]) -> Error {
        let mut problem =
            format!("an earlier run began another file: {}", differences[..differences.len().min(3)].join("; "));
        if differences.len() > 3 {
            problem += &format!("; and {} differences more", differences.len() - 3);
        }
        Error::invalid(&self.path, "output", problem, "name another output, or discard the earlier one")
            .with_setting(Setting::Restart)
    }

    /// Compares the hashes of the beginnings of the source's files, `heads`, with those of an earlier run. Ignores that run if it left no
    /// work to lose.
    ///
    /// # Errors
    /// Names the file that was changed.
    pub fn check_sources(&mut self, files: &[SourceFile<'_>], heads: &[Digest]) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let checked = same_sources(&record.head, files, heads, &self.path);
        if checked.is_err() && !self.has_partials() {
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
        self.record.as_ref()?.finished.get(&self.head.tensors[tensor].name)?.source
    }

    /// Hashes the tensors that an earlier run has written according to its journal; those with the recorded hash are not written again.
    pub fn check_finished(&mut self, progress: &dyn Progress) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        // Killed between a renaming and the removal of the journal, that run has left complete files.
        let mut files = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            if fs::symlink_metadata(&part.partial).is_ok() {
                let partial = part.file.insert(Partial::reopen(&part.path)?);
                part.resumed = true;
                files.push(Some((partial.file().clone(), false)));
            } else if record.complete && part.path.exists() {
                files.push(Some((Arc::new(open_regular(&part.path)?.0), true)));
            } else {
                files.push(None);
            }
        }
        let claimed: Vec<_> = self.head.tensors.iter().map(|tensor| record.finished.get(&tensor.name)).collect();
        let claims = claimed.iter().zip(&self.head.tensors).filter(|(claim, _)| claim.is_some());
        progress.begin("checking what is there", claims.map(|(_, tensor)| tensor.bytes).sum());
        let done: Result<Vec<_>> = (claimed.par_iter().zip(&self.places))
            .map(|(claim, place)| {
                let (Some(claim), Some((file, _))) = (claim, &files[place.part]) else { return Ok(None) };
                let digest = hash_range(file, place.range.clone(), progress).map_err(|error| match error {
                    Some(error) => Error::io("read", &self.parts[place.part].path)(error),
                    None => Error::Cancelled,
                })?;
                Ok((digest == Some(claim.sha256)).then_some(claim.sha256))
            })
            .collect();
        self.done = done?;
        progress.end();
        let lost = claimed.iter().zip(&self.places).zip(&self.done);
        let lost =
            lost.filter(|((claim, place), done)| claim.is_some() && done.is_none() && files[place.part].is_some());
        let (lost, partial) = (lost.count(), self.parts[0].partial.display());
        if lost > 0 {
            progress.warn(&format!(
                "{partial}: {lost} tensors are not what the journal says was written, since another program has changed them or power was \
                 lost; they are written again"
            ));
        }
        for (i, file) in files.into_iter().enumerate() {
            let Some((file, true)) = file else { continue };
            // A file under its final name is never written to: it is complete, or it is replaced.
            self.parts[i].named = self.is_complete(i, &file)?;
            for (_, done) in self.places.iter().zip(&mut self.done).filter(|(place, _)| place.part == i) {
                *done = done.filter(|_| self.parts[i].named);
            }
        }
        if self.done.iter().all(Option::is_none) {
            self.record = None;
        }
        Ok(())
    }

    /// True if the file holds all of its part, header included.
    fn is_complete(&self, part: usize, file: &File) -> Result<bool> {
        let read = |name: &str| self.read_before(name).map(|read| read.sha256);
        let sources: Option<Vec<_>> = self.head.sources.iter().map(|source| read(&source.name)).collect();
        let Some(sources) = sources.filter(|_| self.done.iter().all(Option::is_some)) else { return Ok(false) };
        let header = self.header(part, &sources)?;
        let mut there = vec![0; header.len()];
        let whole = file.metadata().is_ok_and(|about| about.len() == self.parts[part].file_bytes);
        Ok(whole && read_at(file, &mut there, 0).is_ok() && there == header)
    }

    /// Bytes of disk space that are still needed.
    pub fn missing_bytes(&self) -> u64 {
        let missing = |part: &UnfinishedFile| {
            let have = fs::metadata(&part.partial).map_or(0, |about| allocated(&about));
            part.file_bytes.saturating_sub(have)
        };
        self.parts.iter().filter(|part| !part.named).map(missing).sum()
    }

    /// The folder of the output.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.file_bytes).sum()
    }

    /// True if the tensor is not written yet.
    pub fn needs(&self, tensor: usize) -> bool {
        self.done[tensor].is_none()
    }

    /// Opens or creates the `.partial` files, which are written by requests of `request` bytes.
    pub fn begin(&mut self, request: usize) -> Result<()> {
        self.request = request;
        if self.is_named() {
            return Ok(());
        }
        match &self.record {
            Some(record) => self.journal.resume(record)?,
            None => {
                self.parts.iter_mut().for_each(|part| (part.file, part.resumed) = (None, false));
                self.worthless.iter().try_for_each(|partial| partial::discard(partial))?;
                self.journal.begin(&self.head)?;
            }
        }
        self.begun = true;
        for i in 0..self.parts.len() {
            let part = &mut self.parts[i];
            if part.named {
                continue;
            }
            let file = match part.file.take() {
                Some(file) => file,
                None => Partial::create(&part.path)?,
            };
            let file = part.file.insert(file).file().clone();
            file.set_len(part.file_bytes + BEYOND).map_err(|error| self.failed(i, error))?;
            self.file(i)?.wrote();
        }
        self.syncer = Some(Syncer::start().map_err(Error::io("start a thread for", &self.path))?);
        Ok(())
    }

    /// Writes bytes of a tensor, `at` bytes after its start.
    pub fn write(&mut self, tensor: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let Place { part, range } = &self.places[tensor];
        let (part, place) = (*part, range.start + at);
        debug_assert!(place + bytes.len() as u64 <= range.end);
        if self.sink.as_ref().is_none_or(|(of, _)| *of != part) {
            self.flush()?;
            let file = self.file(part)?.file().clone();
            self.sink = Some((part, Sink::new(&self.parts[part].partial, file, self.request)));
        }
        self.check(part)?;
        let (sink, syncer) = (self.sink.as_mut(), self.syncer.as_mut());
        let wrote = sink.map_or(Ok(()), |(_, sink)| {
            sink.write(bytes, place)?;
            syncer.map_or(Ok(()), |syncer| syncer.wrote(sink.file(), bytes.len() as u64))
        });
        wrote.map_err(|error| self.failed(part, error))?;
        self.file(part).map(Partial::wrote)
    }

    /// The bytes of a tensor that is written.
    pub fn read(&mut self, tensor: usize) -> Result<Vec<u8>> {
        self.flush()?;
        let Place { part, range } = &self.places[tensor];
        let mut bytes = vec![0; (range.end - range.start) as usize];
        read_at(self.file(*part)?.file(), &mut bytes, range.start)
            .map_err(Error::io("read", &self.parts[*part].partial))?;
        Ok(bytes)
    }

    /// Writes what the sink has gathered.
    fn flush(&mut self) -> Result<()> {
        let Some((part, _)) = self.sink else { return Ok(()) };
        self.check(part)?;
        let flushed = self.sink.as_mut().map_or(Ok(()), |(_, sink)| sink.flush());
        flushed.map_err(|error| self.failed(part, error))?;
        self.file(part).map(Partial::wrote)
    }

    /// Checks that no other program has changed a file that is being written.
    fn check(&self, part: usize) -> Result<()> {
        self.file(part)?.check(self.parts[part].file_bytes + BEYOND)
    }

    /// A tensor is written whole; `source` as in [`Finished`].
    pub fn finish_tensor(&mut self, tensor: usize, sha256: Digest, source: Option<Digest>) -> Result<()> {
        self.flush()?;
        self.check(self.places[tensor].part)?;
        let name = self.head.tensors[tensor].name.clone();
        self.journal.append(&Line::Tensor(Finished { name, sha256, source })).map_err(|error| self.explained(error))?;
        self.done[tensor] = Some(sha256);
        Ok(())
    }

    /// A source file was read to its end.
    pub fn finish_source(&mut self, file: &SourceFile<'_>, sha256: Digest) -> Result<()> {
        if !self.begun {
            return Ok(());
        }
        let read = FileRead { name: file.name.clone(), sha256, stamp: file.stamp.clone() };
        self.journal.append(&Line::Source(read)).map_err(|error| self.explained(error))
    }

    /// All tensors are written: writes the headers, brings everything to the disk, and gives the files their names.
    pub fn complete(&mut self, sources: &[Digest]) -> Result<()> {
        if self.is_named() {
            return Ok(());
        }
        self.flush()?;
        self.sink = None;
        if let Some(mut syncer) = self.syncer.take() {
            syncer.finish().map_err(|error| self.failed(0, error))?;
        }
        for i in (0..self.parts.len()).filter(|&i| !self.parts[i].named) {
            let (header, file_bytes) = (self.header(i, sources)?, self.parts[i].file_bytes);
            self.check(i)?;
            let file = self.file(i)?.file();
            let written = write_at(file, &header, 0).and_then(|()| {
                file.set_len(file_bytes)?;
                self.gaps(i).try_for_each(|gap| write_at(file, &vec![0; (gap.end - gap.start) as usize], gap.start))?;
                file.sync_all()
            });
            written.map_err(|error| self.failed(i, error))?;
            self.file(i)?.wrote();
        }
        self.journal.append(&Line::Complete(true)).map_err(|error| self.explained(error))?;
        self.journal.sync()?;
        for part in self.parts.iter_mut().filter(|part| !part.named) {
            part.file.take().map_or(Ok(()), |file| file.name(part.file_bytes))?;
            part.named = true;
        }
        self.folder.sync()
    }

    /// The bytes between the tensors of a part, at most an alignment each, which whatever an earlier run has left may not be: zeros.
    fn gaps(&self, part: usize) -> impl Iterator<Item = Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        if self.parts[part].resumed {
            ranges.extend(self.places.iter().filter(|place| place.part == part).map(|place| place.range.clone()));
        }
        ranges.sort_by_key(|range| range.start);
        let ends =
            ranges.iter().skip(1).map(|range| range.start).chain([self.parts[part].file_bytes]).collect::<Vec<_>>();
        ranges.into_iter().zip(ends).map(|(range, next)| range.end..next)
    }

    /// Removes the journal of a complete output.
    pub fn remove_journal(&self) -> Result<()> {
        self.journal.remove()
    }

    /// The header of a part; that of the first has the hashes.
    fn header(&self, part: usize, sources: &[Digest]) -> Result<Vec<u8>> {
        let tensors: Option<Vec<Digest>> = self.done.iter().copied().collect();
        let tensors = tensors.ok_or(Error::Internal("an output is completed before all its tensors are written"))?;
        let text = |digests: &[Digest]| digests.iter().map(Digest::to_string).collect::<Vec<_>>();
        let mut layout = self.parts[part].layout.clone();
        if part == 0 {
            layout.set(SOURCE_HASHES, text(sources));
            layout.set(TENSOR_HASHES, text(&tensors));
        }
        let header = layout.place()?.header;
        // The data lies where a header of this length ends.
        match header.len() as u64 == self.parts[part].header_bytes {
            true => Ok(header),
            false => Err(Error::Internal("the header of an output has another length than planned")),
        }
    }

    fn file(&self, part: usize) -> Result<&Partial> {
        let part = &self.parts[part];
        part.file.as_ref().ok_or(Error::Internal("an output is written before it was begun"))
    }

    /// The error of a write to a file; a full disk is reported with the bytes that are missing.
    fn failed(&self, part: usize, error: io::Error) -> Error {
        let partial = &self.parts[part].partial;
        if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Error::io("write", partial)(error);
        }
        let missing = self.missing_bytes();
        let free = free_bytes(self.folder.path()).unwrap_or(0);
        let problem = format!("is full ({error}): {missing} bytes are still to be written, {free} are free");
        let need = missing.saturating_sub(free).max(1);
        let remedy = format!("free some space, {need} bytes or more: the same command then resumes from here");
        Error::invalid(partial, "disk", problem, remedy)
    }

    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => self.failed(0, source),
            other => other,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let nothing_done = self.done.iter().all(Option::is_none);
        if self.begun && nothing_done {
            // What cannot be removed here is removed by the next run.
            self.parts.iter().filter_map(|part| part.file.as_ref()).for_each(Partial::remove);
            let _ = self.journal.remove();
        } else if !self.begun && self.journal.is_empty() {
            let _ = self.journal.remove();
        }
    }
}

/// An error if a file of the source is not what an earlier run saw, as far as its beginning tells.
fn same_sources(head: &Head, files: &[SourceFile<'_>], heads: &[Digest], output: &Path) -> Result<()> {
    let names = |sources: &mut dyn Iterator<Item = &str>| sources.collect::<Vec<_>>().join(", ");
    let was = names(&mut head.sources.iter().map(|source| source.name.as_str()));
    let is = names(&mut files.iter().map(|file| file.name.as_str()));
    if was != is {
        let problem = format!("an earlier run read other files: {was}; now there are {is}");
        let remedy = "name another output, or discard what that run did";
        return Err(Error::invalid(output, "source", problem, remedy).with_setting(Setting::Restart));
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
    Error::invalid(path, "file", problem, "get the original back, or start over with this one")
        .with_setting(Setting::Restart)
}

/// Bytes that a file takes on the disk; a sparse one takes fewer than its length.
fn allocated(about: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(about).saturating_mul(512).min(about.len());
    #[cfg(not(unix))]
    return about.len();
}

/// The SHA-256 of a range of a file; `None` if the file ends before it does.
fn hash_range(
    file: &File,
    range: Range<u64>,
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
