//! Metadata values as they lie in the file.

use crate::gguf::value::{Array, Value};

/// A value, borrowed from the file.
#[derive(Clone, Copy, Debug)]
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

/// An array, borrowed from the file: its elements are read as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct ArrayRef<'a> {
    pub(super) kind: u32,
    pub(super) len: usize,
    /// The elements' bytes, checked when the file was opened.
    pub(super) bytes: &'a [u8],
    pub(super) short_lengths: bool,
}

/// The numbers of the value types in the file.
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;

/// Bytes of a value of a fixed size; `None` for strings, arrays and unknown types.
pub(super) fn fixed_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Reads a value of a fixed size from exactly its bytes.
pub(super) fn fixed<'a>(kind: u32, bytes: &[u8]) -> Option<ValueRef<'a>> {
    fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
    Some(match kind {
        0 => ValueRef::U8(u8::from_le_bytes(le(bytes)?)),
        1 => ValueRef::I8(i8::from_le_bytes(le(bytes)?)),
        2 => ValueRef::U16(u16::from_le_bytes(le(bytes)?)),
        3 => ValueRef::I16(i16::from_le_bytes(le(bytes)?)),
        4 => ValueRef::U32(u32::from_le_bytes(le(bytes)?)),
        5 => ValueRef::I32(i32::from_le_bytes(le(bytes)?)),
        6 => ValueRef::F32(f32::from_le_bytes(le(bytes)?)),
        7 => ValueRef::Bool(bytes == [1]),
        10 => ValueRef::U64(u64::from_le_bytes(le(bytes)?)),
        11 => ValueRef::I64(i64::from_le_bytes(le(bytes)?)),
        12 => ValueRef::F64(f64::from_le_bytes(le(bytes)?)),
        _ => return None,
    })
}

impl<'a> ArrayRef<'a> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = ValueRef<'a>> + use<'a> {
        let (kind, short_lengths, mut rest) = (self.kind, self.short_lengths, self.bytes);
        (0..self.len).map_while(move |_| {
            let Some(size) = fixed_size(kind) else {
                // Lengths and UTF-8 were checked when the file was opened.
                let head = if short_lengths { 4 } else { 8 };
                let mut length = [0; 8];
                length[..head].copy_from_slice(rest.get(..head)?);
                let (text, others) = rest[head..].split_at_checked(u64::from_le_bytes(length) as usize)?;
                rest = others;
                return Some(ValueRef::String(std::str::from_utf8(text).ok()?));
            };
            let (bytes, others) = rest.split_at_checked(size)?;
            rest = others;
            fixed(kind, bytes)
        })
    }

    /// The elements as strings; `None` if they are something else.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        (self.kind == STRING).then(|| self.iter().filter_map(|value| value.as_str()))
    }

    /// The elements as floats, whatever numbers they are; `None` if they are no numbers.
    pub fn floats(&self) -> Option<Vec<f32>> {
        self.iter().map(|value| value.as_f32()).collect()
    }

    /// The elements as integers; `None` if one is none, or does not fit.
    pub fn integers(&self) -> Option<Vec<i64>> {
        self.iter().map(|value| value.as_i64()).collect()
    }

    fn to_owned(self) -> Array {
        macro_rules! collect {
            ($variant:ident) => {
                Array::$variant(
                    self.iter()
                        .filter_map(|v| if let ValueRef::$variant(x) = v { Some(x.to_owned()) } else { None })
                        .collect(),
                )
            };
        }
        match self.kind {
            0 => collect!(U8),
            1 => collect!(I8),
            2 => collect!(U16),
            3 => collect!(I16),
            4 => collect!(U32),
            5 => collect!(I32),
            6 => collect!(F32),
            7 => collect!(Bool),
            STRING => collect!(String),
            10 => collect!(U64),
            11 => collect!(I64),
            _ => collect!(F64),
        }
    }
}

impl<'a> ValueRef<'a> {
    /// A copy that outlives the file.
    pub fn to_owned(self) -> Value {
        match self {
            ValueRef::U8(x) => Value::U8(x),
            ValueRef::I8(x) => Value::I8(x),
            ValueRef::U16(x) => Value::U16(x),
            ValueRef::I16(x) => Value::I16(x),
            ValueRef::U32(x) => Value::U32(x),
            ValueRef::I32(x) => Value::I32(x),
            ValueRef::F32(x) => Value::F32(x),
            ValueRef::Bool(x) => Value::Bool(x),
            ValueRef::String(x) => Value::String(x.to_owned()),
            ValueRef::Array(x) => Value::Array(x.to_owned()),
            ValueRef::U64(x) => Value::U64(x),
            ValueRef::I64(x) => Value::I64(x),
            ValueRef::F64(x) => Value::F64(x),
        }
    }

    /// The value as an integer, of whatever integer type it is.
    pub fn as_i64(self) -> Option<i64> {
        match self {
            ValueRef::U8(x) => Some(x.into()),
            ValueRef::I8(x) => Some(x.into()),
            ValueRef::U16(x) => Some(x.into()),
            ValueRef::I16(x) => Some(x.into()),
            ValueRef::U32(x) => Some(x.into()),
            ValueRef::I32(x) => Some(x.into()),
            ValueRef::U64(x) => x.try_into().ok(),
            ValueRef::I64(x) => Some(x),
            _ => None,
        }
    }

    /// The value as an unsigned integer, of whatever integer type it is.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            ValueRef::U64(x) => Some(x),
            other => other.as_i64()?.try_into().ok(),
        }
    }

    /// The value as a float, of whatever number type it is.
    pub fn as_f32(self) -> Option<f32> {
        match self {
            ValueRef::F32(x) => Some(x),
            ValueRef::F64(x) => Some(x as f32),
            other => other.as_i64().map(|x| x as f32),
        }
    }

    /// The value if it is a string.
    pub fn as_str(self) -> Option<&'a str> {
        if let ValueRef::String(x) = self { Some(x) } else { None }
    }

    /// The value if it is a truth value.
    pub fn as_bool(self) -> Option<bool> {
        if let ValueRef::Bool(x) = self { Some(x) } else { None }
    }

    /// The value if it is an array.
    pub fn as_array(self) -> Option<ArrayRef<'a>> {
        if let ValueRef::Array(x) = self { Some(x) } else { None }
    }
}
