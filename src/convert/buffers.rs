//! The sizes of a conversion's buffers: chunks of rows, as large as is useful within the memory limit.

use super::plan::{Stored, Tensor};
use super::rows::{GATHERED, is_copy};
use crate::error::{Error, Result};
use crate::io::direct::{AHEAD, request_bytes};
use strata_quant::GgmlType;

/// Values in a chunk for each thread where memory allows, and the bounds of the whole chunk: 8 to 32 MiB in 16 bits. Measured with 2 threads on an
/// EPYC with AVX-512 (2026-11-24, 3.6 GB of BF16 to Q8_0 in memory): 5.2 s with chunks of 2 to 8 MiB, 5.9 s with 16, 6.6 s with 32, where
/// what one thread leaves in the cache is gone before the next one comes.
const VALUES_A_THREAD: usize = 512 << 10;
const VALUES: std::ops::RangeInclusive<usize> = 4 << 20..=16 << 20;

/// The memory limit in bytes where none is given.
const DEFAULT_LIMIT: u64 = 1 << 30;

/// The number of buffers of source rows: one being read, one waiting, one being encoded or written.
pub const SOURCES: usize = 3;

/// The number of buffers of blocks for each output: one being filled, one being written.
pub const BLOCKS: usize = 2;

/// The sizes of buffers, in bytes.
#[derive(Debug, PartialEq)]
pub struct Sizes {
    values: usize,
    /// Bytes of a disk request.
    pub request: usize,
    /// Bytes of a buffer of source rows.
    pub source: usize,
    /// Bytes of the one buffer of tensors that must be in memory as a whole.
    pub whole: usize,
    sides: u64, // bytes of scales and the like of one tensor
    /// Bytes of a buffer of blocks, by output.
    pub blocks: Vec<usize>,
}

impl Sizes {
    /// The largest chunks whose buffers fit into `limit` bytes. `wanted` are the tensors to convert with their type in each output that
    /// still needs them.
    ///
    /// # Errors
    /// If a single row does not fit, or a single head where the rows of a head are permuted.
    pub fn new(wanted: &[(&Tensor, Vec<Option<GgmlType>>)], threads: usize, limit: Option<u64>) -> Result<Sizes> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        // The files that share a tensor are read at the same time, and its columns pass through a buffer of their own.
        let parts = |tensor: &&Tensor| tensor.stored().map_or(1, |stored| stored.parts().count());
        let files = wanted.iter().map(|(tensor, _)| parts(tensor)).max().unwrap_or(1);
        let request = request_bytes(limit / files as u64);
        // Each thread has a row of floats, while it looks for an overflow another, and the codes of rows that it gathers.
        let cols = wanted.iter().map(|(tensor, _)| tensor.cols as u64).max().unwrap_or(0);
        let transposed = wanted.iter().any(|(tensor, _)| tensor.stored().is_some_and(Stored::is_transposed));
        let gathered = if transposed { GATHERED as u64 } else { 0 };
        let scratch = cols.saturating_mul(8 + gathered).saturating_mul(threads as u64);
        let outputs = wanted.first().map_or(0, |(_, types)| types.len());
        let changed = |tensor: &Tensor| tensor.stored()?.change.as_ref().map(|change| change.memory(tensor.cols));
        let changed = wanted.iter().filter_map(|(tensor, _)| changed(tensor)).max().unwrap_or(0);
        let scratch = scratch.saturating_add(changed).saturating_add((request * (AHEAD * files + outputs)) as u64);
        let mut values = VALUES_A_THREAD.saturating_mul(threads).clamp(*VALUES.start(), *VALUES.end());
        loop {
            let sizes = Sizes::with(wanted, values, request);
            let total = match &sizes {
                Some(sizes) if files > 1 => sizes.total().saturating_add(scratch + (sizes.source / files) as u64),
                Some(sizes) => sizes.total().saturating_add(scratch),
                None => u64::MAX,
            };
            match sizes {
                Some(sizes) if total <= limit => return Ok(sizes),
                _ if values > 1 => values /= 2,
                _ => {
                    let largest = wanted.iter().map(|(t, _)| *t).max_by_key(|t| t.cols.saturating_mul(unit(t)));
                    let tensor = largest.map_or(String::new(), |tensor| tensor.name.clone());
                    return Err(Error::ConversionTooLarge { limit, need: total, tensor, threads });
                }
            }
        }
    }

    /// Rows in a chunk of this tensor.
    pub fn rows(&self, tensor: &Tensor) -> usize {
        rows(tensor, self.values)
    }

    fn with(wanted: &[(&Tensor, Vec<Option<GgmlType>>)], values: usize, request: usize) -> Option<Sizes> {
        let outputs = wanted.first().map_or(0, |(_, types)| types.len());
        let mut sizes = Sizes { values, request, source: 0, whole: 0, sides: 0, blocks: vec![0; outputs] };
        for (tensor, types) in wanted {
            let Some(stored) = tensor.stored() else { continue };
            let rows = rows(tensor, values);
            let bytes = |ty: GgmlType| ty.row_bytes(tensor.cols)?.checked_mul(rows);
            match &stored.packed {
                None => sizes.source = sizes.source.max(bytes(stored.ty)?),
                Some(packed) => {
                    let all = usize::try_from(stored.bytes).ok()?;
                    match packed.is_transposed() {
                        true => sizes.whole = sizes.whole.max(all),
                        false => sizes.source = sizes.source.max((all / tensor.rows).checked_mul(rows)?),
                    }
                    sizes.sides = sizes.sides.max(packed.side_memory());
                }
            }
            for (size, ty) in sizes.blocks.iter_mut().zip(types) {
                if let Some(ty) = ty.filter(|&ty| !is_copy(stored, ty)) {
                    *size = (*size).max(bytes(ty)?);
                }
            }
        }
        Some(sizes)
    }

    fn total(&self) -> u64 {
        let blocks = self.blocks.iter().fold(0u64, |sum, &n| sum.saturating_add(n as u64));
        let sources = (self.source as u64).saturating_add(self.sides).saturating_mul(SOURCES as u64);
        sources.saturating_add(self.whole as u64).saturating_add(blocks.saturating_mul(BLOCKS as u64))
    }
}

fn rows(tensor: &Tensor, values: usize) -> usize {
    let unit = unit(tensor);
    let units = values / tensor.cols.saturating_mul(unit).max(1);
    (units.max(1) * unit).min(tensor.rows)
}

/// The number of rows that must be in one chunk: those of a head where its rows are permuted.
fn unit(tensor: &Tensor) -> usize {
    tensor.stored().and_then(|stored| stored.head_dim).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::super::plan::From;
    use super::*;
    use crate::checkpoint::Split;

    fn matrix(rows: usize, cols: usize, heads: Option<usize>) -> Tensor {
        let head_dim = heads.map(|heads| rows / heads);
        let (name, dims) = ("w".to_owned(), vec![cols as u64, rows as u64]);
        let bytes = (rows * cols * 2) as u64;
        let (name_there, ty, others, split) = (name.clone(), GgmlType::BF16, Vec::new(), Split::Rows);
        let stored = Stored {
            name: name_there,
            ty,
            file: 0,
            offset: 0,
            bytes,
            others,
            split,
            head_dim,
            packed: None,
            change: None,
        };
        Tensor { name, dims, rows, cols, from: From::Source(stored) }
    }

    #[test]
    fn chunks_shrink_to_the_memory_there_is() {
        // The widest matrix of Llama 3.1 405B and its query projection.
        let (down, q) = (matrix(16384, 53248, None), matrix(16384, 16384, Some(128)));
        let types = vec![Some(GgmlType::F32), Some(GgmlType::Q8_0), Some(GgmlType::BF16)];
        let wanted = [(&down, types.clone()), (&q, types)];
        let sizes = Sizes::new(&wanted, 2, None).unwrap();
        assert_eq!((sizes.rows(&down), sizes.rows(&q)), (78, 256));
        assert_eq!(sizes.source, 256 * 16384 * 2);
        // Copied from the source's own buffers, but not where heads are put in order.
        assert_eq!(sizes.blocks[2], 256 * 16384 * 2);
        for limit in [1 << 30, 80 << 20, 56 << 20] {
            let sizes = Sizes::new(&wanted, 2, Some(limit)).unwrap();
            assert!(sizes.total() <= limit && sizes.rows(&q).is_multiple_of(128), "{limit}: {sizes:?}");
        }
        let error = Sizes::new(&wanted, 2, Some(1 << 20)).unwrap_err();
        assert!(
            matches!(&error, Error::ConversionTooLarge { limit: 0x10_0000, need: 0x10_0001.., tensor, threads: 2 } if tensor == "w"),
            "{error}"
        );
    }
}
