//! Writing a GGUF file: the header comes from the shapes alone, so where every tensor goes is known before any data is.
//!
//! [`Writer`] (`writer.rs`) takes the data in file order; [`Layout::place`] is for those who write it in another.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use strata_quant::GgmlType;

use super::keys::ALIGNMENT_KEY;
use super::parse::tensor_bytes;
use super::value::{Array, Value};
use super::writer::{Files, Slot, Writer};
use super::{DEFAULT_ALIGNMENT, alignment_is_valid};
use crate::error::{Error, Result, quoted};
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;

/// The metadata and tensors of a file to write, in file order. The same layout and data make the same bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The key-value pairs; [`Layout::set`] keeps keys unique.
    pub metadata: Vec<(String, Value)>,
    /// The alignment of tensors in bytes: a power of two of at least 8. Written as `general.alignment` if it is not 32.
    pub alignment: u32,
    tensors: Vec<TensorEntry>,
    places: HashMap<String, usize>, // of keys in `metadata`; checked before use
}

#[derive(Clone, Debug)]
struct TensorEntry {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout::new()
    }
}

impl Layout {
    /// A layout without keys and tensors.
    pub fn new() -> Layout {
        Layout { metadata: Vec::new(), alignment: DEFAULT_ALIGNMENT, tensors: Vec::new(), places: HashMap::new() }
    }

    /// Sets `key`: at the end if it is new, in place if it is not. Setting `general.alignment` sets the alignment.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        if let (ALIGNMENT_KEY, Value::U32(alignment)) = (key.as_str(), &value) {
            self.alignment = *alignment;
        }
        match self.place_of(&key) {
            Some(i) => self.metadata[i].1 = value,
            None => {
                self.places.insert(key.clone(), self.metadata.len());
                self.metadata.push((key, value));
            }
        }
    }

    /// The index of a key. The map is rebuilt where callers have changed `metadata`.
    fn place_of(&mut self, key: &str) -> Option<usize> {
        let place = self.places.get(key).copied();
        let is_right = place.is_none_or(|i| self.metadata.get(i).is_some_and(|(known, _)| known == key));
        if is_right && self.places.len() == self.metadata.len() {
            return place;
        }
        self.places.clear();
        for (i, (key, _)) in self.metadata.iter().enumerate() {
            self.places.entry(key.clone()).or_insert(i);
        }
        self.places.get(key).copied()
    }

    /// Adds a tensor; the fastest of `dims` comes first.
    pub fn tensor(&mut self, name: impl Into<String>, dims: &[u64], ty: GgmlType) {
        self.tensors.push(TensorEntry { name: name.into(), dims: dims.to_vec(), ty });
    }

    /// Checks the layout and computes all offsets. They depend on the lengths of values, not on their contents.
    ///
    /// # Errors
    /// If no file can have it: a key or a name is given twice, a dimension is 0, a row length is not a multiple of the block size.
    pub fn place(&mut self) -> Result<Placed> {
        self.check_metadata()?;
        let slots = self.slots()?;
        let header = self.header(&slots);
        let start = header.len() as u64;
        let end = slots.last().map_or(0, |slot| slot.offset + slot.bytes.next_multiple_of(self.alignment.into()));
        let tensors = slots.iter().map(|slot| start + slot.offset..start + slot.offset + slot.bytes).collect();
        Ok(Placed { header, tensors, file_bytes: start + end })
    }

    /// Checks the layout and starts the file at `path` with its header.
    pub fn create(self, path: impl AsRef<Path>) -> Result<Writer<'static>> {
        self.create_beside("write", path, &Inputs::default())
    }

    /// [`Layout::create`] for a command, which refuses to replace one of its `inputs`.
    pub fn create_beside(self, command: &str, path: impl AsRef<Path>, inputs: &Inputs) -> Result<Writer<'static>> {
        let path = path.as_ref();
        let started = self.start(|| Ok(Files::Own(Box::new(Outputs::single(command, path, inputs)?))));
        started.map_err(|error| error.of_file(path))
    }

    /// Checks the layout and starts the next of several files with its header.
    pub fn create_next(self, files: &mut Outputs) -> Result<Writer<'_>> {
        let path = files.path().to_owned();
        self.start(|| files.begin().map(|()| Files::Several(files))).map_err(|error| error.of_file(&path))
    }

    fn start<'o>(mut self, files: impl FnOnce() -> Result<Files<'o>>) -> Result<Writer<'o>> {
        self.check_metadata()?;
        let slots = self.slots()?;
        let header = self.header(&slots);
        let alignment = self.alignment as usize;
        Writer::new(files()?, slots, alignment, &header)
    }

    fn check_metadata(&mut self) -> Result<()> {
        let mut keys = HashSet::new();
        if let Some((key, _)) = self.metadata.iter().find(|(key, _)| !keys.insert(key)) {
            return Err(Error::argument(format!("key {}", quoted(key)), "is given twice"));
        }
        let wrong_key = |(key, _): &&(String, Value)| key.is_empty() || key.len() > LONGEST_KEY;
        if let Some((key, _)) = self.metadata.iter().find(wrong_key) {
            let problem = format!("has {} bytes, must have 1 to {LONGEST_KEY}", key.len());
            return Err(Error::argument(format!("key {}", quoted(key)), problem));
        }
        if !alignment_is_valid(self.alignment) || self.alignment > LARGEST_ALIGNMENT {
            let rule = format!("is no power of two from 8 to {LARGEST_ALIGNMENT}");
            return Err(Error::argument(format!("alignment {}", self.alignment), rule));
        }
        let given = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        if let Some((_, value)) = given.filter(|(_, value)| !matches!(value, Value::U32(_))) {
            return Err(Error::argument(ALIGNMENT_KEY, format!("must be a u32, is of type {}", value.ty())));
        }
        if given.is_some() || self.alignment != DEFAULT_ALIGNMENT {
            self.set(ALIGNMENT_KEY, self.alignment);
        }
        Ok(())
    }

    /// The offset and length of each tensor's data.
    fn slots(&self) -> Result<Vec<Slot>> {
        let mut names = HashSet::new();
        let mut offset = 0u64;
        let mut slots = Vec::with_capacity(self.tensors.len());
        for TensorEntry { name, dims, ty } in &self.tensors {
            let wrong = |problem: String| Err(Error::argument(format!("tensor {}", quoted(name)), problem));
            if !names.insert(name) {
                return wrong("is given twice".to_owned());
            }
            if name.len() > LONGEST_NAME {
                return wrong(format!("its name has {} bytes, ggml allows {LONGEST_NAME}", name.len()));
            }
            if !matches!(dims.len(), 1..=4) {
                return wrong(format!("has {} dimensions, must have 1 to 4", dims.len()));
            }
            let bytes = match tensor_bytes(dims, *ty) {
                Ok(bytes) => bytes,
                Err(problem) => return wrong(problem),
            };
            slots.push(Slot { name: name.clone(), offset, bytes });
            let next = bytes.checked_next_multiple_of(self.alignment.into()).and_then(|n| offset.checked_add(n));
            offset = match next.filter(|&next| next <= LONGEST_DATA) {
                Some(next) => next,
                None => return wrong("the file would be too long".to_owned()),
            };
        }
        Ok(slots)
    }

    /// All bytes before the data.
    fn header(&self, slots: &[Slot]) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(VERSION.to_le_bytes());
        put_len(&mut out, self.tensors.len());
        put_len(&mut out, self.metadata.len());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            out.extend(value.ty().id().to_le_bytes());
            put_value(&mut out, value);
        }
        for (TensorEntry { name, dims, ty }, slot) in self.tensors.iter().zip(slots) {
            put_string(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(ty.id().to_le_bytes());
            out.extend(slot.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        out
    }
}

/// The offsets of a file in bytes from its start. Bytes outside all ranges are zeros.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The bytes before the data.
    pub header: Vec<u8>,
    /// The range of each tensor, in file order.
    pub tensors: Vec<Range<u64>>,
    /// The length of the file.
    pub file_bytes: u64,
}

impl Value {
    /// The bytes of the value in a file, its type first.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.ty().id().to_le_bytes().to_vec();
        put_value(&mut out, self);
        out
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type().id().to_le_bytes());
    put_len(out, array.len());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        Array::String(v) => v.iter().for_each(|v| put_string(out, v)),
        Array::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

const VERSION: u32 = 3;

/// The most bytes of data, above what file systems allow; it keeps sums with the header from overflowing.
const LONGEST_DATA: u64 = i64::MAX as u64;

/// ggml's `GGML_MAX_NAME`, less the 0 at the end: llama.cpp refuses longer names.
const LONGEST_NAME: usize = 63;

/// The format's limit on keys.
const LONGEST_KEY: usize = 65535;

/// Above it, padding would take more room than data; the format has no limit.
const LARGEST_ALIGNMENT: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::{Gguf, ValueType};
    use super::*;

    /// One value of every type, one array of every type, one empty array of every type.
    fn all_values() -> Vec<Value> {
        macro_rules! each {
            ($($ty:ty: $variant:ident = [$($v:expr),*];)*) => {
                vec![$(
                    $(Value::from($v),)*
                    Value::from(Vec::<$ty>::from([$($v),*])),
                    Value::from(Vec::<$ty>::new()),
                )*]
            };
        }
        each! {
            u8: U8 = [0u8, u8::MAX];
            i8: I8 = [i8::MIN, i8::MAX];
            u16: U16 = [1u16, u16::MAX];
            i16: I16 = [i16::MIN, i16::MAX];
            u32: U32 = [2u32, u32::MAX];
            i32: I32 = [i32::MIN, i32::MAX];
            f32: F32 = [-0.0f32, f32::MAX, f32::MIN_POSITIVE];
            bool: Bool = [true, false];
            String: String = [String::new(), "a ▁b\0\u{10ffff}".to_owned()];
            u64: U64 = [3u64, u64::MAX];
            i64: I64 = [i64::MIN, i64::MAX];
            f64: F64 = [0.1f64, f64::INFINITY];
        }
    }

    fn layout() -> Layout {
        let mut layout = Layout::new();
        for (i, value) in all_values().into_iter().enumerate() {
            layout.set(format!("key.{i}"), value);
        }
        layout.tensor("a", &[3], GgmlType::F32);
        layout.tensor("b", &[64, 2, 1, 3], GgmlType::Q8_0);
        layout.tensor("c", &[1], GgmlType::I8);
        layout
    }

    fn write(layout: Layout, path: &Path) {
        let placed = layout.clone().place().unwrap();
        let mut writer = layout.create(path).unwrap();
        let file_bytes = writer.file_bytes();
        assert_eq!(placed.file_bytes, file_bytes);
        writer.begin("a").unwrap();
        writer.write(&[1; 12]).unwrap();
        writer.begin("b").unwrap();
        for _ in 0..12 {
            writer.write(&[2; 34]).unwrap();
        }
        writer.begin("c").unwrap();
        writer.write(&[]).unwrap();
        writer.write(&[3]).unwrap();
        writer.finish().unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes.len() as u64, file_bytes);
        assert!(bytes.starts_with(&placed.header));
        let ranges = placed.tensors.iter().map(|range| &bytes[range.start as usize..range.end as usize]);
        assert_eq!(ranges.collect::<Vec<_>>(), [&[1; 12][..], &[2; 408], &[3]]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, again) = (folder.path().join("a.gguf"), folder.path().join("again.gguf"));
        for alignment in [32, 8, 4096] {
            let mut layout = layout();
            layout.alignment = alignment;
            write(layout.clone(), &path);
            write(layout.clone(), &again);
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap());

            let gguf = Gguf::open(&path).unwrap();
            let read: Vec<_> = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            if alignment != DEFAULT_ALIGNMENT {
                layout.set(ALIGNMENT_KEY, alignment);
            }
            assert_eq!(read, layout.metadata);
            for (key, value) in &layout.metadata {
                assert_eq!(gguf.metadata().get(key).unwrap().to_owned(), *value);
                assert_eq!(gguf.metadata().get(key).unwrap().ty(), value.ty());
            }
            assert_eq!(gguf.metadata().get("key"), None);
            let types: HashSet<u32> = read.iter().map(|(_, value)| value.ty().id()).collect();
            assert_eq!(types.len(), ValueType::ALL.len());

            let found: Vec<_> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.dims.as_slice(), t.ty)).collect();
            let (f32, q8_0, i8) = (GgmlType::F32, GgmlType::Q8_0, GgmlType::I8);
            assert_eq!(found, [("a", &[3][..], f32), ("b", &[64, 2, 1, 3], q8_0), ("c", &[1], i8)]);
            let data = |name| gguf.data(gguf.tensor(name).unwrap());
            assert_eq!((data("a"), data("b"), data("c")), (&[1; 12][..], &[2; 408][..], &[3][..]));
            assert!(gguf.tensors().iter().all(|t| t.offset.is_multiple_of(alignment.into())));
        }
    }

    #[test]
    fn setting_a_key_again_keeps_its_place() {
        let mut layout = Layout::new();
        layout.set("a", 1u32);
        layout.set("b", 2u32);
        layout.set("a", "new");
        layout.set(ALIGNMENT_KEY, 64u32);
        assert_eq!(layout.metadata[0], ("a".to_owned(), Value::from("new")));
        assert_eq!((layout.metadata.len(), layout.alignment), (3, 64));
        // Also where others have changed the list meanwhile.
        layout.metadata.remove(0);
        layout.set("b", 3u32);
        layout.metadata.push(("c".to_owned(), 1u8.into()));
        layout.set("c", 2u8);
        layout.metadata.swap(0, 2);
        layout.set("b", 4u32);
        layout.set("d", 5u32);
        let expected: Vec<(String, Value)> = vec![
            ("c".into(), 2u8.into()),
            (ALIGNMENT_KEY.into(), 64u32.into()),
            ("b".into(), 4u32.into()),
            ("d".into(), 5u32.into()),
        ];
        assert_eq!(layout.metadata, expected);
    }

    #[test]
    fn many_keys_are_set_in_linear_time() {
        // With a search for each key this would not end.
        let mut layout = Layout::new();
        for round in 0..2u32 {
            (0..200_000).for_each(|i| layout.set(format!("key.{i}"), round));
        }
        assert_eq!(layout.metadata.len(), 200_000);
        assert!(layout.metadata.iter().all(|(_, value)| *value == 1u32.into()));
    }

    #[test]
    fn data_that_differs_from_the_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let said = |result: Result<()>| result.unwrap_err().to_string();

        let mut writer = layout().create(&path).unwrap();
        assert!(said(writer.write(&[1])).contains("no tensor was begun"));
        assert!(said(writer.begin("b")).contains("tensor \"b\": comes where \"a\" is due"));
        writer.begin("a").unwrap();
        assert!(said(writer.write(&[0; 13])).contains("13 bytes are written, 12 of its 12 are free"));
        writer.write(&[0; 11]).unwrap();
        assert!(said(writer.begin("b")).contains("tensor \"a\": only 11 of its 12 bytes"));
        writer.write(&[0]).unwrap();
        assert!(said(writer.finish()).contains("tensor \"b\": is missing"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let mut one = Layout::new();
        one.tensor("a", &[1], GgmlType::F32);
        let mut writer = one.create(&path).unwrap();
        writer.begin("a").unwrap();
        writer.write(&[0; 4]).unwrap();
        assert!(said(writer.begin("a")).contains("after the last tensor"));
    }

    #[test]
    fn layouts_that_no_file_can_have_are_refused() {
        type Fill = fn(&mut Layout);
        let refused = |fill: Fill| {
            let mut layout = Layout::new();
            fill(&mut layout);
            layout.create("/nowhere/a.gguf").unwrap_err().to_string()
        };
        const F32: GgmlType = GgmlType::F32;
        let table: &[(Fill, &str)] = &[
            (
                |l| {
                    l.tensor("a", &[1], F32);
                    l.tensor("a", &[1], F32);
                },
                "tensor \"a\": is given twice",
            ),
            (
                |l| {
                    l.tensor("a", &[], F32);
                },
                "0 dimensions",
            ),
            (
                |l| {
                    l.tensor("a", &[0], F32);
                },
                "dimension of 0",
            ),
            (
                |l| {
                    l.tensor("a", &[33], GgmlType::Q8_0);
                },
                "row length 33 is not a multiple of the block size of Q8_0",
            ),
            (
                |l| {
                    l.tensor("a", &[1 << 32, 1 << 32], F32);
                },
                "overflow",
            ),
            (
                |l| {
                    l.tensor("a".repeat(64), &[1], F32);
                },
                "ggml allows 63",
            ),
            (|l| l.metadata = vec![("k".into(), 1u8.into()), ("k".into(), 2u8.into())], "key \"k\": is given twice"),
            (
                |l| {
                    l.tensor("a", &[1 << 62], GgmlType::I8);
                    l.tensor("b", &[1 << 62], GgmlType::I8);
                },
                "too long",
            ),
            (|l| l.alignment = 3, "alignment 3: is no power of two"),
            (|l| l.alignment = 1 << 31, "alignment 2147483648: is no power of two"),
            (|l| l.set(ALIGNMENT_KEY, -1i32), "must be a u32"),
            (|l| l.set(ALIGNMENT_KEY, "64"), "must be a u32"),
            (|l| l.set("k".repeat(65536), 1u8), "has 65536 bytes"),
            (|l| l.set("", 1u8), "has 0 bytes"),
            (|_| (), "mkdir -p /nowhere"),
        ];
        for (fill, words) in table {
            assert!(refused(*fill).contains(words), "{words:?} is not in: {}", refused(*fill));
        }
    }
}
