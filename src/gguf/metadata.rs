//! Metadata read in place: views of a copy of the file's header that the checking pass has accepted.

use std::fmt;

use super::cursor::Cursor;
use super::value::{Array, Value, ValueType};

/// The key-value pairs of a file, in the file's order.
#[derive(Debug)]
pub struct Metadata {
    header: Vec<u8>,
    wide: bool,
    pairs: Vec<usize>,  // where each pair starts, in file order
    sorted: Vec<usize>, // the same, in the order of the keys
}

impl Metadata {
    /// Views over pairs that the checking pass has accepted.
    pub(super) fn new(header: Vec<u8>, wide: bool, pairs: Vec<usize>, sorted: Vec<usize>) -> Metadata {
        Metadata { header, wide, pairs, sorted }
    }

    /// The pairs, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, ValueRef<'_>)> {
        self.pairs.iter().map(|&at| {
            let mut cursor = self.cursor(at);
            (text(&mut cursor), value(&mut cursor))
        })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<ValueRef<'_>> {
        let key_at = |at: usize| self.cursor(at).string().expect(CHECKED);
        let found = self.sorted.binary_search_by(|&at| key_at(at).cmp(key.as_bytes())).ok()?;
        let mut cursor = self.cursor(self.sorted[found]);
        text(&mut cursor);
        Some(value(&mut cursor))
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// True if there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The bytes of the file's header.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    fn cursor(&self, at: usize) -> Cursor<'_> {
        Cursor::new(&self.header, self.wide).at(at)
    }
}

/// A metadata value in place, with the type that the file gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ValueRef<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(ArrayRef<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> ValueRef<'a> {
    /// The value's type.
    pub fn ty(self) -> ValueType {
        match self {
            ValueRef::U8(_) => ValueType::U8,
            ValueRef::I8(_) => ValueType::I8,
            ValueRef::U16(_) => ValueType::U16,
            ValueRef::I16(_) => ValueType::I16,
            ValueRef::U32(_) => ValueType::U32,
            ValueRef::I32(_) => ValueType::I32,
            ValueRef::F32(_) => ValueType::F32,
            ValueRef::Bool(_) => ValueType::Bool,
            ValueRef::String(_) => ValueType::String,
            ValueRef::Array(_) => ValueType::Array,
            ValueRef::U64(_) => ValueType::U64,
            ValueRef::I64(_) => ValueType::I64,
            ValueRef::F64(_) => ValueType::F64,
        }
    }

    /// An owned copy.
    pub fn to_owned(self) -> Value {
        match self {
            ValueRef::U8(v) => Value::U8(v),
            ValueRef::I8(v) => Value::I8(v),
            ValueRef::U16(v) => Value::U16(v),
            ValueRef::I16(v) => Value::I16(v),
            ValueRef::U32(v) => Value::U32(v),
            ValueRef::I32(v) => Value::I32(v),
            ValueRef::F32(v) => Value::F32(v),
            ValueRef::Bool(v) => Value::Bool(v),
            ValueRef::String(v) => Value::String(v.into()),
            ValueRef::Array(v) => Value::Array(v.to_owned()),
            ValueRef::U64(v) => Value::U64(v),
            ValueRef::I64(v) => Value::I64(v),
            ValueRef::F64(v) => Value::F64(v),
        }
    }

    /// The value of an integer of any type that fits a u64.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            ValueRef::U64(v) => Some(v),
            other => other.as_i64().and_then(|v| v.try_into().ok()),
        }
    }

    /// The value of an integer of any type that fits an i64.
    pub fn as_i64(self) -> Option<i64> {
        match self {
            ValueRef::U8(v) => Some(v.into()),
            ValueRef::I8(v) => Some(v.into()),
            ValueRef::U16(v) => Some(v.into()),
            ValueRef::I16(v) => Some(v.into()),
            ValueRef::U32(v) => Some(v.into()),
            ValueRef::I32(v) => Some(v.into()),
            ValueRef::U64(v) => v.try_into().ok(),
            ValueRef::I64(v) => Some(v),
            _ => None,
        }
    }

    /// The value of a float of either type, rounded to f32; `None` if it overflows.
    pub fn as_f32(self) -> Option<f32> {
        match self {
            ValueRef::F32(v) => Some(v),
            ValueRef::F64(v) if v.is_finite() == (v as f32).is_finite() => Some(v as f32),
            _ => None,
        }
    }

    /// The value of a bool.
    pub fn as_bool(self) -> Option<bool> {
        match self {
            ValueRef::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The value of a string.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            ValueRef::String(v) => Some(v),
            _ => None,
        }
    }

    /// The value of an array.
    pub fn as_array(self) -> Option<ArrayRef<'a>> {
        match self {
            ValueRef::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// A metadata array in place; its elements are decoded when they are read.
#[derive(Clone, Copy)]
pub struct ArrayRef<'a> {
    ty: ValueType,
    len: usize,
    elements: Cursor<'a>,
}

impl<'a> ArrayRef<'a> {
    /// The type of every element.
    pub fn element_type(self) -> ValueType {
        self.ty
    }

    /// The number of elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// True if there are no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The elements.
    pub fn iter(self) -> impl ExactSizeIterator<Item = ValueRef<'a>> {
        let mut cursor = self.elements;
        (0..self.len).map(move |_| scalar(&mut cursor, self.ty))
    }

    /// The elements of an array of strings; `None` for another type.
    pub fn strings(self) -> Option<impl ExactSizeIterator<Item = &'a str>> {
        let mut cursor = self.elements;
        (self.ty == ValueType::String).then(|| (0..self.len).map(move |_| text(&mut cursor)))
    }

    /// The elements of an array of floats; `None` for another type.
    pub fn to_f32s(self) -> Option<Vec<f32>> {
        self.iter().map(ValueRef::as_f32).collect()
    }

    /// The elements of an array of integers of any type; `None` for another type or if one does not fit.
    pub fn to_i32s(self) -> Option<Vec<i32>> {
        self.iter().map(|v| v.as_i64()?.try_into().ok()).collect()
    }

    /// An owned copy.
    pub fn to_owned(self) -> Array {
        macro_rules! collect {
            ($($variant:ident)*) => {
                match self.ty {
                    $(ValueType::$variant => Array::$variant(self.iter().map(|v| match v {
                        ValueRef::$variant(v) => v.into(),
                        _ => unreachable!("elements are made with the type of the array"),
                    }).collect()),)*
                    ValueType::Array => unreachable!("{CHECKED}"),
                }
            };
        }
        collect!(U8 I8 U16 I16 U32 I32 F32 Bool String U64 I64 F64)
    }
}

impl PartialEq for ArrayRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && self.len == other.len && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The value that starts with its type at `cursor`.
fn value<'a>(cursor: &mut Cursor<'a>) -> ValueRef<'a> {
    match ty(cursor) {
        ValueType::Array => {
            let ty = ty(cursor);
            let len = cursor.length().expect(CHECKED) as usize;
            ValueRef::Array(ArrayRef { ty, len, elements: *cursor })
        }
        ty => scalar(cursor, ty),
    }
}

/// The value of type `ty`, not an array, at `cursor`.
fn scalar<'a>(cursor: &mut Cursor<'a>, ty: ValueType) -> ValueRef<'a> {
    macro_rules! number {
        ($variant:ident, $rust:ty) => {
            ValueRef::$variant(<$rust>::from_le_bytes(cursor.array().expect(CHECKED)))
        };
    }
    match ty {
        ValueType::U8 => number!(U8, u8),
        ValueType::I8 => number!(I8, i8),
        ValueType::U16 => number!(U16, u16),
        ValueType::I16 => number!(I16, i16),
        ValueType::U32 => number!(U32, u32),
        ValueType::I32 => number!(I32, i32),
        ValueType::F32 => number!(F32, f32),
        ValueType::U64 => number!(U64, u64),
        ValueType::I64 => number!(I64, i64),
        ValueType::F64 => number!(F64, f64),
        ValueType::Bool => ValueRef::Bool(cursor.array::<1>().expect(CHECKED) != [0]),
        ValueType::String => ValueRef::String(text(cursor)),
        ValueType::Array => unreachable!("{CHECKED}"),
    }
}

fn ty(cursor: &mut Cursor<'_>) -> ValueType {
    cursor.u32().and_then(ValueType::from_id).expect(CHECKED)
}

fn text<'a>(cursor: &mut Cursor<'a>) -> &'a str {
    cursor.string().and_then(|bytes| str::from_utf8(bytes).ok()).expect(CHECKED)
}

/// Why no step of this file can fail: `parse` has taken the same steps over the same private bytes.
const CHECKED: &str = "the checking pass has walked these bytes";
