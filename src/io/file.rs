//! Memory maps, positioned reads and writes, and checks of output paths.

// The one place of the library that needs it: mapping a file.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::guard::Guard;
use super::hash::Hasher;
use super::stamp::Stamp;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A whole file, mapped read-only: opening costs nothing, pages are read as they are touched.
///
/// Other programs should not truncate or rewrite the file while it is mapped; Strata itself never does (see [`super::outputs`]). If one
/// does, zeros replace the missing pages (`guard.rs`), and users of the bytes call [`Mapped::check`] before they return a result.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    file: Arc<File>,
    stamp: Stamp,  // taken when it was opened, before anything was read
    _guard: Guard, // dropped before the map
    map: memmap2::Mmap,
}

impl Mapped {
    /// Maps the regular, non-empty file at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Mapped> {
        let path = path.as_ref();
        let (file, stamp) = open_regular(path)?;
        if stamp.bytes == 0 {
            return Err(Error::invalid(path, "file", "is empty", "get the file again"));
        }
        // SAFETY: the map is read-only and lives as long as every slice of it, since `bytes` borrows from `self`. What remains is
        // that another process changes the file meanwhile, which no program on this system can prevent: Strata replaces files by
        // renaming, never in place, so an old map keeps its old bytes, and the doc comment forbids the rest.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let mapped = Mapped { path: path.to_owned(), file: Arc::new(file), stamp, _guard: Guard::new(&map), map };
        crate::limits::spare(0).map_err(Error::io("map", path))?;
        // The map is as long as the file was when it was made.
        mapped.check(0).map(|()| mapped)
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Advises huge pages for a file that will be read whole and often: later reads from disk are mapped 2 MB at a time where the file
    /// system can (seen with ext4 on Linux 6.18). Pages in the cache stay as they are.
    pub fn advise_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        let _ = self.map.advise(memmap2::Advice::HugePage);
    }

    /// Prefetches these bytes into the page cache.
    pub fn prefetch(&self, range: Range<usize>) {
        #[cfg(unix)]
        // A hint.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Releases the memory of the pages that were touched; they are read again when they are touched again.
    pub fn release_pages(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: no CPU feature; the map is of a file and read-only, so that what is dropped comes back with the same bytes. Where the
        // system refuses, nothing is lost but memory.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for positioned reads, which return an error where the file was truncated.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Fills `buffer` with the bytes at `offset`, by a read of the open file: a truncated file is an error here, not zeros.
    ///
    /// # Errors
    /// Also if the file ends before.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let Err(error) = read_at(&self.file, buffer, offset) else { return Ok(()) };
        self.check(offset)?;
        Err(Error::io("read", &self.path)(error))
    }

    /// Gives `take` the bytes of `range`, some at a time, as [`Mapped::read_at`] reads them. `progress` counts them.
    ///
    /// # Errors
    /// As there; those of `take`; if the user stopped.
    pub fn pieces(
        &self,
        range: Range<u64>,
        progress: &dyn Progress,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        const PIECE: u64 = 4 << 20;
        let mut at = range.start;
        let mut buffer = vec![0; PIECE.min(range.end.saturating_sub(at)) as usize];
        while at < range.end {
            progress.check()?;
            let piece = &mut buffer[..PIECE.min(range.end - at) as usize];
            self.read_at(piece, at)?;
            take(piece)?;
            progress.advance(piece.len() as u64);
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Appends the bytes of `range` to what `hasher` has seen.
    ///
    /// # Errors
    /// As [`Mapped::pieces`].
    pub fn hash(&self, range: Range<u64>, hasher: &mut Hasher, progress: &dyn Progress) -> Result<()> {
        self.pieces(range, progress, &mut |piece| {
            hasher.update(piece);
            Ok(())
        })
    }

    /// The state of the file when it was opened.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Checks that the file has not changed since it was opened, so that what was read up to byte `offset` is right.
    ///
    /// # Errors
    /// As [`Stamp::check`].
    pub fn check(&self, offset: u64) -> Result<()> {
        self.stamp.check(&self.file, &self.path, offset)
    }
}

/// Opens the regular file at `path` and takes its stamp before anything is read. Refuses named pipes and devices without opening them.
///
/// # Errors
/// If it is not a regular file or cannot be opened.
pub fn open_regular(path: &Path) -> Result<(File, Stamp)> {
    let regular = |about: &fs::Metadata| match () {
        _ if about.is_dir() => Err(Error::invalid(path, "path", "is a folder, not a file", "name a file in it")),
        _ if about.is_file() => Ok(()),
        _ => Err(Error::invalid(path, "path", "is not a regular file", "copy its contents to a file first")),
    };
    // Checked before opening, which may block on a pipe or act on a device, and again after it.
    regular(&fs::metadata(path).map_err(Error::io("open", path))?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(Error::io("open", path))?;
    let about = file.metadata().map_err(Error::io("open", path))?;
    regular(&about)?;
    Ok((file, Stamp::of(&about)))
}

/// The contents of the regular file at `path`, at most `limit` bytes.
///
/// # Errors
/// If it is longer, not a regular file, or changes while it is read.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, stamp) = open_regular(path)?;
    if stamp.bytes > limit {
        let problem = format!("has {} bytes, at most {limit} are read", stamp.bytes);
        return Err(Error::invalid(path, "file", problem, "check that it is the file that you mean"));
    }
    let mut bytes = vec![0; stamp.bytes as usize];
    if let Err(error) = read_at(&file, &mut bytes, 0) {
        // If it was truncated since it was opened, the error names its new end.
        stamp.check(&file, path, 0)?;
        return Err(Error::io("read", path)(error));
    }
    stamp.check(&file, path, stamp.bytes)?;
    Ok(bytes)
}

/// Fills `buffer` with the bytes at `offset`, independent of the file's cursor.
///
/// # Errors
/// Also if the file ends before.
pub fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match read_some_at(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => (buffer, offset) = (&mut buffer[n..], offset + n as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all bytes at `offset`, independent of the file's cursor.
pub fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match write_some_at(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => (bytes, offset) = (&bytes[n..], offset + n as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;
#[cfg(windows)]
use std::os::windows::fs::FileExt;

#[cfg(unix)]
fn read_some_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}
#[cfg(windows)]
fn read_some_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}
#[cfg(unix)]
fn write_some_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(bytes, offset)
}
#[cfg(windows)]
fn write_some_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// The free bytes of the file system of `path`; `None` where the system does not tell.
#[cfg(unix)]
pub fn free_bytes(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|about| about.f_bavail.saturating_mul(about.f_frsize))
}
/// Always `None`: this system is not asked.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// The folder of the output at `path`.
///
/// # Errors
/// If the folder does not exist or `path` names something other than a regular file: checked before hours of work, not by the rename.
pub fn output_folder(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none() {
        return Err(Error::invalid(path, "output path", "has no file name", "name the file to write"));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        let problem = format!("the folder {} does not exist", folder.display());
        return Err(Error::invalid(path, "output path", problem, format!("run `mkdir -p {}`", folder.display())));
    }
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => Err(Error::invalid(path, "output path", "is a folder", "name a file in it")),
        Ok(about) if !about.is_file() => {
            Err(Error::invalid(path, "output path", "is not a regular file", "name another file"))
        }
        _ => Ok(folder),
    }
}

/// `path` with `ending` appended to its name.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// An open folder whose renames can be synced. It is opened before the work, so that it cannot fail to open after it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    open: Option<File>, // where the system can sync folders
}

impl Folder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Folder> {
        let open = if cfg!(unix) { Some(File::open(path).map_err(Error::io("open the folder", path))?) } else { None };
        Ok(Folder { path: path.to_owned(), open })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the folder, so that renames in it survive a power cut.
    ///
    /// # Errors
    /// If the system fails to; systems without sync of folders are no error.
    pub fn sync(&self) -> Result<()> {
        match self.open.as_ref().map_or(Ok(()), File::sync_all) {
            // Some network file systems have no fsync of folders; the file itself is synced by then.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            done => done.map_err(Error::io("sync the folder", &self.path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T>(result: Result<T>) -> String {
        result.err().expect("must be refused").to_string()
    }

    #[test]
    fn what_cannot_be_mapped_is_said_clearly() {
        let folder = tempfile::tempdir().unwrap();
        assert!(error(Mapped::open(folder.path())).contains("is a folder"));
        let empty = folder.path().join("empty");
        fs::write(&empty, "").unwrap();
        assert!(error(Mapped::open(&empty)).contains("is empty"));
        let missing = Mapped::open(folder.path().join("none"));
        assert!(
            matches!(missing, Err(Error::Io { doing: "open", source, .. }) if source.kind() == io::ErrorKind::NotFound)
        );
        #[cfg(unix)]
        assert!(error(Mapped::open("/dev/zero")).contains("not a regular file"));
    }
}
