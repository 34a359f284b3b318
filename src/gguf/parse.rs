//! The checking pass: every rule of the format is checked once, over bytes that may be hostile; later code relies on it.
//!
//! Memory stays in proportion to the bytes: no count is trusted before that many entries have been parsed, and no array
//! extends beyond the file. The bytes are a copy of the file's beginning, so that what was checked cannot change; a copy that is too short
//! for the header is reported as such.

use std::cell::Cell;
use std::collections::HashSet;
use std::path::Path;

use strata_quant::GgmlType;

use super::cursor::Cursor;
use super::keys::ALIGNMENT_KEY;
use super::value::ValueType;
use super::{DEFAULT_ALIGNMENT, alignment_is_valid};
use crate::error::{Error, Result, quoted};
use crate::io::content::content;

/// A checked row of the tensor table: its blocks lie inside its file, are aligned and do not overlap with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the model.
    pub name: String,
    /// The type of the blocks.
    pub ty: GgmlType,
    /// One to four dimensions, the fastest first: `dims[0]` values make a row. None is 0.
    pub dims: Vec<u64>,
    /// The offset of the blocks in bytes from the start of the file.
    pub offset: u64,
    /// The number of the file that has them, from 0; other than 0 only in split models.
    pub part: usize,
    /// The bytes of all blocks.
    pub bytes: u64,
    /// Rows of a head, where the rows of heads are in the order of Hugging Face checkpoints; `None` in every GGUF file. See
    /// [`crate::arch::tensors::permuted_row`].
    pub head_dim: Option<usize>,
}

impl TensorInfo {
    /// The values of a row: `dims[0]`.
    pub fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// The number of rows: the product of the other dimensions.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

/// The checked header of one file.
#[derive(Debug)]
pub(super) struct Parsed {
    pub version: u32,
    pub pairs: Vec<usize>,        // where each pair starts, in file order
    pub sorted: Vec<usize>,       // the same, in the order of the keys
    pub tensors: Vec<TensorInfo>, // in file order
    pub header: usize,            // bytes up to the end of the tensor table
}

/// Why a pass has no result.
pub(super) enum Stop {
    /// The header continues beyond the given bytes.
    Short,
    /// The header breaks a rule.
    Wrong(Error),
}

/// Checks the header of the file at `path`, part `part` of its model, given the first `bytes` of its `file_bytes`.
pub(super) fn parse(path: &Path, bytes: &[u8], file_bytes: u64, part: usize) -> std::result::Result<Parsed, Stop> {
    let cursor = Cursor::new(bytes, true);
    let (place, alignment, short) = (Place::Header, DEFAULT_ALIGNMENT, Cell::new(false));
    let mut pass = Pass { path, cursor, file_bytes, place, alignment, short };
    let parsed = pass.header(bytes, part);
    parsed.map_err(|error| if pass.short.get() { Stop::Short } else { Stop::Wrong(error) })
}

struct Pass<'a> {
    path: &'a Path,
    cursor: Cursor<'a>,
    file_bytes: u64,
    place: Place<'a>,
    alignment: u32,
    short: Cell<bool>, // the bytes ended, the file does not
}

/// The place being read, for error messages.
enum Place<'a> {
    Header,
    Key(u64),
    Value(&'a str),
    Name(u64),
    Tensor(&'a str),
}

impl<'a> Pass<'a> {
    fn header(&mut self, bytes: &'a [u8], part: usize) -> Result<Parsed> {
        let version = self.version(bytes)?;
        let tensors = self.count("tensors", 3 * 4 + 8, 2)?;
        let pairs = self.count("key-value pairs", 4 + 1, 1)?;
        let (pairs, sorted) = self.pairs(pairs, bytes)?;
        let tensors = self.tensors(tensors, part)?;
        Ok(Parsed { version, pairs, sorted, tensors, header: self.cursor.pos() })
    }

    /// The bytes of the file after the cursor.
    fn room(&self) -> u64 {
        self.file_bytes.saturating_sub(self.cursor.pos() as u64)
    }

    fn version(&mut self, bytes: &'a [u8]) -> Result<u32> {
        let magic = self.cursor.array().ok_or_else(|| self.cut())?;
        if &magic == b"FUGG" {
            return Err(self.big_endian());
        }
        if &magic != b"GGUF" {
            if let Some(content) = content(bytes) {
                return Err(content.error(self.path, "a GGUF file"));
            }
            let problem = format!("starts with {:?}, not with \"GGUF\"", String::from_utf8_lossy(&magic));
            return Err(self.wrong(problem, "give the path of a .gguf file"));
        }
        let version = self.cursor.u32().ok_or_else(|| self.cut())?;
        if matches!(version.swap_bytes(), 1..=3) {
            return Err(self.big_endian());
        }
        if !matches!(version, 1..=3) {
            let problem = format!("GGUF version {version} is not known");
            return Err(self.wrong(problem, "use a file of version 1, 2 or 3"));
        }
        self.cursor = Cursor::new(bytes, version > 1).at(self.cursor.pos());
        Ok(version)
    }

    /// A count of entries that take at least `fixed` bytes and `lengths` lengths each.
    fn count(&mut self, of: &str, fixed: usize, lengths: usize) -> Result<u64> {
        let count = self.cursor.length().ok_or_else(|| self.cut())?;
        let room = self.room() / (fixed + lengths * self.cursor.length_bytes()) as u64;
        if count > room {
            return Err(self.wrong(format!("claims {count} {of}, the file has room for {room}"), GET_AGAIN));
        }
        Ok(count)
    }

    /// The pairs, in file order and in the order of their keys.
    fn pairs(&mut self, count: u64, bytes: &'a [u8]) -> Result<(Vec<usize>, Vec<usize>)> {
        let mut pairs = Vec::new();
        for i in 0..count {
            self.place = Place::Key(i);
            let start = self.cursor.pos();
            let key = self.string()?;
            self.place = Place::Value(key);
            pairs.push(start);
            let ty = self.value_type()?;
            if key == ALIGNMENT_KEY {
                self.alignment(ty)?;
            } else if ty == ValueType::Array {
                self.array()?;
            } else {
                self.elements(ty, 1)?;
            }
        }
        let cursor = Cursor::new(bytes, self.cursor.is_wide());
        let key_at = |at: usize| cursor.at(at).string().and_then(|key| str::from_utf8(key).ok()).unwrap_or_default();
        let mut sorted = pairs.clone();
        sorted.sort_unstable_by_key(|&at| (key_at(at), at));
        for pair in sorted.windows(2) {
            if key_at(pair[0]) == key_at(pair[1]) {
                self.place = Place::Value(key_at(pair[1]));
                return Err(self.wrong("appears twice", GET_AGAIN));
            }
        }
        Ok((pairs, sorted))
    }

    fn value_type(&mut self) -> Result<ValueType> {
        let id = self.cursor.u32().ok_or_else(|| self.cut())?;
        ValueType::from_id(id).ok_or_else(|| self.wrong(format!("value type {id} is not known"), GET_AGAIN))
    }

    fn alignment(&mut self, ty: ValueType) -> Result<()> {
        if ty != ValueType::U32 {
            return Err(self.wrong(format!("must be a u32, is of type {ty}"), CONVERT_AGAIN));
        }
        let alignment = self.cursor.u32().ok_or_else(|| self.cut())?;
        if !alignment_is_valid(alignment) {
            return Err(self.wrong(format!("is {alignment}, must be a power of two of at least 8"), CONVERT_AGAIN));
        }
        self.alignment = alignment;
        Ok(())
    }

    fn array(&mut self) -> Result<()> {
        let ty = self.value_type()?;
        if ty == ValueType::Array {
            return Err(self.wrong("is an array of arrays, which Strata does not support", CONVERT_AGAIN));
        }
        let len = self.cursor.length().ok_or_else(|| self.cut())?;
        // Strings take at least their length.
        let least = ty.size().unwrap_or(self.cursor.length_bytes());
        let room = self.room() / least as u64;
        match usize::try_from(len) {
            Ok(count) if len <= room => self.elements(ty, count),
            _ => Err(self.wrong(format!("claims {len} elements, the file has room for {room}"), GET_AGAIN)),
        }
    }

    /// `count` values of type `ty`, not arrays.
    fn elements(&mut self, ty: ValueType, count: usize) -> Result<()> {
        let Some(size) = ty.size() else {
            for _ in 0..count {
                self.string()?;
            }
            return Ok(());
        };
        let bytes = count.checked_mul(size).and_then(|n| self.cursor.take(n)).ok_or_else(|| self.cut())?;
        if ty == ValueType::Bool
            && let Some(bad) = bytes.iter().find(|&&byte| byte > 1)
        {
            return Err(self.wrong(format!("a bool has the value {bad}, must be 0 or 1"), GET_AGAIN));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<&'a str> {
        let mut ahead = self.cursor;
        let len = ahead.length().ok_or_else(|| self.cut())?;
        let room = self.file_bytes.saturating_sub(ahead.pos() as u64);
        let Some(bytes) = self.cursor.string() else {
            if len <= room {
                return Err(self.cut());
            }
            let problem = format!("a string claims {len} bytes, the file has {room} left");
            return Err(self.wrong(problem, GET_AGAIN));
        };
        str::from_utf8(bytes).map_err(|e| {
            self.wrong(format!("a string is not UTF-8 from its byte {} on", e.valid_up_to()), CONVERT_AGAIN)
        })
    }

    /// The tensor table, in file order.
    fn tensors(&mut self, count: u64, part: usize) -> Result<Vec<TensorInfo>> {
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for i in 0..count {
            self.place = Place::Name(i);
            let name = self.string()?;
            self.place = Place::Tensor(name);
            if !names.insert(name) {
                return Err(self.wrong("appears twice", GET_AGAIN));
            }
            tensors.push(self.tensor(name, part)?);
        }
        drop(names);

        // The offsets count from the first aligned byte after the table.
        let alignment = u64::from(self.alignment);
        let file = self.file_bytes;
        let end = self.cursor.pos() as u64;
        let start = end.checked_next_multiple_of(alignment);
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_unstable_by_key(|&i| tensors[i].offset);
        let mut free = 0; // the first byte after the tensor before, from the start of the file
        let mut before: Option<usize> = None;
        for i in order {
            let tensor: &TensorInfo = &tensors[i];
            let (offset, bytes) = (tensor.offset, tensor.bytes);
            let wrong = |problem: String, remedy| Err(wrong_tensor(self.path, &tensor.name, problem, remedy));
            let place = start.and_then(|start| start.checked_add(offset));
            let Some((first, last)) = place.and_then(|at| Some((at, at.checked_add(bytes)?))) else {
                return wrong(format!("its offset {offset} and {bytes} bytes overflow"), GET_AGAIN);
            };
            if !offset.is_multiple_of(alignment) {
                return wrong(format!("its offset {offset} is not aligned to {alignment}"), CONVERT_AGAIN);
            }
            if last > file {
                let problem = format!("its data ends at byte {last}, past the end of the file at {file}");
                return wrong(problem, GET_AGAIN);
            }
            if let Some(before) = before
                && first < free
            {
                return wrong(
                    format!("its data overlaps with that of tensor {}", quoted(&tensors[before].name)),
                    GET_AGAIN,
                );
            }
            free = last;
            tensors[i].offset = first;
            before = Some(i);
        }
        Ok(tensors)
    }

    /// What follows the name in the table; the offset is still as in the file.
    fn tensor(&mut self, name: &str, part: usize) -> Result<TensorInfo> {
        let n_dims = self.cursor.u32().ok_or_else(|| self.cut())?;
        if !matches!(n_dims, 1..=4) {
            return Err(self.wrong(format!("has {n_dims} dimensions, must have 1 to 4"), CONVERT_AGAIN));
        }
        let mut dims = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            dims.push(self.cursor.length().ok_or_else(|| self.cut())?);
        }
        let id = self.cursor.u32().ok_or_else(|| self.cut())?;
        let ty = GgmlType::from_id(id).ok_or_else(|| {
            self.wrong(format!("tensor type {id} is not known"), "use a file with types of ggml, or a newer Strata")
        })?;
        let bytes = tensor_bytes(&dims, ty).map_err(|problem| self.wrong(problem, CONVERT_AGAIN))?;
        let offset = self.cursor.u64().ok_or_else(|| self.cut())?;
        Ok(TensorInfo { name: name.to_owned(), ty, dims, offset, part, bytes, head_dim: None })
    }

    fn cut(&self) -> Error {
        self.short.set(self.cursor.end() < self.file_bytes);
        self.wrong("the file ends in the middle of it", GET_AGAIN)
    }

    fn big_endian(&self) -> Error {
        self.wrong("is big-endian, which Strata does not read", "convert the model again on a little-endian machine")
    }

    fn wrong(&self, problem: impl Into<String>, remedy: &str) -> Error {
        let place = match self.place {
            Place::Header => "header".to_owned(),
            Place::Key(i) => format!("key {i} at byte {}", self.cursor.pos()),
            Place::Value(key) => format!("key {}", quoted(key)),
            Place::Name(i) => format!("tensor {i} at byte {}", self.cursor.pos()),
            Place::Tensor(name) => return wrong_tensor(self.path, name, problem, remedy),
        };
        Error::invalid(self.path, place, problem, remedy)
    }
}

/// The bytes of a tensor, or what is wrong with its shape.
pub(super) fn tensor_bytes(dims: &[u64], ty: GgmlType) -> std::result::Result<u64, String> {
    if dims.contains(&0) {
        return Err(format!("has a dimension of 0 in {dims:?}"));
    }
    let cols = dims.first().copied().unwrap_or(0);
    let block = ty.block_len() as u64;
    if !cols.is_multiple_of(block) {
        return Err(format!("its row length {cols} is not a multiple of the block size of {ty}, {block}"));
    }
    let values = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    values
        .and_then(|values| (values / block).checked_mul(ty.block_bytes() as u64))
        .filter(|&bytes| bytes <= i64::MAX as u64)
        .ok_or_else(|| format!("its dimensions {dims:?} overflow"))
}

fn wrong_tensor(path: &Path, name: &str, problem: impl Into<String>, remedy: &str) -> Error {
    Error::invalid(path, format!("tensor {}", quoted(name)), problem, remedy)
}

/// The remedy for files that were truncated or changed in transit.
pub(super) const GET_AGAIN: &str = "the file is damaged or incomplete, get it again";
/// The remedy for files that were written with the error.
pub(super) const CONVERT_AGAIN: &str = "convert the model again";
