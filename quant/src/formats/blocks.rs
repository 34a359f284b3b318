//! What all block formats share: decoding and the canonical dot product, from what a format says of its bytes; and encoding, 16 groups at a
//! time, from its search, rounding and packing.

use super::pairs;
use crate::activations::{ActivationKind, ActivationRow, Q8x256Row};
use crate::codec::{BlockScales, Codec, Grid, Levels};
use crate::float::{fma, nearest};
use crate::search::{LANES, Tile, codes, sum_of_squares, tile};
use crate::simd::Simd;
use crate::types::{Format, GgmlType};
use half::f16;

/// What the bytes of a block mean: `GROUPS` groups of `LEN` weights, in `BYTES` bytes.
pub trait BlockLayout<const LEN: usize, const GROUPS: usize, const BYTES: usize> {
    /// The type.
    const TYPE: GgmlType;
    /// What codes stand for.
    const LEVELS: Levels;
    /// The sign with which offsets are added, where there are offsets.
    const OFFSET: Option<f32> = None;
    /// The least and the largest integer scale of a group; offsets are from 0 to the largest. Blocks of one group have none but 1.
    const INTEGERS: [f32; 2] = [1.0, 1.0];
    /// The scales of a block.
    fn scales(block: &[u8; BYTES]) -> BlockScales;
    /// The code of weight `i`.
    fn code(block: &[u8; BYTES], i: usize) -> u8;
    /// Writes a block, `codes` by group.
    fn pack(scales: &BlockScales, codes: &[[u8; LEN]; GROUPS], block: &mut [u8; BYTES]);
}

/// A tile of a row for a search: up to 16 groups, and what their errors are weighted with.
pub struct Groups<'a, const LEN: usize> {
    /// The values, transposed; missing groups are zeros.
    pub x: &'a Tile<LEN>,
    /// The values in the order of the row.
    pub values: &'a [f32],
    /// The importance of each value, where there is any.
    pub importance: Option<&'a [f32]>,
    /// The mean square of the row's values, where [`Search::ROW_MEAN`] is set.
    pub row_mean: f32,
}

/// How llama-quantize encodes a format: the two steps before packing.
pub trait Search<const LEN: usize, const GROUPS: usize, const BYTES: usize>: BlockLayout<LEN, GROUPS, BYTES> {
    /// True if the search needs [`Groups::row_mean`] when there is importance.
    const ROW_MEAN: bool = false;
    /// What rounding must know beside the stored scales: llama-quantize rounds some codes by scales before they are rounded themselves.
    type Rounding<S: Simd>;
    /// Sets `scales (LANES / GROUPS)` to those of the blocks of a tile. They are [`BlockScales::of_32`] at first, and what a search never sets
    /// stays so.
    fn search<S: Simd>(s: S, groups: &Groups<'_, LEN>, scales: &mut [BlockScales]) -> Self::Rounding<S>;
    /// The codes of a tile.
    fn round<S: Simd>(s: S, x: &Tile<LEN>, rounding: &Self::Rounding<S>, codes: &mut Tile<LEN>);
}

/// The row of a format in the table. `scales` are the bytes at which half-precision numbers start.
pub const fn format<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(
    scales: &'static [usize],
    encode: fn(&[f32], Option<&[f32]>, &mut [u8]),
) -> Format
where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    assert!(BYTES == F::TYPE.block_bytes() && LEN * GROUPS == F::TYPE.block_len());
    Format {
        ty: F::TYPE,
        scales,
        activation: if GROUPS == 1 { ActivationKind::Q8x32 } else { ActivationKind::Q8x256 },
        decode: decode::<F, LEN, GROUPS, BYTES>,
        encode,
        dot: dot::<F, LEN, GROUPS, BYTES>,
        codec: Some(Codec {
            group: LEN,
            unpack: unpack::<F, LEN, GROUPS, BYTES>,
            grid: grid::<F, LEN, GROUPS, BYTES>,
            set: set::<F, LEN, GROUPS, BYTES>,
            pack: pack::<F, LEN, GROUPS, BYTES>,
        }),
    }
}

/// Encodes a row: for each tile search, rounding, packing.
#[inline(always)]
pub fn encode<S, F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(
    s: S,
    values: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) where
    S: Simd,
    F: Search<LEN, GROUPS, BYTES>,
{
    pairs(blocks.len(), BYTES, values.len(), LEN * GROUPS);
    let mean = F::ROW_MEAN && importance.is_some();
    let row_mean = if mean { sum_of_squares(values) / values.len() as f32 } else { 0.0 };
    let tiles = values.chunks(LANES * LEN).zip(blocks.chunks_mut(LANES / GROUPS * BYTES));
    let mut scales = [BlockScales::of_32(f16::ZERO, f16::ZERO); LANES];
    let scales = &mut scales[..LANES / GROUPS];
    for (i, (values, blocks)) in tiles.enumerate() {
        let x = &tile::<LEN>(values);
        let importance = importance.map(|importance| &importance[i * LANES * LEN..]);
        let rounding = F::search(s, &Groups { x, values, importance, row_mean }, scales);
        let mut q = [[0.0; LANES]; LEN];
        F::round(s, x, &rounding, &mut q);
        let q = codes(&q);
        let blocks = blocks.as_chunks_mut::<BYTES>().0.iter_mut();
        for ((block, scales), q) in blocks.zip(&*scales).zip(q.as_chunks().0) {
            F::pack(scales, q, block);
        }
    }
}

#[inline(always)]
fn grid<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(scales: &BlockScales, group: usize) -> Grid
where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    assert!(group < GROUPS);
    let scale = scales.d.to_f32() * f32::from(scales.scales[group]);
    let offset = F::OFFSET.map(|sign| sign * (scales.m.to_f32() * f32::from(scales.mins[group])));
    Grid { scale, offset, levels: F::LEVELS }
}

fn set<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(
    scales: &mut BlockScales,
    group: usize,
    step: f32,
    offset: f32,
) where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    let offset = F::OFFSET.map(|sign| sign * offset);
    if GROUPS == 1 {
        scales.d = f16::from_f32(step);
        scales.m = offset.map_or(scales.m, f16::from_f32);
        return;
    }
    // 0 where the quotient is no number.
    let integer = |x: f32, of: f16, least: f32| nearest((x / of.to_f32()).clamp(least, F::INTEGERS[1]));
    scales.scales[group] = integer(step, scales.d, F::INTEGERS[0]) as i16;
    if let Some(offset) = offset {
        scales.mins[group] = integer(offset, scales.m, 0.0) as u8;
    }
}

fn unpack<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(block: &[u8], codes: &mut [u8]) -> BlockScales
where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    assert!(codes.len() == LEN * GROUPS, "a block has {} codes", LEN * GROUPS);
    let block = block.as_array().expect("the bytes of one block");
    codes.iter_mut().enumerate().for_each(|(i, code)| *code = F::code(block, i));
    F::scales(block)
}

fn pack<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(
    scales: &BlockScales,
    codes: &[u8],
    block: &mut [u8],
) where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    assert!(codes.len() == LEN * GROUPS, "a block has {} codes", LEN * GROUPS);
    F::pack(
        scales,
        codes.as_chunks().0.as_array().expect("checked above"),
        block.as_mut_array().expect("the bytes of one block"),
    );
}

fn decode<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(blocks: &[u8], values: &mut [f32])
where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    pairs(blocks.len(), BYTES, values.len(), LEN * GROUPS);
    for (block, out) in blocks.as_chunks::<BYTES>().0.iter().zip(values.chunks_exact_mut(LEN * GROUPS)) {
        let scales = F::scales(block);
        for (group, out) in out.as_chunks_mut::<LEN>().0.iter_mut().enumerate() {
            let grid = grid::<F, LEN, GROUPS, BYTES>(&scales, group);
            for i in 0..LEN {
                out[i] = grid.value(F::code(block, group * LEN + i));
            }
        }
    }
}

/// The canonical dot product: for each block, in order, the exact integer sum `isum`, scales of groups included, then
/// `acc = fma(d * d_x, isum, acc)`; where the format has offsets, the exact sum `msum` of theirs times the activations, then
/// `acc = fma(+-(m * d_x), msum, acc)`. Of activations with two planes, each sum is that of both: [`Planes::joined`].
///
/// [`Planes::joined`]: crate::activations::Planes::joined
fn dot<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(row: &[u8], x: ActivationRow<'_>) -> f32
where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    let (blocks, rest) = row.as_chunks::<BYTES>();
    let fits = match x {
        ActivationRow::Q8x32(x) => GROUPS == 1 && blocks.len().div_ceil(4) == x.high.quads.len(),
        ActivationRow::Q8x256(x) => GROUPS > 1 && blocks.len() == x.high.codes.len(),
        ActivationRow::F32(_) => false,
    };
    assert!(fits && rest.is_empty(), "activations of another form or length");
    let mut acc = 0.0;
    for (b, block) in blocks.iter().enumerate() {
        let scales = F::scales(block);
        let (d_x, isum, msum) = match x {
            ActivationRow::Q8x32(x) => {
                let isum = x.joined(|x| isum::<F, LEN, GROUPS, BYTES>(block, &scales, |i| x.code(b, i)));
                (x.high.scales[b], isum, x.joined(|x| msum::<GROUPS>(&scales, |_| x.sums[b])))
            }
            ActivationRow::Q8x256(x) => {
                let code = |x: &Q8x256Row<'_>, i: usize| i32::from(x.codes[b][i]);
                let isum = x.joined(|x| isum::<F, LEN, GROUPS, BYTES>(block, &scales, |i| code(x, i)));
                let sum = |x: &Q8x256Row<'_>, group: usize| {
                    let sums = &x.sums[b][group * LEN / 16..(group + 1) * LEN / 16];
                    sums.iter().map(|&sum| i32::from(sum)).sum()
                };
                (x.high.scales[b], isum, x.joined(|x| msum::<GROUPS>(&scales, |group| sum(x, group))))
            }
            ActivationRow::F32(_) => unreachable!("refused above"),
        };
        acc = fma(scales.d.to_f32() * d_x, isum, acc);
        if let Some(sign) = F::OFFSET {
            acc = fma(sign * (scales.m.to_f32() * d_x), msum, acc);
        }
    }
    acc
}

/// The sum of a block times a plane of activations, whose value `i` is `x(i)`.
fn isum<F, const LEN: usize, const GROUPS: usize, const BYTES: usize>(
    block: &[u8; BYTES],
    scales: &BlockScales,
    x: impl Fn(usize) -> i32,
) -> i32
where
    F: BlockLayout<LEN, GROUPS, BYTES>,
{
    let mut isum = 0;
    for group in 0..GROUPS {
        let product = |i: usize| F::LEVELS.level(F::code(block, i)) * x(i);
        isum += i32::from(scales.scales[group]) * (group * LEN..(group + 1) * LEN).map(product).sum::<i32>();
    }
    isum
}

/// The sum of the offsets of a block's groups times a plane of activations, whose sum in a group is `sum(group)`.
fn msum<const GROUPS: usize>(scales: &BlockScales, sum: impl Fn(usize) -> i32) -> i32 {
    (0..GROUPS).map(|group| i32::from(scales.mins[group]) * sum(group)).sum()
}
