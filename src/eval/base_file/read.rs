//! Reading a base file, of which only a few rows are in memory at a time. Nothing in it is believed before it is checked.

use super::{HEADER, MAGIC, Shape};
use crate::error::{Allocation, Error, Result, Setting};
use crate::eval::compare::Text;
use crate::eval::compare::text::Cut;
use crate::io::file::{open_regular, read_at};
use crate::io::stamp::Stamp;
use rayon::prelude::*;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An open base file.
#[derive(Debug)]
pub struct BaseFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    shape: Shape,     // of the header
    whole: usize,     // chunks
    tokens: Vec<u32>, // (whole chunks, context)
}

/// Log-probabilities of a row add up to 1, but for rounding and for those of rare tokens that were raised to the end of the range: less
/// than a tenth for a million tokens. A file that was never written to the end has rows of zeros.
const SUMS: Range<f64> = 0.5..2.0;

impl BaseFile {
    /// Opens the file of a model with a vocabulary of `vocab` tokens. If the file ends early, as a stopped llama-perplexity leaves it, it
    /// has its whole chunks.
    ///
    /// # Errors
    /// If it is not a base file, is of another vocabulary, has no whole chunk, or has a token that is not in the vocabulary.
    pub fn open(path: &Path, vocab: usize) -> Result<BaseFile> {
        let (file, stamp) = open_regular(path)?;
        let invalid = |place: String, problem: String, remedy: &str| Error::invalid(path, place, problem, remedy);
        let mut header = [0; HEADER as usize];
        let read = if stamp.bytes >= HEADER { read_at(&file, &mut header, 0) } else { Ok(()) };
        read.map_err(Error::io("read", path))?;
        if !header.starts_with(MAGIC) {
            let problem = "is no base file of llama-perplexity: it does not begin with _logits_".to_owned();
            let error = invalid("byte 0".to_owned(), problem, "make one of a text with the base model");
            return Err(error.with_setting(Setting::BaseFile));
        }
        let again = "make the file again";
        let size = |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let context = size(8) as u32 as usize;
        let (Ok(of_file @ 1..), Ok(chunks @ 1..), 4..) =
            (usize::try_from(size(12)), usize::try_from(size(16)), context)
        else {
            let problem = format!("a context of {context}, a vocabulary of {} and {} chunks", size(12), size(16));
            return Err(invalid("header".to_owned(), problem, again));
        };
        if of_file != vocab {
            let problem = format!("it has a vocabulary of {of_file} tokens, the model one of {vocab}");
            return Err(invalid("header".to_owned(), problem, "take the base file of the same model"));
        }
        let shape = Shape { context, vocab, chunks };
        let (bytes, prefix) = (u128::from(stamp.bytes), shape.prefix_bytes());
        if bytes < prefix {
            let problem = format!("it ends before its tokens do, which take {prefix} bytes");
            return Err(invalid(format!("byte {bytes}"), problem, again));
        }
        if bytes > shape.file_bytes() {
            let more = bytes - shape.file_bytes();
            let s = if more == 1 { "" } else { "s" };
            let problem = format!("it has {more} byte{s} more than {chunks} chunks of {context} tokens take");
            return Err(invalid(format!("byte {}", shape.file_bytes()), problem, again));
        }
        let whole = ((bytes - prefix) / shape.chunk_bytes()) as usize; // at most `chunks`
        if whole == 0 {
            let problem = "the run that wrote it was stopped: no chunk of it is whole".to_owned();
            return Err(invalid(format!("byte {bytes}"), problem, again));
        }
        let mut base = BaseFile { path: path.to_owned(), file, stamp, shape, whole, tokens: Vec::new() };
        base.read_tokens()?;
        Ok(base)
    }

    fn read_tokens(&mut self) -> Result<()> {
        // The file is at least as long: this is in proportion to it.
        let n = self.whole * self.shape.context;
        let no_memory = |_| Error::OutOfMemory { what: Allocation::Activations { tokens: n }, bytes: 4 * n as u64 };
        self.tokens.try_reserve_exact(n).map_err(no_memory)?;
        let mut bytes = vec![0; 4 << 16];
        while self.tokens.len() < n {
            let (first, vocab) = (self.tokens.len(), self.shape.vocab);
            let part = &mut bytes[..4 * (n - first).min(1 << 16)];
            self.read(part, HEADER + 4 * first as u64)?;
            for (i, token) in part.as_chunks().0.iter().map(|token| i32::from_le_bytes(*token)).enumerate() {
                match u32::try_from(token) {
                    Ok(token) if (token as usize) < vocab => self.tokens.push(token),
                    _ => {
                        let problem = format!("token {token} is not in the vocabulary of {vocab} tokens");
                        let place = format!("byte {}", HEADER + 4 * (first + i) as u64);
                        return Err(Error::invalid(&self.path, place, problem, "take the base file of the same model"));
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        if let Err(error) = read_at(&self.file, bytes, offset) {
            // If it was truncated since it was opened, the error names its new end.
            self.stamp.check(&self.file, &self.path, 0)?;
            return Err(Error::io("read", &self.path)(error));
        }
        Ok(())
    }

    /// The sizes in its header.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The tokens of its whole chunks, `(chunks, context)`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Chunks that its header announces and that are not there.
    pub fn missing_chunks(&self) -> usize {
        self.shape.chunks - self.whole
    }

    /// Bytes of memory that reading so many rows takes beside the file's tokens, which are in memory.
    pub fn row_memory(&self, rows: usize) -> u64 {
        (rows * (self.shape.row_bytes() + 4 * self.shape.vocab)) as u64
    }

    /// The text of its chunks, at most `max_chunks` of them, whose first token becomes `bos`.
    ///
    /// # Errors
    /// If there is to be no chunk.
    pub fn text(&self, max_chunks: Option<usize>, bos: Option<u32>) -> Result<Text> {
        let cut = Cut { context: self.shape.context, stride: None, max_chunks };
        Text::raw(self.path.to_string_lossy(), &self.tokens, cut, bos)
    }

    /// The log-probabilities after some of the scored tokens, counted through all chunks, into `log_p (rows, vocab)`. `bytes` is a buffer.
    ///
    /// # Errors
    /// If they cannot be read, or are none.
    ///
    /// # Panics
    /// If the file has no chunk with them.
    pub fn read_rows(&self, rows: Range<usize>, bytes: &mut Vec<u8>, log_p: &mut [f32]) -> Result<()> {
        let (shape, row_bytes) = (self.shape, self.shape.row_bytes());
        assert!(rows.end <= self.whole * shape.scored());
        let offset = shape.prefix_bytes() as u64 + rows.start as u64 * row_bytes as u64;
        bytes.resize(rows.len() * row_bytes, 0);
        self.read(bytes, offset)?;
        let decoded = bytes.par_chunks(row_bytes).zip(log_p.par_chunks_mut(shape.vocab)).enumerate();
        decoded.try_for_each(|(i, (row, log_p))| {
            decode(row, log_p).map_err(|problem| {
                let place = format!("byte {}", offset + (i * row_bytes) as u64);
                Error::invalid(&self.path, place, problem, "the run that wrote it may have been stopped; make it again")
            })
        })
    }

    /// That the file is still the one that was opened.
    ///
    /// # Errors
    /// If it has changed.
    pub fn check(&self) -> Result<()> {
        self.stamp.check(&self.file, &self.path, self.stamp.bytes)
    }
}

/// A row of log-probabilities, or what is wrong with it.
fn decode(row: &[u8], log_p: &mut [f32]) -> std::result::Result<(), String> {
    let (head, codes) = row.split_at(8);
    let [scale, lowest] = [&head[..4], &head[4..]].map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let greatest = scale * 65535.0 + lowest;
    if !(scale >= 0.0 && lowest.is_finite() && greatest.is_finite()) {
        return Err(format!("a scale of {scale} from {lowest} on gives no probabilities"));
    }
    let mut sum = 0.0;
    for (log_p, code) in log_p.iter_mut().zip(codes.as_chunks().0) {
        *log_p = scale * f32::from(u16::from_le_bytes(*code)) + lowest;
        sum += libm::exp(f64::from(*log_p));
    }
    if SUMS.contains(&sum) { Ok(()) } else { Err(format!("the probabilities add up to {sum:.3e}, not 1")) }
}
