//! Writing GGUF v3: the header first, since the types of all tensors decide every size and place, then the data as it comes.

use super::ALIGNMENT;
use super::value::{Array, Value};
use crate::error::{Error, Result};
use crate::file::AtomicFile;
use std::path::{Path, PathBuf};
use strata_quant::GgmlType;

/// What a file will hold.
pub struct Layout {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Planned>,
}

struct Planned {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    bytes: u64,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout::new()
    }
}

impl Layout {
    /// An empty file.
    pub fn new() -> Layout {
        Layout { metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Sets a metadata key; one that is there already keeps its place.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key, value)),
        }
    }

    /// Adds a tensor; `dims` has the length of a row first.
    ///
    /// # Panics
    /// If rows are no whole blocks, the size overflows, or the name is taken: the caller's plan is wrong then.
    pub fn tensor(&mut self, name: impl Into<String>, dims: &[u64], ty: GgmlType) {
        let name = name.into();
        assert!(self.tensors.iter().all(|t| t.name != name), "tensor {name} is there twice");
        let rows = dims[1..].iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let bytes = ty.row_bytes(dims[0] as usize).and_then(|row| rows?.checked_mul(row as u64));
        let bytes = bytes.unwrap_or_else(|| panic!("tensor {name} of {dims:?} values cannot be {ty}"));
        self.tensors.push(Planned { name, dims: dims.to_vec(), ty, bytes });
    }

    /// Bytes of the data of all tensors, without padding.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Weights in all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum()
    }

    /// Tensors.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// The header, padded to where the data starts.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.ty.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.bytes.next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        out
    }

    /// Starts the file; it appears under its name only when [`Writer::finish`] succeeds.
    ///
    /// # Errors
    /// If the folder is missing or the disk is full.
    pub fn create(self, path: &Path) -> Result<Writer> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(&self.header())?;
        Ok(Writer { path: path.to_owned(), file, tensors: self.tensors, next: 0, left: 0 })
    }
}

/// A file whose header is written: the data of the tensors follows, in the order of the layout.
pub struct Writer {
    path: PathBuf,
    file: AtomicFile,
    tensors: Vec<Planned>,
    next: usize,
    left: u64,
}

impl Writer {
    /// The next tensor, which must be this one.
    ///
    /// # Errors
    /// If another comes next or the last one is incomplete.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        match self.tensors.get(self.next) {
            Some(tensor) if tensor.name == name && self.left == 0 => {
                self.left = tensor.bytes;
                self.next += 1;
                Ok(())
            }
            _ => Err(self.out_of_order(name)),
        }
    }

    /// Appends data of the tensor that was begun; after its last byte comes the padding.
    ///
    /// # Errors
    /// If it is more than the tensor has, or the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(self.out_of_order("more data"));
        };
        self.left = left;
        self.file.write_all(bytes)?;
        if left == 0 && !bytes.is_empty() {
            let size = self.tensors[self.next - 1].bytes;
            let padding = size.next_multiple_of(ALIGNMENT) - size;
            self.file.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// If a tensor is missing or incomplete, or the disk is full.
    pub fn finish(self) -> Result<()> {
        if self.next != self.tensors.len() || self.left != 0 {
            return Err(self.out_of_order("the end"));
        }
        self.file.commit()
    }

    fn out_of_order(&self, what: &str) -> Error {
        let problem = format!("{what} came after {} tensors with {} bytes to go", self.next, self.left);
        Error::invalid(&self.path, "tensor data", problem, "this is a defect of strata; please report it")
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! fixed {
        ($kind:literal, $x:expr) => {{
            out.extend(($kind as u32).to_le_bytes());
            out.extend($x.to_le_bytes());
        }};
    }
    match value {
        Value::U8(x) => fixed!(0, x),
        Value::I8(x) => fixed!(1, x),
        Value::U16(x) => fixed!(2, x),
        Value::I16(x) => fixed!(3, x),
        Value::U32(x) => fixed!(4, x),
        Value::I32(x) => fixed!(5, x),
        Value::F32(x) => fixed!(6, x),
        Value::Bool(x) => fixed!(7, (*x as u8)),
        Value::String(x) => {
            out.extend(8u32.to_le_bytes());
            put_string(out, x);
        }
        Value::Array(array) => {
            out.extend(9u32.to_le_bytes());
            put_array(out, array);
        }
        Value::U64(x) => fixed!(10, x),
        Value::I64(x) => fixed!(11, x),
        Value::F64(x) => fixed!(12, x),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! fixed {
        ($kind:literal, $x:expr) => {{
            out.extend(($kind as u32).to_le_bytes());
            out.extend(($x.len() as u64).to_le_bytes());
            $x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(x) => fixed!(0, x),
        Array::I8(x) => fixed!(1, x),
        Array::U16(x) => fixed!(2, x),
        Array::I16(x) => fixed!(3, x),
        Array::U32(x) => fixed!(4, x),
        Array::I32(x) => fixed!(5, x),
        Array::F32(x) => fixed!(6, x),
        Array::Bool(x) => {
            out.extend(7u32.to_le_bytes());
            out.extend((x.len() as u64).to_le_bytes());
            out.extend(x.iter().map(|&x| x as u8));
        }
        Array::String(x) => {
            out.extend(8u32.to_le_bytes());
            out.extend((x.len() as u64).to_le_bytes());
            x.iter().for_each(|x| put_string(out, x));
        }
        Array::U64(x) => fixed!(10, x),
        Array::I64(x) => fixed!(11, x),
        Array::F64(x) => fixed!(12, x),
    }
}
