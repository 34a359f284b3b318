//! A file of the prefix cache: the tokens of a span and their keys and values in every layer.
//!
//! ```text
//! "STRATAKV"   hash of model and types, 64 hexadecimal digits   tokens n u32   n token ids u32   bytes u64
//! bytes: layer by layer what the KV cache has of the span, as it lies there
//! XXH3, 128 bits, of all that                                   all little-endian
//! ```

use super::{SPAN, damaged};
use crate::error::{Error, Result};
use crate::io::file::open_regular;
use crate::io::hash::Digest;
use crate::model::KvCache;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"STRATAKV";

/// Bytes of the checksum.
const CHECKSUM: u64 = 16;

/// Bytes of a read or write.
const BUFFER: usize = 1 << 20;

/// An open file, of which the tokens are read.
pub(super) struct SpanFile {
    pub tokens: Vec<u32>,
    path: PathBuf,
    file: BufReader<File>,
    hash: Xxh3,
    bytes: u64, // of keys and values
}

impl SpanFile {
    /// Opens a file of the cache with this `root`.
    ///
    /// # Errors
    /// If it is none, or not whole.
    pub fn open(path: &Path, root: &Digest) -> Result<SpanFile> {
        let (file, stamp) = open_regular(path)?;
        // Its head is read often, its body once and then in large pieces, which pass by the buffer.
        let (mut file, mut hash) = (BufReader::with_capacity(4096, file), Xxh3::new());
        let mut get = |bytes: &mut [u8]| {
            file.read_exact(bytes).map_err(Error::io("read", path))?;
            hash.update(bytes);
            Ok(())
        };
        let (mut magic, mut of, mut n, mut bytes) = ([0; 8], [0; Digest::LEN], [0; 4], [0; 8]);
        get(&mut magic)?;
        get(&mut of)?;
        get(&mut n)?;
        let n = u32::from_le_bytes(n) as usize;
        if magic != *MAGIC || of != *root.to_string().as_bytes() || n == 0 || n > SPAN {
            return Err(damaged(path, "is not of this model"));
        }
        let mut ids = vec![0; 4 * n];
        get(&mut ids)?;
        get(&mut bytes)?;
        let bytes = u64::from_le_bytes(bytes);
        let head = (MAGIC.len() + Digest::LEN + 4 + 4 * n + 8) as u64;
        if bytes.checked_add(head + CHECKSUM) != Some(stamp.bytes) {
            return Err(damaged(path, format!("has {} bytes, which are not all", stamp.bytes)));
        }
        let tokens = ids.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        Ok(SpanFile { tokens, path: path.to_owned(), file, hash, bytes })
    }

    /// Reads the keys and values of its tokens into span `i` of `cache`, whose number of tokens stays.
    ///
    /// # Errors
    /// If they are not what was written; then the span holds anything.
    pub fn read(&mut self, cache: &mut KvCache, i: usize) -> Result<()> {
        if cache.span_bytes(self.tokens.len()) != self.bytes {
            return Err(self.damaged("is not of this model"));
        }
        let SpanFile { file, hash, path, .. } = self;
        cache.each_of_span(i, self.tokens.len(), |bytes| {
            file.read_exact(bytes).map_err(Error::io("read", path))?;
            hash.update(bytes);
            Ok(())
        })?;
        let mut checksum = [0; CHECKSUM as usize];
        file.read_exact(&mut checksum).map_err(Error::io("read", path))?;
        let is_right = self.hash.digest128() == u128::from_le_bytes(checksum);
        if is_right { Ok(()) } else { Err(self.damaged("is altered: its checksum is another")) }
    }

    /// The error of this file.
    pub fn damaged(&self, problem: &str) -> Error {
        damaged(&self.path, problem)
    }
}

/// Writes the keys and values of `tokens`, span `i` of `cache`, to `file`, which will be `path`.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(
    file: &mut File,
    path: &Path,
    root: &Digest,
    tokens: &[u32],
    cache: &mut KvCache,
    i: usize,
) -> Result<()> {
    let (mut file, mut hash) = (BufWriter::with_capacity(BUFFER, file), Xxh3::new());
    let mut put = |bytes: &[u8]| {
        hash.update(bytes);
        file.write_all(bytes).map_err(Error::io("write", path))
    };
    put(MAGIC)?;
    put(root.to_string().as_bytes())?;
    put(&(tokens.len() as u32).to_le_bytes())?;
    tokens.iter().try_for_each(|token| put(&token.to_le_bytes()))?;
    put(&cache.span_bytes(tokens.len()).to_le_bytes())?;
    cache.each_of_span(i, tokens.len(), |bytes| put(bytes))?;
    let checksum = hash.digest128().to_le_bytes();
    file.write_all(&checksum).and_then(|()| file.flush()).map_err(Error::io("write", path))
}
