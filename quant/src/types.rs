//! What a type of ggml is, and what Strata can do with it. The table of types is in `formats/mod.rs`.

use crate::activations::{ActivationKind, ActivationRow};
use crate::codec::Codec;
pub use crate::formats::{GgmlType, encode};

/// What Strata can do with a block format. All functions work on whole blocks: `blocks.len()` is a multiple of the block's bytes
/// and the number of values is the matching multiple of its length; they panic otherwise.
pub struct Format {
    /// The type of the blocks.
    pub ty: GgmlType,
    /// Where the scales of a block are: the bytes that numbers in half precision start at. Plain numbers have none.
    pub scales: &'static [usize],
    /// The form in which the other factor of a product must come.
    pub activation: ActivationKind,
    /// Blocks to values: `(n * bytes)` to `(n * len)`.
    pub decode: fn(blocks: &[u8], values: &mut [f32]),
    /// A row of values to blocks: see [`encode`].
    pub encode: fn(values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]),
    /// One row times one activation row, in the canonical order: the definition that every kernel reproduces to the bit.
    pub dot: fn(blocks: &[u8], x: ActivationRow<'_>) -> f32,
    /// The steps of encoding for quantizers of one's own. Plain numbers have none: they have neither scales nor codes.
    pub codec: Option<Codec>,
}

impl Format {
    /// The first block that has a scale which is not finite, and so no value that is. Every other block of a quantized type has only finite
    /// values: codes and integer scales cannot make them large enough.
    pub fn bad_block(&self, blocks: &[u8]) -> Option<usize> {
        self.scales.iter().filter_map(|&at| self.ty.first_bad(at, blocks)).min()
    }
}

/// The first block with a number in half precision at byte `at` that is not finite: infinity and NaN have all bits of the exponent. The length
/// of a block is a constant and the search ends early, so that it is a few plain instructions a block.
pub(crate) fn first_bad<const BYTES: usize>(at: usize, blocks: &[u8]) -> Option<usize> {
    assert!(at + 1 < BYTES);
    blocks.as_chunks::<BYTES>().0.iter().position(|block| block[at + 1] & 0x7c == 0x7c)
}

/// The table: from its rows come [`GgmlType`], its sizes and names, the formats, and the dispatch of [`encode`].
macro_rules! types {
    (@format) => { None };
    (@format $module:ident) => { Some(&$crate::formats::$module::FORMAT) };
    ($($name:ident = $id:literal, $len:literal values in $bytes:literal bytes $(, $module:ident)?;)*) => {
        /// A tensor type of ggml, by the number that GGUF files carry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types)]
        #[repr(u32)]
        pub enum GgmlType {
            $(#[doc = concat!(stringify!($len), " values in ", stringify!($bytes), " bytes")] $name = $id,)*
        }

        impl GgmlType {
            /// Every type that GGUF files may name, in the order of their numbers.
            pub const ALL: &[GgmlType] = &[$(GgmlType::$name),*];

            /// ggml's name, as llama.cpp prints it: `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(GgmlType::$name => stringify!($name),)* }
            }

            /// Values in a block; 1 for plain numbers.
            pub const fn block_len(self) -> usize {
                match self { $(GgmlType::$name => $len,)* }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self { $(GgmlType::$name => $bytes,)* }
            }

            /// [`first_bad`] of blocks of this type.
            pub(crate) fn first_bad(self, at: usize, blocks: &[u8]) -> Option<usize> {
                match self { $(GgmlType::$name => $crate::types::first_bad::<$bytes>(at, blocks),)* }
            }

            /// The code for this type, or `None` where Strata knows only its name and shape.
            pub const fn format(self) -> Option<&'static $crate::Format> {
                match self { $(GgmlType::$name => types!(@format $($module)?),)* }
            }
        }

        /// A row of values to blocks, bit for bit what llama-quantize writes: `(cols)` values to `(cols / len * bytes)` bytes.
        /// `importance`, `(cols)` mean squares of the inputs that each weight meets, decides which errors matter; formats whose
        /// errors llama-quantize does not weight ignore it.
        ///
        /// Always inlined, so that each instruction set can compile it for itself: the operations stay the same, and so do the bits.
        ///
        /// # Panics
        /// If the type has no format or the lengths do not match.
        #[inline(always)]
        pub fn encode<S: $crate::simd::Simd>(s: S, ty: GgmlType, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
            assert!(importance.is_none_or(|weights| weights.len() == values.len()));
            match ty {
                $($(GgmlType::$name => $crate::formats::$module::encode(s, values, importance, blocks),)?)*
                other => panic!("no code for {other}"),
            }
        }
    };
}

pub(crate) use types;

impl GgmlType {
    /// The type with the given number, or `None` for a number that ggml does not know.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        Self::ALL.iter().copied().find(|ty| ty.id() == id)
    }

    /// The number in the file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The type with the given name, in any case: `q8_0`, `BF16`.
    pub fn from_name(name: &str) -> Option<GgmlType> {
        Self::ALL.iter().copied().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `cols` values; `None` if the block length does not divide `cols`, or on overflow.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        (cols.is_multiple_of(self.block_len())).then(|| (cols / self.block_len()).checked_mul(self.block_bytes()))?
    }

    /// The types whose blocks Strata can decode, encode and multiply.
    pub fn with_format() -> impl Iterator<Item = &'static Format> {
        Self::ALL.iter().filter_map(|ty| ty.format())
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_find_their_type() {
        for &ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(GgmlType::from_name(&ty.name().to_lowercase()), Some(ty));
            if let Some(format) = ty.format() {
                assert_eq!(format.ty, ty);
            }
        }
        assert_eq!(GgmlType::from_id(4), None);
        assert_eq!(GgmlType::from_id(u32::MAX), None);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(GgmlType::Q4_0.row_bytes(64), Some(36));
        assert_eq!(GgmlType::Q4_0.row_bytes(33), None);
        assert_eq!(GgmlType::F64.row_bytes(usize::MAX), None);
    }
}
