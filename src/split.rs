//! Splitting a GGUF model over several files and joining them again, laid out as gguf-split does.
//!
//! The first file carries all metadata, every file the three keys `split.no`, `split.tensors.count` and `split.count`.
//! The bytes of the tensors stay, and so does their order in each file. Joining drops the three keys: what was split in
//! consecutive runs comes back byte for byte, what was striped with its tensors ordered by file.
//!
//! Data goes by plain reads and writes through one buffer: a model larger than the memory does not crowd it. All files
//! are complete before the first gets its name: a failure leaves nothing behind.

use std::path::{Path, PathBuf};

use crate::arch::{self, Group};
use crate::error::{Error, Result};
use crate::gguf::keys::{ALIGNMENT_KEY, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, TENSOR_HASHES};
use crate::gguf::shards::{SplitLimit, plan_shards, shard_metadata, shard_path};
use crate::gguf::{Array, Gguf, Layout, TensorInfo, Value, Writer};
use crate::io::file::Mapped;
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;
use crate::progress::Progress;

/// The default number of tensors in a file, as in gguf-split.
pub const MAX_TENSORS: usize = 128;

/// How tensors are assigned to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Consecutive tensors fill one file after the other, as in gguf-split.
    Linear(SplitLimit),
    /// That many files, each with an even share of every two layers, so that files on as many drives are read at once.
    Striped(usize),
}

/// Settings of a split.
#[derive(Clone, Copy, Debug)]
pub struct SplitOptions {
    /// How tensors are assigned to files.
    pub placement: Placement,
    /// Puts only metadata into the first file; the others are the same as without.
    pub first_without_tensors: bool,
}

/// One of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The path of the file.
    pub path: PathBuf,
    /// The indices of its tensors in the model, in file order.
    pub tensors: Vec<usize>,
    /// The bytes of those tensors, without metadata and padding.
    pub bytes: u64,
}

/// Which tensors go into each of `files` files: in order, each to the first of those that have the fewest bytes of its
/// group (attention, feed-forward network, others), since with some memory the attention is pinned and only the feed-forward
/// matrices are read: balanced together, one drive could have all of them. At any point two files differ by no more than the largest tensor of a group, so over any run of layers by no more
/// than two such. By arithmetic, with a ring of two layers that empties at once, 405B in Q4_K_M is then read at 100 % of
/// the rate of 2 like drives, 96 % of that of 4 and 65 % of that of 8, where a drive often has nothing of a layer.
fn stripe<'t>(tensors: impl Iterator<Item = (&'t str, u64)>, files: usize) -> Vec<Vec<usize>> {
    let mut shards = vec![Vec::new(); files];
    let mut filled = vec![[0u64; 3]; files]; // (files, groups)
    for (i, (name, bytes)) in tensors.enumerate() {
        let group = arch::named(name).map_or(Group::Model, |named| named.spec.group) as usize;
        // Of equals it is the first.
        let Some(file) = (0..files).min_by_key(|&file| filled[file][group]) else { break };
        filled[file][group] = filled[file][group].saturating_add(bytes);
        shards[file].push(i);
    }
    shards
}

/// Plans the files that [`split`] writes.
///
/// # Errors
/// If there would be too many, or one of those that are striped over would get no tensor.
pub fn plan(gguf: &Gguf, prefix: &Path, options: &SplitOptions) -> Result<Vec<Shard>> {
    let tensors = gguf.tensors();
    let shards = match options.placement {
        Placement::Linear(limit) => {
            let alignment = u64::from(gguf.u32(ALIGNMENT_KEY)?.unwrap_or(0)).max(1);
            let sizes: Vec<u64> = tensors.iter().map(|t| t.bytes.next_multiple_of(alignment)).collect();
            let ranges = plan_shards(&sizes, limit, options.first_without_tensors);
            ranges.into_iter().map(Vec::from_iter).collect()
        }
        Placement::Striped(files) => {
            let sizes = tensors.iter().map(|t| (t.name.as_str(), t.bytes));
            let mut shards = stripe(sizes, files.min(tensors.len()));
            let used = shards.iter().filter(|shard| !shard.is_empty()).count();
            if used < files.max(1) {
                return Err(Error::FilesWithoutTensors { tensors: tensors.len(), files, used });
            }
            if options.first_without_tensors {
                shards.insert(0, Vec::new());
            }
            shards
        }
    };
    let count = shards.len();
    shard_metadata(0, count, tensors.len())?;
    let shard = |(no, own): (usize, Vec<usize>)| {
        let bytes = own.iter().map(|&i| tensors[i].bytes).sum();
        Shard { path: shard_path(prefix, no, count), tensors: own, bytes }
    };
    Ok(shards.into_iter().enumerate().map(shard).collect())
}

/// Writes the model as files `PREFIX-00001-of-0000N.gguf`, and returns them. `progress` counts bytes.
///
/// # Errors
/// If a file cannot be read or written, one of them is the model itself, or the user stopped. Nothing is left behind then.
pub fn split(gguf: &Gguf, prefix: &Path, options: &SplitOptions, progress: &dyn Progress) -> Result<Vec<Shard>> {
    let shards = plan(gguf, prefix, options)?;
    let paths = shards.iter().map(|shard| shard.path.clone()).collect();
    let mut outputs = Outputs::claim("split", prefix, paths, &inputs(gguf))?;
    let mut metadata = own_metadata(gguf);
    let order: Vec<usize> = shards.iter().flat_map(|shard| &shard.tensors).copied().collect();
    order_hashes(&mut metadata, &order);
    progress.begin("splitting", gguf.tensors().iter().map(|t| t.bytes).sum());
    for (no, shard) in shards.iter().enumerate() {
        let mut layout = Layout::new();
        layout.alignment = gguf.u32(ALIGNMENT_KEY)?.unwrap_or(layout.alignment);
        // Only the first has any: the vocabulary is large.
        layout.metadata = std::mem::take(&mut metadata);
        shard_metadata(no, shards.len(), gguf.tensors().len())?.into_iter().for_each(|(k, v)| layout.set(k, v));
        let tensors = shard.tensors.iter().map(|&i| &gguf.tensors()[i]);
        tensors.clone().for_each(|t| layout.tensor(&t.name, &t.dims, t.ty));
        let mut writer = layout.create_next(&mut outputs)?;
        copy(gguf, tensors, &mut writer, progress)?;
        writer.finish()?;
    }
    gguf.check()?;
    outputs.commit()?;
    progress.end();
    Ok(shards)
}

/// Writes a split model as the one file `output`, with the tensors of one part after those of the other. `progress`
/// counts bytes.
///
/// # Errors
/// If the model is not split, a file cannot be read or written, `output` is one of the parts, or the user stopped. Nothing is
/// left behind then.
pub fn merge(gguf: &Gguf, output: &Path, progress: &dyn Progress) -> Result<()> {
    if gguf.u32(SPLIT_COUNT)?.unwrap_or(0) == 0 {
        let problem = "is missing or 0: the file is not a part of a split model";
        return Err(Error::invalid(gguf.path(), format!("key {SPLIT_COUNT:?}"), problem, "name one of the parts"));
    }
    let mut layout = Layout::new();
    layout.alignment = gguf.u32(ALIGNMENT_KEY)?.unwrap_or(layout.alignment);
    layout.metadata = own_metadata(gguf);
    gguf.tensors().iter().for_each(|t| layout.tensor(&t.name, &t.dims, t.ty));
    progress.begin("merging", gguf.tensors().iter().map(|t| t.bytes).sum());
    let mut writer = layout.create_beside("merge", output, &inputs(gguf))?;
    copy(gguf, gguf.tensors().iter(), &mut writer, progress)?;
    gguf.check()?;
    writer.finish()?;
    progress.end();
    Ok(())
}

/// All metadata but the keys of a split.
fn own_metadata(gguf: &Gguf) -> Vec<(String, Value)> {
    let pairs = gguf.metadata().iter().filter(|(key, _)| ![SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(key));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Permutes the recorded hashes of the tensors, a list in file order, into the `order` of the new files. A list of another
/// length is not such a record and stays.
fn order_hashes(metadata: &mut [(String, Value)], order: &[usize]) {
    for (key, value) in metadata {
        if let Value::Array(Array::String(hashes)) = value
            && key == TENSOR_HASHES
            && hashes.len() == order.len()
        {
            *hashes = order.iter().map(|&i| hashes[i].clone()).collect();
        }
    }
}

/// The files of the model.
fn inputs(gguf: &Gguf) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.add_model(gguf);
    inputs
}

/// Appends the blocks of the tensors.
pub(crate) fn copy<'t>(
    gguf: &Gguf,
    tensors: impl Iterator<Item = &'t TensorInfo>,
    writer: &mut Writer<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let files: Vec<&Mapped> = gguf.files().collect();
    for tensor in tensors {
        // Through the open file: another one may have its name by now.
        let Some(file) = files.get(tensor.part) else {
            return Err(Error::InMemory { doing: "split or merged" });
        };
        writer.begin(&tensor.name)?;
        let range = tensor.offset..tensor.offset + tensor.bytes;
        file.pieces(range, progress, &mut |piece| writer.write(piece))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_is_balanced_by_itself() {
        let norms = [("blk.0.attn_norm.weight", 1), ("blk.0.ffn_norm.weight", 1)];
        let attention = [("blk.0.attn_q.weight", 30), ("blk.0.attn_k.weight", 10), ("blk.0.attn_v.weight", 10)];
        let ffn = [("blk.10.ffn_gate.weight", 50), ("blk.10.ffn_up.weight", 50), ("blk.10.ffn_down.weight", 50)];
        let rest = [("token_embd.weight", 90), ("blk.0.other.weight", 5), ("attn_q.weight", 5), ("blk.ffn_up", 90)];
        type Case<'a> = (&'a [&'a [(&'a str, u64)]], usize, &'a [&'a [usize]]);
        let table: &[Case<'_>] = &[
            (&[], 0, &[]),
            (&[&attention], 0, &[]),
            (&[&attention], 1, &[&[0, 1, 2]]),
            (&[&attention], 2, &[&[0], &[1, 2]]),
            (&[&ffn, &ffn], 2, &[&[0, 2, 4], &[1, 3, 5]]),
            (&[&norms, &attention, &ffn], 2, &[&[0, 1, 3, 4, 6], &[2, 5, 7]]),
            (&[&rest], 2, &[&[0], &[1, 2, 3]]),
            (&[&rest, &attention, &ffn], 3, &[&[0, 4, 7], &[1, 3, 5, 8], &[2, 6, 9]]),
            (&[&attention], 4, &[&[0], &[1], &[2], &[]]),
        ];
        for (tensors, files, shards) in table {
            assert_eq!(stripe(tensors.iter().copied().flatten().copied(), *files), *shards, "{tensors:?} {files}");
        }
    }
}
