//! Files of the source from their first byte to their last, with their SHA-256: what is asked for lies ahead, except where tensors share bytes.
//! Files that share tensors are read side by side, each sequentially, since they have their tensors in the same order; one that has another order
//! is read again where that must be.

use super::plan::Stored;
use super::source::{Reading, SourceFile};
use crate::checkpoint::Split;
use crate::error::Result;
use crate::io::hash::{Digest, Hasher};
use crate::progress::Progress;
use std::path::Path;

/// Bytes that are hashed right after they were read, or written right after they were hashed: they are in the cache then.
pub const PIECE: usize = 1 << 18;

/// A file that is being read and hashed.
pub struct Sequential<'a> {
    file: &'a SourceFile<'a>,
    reading: Reading<'a>,
    hasher: Hasher,
    at: u64,
    progress: &'a dyn Progress,
}

impl<'a> Sequential<'a> {
    /// Starts at the first byte, with requests of so many bytes.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(file: &'a SourceFile<'a>, request: usize, progress: &'a dyn Progress) -> Result<Sequential<'a>> {
        Ok(Sequential { file, reading: file.stream(request)?, hasher: Hasher::default(), at: 0, progress })
    }

    /// Hashes what comes before byte `end` and was not read yet. It counts as progress; what [`Sequential::fill`] reads does not.
    ///
    /// # Errors
    /// Also if the user stopped.
    pub fn skip_to(&mut self, end: u64) -> Result<()> {
        let mut piece = vec![0; PIECE.min(end.saturating_sub(self.at) as usize)];
        while self.at < end {
            self.progress.check()?;
            let piece = &mut piece[..(end - self.at).min(PIECE as u64) as usize];
            self.ahead(piece)?;
            self.progress.advance(piece.len() as u64);
        }
        Ok(())
    }

    /// Fills `buffer` with the bytes at `offset`. Those that have passed already are read again.
    ///
    /// # Errors
    /// As [`SourceFile::read`]; also if the user stopped.
    pub fn fill(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let behind = self.at.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (again, new) = buffer.split_at_mut(behind);
        self.file.read(again, offset)?;
        if !new.is_empty() {
            self.skip_to(offset + behind as u64)?;
            new.chunks_mut(PIECE).try_for_each(|piece| self.ahead(piece))?;
        }
        Ok(())
    }

    fn ahead(&mut self, piece: &mut [u8]) -> Result<()> {
        self.reading.fill(piece)?;
        self.hasher.update(piece);
        self.at += piece.len() as u64;
        Ok(())
    }

    /// The file.
    pub fn file(&self) -> &'a SourceFile<'a> {
        self.file
    }
}

/// What was read so far.
pub trait SoFar {
    /// The SHA-256 of all of it.
    fn digest(&self) -> Digest;
    /// Its bytes.
    fn bytes(&self) -> u64;
    /// The file, or the first of several.
    fn path(&self) -> &Path;
}

impl SoFar for Sequential<'_> {
    fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    fn bytes(&self) -> u64 {
        self.at
    }

    fn path(&self) -> &Path {
        self.file.path
    }
}

/// Files that are read side by side, and the number of the first of them.
pub struct Streams<'a>(pub Vec<Sequential<'a>>, pub usize);

impl<'a> Streams<'a> {
    fn stream(&mut self, file: usize) -> &mut Sequential<'a> {
        &mut self.0[file - self.1]
    }

    /// Hashes the files up to the end of a tensor.
    ///
    /// # Errors
    /// As [`Sequential::skip_to`].
    pub fn skip_behind(&mut self, stored: &Stored) -> Result<()> {
        stored.parts().try_for_each(|part| self.stream(part.shard).skip_to(part.offset + stored.part_bytes()))
    }

    /// Fills `out` with the rows of a tensor from `first` on, each of `row_bytes` bytes, joined from its parts.
    ///
    /// # Errors
    /// As [`Sequential::fill`].
    pub fn rows(&mut self, stored: &Stored, row_bytes: u64, first: u64, out: &mut [u8]) -> Result<()> {
        join(stored, row_bytes, first, out, |file, offset, buffer| self.stream(file).fill(offset, buffer))
    }

    /// The files that have a part of a tensor, and `sides`, the bytes of what else it is made of.
    pub fn of<'s>(&'s self, stored: &Stored, sides: &'s [Vec<u8>]) -> Parts<'s> {
        Parts { files: stored.parts().map(|part| &self.0[part.shard - self.1]).collect(), sides }
    }
}

/// The rows of a tensor from `first` on, of `row_bytes` bytes each, joined from its parts, which `read` gives by file and offset.
///
/// # Errors
/// Those of `read`.
pub fn join(
    stored: &Stored,
    row_bytes: u64,
    first: u64,
    out: &mut [u8],
    mut read: impl FnMut(usize, u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    match (stored.others.is_empty(), stored.split) {
        (true, _) => read(stored.file, stored.offset + first * row_bytes, out),
        (_, Split::Rows) => {
            let (part_bytes, mut at, mut out) = (stored.part_bytes(), first * row_bytes, out);
            for part in stored.parts().skip((at / part_bytes) as usize) {
                let within = at % part_bytes;
                let (now, later) = out.split_at_mut((part_bytes - within).min(out.len() as u64) as usize);
                read(part.shard, part.offset + within, now)?;
                (at, out) = (at + now.len() as u64, later);
                if out.is_empty() {
                    break;
                }
            }
            Ok(())
        }
        (_, Split::Columns) => {
            let columns = row_bytes / (1 + stored.others.len() as u64); // bytes of a row in a part
            let mut part_rows = vec![0; out.len() / (1 + stored.others.len())];
            for (i, part) in stored.parts().enumerate() {
                read(part.shard, part.offset + first * columns, &mut part_rows)?;
                let rows = out.chunks_exact_mut(row_bytes as usize).zip(part_rows.chunks_exact(columns as usize));
                rows.for_each(|(row, columns)| row[i * columns.len()..][..columns.len()].copy_from_slice(columns));
            }
            Ok(())
        }
    }
}

/// What a tensor is made of: the files that have a part of it, as far as they were read, and tensors that lie elsewhere.
pub struct Parts<'s> {
    files: Vec<&'s Sequential<'s>>,
    sides: &'s [Vec<u8>],
}

impl SoFar for Parts<'_> {
    /// That of the only file; of several, the SHA-256 of theirs; with sides, that of all of it.
    fn digest(&self) -> Digest {
        let files = match self.files[..] {
            [file] => file.digest(),
            ref files => Digest::of(files.iter().map(|file| file.digest().to_string()).collect::<String>().as_bytes()),
        };
        if self.sides.is_empty() {
            return files;
        }
        let mut hasher = Hasher::default();
        hasher.update(files.to_string().as_bytes());
        self.sides.iter().for_each(|side| hasher.update(side));
        hasher.digest()
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes()).sum()
    }

    fn path(&self) -> &Path {
        self.files[0].path()
    }
}
