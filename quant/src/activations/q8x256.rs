//! 8-bit activations with a scale per 256 values, for weights in blocks of 256: `d = max|x| / 127`, `q = round(x / d)`, never -128; the
//! codes in their order, and the sums of 16 codes each, for weights whose groups have offsets.

use super::EightBit;
use super::precision::{codes as plane_codes, scale};

/// Values that share a scale.
pub const BLOCK: usize = 256;

/// The form of blocks of 256.
#[derive(Default)]
pub struct Q8x256;

/// A plane of a row of blocks of 256.
#[derive(Clone, Copy, Debug)]
pub struct Q8x256Row<'a> {
    /// `(blocks)`: the codes.
    pub codes: &'a [[i8; BLOCK]],
    /// `(blocks)`: the scale of each block.
    pub scales: &'a [f32],
    /// `(blocks)`: the sums of 16 codes each.
    pub sums: &'a [[i16; 16]],
}

impl EightBit for Q8x256 {
    type Codes = [i8; BLOCK];
    type Sums = [i16; 16];
    const BLOCK: usize = BLOCK;
    const UNIT: usize = 1;
    const ZERO: ([i8; BLOCK], [i16; 16]) = ([0; BLOCK], [0; 16]);

    #[inline(always)]
    fn quantize<const P: usize>(x: &[f32], codes: &mut [[i8; BLOCK]], scales: &mut [f32], sums: &mut [[i16; 16]]) {
        let (blocks, rest) = x.as_chunks::<BLOCK>();
        assert!(rest.is_empty() && codes.len() == P * blocks.len());
        assert!(scales.len() == codes.len() && sums.len() == codes.len());
        for (b, block) in blocks.iter().enumerate() {
            let (d, inverse) = scale::<BLOCK, P>(block);
            for plane in 0..P {
                let at = plane * blocks.len() + b;
                scales[at] = d;
                plane_codes::<BLOCK, P>(block, inverse, plane, &mut codes[at]);
                for (sum, codes) in sums[at].iter_mut().zip(codes[at].as_chunks::<16>().0) {
                    *sum = codes.iter().map(|&q| q as i16).sum();
                }
            }
        }
    }
}
