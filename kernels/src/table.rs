//! The table of function pointers that an instruction set is, with no cell ever empty, and [`Isa`], the proof that the processor has one.

use crate::jobs::{KvKernels, PartialSoftmax, QueryRows};
use crate::limits::Sums;
use crate::matmul::{Job, Out};
use strata_quant::activations::FormBuffers;
use strata_quant::{Activations, Codec, GgmlType, GroupMetric, GroupRows};

/// A matrix product over the job's rows.
///
/// # Safety
/// The processor has the instruction set whose table the function is in.
pub type Matmul = unsafe fn(Job<'_>, &Activations, Out<'_>);

/// [`strata_quant::encode`], compiled for an instruction set.
///
/// # Safety
/// The processor has the instruction set whose table the function is in.
pub type Encode = unsafe fn(GgmlType, &[f32], Option<&[f32]>, &mut [u8]);

/// GEMM over panels of weights: see `isa/gemm`.
#[derive(Clone, Copy)]
pub struct Gemm {
    /// NR, the columns of a tile, where there are so many tokens of so many planes in all: the order in which the activations must lie.
    pub nr: fn(usize, usize) -> usize,
    /// MR, the rows of a panel: rows are shared out in multiples of it.
    pub mr: usize,
    /// Bytes that each thread keeps for results.
    pub scratch_bytes: usize,
    /// The columns from which on expanding a panel of weights of a format pays.
    pub from: fn(GgmlType) -> usize,
    /// The formats that have panels.
    pub kernels: &'static [GemmKernel],
}

/// The product with one weight format over panels.
#[derive(Clone, Copy)]
pub struct GemmKernel {
    /// The format.
    pub ty: GgmlType,
    /// The product.
    pub run: Matmul,
    /// The activation bias (zero point) that it is multiplied with.
    pub bias: fn() -> u8,
}

/// What an instruction set can do. Every function is unsafe to call without that instruction set, and only for that reason. Those that
/// return a `bool` say whether all numbers were finite.
pub struct Table {
    /// GEMV kernels by weight format; the others go by [`crate::matmul::by_dot`]. Those of plain numbers are GEMM as well.
    pub gemv: &'static [&'static [(GgmlType, Matmul)]],
    /// GEMM, where the set has its own.
    pub gemm: Option<Gemm>,
    /// Encodes a row of weights: [`strata_quant::encode`].
    pub encode: Encode,
    /// Rounds a group of 16 rows: [`strata_quant::round_given`].
    pub round_given: unsafe fn(&Codec, usize, &GroupMetric, GroupRows<'_>),
    /// Fills the 8-bit form of activations.
    pub quantize: unsafe fn(FormBuffers<'_>),
    /// See `norm.rs`.
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]) -> bool,
    /// See `norm.rs`.
    pub rms_norm_heads: unsafe fn(&mut [f32], &[f32], f32) -> bool,
    /// See `glu.rs`.
    pub silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]) -> bool,
    /// See `glu.rs`.
    pub add: unsafe fn(&mut [f32], &[f32]) -> bool,
    /// See `rope.rs`.
    pub rope: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    /// See `rope.rs`.
    pub rope_neox: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    /// Attention over KV cache entries of a type; see `attention/span.rs`.
    pub kv: fn(GgmlType) -> &'static KvKernels,
    /// See `attention/span.rs`.
    pub softmax: unsafe fn(QueryRows, &mut [f32], &mut [f32], &mut [f32]) -> bool,
    /// See `attention/span.rs`.
    pub merge: unsafe fn(QueryRows, &PartialSoftmax<'_>, &mut PartialSoftmax<'_>),
    /// See `attention/span.rs`.
    pub divide: unsafe fn(&[f32], f32, &mut [f32]) -> bool,
    /// See `divergence.rs`.
    pub exponentials: unsafe fn(&[f32], f32, &mut [f64]) -> f64,
    /// See `divergence.rs`.
    pub weighted_difference: unsafe fn(&[f64], &[f32], &[f32]) -> f64,
    /// See `limits.rs`.
    pub read: unsafe fn(&[u8]) -> u64,
    /// That many rounds of the set's 8-bit multiply-adds on registers; returns the products. See `limits.rs`.
    pub multiply_add: unsafe fn(usize, &mut Sums) -> u64,
}

impl Table {
    /// The product of a format that serves any number of columns.
    pub fn gemv(&self, ty: GgmlType) -> Matmul {
        let kernel = self.gemv.iter().copied().flatten().find(|kernel| kernel.0 == ty);
        kernel.map_or(crate::matmul::by_dot, |kernel| kernel.1)
    }

    /// The product of a format over panels, if there is one and so many columns are worth it.
    pub fn gemm(&self, ty: GgmlType, columns: usize) -> Option<(Gemm, GemmKernel)> {
        let gemm = self.gemm.filter(|gemm| columns >= (gemm.from)(ty))?;
        let kernel = gemm.kernels.iter().find(|kernel| kernel.ty == ty)?;
        Some((gemm, *kernel))
    }
}

/// An instruction set that this processor has: there is no other way to get one than detection.
#[derive(Clone, Copy)]
pub struct Isa(&'static Level);

/// A row of the table of instruction sets.
pub struct Level {
    /// The name, as `STRATA_ISA` takes it.
    pub name: &'static str,
    /// True if the processor has the instructions.
    pub detected: fn() -> bool,
    /// What the instructions do.
    pub table: &'static Table,
}

impl Isa {
    /// The instruction set, if the processor has it.
    pub(crate) fn detect(level: &'static Level) -> Option<Isa> {
        (level.detected)().then_some(Isa(level))
    }

    /// The name, as `STRATA_ISA` takes it.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// [`strata_quant::encode`] with these instructions: the same bits, sooner.
    ///
    /// # Panics
    /// If the type has no format, or the lengths do not match.
    pub fn encode(self, ty: GgmlType, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        // SAFETY: `Isa` proves the instruction set of its table.
        unsafe { (self.table().encode)(ty, values, importance, blocks) }
    }

    /// [`strata_quant::round_given`] with these instructions: the same scales and codes, sooner.
    ///
    /// # Panics
    /// If there are more than 32 columns, or the lengths differ.
    pub fn round_given(self, codec: &Codec, group: usize, metric: &GroupMetric, rows: GroupRows<'_>) {
        // SAFETY: `Isa` proves the instruction set of its table.
        unsafe { (self.table().round_given)(codec, group, metric, rows) }
    }

    /// `weights[v] = exp(z[v] - max)` in double precision, `max` the largest of the finite logits `z (vocab)`; gives the sum of `weights`.
    /// The same bits with any instructions.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn exponentials(self, z: &[f32], max: f32, weights: &mut [f64]) -> f64 {
        // SAFETY: `Isa` proves the instruction set of its table.
        unsafe { (self.table().exponentials)(z, max, weights) }
    }

    /// `sum_v weights[v] (b[v] - c[v])` in double precision; the same bits with any instructions.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn weighted_difference(self, weights: &[f64], b: &[f32], c: &[f32]) -> f64 {
        // SAFETY: `Isa` proves the instruction set of its table.
        unsafe { (self.table().weighted_difference)(weights, b, c) }
    }

    pub(crate) fn table(self) -> &'static Table {
        self.0.table
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::array::from_fn;

    #[test]
    fn groups_are_rounded_the_same_everywhere() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for format in GgmlType::with_format() {
            let (Some(codec), len) = (format.codec, format.ty.block_len()) else { continue };
            let n = codec.group;
            let metric = GroupMetric {
                pivots: (0..n).map(|_| (3.0 * next()).exp()).collect(),
                carry: (0..n * n).map(|_| 0.4 * next()).collect(),
            };
            for (round, size) in [1.0, 1e-6, 3e4].into_iter().enumerate() {
                let values: Vec<f32> = (0..16 * len).map(|_| size * next()).collect();
                let carried: Vec<[f32; 16]> = (0..n).map(|_| from_fn(|_| 0.01 * size * next())).collect();
                let mut blocks = vec![0; 16 * format.ty.block_bytes()];
                (format.encode)(&values, None, &mut blocks);
                let mut codes = vec![0; 16 * len];
                let rows = blocks.chunks(format.ty.block_bytes()).zip(codes.chunks_mut(len));
                let scales: Vec<_> = rows.map(|(block, codes)| (codec.unpack)(block, codes)).collect();
                let group = round % (len / n);
                let at = |r: usize, c: usize| r * len + group * n + c;
                let weights: Vec<[f32; 16]> = (0..n).map(|c| from_fn(|r| values[at(r, c)])).collect();
                for keep in [false, true] {
                    let given = |isa: Isa| {
                        let mut scales = from_fn(|r| scales[r]);
                        let mut codes: Vec<[u8; 16]> = (0..n).map(|c| from_fn(|r| codes[at(r, c)])).collect();
                        let (scales_of, codes_of) = (&mut scales, &mut codes[..]);
                        let rows = GroupRows {
                            weights: &weights,
                            carried: &carried,
                            scales: scales_of,
                            codes: codes_of,
                            keep,
                        };
                        isa.round_given(&codec, group, &metric, rows);
                        (scales, codes)
                    };
                    let expected = given(Isa::named("scalar").unwrap());
                    assert!(Isa::available().all(|isa| given(isa) == expected), "{}: {size}, {keep}", format.ty);
                }
            }
        }
    }
}
