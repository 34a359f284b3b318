//! A block format in three steps: a search finds the scales of a block, rounding finds a code for every weight, packing writes both.
//!
//! `encode` takes the three for whole rows, as llama-quantize does. A quantizer that chooses codes in another way (error feedback, say) has
//! `encode` find the scales, reads them back a block at a time ([`Codec::unpack`]) or makes its own, picks codes from the values that they
//! can stand for ([`Codec::grid`]), and writes them ([`Codec::pack`]).

use half::f16;

/// The scales of a block in the terms of its format: a weight of group `g` with code `q` is `d * scales[g] * level(q)`, plus `m * mins[g]`
/// (blocks of 32) or minus it (blocks of 256) where the format has offsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockScales {
    /// The scale of the block.
    pub d: f16,
    /// The least value of a block of 32, or the scale of the offsets of a block of 256; 0 where the format has neither.
    pub m: f16,
    /// The integer scale of each group; 1 in blocks of 32.
    pub scales: [i16; 16],
    /// The integer offset of each group; 1 in blocks of 32.
    pub mins: [u8; 16],
}

impl BlockScales {
    /// The scales of a block of 32.
    #[inline(always)]
    pub fn of_32(d: f16, m: f16) -> BlockScales {
        BlockScales { d, m, scales: [1; 16], mins: [1; 16] }
    }
}

/// What codes stand for.
#[derive(Clone, Copy, Debug)]
pub enum Levels {
    /// Code `q` of `count` stands for `q - zero`.
    Even {
        /// The zero point.
        zero: i32,
        /// Codes, at most 256.
        count: usize,
    },
    /// Code `q` stands for entry `q`; the entries increase.
    Uneven(&'static [i8; 16]),
}

impl Levels {
    /// What a code stands for. A code beyond the last counts modulo 16 where levels are uneven.
    #[inline(always)]
    pub fn level(self, code: u8) -> i32 {
        match self {
            Levels::Even { zero, .. } => i32::from(code) - zero,
            Levels::Uneven(levels) => i32::from(levels[usize::from(code & 15)]),
        }
    }

    /// What the first and the last code stand for.
    pub fn ends(self) -> [f32; 2] {
        [0, (self.count() - 1) as u8].map(|code| self.level(code) as f32)
    }

    /// Codes that there are.
    pub fn count(self) -> usize {
        match self {
            Levels::Even { count, .. } => count,
            Levels::Uneven(levels) => levels.len(),
        }
    }
}

/// The values that the weights of a group can have, given its scales.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub(crate) scale: f32,
    pub(crate) offset: Option<f32>,
    pub(crate) levels: Levels,
}

impl Grid {
    /// Codes that there are.
    pub fn codes(&self) -> usize {
        self.levels.count()
    }

    /// What `decode` makes of a code, to the bit.
    #[inline(always)]
    pub fn value(&self, code: u8) -> f32 {
        let product = self.scale * self.levels.level(code) as f32;
        self.offset.map_or(product, |offset| product + offset)
    }

    /// The code whose value is nearest to `x`, the smaller of two that are equally near.
    pub fn nearest(&self, x: f32) -> u8 {
        let far = |code: u8| (self.value(code) - x).abs();
        let last = self.codes() - 1;
        let (first, last) = match self.levels {
            // The quotient is off by less than one code.
            Levels::Even { zero, .. } => {
                let near = ((x - self.offset.unwrap_or(0.0)) / self.scale + zero as f32).round() as usize;
                (near.min(last).saturating_sub(1), (near.saturating_add(1)).min(last))
            }
            Levels::Uneven(_) => (0, last),
        };
        (first as u8..=last as u8).fold(first as u8, |best, code| if far(code) < far(best) { code } else { best })
    }
}

/// The steps of a format that a quantizer of one's own is made of. All panic on lengths that are not those of a block.
#[derive(Clone, Copy)]
pub struct Codec {
    /// Weights of a group: they share a grid.
    pub group: usize,
    /// The scales of a block, and the code of every weight.
    pub unpack: fn(block: &[u8], codes: &mut [u8]) -> BlockScales,
    /// The values that the weights of a group can have.
    pub grid: fn(scales: &BlockScales, group: usize) -> Grid,
    /// Gives a group the scales nearest to those that make a step of 1 between levels `step`, and level 0 `offset`, of those that the format
    /// can hold. What the groups of a block share stays as it is.
    pub set: fn(scales: &mut BlockScales, group: usize, step: f32, offset: f32),
    /// Writes a block. Scales and codes must be in the format's range; others give a block of other weights.
    pub pack: fn(scales: &BlockScales, codes: &[u8], block: &mut [u8]),
}

#[cfg(test)]
mod tests {
    use crate::GgmlType;

    /// Blocks of random bytes with finite scales.
    fn blocks(format: &crate::Format, n: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut bytes: Vec<u8> = (0..n * format.ty.block_bytes())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for block in bytes.chunks_exact_mut(format.ty.block_bytes()) {
            format.scales.iter().for_each(|&at| block[at + 1] = block[at + 1] & 0x87 | 0x30);
        }
        bytes
    }

    #[test]
    fn packing_is_the_inverse_of_unpacking_and_the_grid_is_what_decoding_gives() {
        let mut formats = 0;
        for format in GgmlType::with_format() {
            let (Some(codec), len) = (format.codec, format.ty.block_len()) else {
                assert_eq!(format.ty.block_len(), 1, "{}: no codec", format.ty);
                continue;
            };
            for block in blocks(format, 100).chunks_exact(format.ty.block_bytes()) {
                let (mut codes, mut values, mut again) = (vec![0; len], vec![0.0; len], vec![0xa5; block.len()]);
                let scales = (codec.unpack)(block, &mut codes);
                (codec.pack)(&scales, &codes, &mut again);
                assert_eq!(again, block, "{}", format.ty);
                (format.decode)(block, &mut values);
                for (i, (value, code)) in values.iter().zip(&codes).enumerate() {
                    let grid = (codec.grid)(&scales, i / codec.group);
                    assert!(usize::from(*code) < grid.codes());
                    assert_eq!(grid.value(*code).to_bits(), value.to_bits(), "{}: weight {i}", format.ty);
                }
            }
            formats += 1;
        }
        assert!(formats > 0);
    }

    #[test]
    fn the_scales_of_a_grid_are_those_that_it_has() {
        for format in GgmlType::with_format() {
            let (Some(codec), mut codes) = (format.codec, vec![0; format.ty.block_len()]) else { continue };
            for block in blocks(format, 20).chunks_exact(format.ty.block_bytes()) {
                let scales = (codec.unpack)(block, &mut codes);
                for group in 0..codes.len() / codec.group {
                    let (grid, mut set) = ((codec.grid)(&scales, group), scales);
                    (codec.set)(&mut set, group, grid.scale, grid.offset.unwrap_or(0.0));
                    assert_eq!(set, scales, "{}: group {group}", format.ty);
                    // Beyond what the format can hold it takes what is nearest, and no scale of a block of groups grows out of its bits.
                    (codec.set)(&mut set, group, 1e3 * grid.scale, -1e3);
                    let mut again = vec![0; block.len()];
                    (codec.pack)(&set, &codes, &mut again);
                    assert_eq!((codec.unpack)(&again, &mut codes.clone()), set, "{}: group {group}", format.ty);
                }
            }
        }
    }

    #[test]
    fn no_code_is_nearer_than_the_nearest() {
        for format in GgmlType::with_format() {
            let (Some(codec), mut codes) = (format.codec, vec![0; format.ty.block_len()]) else { continue };
            for block in blocks(format, 20).chunks_exact(format.ty.block_bytes()) {
                let scales = (codec.unpack)(block, &mut codes);
                for group in 0..codes.len() / codec.group {
                    let grid = (codec.grid)(&scales, group);
                    let ends = [grid.value(0), grid.value((grid.codes() - 1) as u8)];
                    for i in -3..=43 {
                        let x = ends[0] + (ends[1] - ends[0]) * i as f32 / 40.0;
                        let far = |code: usize| (grid.value(code as u8) - x).abs();
                        let nearest = (0..grid.codes()).map(far).fold(f32::INFINITY, f32::min);
                        assert_eq!(far(grid.nearest(x).into()), nearest, "{}: {x} in {grid:?}", format.ty);
                    }
                }
            }
        }
    }
}
