//! Searches for the scales of groups of weights, 16 groups at a time: a lane is a group.
//!
//! A group's search is a chain of sums in the order of its weights, and llama-quantize's bytes depend on every rounding in it. So the
//! sums stay as they are, and what runs side by side is whole groups: value `i` of 16 groups is one row of a [`Tile`]. Branches
//! become masks.
//!
//! * [`affine`]: a scale and an offset (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K);
//! * [`symmetric`]: a scale of either sign (Q4_0, Q5_0, Q3_K, Q6_K);
//! * [`table`]: a scale for codes that stand for uneven levels (IQ4_NL, IQ4_XS);
//! * [`given`]: scales and codes of a group together, with regard to the errors of other groups;
//! * [`scales`]: a scale of scales, for one block (K formats with importance).

pub mod affine;
pub mod given;
mod lane;
pub mod scales;
pub mod symmetric;
pub mod table;

pub use lane::V;

use crate::simd::Simd;

/// Groups in a tile: of one row, or one group of each of so many rows.
pub const LANES: usize = 16;

/// Groups whose largest value is smaller are zeros, as ggml sees it.
pub const TINY: f32 = 1e-15;

/// 16 groups of `N` values, transposed: `[value][group]`.
pub type Tile<const N: usize> = [[f32; LANES]; N];

/// Transposes up to 16 groups; the missing ones are zeros.
#[inline(always)]
pub fn tile<const N: usize>(groups: &[f32]) -> Tile<N> {
    let mut tile = [[0.0; LANES]; N];
    for (lane, group) in groups.as_chunks::<N>().0.iter().take(LANES).enumerate() {
        for i in 0..N {
            tile[i][lane] = group[i];
        }
    }
    tile
}

/// Codes from 0 to 255, group by group again.
#[inline(always)]
pub fn codes<const N: usize>(tile: &Tile<N>) -> [[u8; N]; LANES] {
    // Adding 2^23 puts a small integer into the low bits.
    const MAGIC: f32 = 8_388_608.0;
    let mut codes = [[0; N]; LANES];
    for lane in 0..LANES {
        for i in 0..N {
            codes[lane][i] = (tile[i][lane] + MAGIC).to_bits() as u8;
        }
    }
    codes
}

/// True if some group keeps its codes in [`requantize`]: its `d` is 0, or no number.
#[inline(always)]
pub fn some_keep_codes(d: &[f32; LANES]) -> bool {
    !d.iter().all(|d| d.abs() > 0.0)
}

/// Requantizes every value, to what the stored scales mean: `code = clamp(round((x + offset) / d), low, high) - low`. Groups whose `d` is 0
/// or no number keep their codes, as in ggml.
#[inline(always)]
pub fn requantize<S: Simd, const N: usize>(
    s: S,
    x: &Tile<N>,
    d: &[f32; LANES],
    offset: &[f32; LANES],
    range: (f32, f32),
    codes: &mut Tile<N>,
) {
    let (d, offset) = (V::load(s, d), V::load(s, offset));
    let (low, high) = (V::splat(s, range.0), V::splat(s, range.1));
    let zero = V::splat(s, 0.0);
    let live = d.abs().gt(zero);
    for i in 0..N {
        let code = ((V::load(s, &x[i]) + offset) / d).nearest().clamp(low, high) - low;
        code.or_else(live, V::load(s, &codes[i])).store(&mut codes[i]);
    }
}

/// Weights of errors where there is importance: `importance * sqrt(spread + x^2)`, with a `spread` for each group.
#[inline(always)]
pub fn weights<S: Simd, const N: usize>(s: S, x: &Tile<N>, importance: &Tile<N>, spread: &[f32; LANES]) -> Tile<N> {
    let spread = V::load(s, spread);
    let mut weights = [[0.0; LANES]; N];
    for i in 0..N {
        let x = V::load(s, &x[i]);
        (V::load(s, &importance[i]) * (spread + x * x).sqrt()).store(&mut weights[i]);
    }
    weights
}

/// The squares of a tile's values.
#[inline(always)]
pub fn squares<S: Simd, const N: usize>(s: S, x: &Tile<N>) -> Tile<N> {
    let mut squares = [[0.0; LANES]; N];
    for i in 0..N {
        let x = V::load(s, &x[i]);
        (x * x).store(&mut squares[i]);
    }
    squares
}

/// The sum of each group's values, in their order.
#[inline(always)]
pub fn sums<S: Simd, const N: usize>(s: S, tile: &Tile<N>) -> V<S> {
    let mut sum = V::splat(s, 0.0);
    for row in tile {
        sum = sum + V::load(s, row);
    }
    sum
}

/// The sum of the squares of `x`, in its order.
#[inline(always)]
pub fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, v| sum + v * v)
}
