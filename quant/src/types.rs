//! The one table of ggml types: number in the file, name, block shape, and the code that reads it where Strata has some.
//!
//! Source of numbers and shapes: ggml.h and ggml-common.h of llama.cpp at 0c1e57098 (facts only).

use crate::activations::{ActivationKind, ActivationRow};
use crate::formats;
use crate::simd::Simd;

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
fn first_bad<const BYTES: usize>(at: usize, blocks: &[u8]) -> Option<usize> {
    assert!(at + 1 < BYTES);
    blocks.as_chunks::<BYTES>().0.iter().position(|block| block[at + 1] & 0x7c == 0x7c)
}

macro_rules! types {
    (@format) => { None };
    (@format $module:ident) => { Some(&formats::$module::FORMAT) };
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
            fn first_bad(self, at: usize, blocks: &[u8]) -> Option<usize> {
                match self { $(GgmlType::$name => first_bad::<$bytes>(at, blocks),)* }
            }

            /// The code for this type, or `None` where Strata knows only its name and shape.
            pub const fn format(self) -> Option<&'static Format> {
                match self { $(GgmlType::$name => types!(@format $($module)?),)* }
            }
        }

        /// A row of values to blocks, bit for bit what llama-quantize writes: `(cols)` values to `(cols / len * bytes)` bytes.
        /// `importance`, `(cols)` mean squares of the inputs that each weight meets, decides which errors matter; formats that
        /// llama-quantize does not weigh ignore it.
        ///
        /// Always inlined, so that each instruction set can compile it for itself: the operations stay the same, and so do the bits.
        ///
        /// # Panics
        /// If the type has no format or the lengths do not match.
        #[inline(always)]
        pub fn encode<S: Simd>(s: S, ty: GgmlType, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
            assert!(importance.is_none_or(|weights| weights.len() == values.len()));
            match ty {
                $($(GgmlType::$name => formats::$module::encode(s, values, importance, blocks),)?)*
                other => panic!("no code for {other}"),
            }
        }
    };
}

types! {
    F32 = 0, 1 values in 4 bytes, f32;
    F16 = 1, 1 values in 2 bytes, f16;
    Q4_0 = 2, 32 values in 18 bytes, q4_0;
    Q4_1 = 3, 32 values in 20 bytes, q4_1;
    Q5_0 = 6, 32 values in 22 bytes, q5_0;
    Q5_1 = 7, 32 values in 24 bytes, q5_1;
    Q8_0 = 8, 32 values in 34 bytes, q8_0;
    Q8_1 = 9, 32 values in 36 bytes;
    Q2_K = 10, 256 values in 84 bytes, q2_k;
    Q3_K = 11, 256 values in 110 bytes, q3_k;
    Q4_K = 12, 256 values in 144 bytes, q4_k;
    Q5_K = 13, 256 values in 176 bytes, q5_k;
    Q6_K = 14, 256 values in 210 bytes, q6_k;
    Q8_K = 15, 256 values in 292 bytes;
    IQ2_XXS = 16, 256 values in 66 bytes;
    IQ2_XS = 17, 256 values in 74 bytes;
    IQ3_XXS = 18, 256 values in 98 bytes;
    IQ1_S = 19, 256 values in 50 bytes;
    IQ4_NL = 20, 32 values in 18 bytes, iq4_nl;
    IQ3_S = 21, 256 values in 110 bytes;
    IQ2_S = 22, 256 values in 82 bytes;
    IQ4_XS = 23, 256 values in 136 bytes, iq4_xs;
    I8 = 24, 1 values in 1 bytes;
    I16 = 25, 1 values in 2 bytes;
    I32 = 26, 1 values in 4 bytes;
    I64 = 27, 1 values in 8 bytes;
    F64 = 28, 1 values in 8 bytes;
    IQ1_M = 29, 256 values in 56 bytes;
    BF16 = 30, 1 values in 2 bytes, bf16;
    TQ1_0 = 34, 256 values in 54 bytes;
    TQ2_0 = 35, 256 values in 66 bytes;
    MXFP4 = 39, 32 values in 17 bytes;
    NVFP4 = 40, 64 values in 36 bytes;
    Q1_0 = 41, 128 values in 18 bytes;
    Q2_0 = 42, 64 values in 18 bytes;
}

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
