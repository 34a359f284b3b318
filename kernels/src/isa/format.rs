//! What a kernel must know of a block format beside its codes. All of it follows from the format's row in the table of `strata-quant`.

use strata_quant::GgmlType;

/// A block format as a type, so that a kernel is compiled for it.
pub trait BlockFormat {
    /// The row of the table.
    const TYPE: GgmlType;
    /// Weights of a block: 32 or 256.
    const LEN: usize = Self::TYPE.block_len();
    /// Bytes of a block.
    const BYTES: usize = Self::TYPE.block_bytes();
    /// The byte of a block at which its half-precision scale starts.
    const D: usize = halves(Self::TYPE)[0];
    /// The byte at which the least value (blocks of 32) or the scale of the offsets (blocks of 256) starts, where the format has one.
    const M: Option<usize> = match halves(Self::TYPE) {
        [_, m] => Some(*m),
        _ => None,
    };
}

const fn halves(ty: GgmlType) -> &'static [usize] {
    match ty.format() {
        Some(format) => format.scales,
        None => &[],
    }
}

/// A list of kernels `(type, function)`: `$matmul` is generic in a format and in the bytes of `$blocks` of its blocks.
macro_rules! kernels {
    ($matmul:ident, $blocks:literal blocks: $($Format:ident)*) => {
        &[$((
            <$Format as $crate::isa::format::BlockFormat>::TYPE,
            $matmul::<$Format, { $blocks * <$Format as $crate::isa::format::BlockFormat>::BYTES }>,
        )),*]
    };
}
pub(crate) use kernels;
