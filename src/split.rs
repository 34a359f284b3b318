//! Splitting a GGUF model over several files and joining them again, laid out as gguf-split does.
//!
//! The first file carries all metadata, every file the three keys `split.no`, `split.tensors.count` and `split.count`.
//! The order and the bytes of the tensors stay. Joining drops the three keys: what was split comes back byte for byte.
//!
//! Data goes by plain reads and writes through one buffer: a model larger than the memory does not crowd it. All files
//! are complete under names that end in `.new` before the first gets its own: a failure leaves nothing behind.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file::{Mapped, output_folder, sync_folder};
use crate::gguf::{Gguf, Layout, TensorInfo, Value, Writer};
use crate::progress::Progress;

/// The key of a file's place among all, from 0.
pub const NO_KEY: &str = "split.no";
/// The key of the number of files.
pub const COUNT_KEY: &str = "split.count";
/// The key of the number of tensors in all files.
pub const TENSORS_KEY: &str = "split.tensors.count";
/// Tensors in a file where nothing says otherwise; gguf-split's own default.
pub const MAX_TENSORS: usize = 128;

/// gguf-split counts tensors with their padding to this.
const PADDING: u64 = 32;
/// What is read at a time.
const BUFFER: usize = 1 << 20;

/// When a file is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitLimit {
    /// So many bytes of tensors; a larger tensor gets a file of its own.
    Bytes(u64),
    /// So many tensors.
    Tensors(usize),
}

/// How to split.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When a file is full.
    pub limit: SplitLimit,
    /// The first file has metadata only.
    pub first_without_tensors: bool,
}

/// One of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Where it goes.
    pub path: PathBuf,
    /// Which of the model's tensors it has, in their order.
    pub tensors: Range<usize>,
    /// The bytes of those tensors, without metadata and padding.
    pub bytes: u64,
}

/// Which tensors go into which file, given the bytes of each: in order, each file filled up to the limit. At least one
/// file.
pub fn plan_shards(tensor_bytes: &[u64], max: SplitLimit, first_without_tensors: bool) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    if first_without_tensors {
        shards.push(0..0);
    }
    let (mut start, mut filled) = (0, 0u64);
    for (i, &bytes) in tensor_bytes.iter().enumerate() {
        let bytes = bytes.checked_next_multiple_of(PADDING).unwrap_or(u64::MAX);
        let full = match max {
            SplitLimit::Bytes(max) => filled.saturating_add(bytes) > max,
            SplitLimit::Tensors(max) => i - start >= max,
        };
        if full && i > start {
            shards.push(start..i);
            (start, filled) = (i, 0);
        }
        filled = filled.saturating_add(bytes);
    }
    if start < tensor_bytes.len() || shards.is_empty() {
        shards.push(start..tensor_bytes.len());
    }
    shards
}

/// What file `no` (from 0) of `count` says about a split into them, of `tensors` tensors in all; comes after all other
/// metadata.
///
/// # Errors
/// If there are more files or tensors than the format can count.
pub fn shard_metadata(no: usize, count: usize, tensors: usize) -> Result<[(&'static str, Value); 3]> {
    match (u16::try_from(no), u16::try_from(count), i32::try_from(tensors)) {
        (Ok(no), Ok(count), Ok(tensors)) => {
            Ok([(NO_KEY, no.into()), (TENSORS_KEY, tensors.into()), (COUNT_KEY, count.into())])
        }
        _ => Err(Error::Request(format!(
            "cannot split {tensors} tensors over {count} files: at most {} files are possible; choose a larger limit",
            u16::MAX
        ))),
    }
}

/// The name of file `no` (from 0) of `count`: `PREFIX-00001-of-00003.gguf`.
pub fn shard_path(prefix: &Path, no: usize, count: usize) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(format!("-{:05}-of-{count:05}.gguf", no + 1));
    name.into()
}

/// The files that [`split`] would write.
///
/// # Errors
/// If there would be too many.
pub fn plan(gguf: &Gguf, prefix: &Path, options: &Options) -> Result<Vec<Shard>> {
    let alignment = u64::from(gguf.u32(ALIGNMENT_KEY)?.unwrap_or(0)).max(1);
    let sizes: Vec<u64> = gguf.tensors().iter().map(|t| t.bytes.next_multiple_of(alignment)).collect();
    let ranges = plan_shards(&sizes, options.limit, options.first_without_tensors);
    let count = ranges.len();
    shard_metadata(0, count, sizes.len())?;
    let shard = |(no, tensors): (usize, Range<usize>)| {
        let bytes = gguf.tensors()[tensors.clone()].iter().map(|t| t.bytes).sum();
        Shard { path: shard_path(prefix, no, count), tensors, bytes }
    };
    Ok(ranges.into_iter().enumerate().map(shard).collect())
}

/// Writes the model as files `PREFIX-00001-of-0000N.gguf`, and returns them. `progress` counts bytes.
///
/// # Errors If a file cannot be read or written, one of them is the model itself, or the user stopped; nothing is left
/// behind then.
pub fn split(gguf: &Gguf, prefix: &Path, options: &Options, progress: &dyn Progress) -> Result<Vec<Shard>> {
    let shards = plan(gguf, prefix, options)?;
    shards.iter().try_for_each(|shard| check_output(gguf, &shard.path))?;
    let mut metadata = own_metadata(gguf);
    let mut staged = Staged::default();
    progress.begin("splitting", gguf.tensors().iter().map(|t| t.bytes).sum());
    for (no, shard) in shards.iter().enumerate() {
        let mut layout = Layout::new();
        layout.alignment = gguf.u32(ALIGNMENT_KEY)?.unwrap_or(layout.alignment);
        // Only the first has any: the vocabulary is large.
        layout.metadata = std::mem::take(&mut metadata);
        shard_metadata(no, shards.len(), gguf.tensors().len())?.into_iter().for_each(|(k, v)| layout.set(k, v));
        let tensors = &gguf.tensors()[shard.tensors.clone()];
        tensors.iter().for_each(|t| layout.tensor(&t.name, &t.dims, t.ty));
        let mut writer = layout.create(staged.add(&shard.path))?;
        copy(gguf, tensors, &mut writer, progress)?;
        writer.finish()?;
    }
    staged.commit()?;
    progress.end();
    Ok(shards)
}

/// Writes a split model as the one file `output`. `progress` counts bytes.
///
/// # Errors If the model is not split, a file cannot be read or written, `output` is one of the parts, or the user
/// stopped; nothing is left behind then.
pub fn merge(gguf: &Gguf, output: &Path, progress: &dyn Progress) -> Result<()> {
    if gguf.u32(COUNT_KEY)?.unwrap_or(0) == 0 {
        let problem = "is missing or 0: the file is not a part of a split model";
        return Err(Error::invalid(gguf.path(), format!("key {COUNT_KEY:?}"), problem, "name one of the parts"));
    }
    check_output(gguf, output)?;
    let mut layout = Layout::new();
    layout.alignment = gguf.u32(ALIGNMENT_KEY)?.unwrap_or(layout.alignment);
    layout.metadata = own_metadata(gguf);
    gguf.tensors().iter().for_each(|t| layout.tensor(&t.name, &t.dims, t.ty));
    progress.begin("merging", gguf.tensors().iter().map(|t| t.bytes).sum());
    let mut writer = layout.create(output)?;
    copy(gguf, gguf.tensors(), &mut writer, progress)?;
    writer.finish()?;
    progress.end();
    Ok(())
}

const ALIGNMENT_KEY: &str = "general.alignment";

/// All metadata but the keys of a split.
fn own_metadata(gguf: &Gguf) -> Vec<(String, Value)> {
    let pairs = gguf.metadata().iter().filter(|(key, _)| ![NO_KEY, COUNT_KEY, TENSORS_KEY].contains(key));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Refuses, before hours of work, to replace a folder or one of the model's own files.
fn check_output(gguf: &Gguf, output: &Path) -> Result<()> {
    let Ok(known) = output.canonicalize() else { return Ok(()) };
    let wrong = |problem: &str| Err(Error::invalid(output, "output path", problem, "choose another name"));
    if known.is_dir() {
        return wrong("is a folder");
    }
    if gguf.files().any(|part| part.path().canonicalize().is_ok_and(|part| part == known)) {
        return wrong("is the file that is read");
    }
    Ok(())
}

/// Appends the blocks of the tensors.
fn copy(gguf: &Gguf, tensors: &[TensorInfo], writer: &mut Writer, progress: &dyn Progress) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let paths: Vec<&Path> = gguf.files().map(Mapped::path).collect();
    let mut open: Option<(usize, File)> = None; // the part that is being read
    for tensor in tensors {
        let Some(path) = paths.get(tensor.part) else {
            return Err(Error::Request("a model in memory cannot be split or merged; write it to a file".to_owned()));
        };
        let mut file = match open.take() {
            Some((part, file)) if part == tensor.part => file,
            _ => File::open(path).map_err(Error::io("open", path))?,
        };
        file.seek(SeekFrom::Start(tensor.offset)).map_err(Error::io("read", path))?;
        writer.begin(&tensor.name)?;
        let mut left = tensor.bytes;
        while left > 0 {
            progress.check()?;
            let n = left.min(BUFFER as u64) as usize;
            file.read_exact(&mut buffer[..n]).map_err(Error::io("read", path))?;
            writer.write(&buffer[..n])?;
            progress.advance(n as u64);
            left -= n as u64;
        }
        open = Some((tensor.part, file));
    }
    Ok(())
}

/// Finished files that do not have their names yet; dropped before [`commit`](Staged::commit), it removes them.
#[derive(Default)]
struct Staged {
    files: Vec<(PathBuf, PathBuf)>, // under which name it is, which it will have
}

impl Staged {
    /// Where to write the file that will be `path`.
    fn add(&mut self, path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        self.files.push((name.clone().into(), path.to_owned()));
        name.into()
    }

    /// Gives all files their names, replacing what had them, so that they last through a power cut. All are in one folder.
    fn commit(mut self) -> Result<()> {
        let folder = self.files.first().map(|(_, path)| output_folder(path)).transpose()?;
        while let Some((staged, path)) = self.files.first() {
            fs::rename(staged, path).map_err(Error::io("rename the finished .new to", path))?;
            self.files.remove(0);
        }
        folder.map_or(Ok(()), |folder| sync_folder(&folder))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for (staged, _) in &self.files {
            // Nothing better can be done about a failure here; the last may not exist yet.
            let _ = fs::remove_file(staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Files that hold all tensors, and none.
    #[allow(clippy::single_range_in_vec_init)]
    #[test]
    fn shards_are_those_of_gguf_split() {
        let bytes = |max| SplitLimit::Bytes(max);
        let count = |max| SplitLimit::Tensors(max);
        type Case<'a> = (&'a [u64], SplitLimit, bool, &'a [Range<usize>]);
        let table: &[Case<'_>] = &[
            (&[], count(128), false, &[0..0]),
            (&[], bytes(1), true, &[0..0]),
            (&[64; 4], count(2), false, &[0..2, 2..4]),
            (&[64; 5], count(2), false, &[0..2, 2..4, 4..5]),
            (&[64; 5], count(2), true, &[0..0, 0..2, 2..4, 4..5]),
            (&[64; 3], count(usize::MAX), false, &[0..3]),
            (&[64; 3], count(0), false, &[0..1, 1..2, 2..3]),
            (&[64; 4], bytes(128), false, &[0..2, 2..4]),
            (&[64; 4], bytes(127), false, &[0..1, 1..2, 2..3, 3..4]),
            // Padding counts: 33 bytes take 64.
            (&[33; 4], bytes(100), false, &[0..1, 1..2, 2..3, 3..4]),
            (&[32, 1000, 32, 32], bytes(64), true, &[0..0, 0..1, 1..2, 2..4]),
            (&[1000, 32], bytes(64), false, &[0..1, 1..2]),
            (&[u64::MAX, u64::MAX, 1], bytes(u64::MAX - 1), false, &[0..1, 1..2, 2..3]),
        ];
        for (sizes, limit, first, shards) in table {
            assert_eq!(plan_shards(sizes, *limit, *first), *shards, "{sizes:?} {limit:?} {first}");
        }
    }

    #[test]
    fn more_files_than_can_be_counted_are_refused() {
        assert!(shard_metadata(65534, 65535, 65535).is_ok());
        assert!(shard_metadata(0, 65536, 65536).unwrap_err().to_string().contains("choose a larger limit"));
    }
}
