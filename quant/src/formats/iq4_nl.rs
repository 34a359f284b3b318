//! IQ4_NL: 32 weights of 4 bits, codes of 16 uneven levels, with one half-precision scale.
//! ```text
//! byte 0      2                            18
//!      | d    | q16 q0 | q17 q1 | ... q31 q15 |       weight i = d * LEVELS[q_i]
//!               high low nibble
//! ```

use super::blocks::{self, BlockLayout, Groups, Search};
use super::blocks32::{LEN, nibble, pack_nibbles, store};
use crate::codec::{BlockScales, Levels};
pub use crate::search::table::LEVELS;
use crate::search::{LANES, Tile, V, squares, sums, table, tile, weights};
use crate::simd::{Scalar, Simd};
use crate::types::{Format, GgmlType};
use half::f16;

const BYTES: usize = 18;

/// This format's row in the table.
pub const FORMAT: Format = blocks::format::<Iq4Nl, LEN, 1, BYTES>(&[0], |values, importance, blocks| {
    encode(Scalar, values, importance, blocks)
});

/// See [`blocks::encode`].
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    blocks::encode::<S, Iq4Nl, LEN, 1, BYTES>(s, values, importance, blocks);
}

struct Iq4Nl;

impl BlockLayout<LEN, 1, BYTES> for Iq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    const LEVELS: Levels = Levels::Uneven(&LEVELS);

    fn scales(block: &[u8; BYTES]) -> BlockScales {
        BlockScales::of_32(f16::from_le_bytes([block[0], block[1]]), f16::ZERO)
    }
    fn code(block: &[u8; BYTES], i: usize) -> u8 {
        nibble(&block[2..], i)
    }
    #[inline(always)]
    fn pack(scales: &BlockScales, codes: &[[u8; LEN]; 1], block: &mut [u8; BYTES]) {
        block[..2].copy_from_slice(&scales.d.to_le_bytes());
        pack_nibbles(&codes[0], &mut block[2..]);
    }
}

/// [`table::search`]; the errors are weighted with `importance * sqrt(2 mean(x^2) + x^2)`, or `x^2` without importance.
impl Search<LEN, 1, BYTES> for Iq4Nl {
    /// The inverse of the unrounded scale of each block, from which codes come.
    type Rounding<S: Simd> = [f32; LANES];

    #[inline(always)]
    fn search<S: Simd>(s: S, groups: &Groups<'_, LEN>, scales: &mut [BlockScales]) -> [f32; LANES] {
        let x = groups.x;
        let squares = squares(s, x);
        let w = match groups.importance {
            None => squares,
            Some(importance) => {
                let spread = sums(s, &squares) * V::splat(s, 2.0 / LEN as f32);
                weights(s, x, &tile(importance), &spread.array())
            }
        };
        let scale = table::search(s, x, &w);
        store(&scale, None, scales);
        scale.map(|d| if d != 0.0 { 1.0 / d } else { 0.0 })
    }

    #[inline(always)]
    fn round<S: Simd>(s: S, x: &Tile<LEN>, inverse: &[f32; LANES], codes: &mut Tile<LEN>) {
        table::round(s, x, inverse, codes);
    }
}
