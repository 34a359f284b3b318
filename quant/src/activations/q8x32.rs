//! 8-bit activations with a scale per 32 values: `d = max|x| / 127`, `q = round(x / d)`, never -128.
//!
//! Four blocks lie together as a *quad* of 128 bytes, because a 64-byte register then holds the same 16 values of four blocks, as the
//! nibbles of four weight blocks give them:
//! ```text
//! | block 0: 0..16 | block 1: 0..16 | block 2: 0..16 | block 3: 0..16 | block 0: 16..32 | block 1: 16..32 | ...
//! ```
//! Value `i` of block `b` is at `b % 4 * 16 + i / 16 * 64 + i % 16` of quad `b / 4`. A last quad is padded with zeros.

use super::EightBit;
use super::precision::{codes as plane_codes, scale};

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// Blocks in a quad.
pub const QUAD: usize = 4;

/// The form of blocks of 32.
#[derive(Default)]
pub struct Q8x32;

/// A plane of a row of blocks of 32.
#[derive(Clone, Copy, Debug)]
pub struct Q8x32Row<'a> {
    /// `(blocks / 4, rounded up)`: the codes; see the module for their order.
    pub quads: &'a [[i8; 128]],
    /// `(4 * quads)`: the scale of each block; zero in the padding.
    pub scales: &'a [f32],
    /// `(4 * quads)`: the sum of each block's codes, for formats whose weights are stored with an offset.
    pub sums: &'a [i32],
}

impl Q8x32Row<'_> {
    /// Code `i` of block `b`.
    #[inline(always)]
    pub fn code(&self, b: usize, i: usize) -> i32 {
        self.quads[b / QUAD][b % QUAD * 16 + i / 16 * 64 + i % 16] as i32
    }
}

impl EightBit for Q8x32 {
    type Codes = [i8; 128];
    type Sums = i32;
    const BLOCK: usize = BLOCK;
    const UNIT: usize = QUAD;
    const ZERO: ([i8; 128], i32) = ([0; 128], 0);

    #[inline(always)]
    fn quantize<const P: usize>(x: &[f32], quads: &mut [[i8; 128]], scales: &mut [f32], sums: &mut [i32]) {
        let (blocks, rest) = x.as_chunks::<BLOCK>();
        let units = blocks.len().div_ceil(QUAD);
        assert!(rest.is_empty() && quads.len() == P * units);
        assert!(scales.len() == quads.len() * QUAD && sums.len() == scales.len());
        if !blocks.len().is_multiple_of(QUAD) {
            for plane in 0..P {
                let (unit, padding) = (plane * units, plane * units * QUAD + blocks.len()..(plane + 1) * units * QUAD);
                quads[unit + units - 1] = [0; 128];
                scales[padding.clone()].fill(0.0);
                sums[padding].fill(0);
            }
        }
        for (b, block) in blocks.iter().enumerate() {
            let (d, inverse) = scale::<BLOCK, P>(block);
            for plane in 0..P {
                let mut codes = [0; BLOCK];
                plane_codes::<BLOCK, P>(block, inverse, plane, &mut codes);
                let (quad, lane) = (&mut quads[plane * units + b / QUAD], b % QUAD * 16);
                quad[lane..lane + 16].copy_from_slice(&codes[..16]);
                quad[lane + 64..lane + 80].copy_from_slice(&codes[16..]);
                let at = plane * units * QUAD + b;
                scales[at] = d;
                sums[at] = codes.iter().map(|&q| q as i32).sum();
            }
        }
    }
}
