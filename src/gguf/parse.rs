//! The one checking pass over a GGUF header.
//!
//! Whatever the bytes, it neither panics nor allocates more than a small multiple of the header that is really there: counts and lengths
//! from the file are compared with the bytes left before they are believed, and lists grow as entries are read.

use super::ALIGNMENT;
use super::array::{ARRAY, ArrayRef, STRING, ValueRef, fixed, fixed_size};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use strata_quant::GgmlType;

/// A header that was found right.
#[derive(Debug)]
pub struct Parsed {
    /// 1, 2 or 3.
    pub version: u32,
    /// In the order of the file.
    pub(super) pairs: Vec<PairAt>,
    /// In the order of the file.
    pub(super) tensors: Vec<TensorAt>,
}

/// A metadata pair by its place in the file.
#[derive(Clone, Debug)]
pub(super) struct PairAt {
    pub key: Range<usize>,
    pub kind: u32,
    /// For an array, its elements'.
    pub element: u32,
    pub len: usize,
    pub value: Range<usize>,
}

/// A tensor by its place in the file.
#[derive(Clone, Debug)]
pub(super) struct TensorAt {
    pub name: Range<usize>,
    pub ty: GgmlType,
    pub dims: Vec<u64>,
    /// From the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl Parsed {
    /// The value of a key, read from the file that was parsed.
    pub(super) fn find<'a>(&self, file: &'a [u8], key: &str) -> Option<ValueRef<'a>> {
        let pair = self.pairs.iter().find(|pair| &file[pair.key.clone()] == key.as_bytes())?;
        Some(pair.read(file, self.version))
    }
}

impl PairAt {
    /// The value, read from the file that the place is in.
    pub fn read<'a>(&self, file: &'a [u8], version: u32) -> ValueRef<'a> {
        let bytes = &file[self.value.clone()];
        match self.kind {
            STRING => ValueRef::String(text(bytes)),
            ARRAY => {
                ValueRef::Array(ArrayRef { kind: self.element, len: self.len, bytes, short_lengths: version == 1 })
            }
            // The pass below admits only kinds that `fixed` knows, with their bytes.
            kind => fixed(kind, bytes).unwrap_or(ValueRef::U8(0)),
        }
    }
}

/// Text that the pass below found to be UTF-8.
pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Checks the header and the tensor table of `file` and where they place the data. `path` is named in errors.
///
/// # Errors
/// The first rule that the file breaks, with its place.
pub fn parse(path: &Path, file: &[u8]) -> Result<Parsed> {
    let mut reader = Reader { path, file, at: 0, version: 3 };
    let magic = reader.take(4, "magic")?;
    if magic != *b"GGUF" {
        let problem = format!("the file starts with {:?}, not with \"GGUF\"", String::from_utf8_lossy(magic));
        return Err(Error::invalid(
            path,
            "byte 0",
            problem,
            "this is no GGUF file; convert a checkpoint with strata convert",
        ));
    }
    reader.version = reader.u32("version")?;
    if let version @ (0x0100_0000 | 0x0200_0000 | 0x0300_0000) = reader.version {
        let problem = format!("version {} in big-endian order is not supported", version.swap_bytes());
        return Err(Error::invalid(path, "byte 4", problem, "convert the model on a little-endian machine"));
    }
    if !(1..=3).contains(&reader.version) {
        let problem = format!("version {} is not known", reader.version);
        return Err(Error::invalid(
            path,
            "byte 4",
            problem,
            "strata reads versions 1 to 3; get a newer strata or convert again",
        ));
    }
    let n_tensors = reader.length("tensor count")?;
    let n_pairs = reader.length("metadata count")?;
    let pairs = pairs(&mut reader, n_pairs)?;
    let alignment = alignment(&reader, &pairs)?;
    let tensors = tensors(&mut reader, n_tensors, alignment)?;
    Ok(Parsed { version: reader.version, pairs, tensors })
}

fn pairs(reader: &mut Reader<'_>, count: u64) -> Result<Vec<PairAt>> {
    // The smallest pair: an empty key, a type, one byte.
    reader.believe(count, 4 + 4 + 1, "metadata count")?;
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    for i in 0..count {
        let key = reader.string(|| format!("metadata key {i}"))?;
        let name = text(&reader.file[key.clone()]);
        let place = || format!("metadata {name:?}");
        if !seen.insert(name) {
            return Err(reader.bad(place(), "the key is there twice".into()));
        }
        let kind = reader.u32(&place())?;
        let pair = match kind {
            STRING => PairAt { key, kind, element: 0, len: 0, value: reader.string(place)? },
            ARRAY => {
                let element = reader.u32(&place())?;
                let len = reader.length(&place())?;
                if element == ARRAY {
                    return Err(reader.bad(place(), "arrays in arrays are not supported".into()));
                }
                let smallest = fixed_size(element).unwrap_or(4) as u64;
                reader.believe(len, smallest, &place())?;
                let start = reader.at;
                if element == STRING {
                    for i in 0..len {
                        reader.string(|| format!("{} element {i}", place()))?;
                    }
                } else {
                    reader.fixed(element, len, place)?;
                }
                PairAt { key, kind, element, len: len as usize, value: start..reader.at }
            }
            kind => {
                let start = reader.at;
                reader.fixed(kind, 1, place)?;
                PairAt { key, kind, element: 0, len: 0, value: start..reader.at }
            }
        };
        pairs.push(pair);
    }
    Ok(pairs)
}

fn alignment(reader: &Reader<'_>, pairs: &[PairAt]) -> Result<u64> {
    let Some(pair) = pairs.iter().find(|pair| &reader.file[pair.key.clone()] == b"general.alignment") else {
        return Ok(ALIGNMENT);
    };
    match pair.read(reader.file, reader.version) {
        ValueRef::U32(n) if n.is_power_of_two() && (8..=1 << 24).contains(&n) => Ok(n.into()),
        other => {
            let problem = format!("{other:?} is no power of two from 8 to 16777216 of type u32");
            Err(reader.bad("metadata \"general.alignment\"".into(), problem))
        }
    }
}

fn tensors(reader: &mut Reader<'_>, count: u64, alignment: u64) -> Result<Vec<TensorAt>> {
    // The smallest entry: an empty name, one dimension, type, offset.
    reader.believe(count, 4 + 4 + 4 + 4 + 8, "tensor count")?;
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for i in 0..count {
        let name = reader.string(|| format!("name of tensor {i}"))?;
        let label = text(&reader.file[name.clone()]);
        let place = format!("tensor {label:?}");
        if label.is_empty() {
            return Err(reader.bad(format!("tensor {i}"), "the name is empty".into()));
        }
        if !seen.insert(label) {
            return Err(reader.bad(place, "the tensor is there twice".into()));
        }
        let n_dims = reader.u32(&place)?;
        if !(1..=4).contains(&n_dims) {
            return Err(reader.bad(place, format!("{n_dims} dimensions; 1 to 4 are possible")));
        }
        let mut dims = Vec::with_capacity(4);
        for _ in 0..n_dims {
            dims.push(reader.length(&place)?);
        }
        let id = reader.u32(&place)?;
        let Some(ty) = GgmlType::from_id(id) else {
            let remedy = "get a newer strata, or a file with another type";
            return Err(Error::invalid(reader.path, place, format!("type {id} is not known"), remedy));
        };
        let offset = reader.u64(&place)?;
        if dims.contains(&0) {
            return Err(reader.bad(place, format!("a dimension of {dims:?} is zero")));
        }
        if !dims[0].is_multiple_of(ty.block_len() as u64) {
            let problem = format!("rows of {} values are no whole blocks of {} ({ty})", dims[0], ty.block_len());
            return Err(reader.bad(place, problem));
        }
        let blocks = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).map(|n| n / ty.block_len() as u64);
        let Some(bytes) = blocks.and_then(|n| n.checked_mul(ty.block_bytes() as u64)).filter(|n| *n <= i64::MAX as u64)
        else {
            return Err(reader.bad(place, format!("dimensions {dims:?} overflow")));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(reader.bad(place, format!("offset {offset} is no multiple of the alignment {alignment}")));
        }
        tensors.push(TensorAt { name, ty, dims, offset, bytes });
    }
    place(reader, tensors, alignment)
}

/// Turns offsets into places in the file and checks that they are inside it and apart from each other.
fn place(reader: &Reader<'_>, mut tensors: Vec<TensorAt>, alignment: u64) -> Result<Vec<TensorAt>> {
    let data = (reader.at as u64).next_multiple_of(alignment);
    let label = |t: &TensorAt| format!("tensor {:?}", text(&reader.file[t.name.clone()]));
    for tensor in &mut tensors {
        let end = data.checked_add(tensor.offset).and_then(|start| start.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > reader.file.len() as u64) {
            let (offset, bytes, len) = (tensor.offset, tensor.bytes, reader.file.len());
            let problem =
                format!("{bytes} bytes at {data} + {offset} reach past the end of the file, which has {len} bytes");
            return Err(Error::invalid(reader.path, label(tensor), problem, "the file is cut off; get it again"));
        }
        tensor.offset += data;
    }
    let mut order: Vec<&TensorAt> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    if let Some([a, b]) = order.array_windows().find(|[a, b]| a.offset + a.bytes > b.offset) {
        return Err(reader.bad(label(b), format!("its data overlaps that of {}", label(a))));
    }
    Ok(tensors)
}

/// A place in the header.
struct Reader<'a> {
    path: &'a Path,
    file: &'a [u8],
    at: usize,
    version: u32,
}

impl<'a> Reader<'a> {
    fn bad(&self, place: String, problem: String) -> Error {
        Error::invalid(self.path, place, problem, "the file is damaged; get or convert it again")
    }

    fn take(&mut self, n: u64, place: &str) -> Result<&'a [u8]> {
        let left = self.file.len() - self.at;
        if n > left as u64 {
            let problem = format!("{n} bytes are called for at byte {} and {left} are left", self.at);
            return Err(Error::invalid(self.path, place, problem, "the file is cut off or damaged; get it again"));
        }
        let bytes = &self.file[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(bytes)
    }

    /// An error unless `count` things of `smallest` bytes can still be there.
    fn believe(&self, count: u64, smallest: u64, place: &str) -> Result<()> {
        let left = (self.file.len() - self.at) as u64;
        if count.checked_mul(smallest).is_none_or(|bytes| bytes > left) {
            let problem = format!("{count} entries are announced and {left} bytes are left");
            return Err(Error::invalid(self.path, place, problem, "the file is cut off or damaged; get it again"));
        }
        Ok(())
    }

    fn u32(&mut self, place: &str) -> Result<u32> {
        let bytes = self.take(4, place)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self, place: &str) -> Result<u64> {
        Ok(self.u32(place)? as u64 | (self.u32(place)? as u64) << 32)
    }

    /// A count, length or dimension: 32 bits in version 1.
    fn length(&mut self, place: &str) -> Result<u64> {
        if self.version == 1 { self.u32(place).map(u64::from) } else { self.u64(place) }
    }

    fn string(&mut self, place: impl Fn() -> String) -> Result<Range<usize>> {
        let n = self.length(&place())?;
        let start = self.at;
        if std::str::from_utf8(self.take(n, &place())?).is_err() {
            return Err(self.bad(place(), "the text is not UTF-8".into()));
        }
        Ok(start..self.at)
    }

    /// Passes over `n` values of a fixed size.
    fn fixed(&mut self, kind: u32, n: u64, place: impl Fn() -> String) -> Result<()> {
        let Some(size) = fixed_size(kind) else {
            return Err(self.bad(place(), format!("value type {kind} is not known")));
        };
        let bytes = self.take(n.saturating_mul(size as u64), &place())?;
        if kind == 7 && bytes.iter().any(|b| *b > 1) {
            return Err(self.bad(place(), "a truth value is neither 0 nor 1".into()));
        }
        Ok(())
    }
}
