//! Owned values of GGUF metadata, which the writer takes, and the table of their types.

/// A metadata value with ggml's type kept, so that a rewritten file keeps its types.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array: all elements of one type, as GGUF demands.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

macro_rules! from {
    ($($rust:ty => $variant:ident),*) => {$(
        impl From<$rust> for Value {
            fn from(v: $rust) -> Value {
                Value::$variant(v)
            }
        }
        impl From<Vec<$rust>> for Value {
            fn from(v: Vec<$rust>) -> Value {
                Value::Array(Array::$variant(v))
            }
        }
    )*};
}

from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, String => String,
      u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::String(v.to_owned())
    }
}

impl Array {
    /// The type of every element, known also of an empty array.
    pub fn element_type(&self) -> ValueType {
        match self {
            Array::U8(_) => ValueType::U8,
            Array::I8(_) => ValueType::I8,
            Array::U16(_) => ValueType::U16,
            Array::I16(_) => ValueType::I16,
            Array::U32(_) => ValueType::U32,
            Array::I32(_) => ValueType::I32,
            Array::F32(_) => ValueType::F32,
            Array::Bool(_) => ValueType::Bool,
            Array::String(_) => ValueType::String,
            Array::U64(_) => ValueType::U64,
            Array::I64(_) => ValueType::I64,
            Array::F64(_) => ValueType::F64,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// True without any elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Value {
        Value::Array(v)
    }
}

macro_rules! types {
    ($($variant:ident = $id:literal, $name:literal, $size:expr;)*) => {
        /// The type of a metadata value, by the number that files carry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        #[repr(u32)]
        pub enum ValueType {
            $($variant = $id,)*
        }

        impl ValueType {
            /// Every type, in the order of their numbers.
            pub const ALL: &[ValueType] = &[$(ValueType::$variant),*];

            /// The name: `u32`, `string`, `array`.
            pub const fn name(self) -> &'static str {
                match self { $(ValueType::$variant => $name,)* }
            }

            /// Bytes of a value, or `None` for strings and arrays, which vary.
            pub const fn size(self) -> Option<usize> {
                match self { $(ValueType::$variant => $size,)* }
            }
        }

        impl Value {
            /// The value's type.
            pub fn ty(&self) -> ValueType {
                match self { $(Value::$variant(_) => ValueType::$variant,)* }
            }
        }
    };
}

types! {
    U8 = 0, "u8", Some(1);
    I8 = 1, "i8", Some(1);
    U16 = 2, "u16", Some(2);
    I16 = 3, "i16", Some(2);
    U32 = 4, "u32", Some(4);
    I32 = 5, "i32", Some(4);
    F32 = 6, "f32", Some(4);
    Bool = 7, "bool", Some(1);
    String = 8, "string", None;
    Array = 9, "array", None;
    U64 = 10, "u64", Some(8);
    I64 = 11, "i64", Some(8);
    F64 = 12, "f64", Some(8);
}

impl ValueType {
    /// The type with the given number, or `None` for a number that GGUF does not know.
    pub fn from_id(id: u32) -> Option<ValueType> {
        Self::ALL.iter().copied().find(|ty| ty.id() == id)
    }

    /// The number in the file.
    pub const fn id(self) -> u32 {
        self as u32
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
