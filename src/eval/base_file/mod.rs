//! llama.cpp's base file: the distributions of a base model on a text, with which llama-perplexity compares quantized models.
//!
//! ```text
//! "_logits_"   context u32   vocab i32   chunks i32   tokens i32 x chunks x context
//! for each chunk, for each of its context - 1 - context / 2 scored tokens:
//!     scale f32   lowest f32   codes u16 x vocab   one u16 of padding if vocab is odd               all little-endian
//! ln p[v] = scale * code[v] + lowest          lowest: the least ln p, or 16 below the greatest
//! ```
//! The tokens are those of the text: BOS replaces the first of each chunk only in the pass. What is less likely by more than 16 nats than
//! the most likely token is written as if it were 16 nats below it. `strata compare` has no such limit.

mod read;
pub mod statistics;
mod write;

pub use read::BaseFile;
pub use statistics::{Statistics, kl_divergence};
pub use write::BaseWriter;

const MAGIC: &[u8; 8] = b"_logits_";

/// Bytes before the tokens.
const HEADER: u64 = 20;

/// The range of log-probabilities that a file keeps, in nats.
pub const RANGE: f32 = 16.0;

/// The sizes in the header of a base file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of a chunk.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Chunks of the text.
    pub chunks: usize,
}

impl Shape {
    /// Scored tokens of a chunk.
    pub fn scored(&self) -> usize {
        (self.context - self.context / 2).saturating_sub(1)
    }

    /// Bytes of a scored token: scale, lowest, codes.
    fn row_bytes(&self) -> usize {
        8 + 2 * self.vocab.next_multiple_of(2)
    }

    /// Bytes before the first scored token.
    fn prefix_bytes(&self) -> u128 {
        u128::from(HEADER) + 4 * self.context as u128 * self.chunks as u128
    }

    /// Bytes of the scored tokens of a chunk.
    fn chunk_bytes(&self) -> u128 {
        self.scored() as u128 * self.row_bytes() as u128
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u128 {
        self.prefix_bytes() + self.chunks as u128 * self.chunk_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::inputs::Inputs;
    use std::path::Path;

    /// Two chunks of 5 tokens, of which 2 are scored, and a vocabulary of 7.
    fn small(path: &Path) -> (Shape, Vec<u32>, Vec<f32>) {
        let shape = Shape { context: 5, vocab: 7, chunks: 2 };
        let tokens: Vec<u32> = (0..10).map(|i| i * 3 % 7).collect();
        let logits: Vec<f32> = (0..4 * 7).map(|i| ((i * i * 37) % 101) as f32 / 4.0).collect(); // (4, vocab)
        let mut file = BaseWriter::create(path, &Inputs::default(), shape, &tokens).unwrap();
        logits.chunks(7).for_each(|row| file.rows(row).unwrap());
        file.finish().unwrap();
        (shape, tokens, logits)
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let (shape, tokens, logits) = small(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().len() as u128, shape.file_bytes());
        let base = BaseFile::open(&path, 7).unwrap();
        assert_eq!((base.shape(), base.tokens(), base.missing_chunks()), (shape, &tokens[..], 0));
        for chunk in 0..2 {
            let mut rows = vec![0.0; 2 * 7];
            base.read_rows(2 * chunk..2 * chunk + 2, &mut Vec::new(), &mut rows).unwrap();
            for (row, logits) in rows.chunks(7).zip(logits[chunk * 14..].chunks(7)) {
                let max = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
                let log_sum = max + logits.iter().map(|l| (*l as f64 - max).exp()).sum::<f64>().ln();
                for (log_p, logit) in row.iter().zip(logits) {
                    let expected = (*logit as f64).max(max - 16.0) - log_sum;
                    assert!((*log_p as f64 - expected).abs() < 16.0 / 65535.0, "{log_p} {expected}");
                }
            }
        }
    }

    #[test]
    fn damaged_files_are_refused_and_short_ones_used_as_far_as_they_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let (shape, ..) = small(&path);
        let whole = std::fs::read(&path).unwrap();
        let said = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let base = BaseFile::open(&path, 7)?;
            base.read_rows(0..2, &mut Vec::new(), &mut [0.0; 14]).map(|()| base.missing_chunks())
        };
        let set = |at: usize, value: [u8; 4]| move |bytes: &mut Vec<u8>| bytes[at..at + 4].copy_from_slice(&value);
        let row = shape.prefix_bytes() as usize;
        let zero = |bytes: &mut Vec<u8>| bytes[row..].fill(0);
        for (change, words) in [
            (&set(0, *b"GGUF") as &dyn Fn(&mut Vec<u8>), "is no base file"),
            (&|bytes| bytes.truncate(19), "is no base file"),
            (&set(8, 3u32.to_le_bytes()), "a context of 3"),
            (&set(8, u32::MAX.to_le_bytes()), "ends before its tokens do"),
            (&set(12, (-1i32).to_le_bytes()), "a vocabulary of -1"),
            (&set(12, 8i32.to_le_bytes()), "vocabulary of 8 tokens, the model one of 7"),
            (&set(16, i32::MAX.to_le_bytes()), "ends before its tokens do"),
            (&set(16, 0i32.to_le_bytes()), "0 chunks"),
            (&|bytes| bytes.push(0), "1 byte more than"),
            (&set(24, 7i32.to_le_bytes()), "token 7"),
            (&set(24, (-1i32).to_le_bytes()), "token -1"),
            (&|bytes| bytes.truncate(row + 40), "no chunk of it is whole"),
            (&set(row, f32::NAN.to_le_bytes()), "scale"),
            (&set(row + 4, f32::INFINITY.to_le_bytes()), "scale"),
            (&zero, "probabilities"),
        ] {
            let error = said(change).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("base"), "{words}: {error}");
        }
        assert_eq!(said(&|bytes| bytes.truncate(bytes.len() - 1)).unwrap(), 1);
    }
}
