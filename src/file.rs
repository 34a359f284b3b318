//! Files: mapped into memory for reading, written whole or not at all.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file mapped into memory, read only.
pub struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    /// Maps the whole file.
    ///
    /// # Errors
    /// If it cannot be opened, is a folder, or is empty.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Mapped> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let about = file.metadata().map_err(Error::io("read", path))?;
        if about.is_dir() {
            return Err(Error::invalid(path, "path", "is a folder", "name a file in it"));
        }
        if about.len() == 0 {
            return Err(Error::invalid(path, "byte 0", "the file is empty", "get it again"));
        }
        // SAFETY: no CPU feature; memmap2 maps exactly the file's bytes. They must not change while they are mapped: that is asked of
        // the user, as of every program that maps files, and a change can give wrong numbers or end the program but not reach
        // memory outside the map.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Mapped { path: path.to_owned(), map })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// A file that appears under its name only when it is complete: until then it is `NAME.partial`, which is removed if it is dropped.
pub struct AtomicFile {
    path: PathBuf,
    partial: PathBuf,
    out: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts writing.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be written to.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let folder = folder_of(path);
        if !folder.is_dir() {
            let problem = "the folder does not exist";
            return Err(Error::invalid(path, "output", problem, format!("make it: mkdir -p {}", folder.display())));
        }
        if path.is_dir() {
            return Err(Error::invalid(path, "output", "is a folder", "name a file in it"));
        }
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(Error::io("create", &partial))?;
        Ok(AtomicFile { path: path.to_owned(), partial, out: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let out = self.out.as_mut().ok_or_else(|| io::Error::other("the file is closed"));
        out.and_then(|out| out.write_all(bytes)).map_err(Error::io("write", &self.partial))
    }

    /// Makes the bytes durable and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or fails; the file then does not appear.
    pub fn commit(mut self) -> Result<()> {
        if let Some(out) = self.out.take() {
            let file = out.into_inner().map_err(|error| Error::io("write", &self.partial)(error.into_error()))?;
            file.sync_all().map_err(Error::io("write", &self.partial))?;
        }
        fs::rename(&self.partial, &self.path).map_err(Error::io("rename to", &self.path))?;
        let folder = folder_of(&self.path);
        // A rename is durable once the folder is; file systems that cannot sync a folder make it so themselves.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit there is nothing to remove; after a failure the user has its error already.
        let _ = fs::remove_file(&self.partial);
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
