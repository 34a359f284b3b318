//! Importance matrices: the mean square of the input to each column of each weight matrix over a text, in llama.cpp's two file formats.
//!
//! For every weight matrix they hold the sum of `x * x` of each input column over all tokens. The mean is the weight that
//! the quantizers give to errors in that column.
//!
//! ```text
//!  GGUF: general.type = "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size (tokens)
//!        NAME.in_sum2  F32 (columns, matrices)    sums of squares
//!        NAME.counts   F32 (1, matrices)          tokens
//!
//!  .dat: entries i32
//!        | length i32   name   chunks i32   values i32   values x f32: mean square * chunks |   entries times
//!        chunks i32   length i32   dataset                                                      may be absent
//! ```
//! All little-endian. `matrices` is 1 except where experts lie in one tensor, each with its own count.

use std::collections::BTreeMap;
use std::path::Path;

use strata_quant::GgmlType;

use crate::error::{Error, Result, quoted};
use crate::gguf::{Gguf, Layout, TensorInfo};
use crate::io::file::read_regular;
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;

/// The most bytes of a file: ten times what the largest models need.
pub const MAX_BYTES: u64 = 2 << 30;

/// The default number of tokens in a chunk, as in llama-imatrix.
pub const CHUNK_SIZE: u32 = 512;

const TYPE: &str = "imatrix";
const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNK_COUNT_KEY: &str = "imatrix.chunk_count";
const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const MAKE_AGAIN: &str = "make the matrix again with strata calibrate or llama-imatrix";

/// The input statistics of one weight tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The sums of squares, `(matrices, columns)`: finite and not negative.
    pub in_sum2: Vec<f32>,
    /// The number of tokens, `(matrices)`; the number of chunks where the matrix has no chunk size.
    pub counts: Vec<u64>,
}

/// The two file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImatrixFormat {
    /// GGUF, the format of current llama-imatrix.
    Gguf,
    /// The earlier `.dat`.
    Dat,
}

/// An importance matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The statistics by the name of the weight tensor, as `blk.0.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
    /// The names of the texts that it was made from.
    pub datasets: Vec<String>,
    /// The number of chunks of text.
    pub chunk_count: u32,
    /// Tokens in a chunk. `None` from a `.dat`, which does not store it: the counts of the entries are then chunks.
    pub chunk_size: Option<u32>,
}

impl Imatrix {
    /// Reads a file of either format, recognized by its contents.
    ///
    /// # Errors
    /// Names the value that is damaged, negative or not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix> {
        let path = path.as_ref();
        Imatrix::parse(path, read_regular(path, MAX_BYTES)?)
    }

    /// Parses the contents of the file at `path`.
    ///
    /// # Errors
    /// As [`Imatrix::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Imatrix> {
        if bytes.starts_with(b"GGUF") {
            return Imatrix::from_gguf(&Gguf::from_contents(path, bytes)?);
        }
        Dat { path, bytes: &bytes, pos: 0 }.matrix()
    }

    /// Warnings about the matrix: tensors that no token went through, and columns whose errors have no weight.
    pub fn notes(&self) -> Vec<String> {
        let (mut unseen, mut zeros) = (Vec::new(), Vec::new());
        for (name, Entry { in_sum2, counts }) in &self.entries {
            let without = counts.iter().filter(|&&count| count == 0).count();
            match without {
                0 => {}
                _ if without == counts.len() => unseen.push(quoted(name)),
                _ => unseen.push(format!("{}: {without} of {} matrices", quoted(name), counts.len())),
            }
            let columns = self.columns(name);
            let seen = in_sum2.chunks(columns).zip(counts).filter(|(_, count)| **count > 0);
            let zero: usize = seen.map(|(sums, _)| sums.iter().filter(|&&sum| sum == 0.0).count()).sum();
            if zero > 0 {
                zeros.push(format!("{}: {zero} of {}", quoted(name), in_sum2.len()));
            }
        }
        let note = |all: &[String], what: &str, meaning: &str| {
            (!all.is_empty())
                .then(|| format!("the importance matrix {what} {} ({}): {meaning}", tensors(all), some(all)))
        };
        let notes = [
            note(&unseen, "has no data for", "their columns count alike"),
            note(&zeros, "is zero for columns of", "errors there count nothing, as in llama-quantize"),
        ];
        notes.into_iter().flatten().collect()
    }

    /// The number of columns of each matrix of an entry.
    fn columns(&self, name: &str) -> usize {
        self.entries.get(name).map_or(1, |entry| (entry.in_sum2.len() / entry.counts.len().max(1)).max(1))
    }

    /// The mean squares of a tensor's columns, `(matrices, columns)`, bit for bit those that llama-quantize computes from
    /// the same file. A matrix that no token went through has ones.
    pub fn weights(&self, tensor: &str) -> Option<Vec<f32>> {
        let Entry { in_sum2, counts } = self.entries.get(tensor)?;
        let mut weights = Vec::with_capacity(in_sum2.len());
        for (sums, &count) in in_sum2.chunks(self.columns(tensor)).zip(counts) {
            weights.extend(sums.iter().map(|sum| if count > 0 { sum / count as f32 } else { 1.0 }));
        }
        Some(weights)
    }

    /// Keeps only the tensors whose names contain one of `parts`.
    pub fn include(&mut self, parts: &[String]) {
        self.entries.retain(|name, _| parts.iter().any(|part| name.contains(part)));
    }

    /// Drops the tensors whose names contain one of `parts`.
    pub fn exclude(&mut self, parts: &[String]) {
        self.entries.retain(|name, _| !parts.iter().any(|part| name.contains(part)));
    }

    /// The matrix with counts in tokens; `chunk_size` is used only where the matrix has none.
    pub fn in_tokens(mut self, chunk_size: u32) -> Imatrix {
        if self.chunk_size.is_none() {
            for Entry { in_sum2, counts } in self.entries.values_mut() {
                in_sum2.iter_mut().for_each(|sum| *sum *= chunk_size as f32);
                counts.iter_mut().for_each(|count| *count = count.saturating_mul(chunk_size.into()));
            }
            self.chunk_size = Some(chunk_size);
        }
        self
    }

    /// Adds the sums and counts of `other`, as if both texts had been one.
    ///
    /// # Errors
    /// If a tensor has other dimensions there, or a sum becomes too large.
    pub fn merge(&mut self, other: Imatrix) -> Result<()> {
        let size = self.chunk_size.or(other.chunk_size).unwrap_or(CHUNK_SIZE);
        let mut sum = std::mem::take(self).in_tokens(size);
        let other = other.in_tokens(size);
        for (name, Entry { in_sum2, counts }) in other.entries {
            let entry = sum
                .entries
                .entry(name.clone())
                .or_insert_with(|| Entry { in_sum2: vec![0.0; in_sum2.len()], counts: vec![0; counts.len()] });
            if (entry.in_sum2.len(), entry.counts.len()) != (in_sum2.len(), counts.len()) {
                let [a, b] = [&entry.in_sum2, &in_sum2].map(Vec::len);
                let problem =
                    format!("are of different models: {} has {a} columns in one and {b} in another", quoted(&name));
                return Err(Error::argument("importance matrices", problem));
            }
            entry.in_sum2.iter_mut().zip(in_sum2).for_each(|(a, b)| *a += b);
            entry.counts.iter_mut().zip(counts).for_each(|(a, b)| *a = a.saturating_add(b));
        }
        for (name, entry) in &sum.entries {
            if let Some((column, _)) = bad_sum(&entry.in_sum2) {
                let problem = format!("the sum of column {column} of {} is too large; merge fewer", quoted(name));
                return Err(Error::argument("importance matrices", problem));
            }
        }
        sum.datasets.extend(other.datasets);
        let most = sum.entries.values().flat_map(|entry| &entry.counts).max().copied().unwrap_or(0);
        sum.chunk_count = (most / u64::from(size.max(1))).try_into().unwrap_or(u32::MAX);
        *self = sum;
        Ok(())
    }

    /// Writes the file at `path`. A `.dat` keeps the means and a count of whole chunks, and only the last dataset.
    ///
    /// # Errors
    /// If the file cannot be written, or the matrix is empty, has a sum that is not finite, or is too large for the format.
    pub fn write(&self, path: impl AsRef<Path>, format: ImatrixFormat) -> Result<()> {
        self.write_beside(path, format, &Inputs::default())
    }

    /// [`Imatrix::write`], which refuses to replace one of the `inputs`.
    ///
    /// # Errors
    /// As there.
    pub fn write_beside(&self, path: impl AsRef<Path>, format: ImatrixFormat, inputs: &Inputs) -> Result<()> {
        let path = path.as_ref();
        if self.entries.is_empty() {
            return Err(Error::argument("importance matrix", "has no entries").of_file(path));
        }
        let matrix = match format {
            ImatrixFormat::Gguf => self.clone().in_tokens(CHUNK_SIZE),
            ImatrixFormat::Dat => self.clone(),
        };
        for (name, entry) in &matrix.entries {
            if let Some((column, sum)) = bad_sum(&entry.in_sum2) {
                let problem = format!("the sum of squares of column {column} is {sum}, which no quantizer can use");
                return Err(Error::argument(name, problem));
            }
        }
        match format {
            ImatrixFormat::Gguf => matrix.write_gguf(path, inputs),
            ImatrixFormat::Dat => matrix.write_dat(path, inputs),
        }
    }

    fn write_gguf(&self, path: &Path, inputs: &Inputs) -> Result<()> {
        let mut layout = Layout::new();
        layout.set("general.type", TYPE);
        layout.set(DATASETS_KEY, self.datasets.clone());
        layout.set(CHUNK_COUNT_KEY, self.chunk_count);
        layout.set(CHUNK_SIZE_KEY, self.chunk_size.unwrap_or(CHUNK_SIZE));
        for (name, Entry { in_sum2, counts }) in &self.entries {
            let (columns, matrices) = ((in_sum2.len() / counts.len()) as u64, counts.len() as u64);
            // Like ggml, without dimensions of 1 at the end.
            let used = if matrices > 1 { 2 } else { 1 };
            layout.tensor(format!("{name}{SUMS}"), &[columns, matrices][..used], GgmlType::F32);
            layout.tensor(format!("{name}{COUNTS}"), &[1, matrices][..used], GgmlType::F32);
        }
        let mut writer = layout.create_beside("calibrate", path, inputs)?;
        for (name, Entry { in_sum2, counts }) in &self.entries {
            writer.begin(&format!("{name}{SUMS}"))?;
            writer.write(&in_sum2.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<u8>>())?;
            writer.begin(&format!("{name}{COUNTS}"))?;
            writer.write(&counts.iter().flat_map(|&count| (count as f32).to_le_bytes()).collect::<Vec<u8>>())?;
        }
        writer.finish()
    }

    fn write_dat(&self, path: &Path, inputs: &Inputs) -> Result<()> {
        let int = |n: u64, what: &'static str| -> Result<[u8; 4]> {
            i32::try_from(n).map(i32::to_le_bytes).map_err(|_| Error::DatOverflow { count: n, what })
        };
        // The format cannot express entries without tokens.
        let seen: Vec<_> = self.entries.iter().filter(|(_, e)| e.counts.iter().any(|&count| count > 0)).collect();
        let mut out = Vec::new();
        out.extend(int(seen.len() as u64, "entries")?);
        for (name, Entry { in_sum2, counts }) in seen {
            let most = counts.iter().max().copied().unwrap_or(0);
            let chunks = most.div_ceil(self.chunk_size.unwrap_or(1).max(1).into());
            out.extend(int(name.len() as u64, "bytes of a name")?);
            out.extend(name.as_bytes());
            out.extend(int(chunks, "chunks")?);
            out.extend(int(in_sum2.len() as u64, "values")?);
            for (sums, &count) in in_sum2.chunks(in_sum2.len() / counts.len()).zip(counts) {
                let mean = |sum: &f32| if count > 0 { sum / count as f32 } else { 1.0 };
                out.extend(sums.iter().flat_map(|sum| (mean(sum) * chunks as f32).to_le_bytes()));
            }
        }
        out.extend(int(self.chunk_count.into(), "chunks")?);
        let dataset = self.datasets.last().map_or("", String::as_str);
        out.extend(int(dataset.len() as u64, "bytes of a dataset's name")?);
        out.extend(dataset.as_bytes());
        let mut file = Outputs::single("calibrate", path, inputs)?;
        file.write_all(&out)?;
        file.commit()
    }

    fn from_gguf(gguf: &Gguf) -> Result<Imatrix> {
        let wrong = |place: String, problem: &str| Error::invalid(gguf.path(), place, problem, MAKE_AGAIN);
        let missing = |key: &str| wrong(format!("key {key:?}"), "is missing: this is not an importance matrix");
        let datasets = gguf.array(DATASETS_KEY)?.ok_or_else(|| missing(DATASETS_KEY))?;
        let datasets = datasets.strings().ok_or_else(|| wrong(format!("key {DATASETS_KEY:?}"), "has no strings"))?;
        let chunk_count = gguf.u32(CHUNK_COUNT_KEY)?.ok_or_else(|| missing(CHUNK_COUNT_KEY))?;
        let chunk_size = gguf.u32(CHUNK_SIZE_KEY)?.ok_or_else(|| missing(CHUNK_SIZE_KEY))?;
        if chunk_size == 0 {
            return Err(wrong(format!("key {CHUNK_SIZE_KEY:?}"), "is 0"));
        }
        let stray = |tensor: &&TensorInfo| {
            tensor.name.strip_suffix(COUNTS).is_some_and(|name| gguf.tensor(&format!("{name}{SUMS}")).is_none())
        };
        if let Some(counts) = gguf.tensors().iter().find(stray) {
            return Err(wrong(format!("tensor {}", quoted(&counts.name)), "has no sums beside it"));
        }
        let mut entries = BTreeMap::new();
        for sums in gguf.tensors() {
            let Some(name) = sums.name.strip_suffix(SUMS) else { continue };
            let counts = gguf.tensor(&format!("{name}{COUNTS}"));
            let counts =
                counts.ok_or_else(|| wrong(format!("tensor {}", quoted(&sums.name)), "has no counts beside it"))?;
            let (in_sum2, raw) = (floats(gguf, sums)?, floats(gguf, counts)?);
            if sums.rows() != raw.len() as u64 {
                let problem = format!("{} values do not belong to {} counts", in_sum2.len(), raw.len());
                return Err(wrong(format!("tensor {}", quoted(&sums.name)), &problem));
            }
            if let Some((column, sum)) = bad_sum(&in_sum2) {
                return Err(wrong(format!("tensor {}", quoted(&sums.name)), &format!("value {column} is {sum}")));
            }
            let counts = raw.into_iter().map(|count| {
                // Beyond 2^63 no integer of llama.cpp's is left.
                let sound = (0.0..9.2e18).contains(&count) && count.fract() == 0.0;
                sound.then_some(count as u64).ok_or_else(|| {
                    wrong(format!("tensor {}", quoted(&counts.name)), &format!("{count} is not a count of tokens"))
                })
            });
            let counts = counts.collect::<Result<_>>()?;
            entries.insert(name.to_owned(), Entry { in_sum2, counts });
        }
        if entries.is_empty() {
            return Err(wrong("tensors".to_owned(), "none is named as in an importance matrix"));
        }
        let datasets = datasets.map(str::to_owned).collect();
        Ok(Imatrix { entries, datasets, chunk_count, chunk_size: Some(chunk_size) })
    }
}

/// The values of a tensor, which must be F32.
fn floats(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>> {
    if tensor.ty != GgmlType::F32 {
        let place = format!("tensor {}", quoted(&tensor.name));
        return Err(Error::invalid(gguf.path(), place, format!("is of type {}, must be F32", tensor.ty), MAKE_AGAIN));
    }
    Ok(from_le(gguf.data(tensor)))
}

fn from_le(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// `7 tensors`.
pub(crate) fn tensors(names: &[String]) -> String {
    format!("{} tensor{}", names.len(), if names.len() == 1 { "" } else { "s" })
}

/// The first few names.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The index and value of the first sum that is negative or not finite.
fn bad_sum(sums: &[f32]) -> Option<(usize, f32)> {
    sums.iter().copied().enumerate().find(|(_, sum)| !sum.is_finite() || *sum < 0.0)
}

/// The least bytes of an entry: three lengths and one value.
const SMALLEST_ENTRY: usize = 16;

/// A cursor over the bytes of a `.dat`, which checks every length against the rest of the file.
struct Dat<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Dat<'a> {
    fn matrix(mut self) -> Result<Imatrix> {
        let count = self.int("entries")?;
        let room = (self.bytes.len() - self.pos) / SMALLEST_ENTRY;
        if count < 1 || count as usize > room {
            let problem =
                format!("claims {count} entries where there is room for {room}: this is not an importance matrix");
            return Err(self.wrong(problem));
        }
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (name, entry) = self.entry()?;
            if entries.insert(name.to_owned(), entry).is_some() {
                return Err(self.wrong(format!("tensor {} appears twice", quoted(name))));
            }
        }
        // Old files end here, or after the number of chunks.
        let chunk_count = if self.ended() { 0 } else { self.length("chunks")? as u32 };
        let mut datasets = Vec::new();
        if !self.ended() {
            let dataset = self.text("dataset")?;
            datasets.extend((!dataset.is_empty()).then(|| dataset.to_owned()));
        }
        if !self.ended() {
            return Err(self.wrong(format!("{} bytes follow the end", self.bytes.len() - self.pos)));
        }
        Ok(Imatrix { entries, datasets, chunk_count, chunk_size: None })
    }

    fn entry(&mut self) -> Result<(&'a str, Entry)> {
        let name = self.text("name")?;
        let chunks = self.length("chunks")?;
        let values = self.length("values")?;
        if values == 0 {
            return Err(self.wrong(format!("tensor {} has no values", quoted(name))));
        }
        let in_sum2 = from_le(self.take(values.saturating_mul(4), "values")?);
        if let Some((column, sum)) = bad_sum(&in_sum2) {
            return Err(self.wrong(format!("tensor {}: value {column} is {sum}", quoted(name))));
        }
        // Without calls llama-quantize takes the values as they are: as if of one.
        Ok((name, Entry { in_sum2, counts: vec![chunks.max(1) as u64] }))
    }

    fn text(&mut self, what: &str) -> Result<&'a str> {
        let length = self.length(what)?;
        let bytes = self.take(length, what)?;
        str::from_utf8(bytes).map_err(|_| self.wrong(format!("the {what} is not UTF-8")))
    }

    /// Reads an integer that must not be negative.
    fn length(&mut self, what: &str) -> Result<usize> {
        let int = self.int(what)?;
        usize::try_from(int).map_err(|_| self.wrong(format!("{what}: {int} is negative")))
    }

    fn int(&mut self, what: &str) -> Result<i32> {
        let bytes = self.take(4, what)?;
        Ok(i32::from_le_bytes(*bytes.first_chunk().expect("four bytes were taken")))
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.pos..];
        let taken = rest.get(..n).ok_or_else(|| self.wrong(format!("{what}: {n} bytes, {} are left", rest.len())))?;
        self.pos += n;
        Ok(taken)
    }

    fn ended(&self) -> bool {
        self.pos == self.bytes.len()
    }

    fn wrong(&self, problem: String) -> Error {
        Error::invalid(self.path, format!("importance matrix, byte {}", self.pos), problem, MAKE_AGAIN)
    }
}
