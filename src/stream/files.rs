//! The files that weights are read from, and the layout of reads.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::io::direct::{self, ALIGN};
use crate::io::file::Mapped;
use crate::io::stamp::Stamp;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A file, open for as long as the model is: one that is renamed or deleted meanwhile keeps its bytes.
pub struct ModelFile {
    path: PathBuf,
    ordinary: Arc<File>,            // that of the map
    direct: OnceLock<Option<File>>, // opened when it is wanted
    refuses: AtomicBool,            // direct requests, though it could be opened for them
    stamp: Stamp,
    drive: u64,
}

impl ModelFile {
    /// Opens a mapped file for reads.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(mapped: &Mapped) -> Result<ModelFile> {
        let path = mapped.path();
        let ordinary = mapped.file().clone();
        let about = ordinary.metadata().map_err(Error::io("open", path))?;
        Ok(ModelFile {
            path: path.to_owned(),
            direct: OnceLock::new(),
            ordinary,
            refuses: AtomicBool::new(false),
            stamp: mapped.stamp().clone(),
            drive: drive(&about),
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device number of its drive.
    pub fn drive(&self) -> u64 {
        self.drive
    }

    /// The handle to read from; true if it requires aligned requests.
    pub fn handle(&self, direct: bool) -> (&File, bool) {
        let wanted = direct && !self.refuses.load(Ordering::Relaxed);
        let open = || direct::open(&self.path, &self.ordinary, false);
        match wanted.then(|| self.direct.get_or_init(open)) {
            Some(Some(file)) => (file, true),
            _ => (&self.ordinary, false),
        }
    }

    /// Turns off read-ahead of the page cache: single rows will be read.
    pub fn expect_single_rows(&self) {
        #[cfg(target_os = "linux")]
        // A hint.
        let _ = rustix::fs::fadvise(&self.ordinary, 0, None, rustix::fs::Advice::Random);
    }

    /// Drops what the page cache has of it, unless another program has it mapped. Whole files only: a stretch would leave the large pages
    /// that reach beyond it.
    pub fn leave_cache(&self) {
        #[cfg(target_os = "linux")]
        // A hint.
        let _ = rustix::fs::fadvise(&self.ordinary, 0, None, rustix::fs::Advice::DontNeed);
    }

    /// Sends all further requests through the page cache.
    pub fn refuse_direct(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }

    /// Checks that it is still the file that was opened.
    ///
    /// # Errors
    /// If it has another length or was written to: what has been read of it before `offset` may not belong to what follows.
    pub fn check(&self, offset: u64) -> Result<()> {
        self.stamp.check(&self.ordinary, &self.path, offset)
    }
}

#[cfg(unix)]
fn drive(about: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(about)
}
#[cfg(not(unix))]
fn drive(_: &Metadata) -> u64 {
    0
}

/// All files of a model.
pub type ModelFiles = Arc<[ModelFile]>;

/// Opens the files of a model for reads; a model in memory has none.
///
/// # Errors
/// If the system refuses.
pub fn files(gguf: &Gguf) -> Result<ModelFiles> {
    gguf.files().map(ModelFile::open).collect::<Result<Vec<_>>>().map(ModelFiles::from)
}

/// One aligned request: `len` bytes of a file into a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file, as an index into the model's files.
    pub file: usize,
    /// The byte offset in the file.
    pub offset: u64,
    /// The byte offset in the buffer.
    pub at: usize,
    /// The number of bytes.
    pub len: usize,
    /// The number of bytes that must arrive; the file may end after them.
    pub needed: usize,
}

/// The contents of a buffer: extents of files, each aligned for direct reads.
#[derive(Clone, Debug, Default)]
pub struct ReadLayout {
    extents: Vec<Piece>, // of any length
    len: usize,
}

impl ReadLayout {
    /// Adds `bytes` bytes of a file from `offset` on, and returns their range in the buffer.
    pub fn add(&mut self, file: usize, offset: u64, bytes: u64) -> Range<usize> {
        if bytes == 0 {
            return 0..0;
        }
        let (skipped, bytes) = ((offset % ALIGN as u64) as usize, bytes as usize);
        let (at, needed) = (self.len, skipped + bytes);
        let len = needed.next_multiple_of(ALIGN);
        self.extents.push(Piece { file, offset: offset - skipped as u64, at, len, needed });
        self.len += len;
        at + skipped..at + needed
    }

    /// The size of the buffer in bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// The requests that fill the buffer, each of at most `request` bytes, a multiple of the alignment.
    pub fn pieces(&self, request: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for extent in &self.extents {
            for start in (0..extent.len).step_by(request) {
                pieces.push(Piece {
                    file: extent.file,
                    offset: extent.offset + start as u64,
                    at: extent.at + start,
                    len: request.min(extent.len - start),
                    needed: request.min(extent.needed - start),
                });
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_rounded_out_and_found_again() {
        let mut layout = ReadLayout::default();
        assert_eq!(layout.add(0, 10_000, 20_000), 1808..21_808);
        assert_eq!(layout.add(0, 77, 0), 0..0);
        assert_eq!(layout.add(1, 8192, 4096), 24_576..28_672);
        assert_eq!(layout.size(), 28_672);
        let piece = |file, offset, at, len, needed| Piece { file, offset, at, len, needed };
        assert_eq!(
            layout.pieces(16_384),
            [
                piece(0, 8192, 0, 16_384, 16_384),
                piece(0, 24_576, 16_384, 8192, 5424),
                piece(1, 8192, 24_576, 4096, 4096)
            ]
        );
    }
}
