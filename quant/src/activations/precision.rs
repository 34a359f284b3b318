//! The precision of quantized activations, and the codes of a block in it.

use crate::float::{ROUND, fma};

/// What a code of the higher plane counts in codes of the lower: the digits -127..=127 have this many values, so that no digit is -128,
/// which the instructions that take signs apart from magnitudes cannot take.
pub const RADIX: i32 = 255;

/// The precision of the activations that quantized weights are multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActivationBits {
    /// 8 bits: one plane, as llama.cpp has it.
    #[default]
    Eight,
    /// 16 bits: two planes.
    Sixteen,
}

impl ActivationBits {
    /// Both, the fewer bits first.
    pub const ALL: [ActivationBits; 2] = [ActivationBits::Eight, ActivationBits::Sixteen];

    /// The bits of an activation.
    pub const fn bits(self) -> usize {
        8 * self.planes()
    }

    /// Planes of 8-bit codes.
    pub const fn planes(self) -> usize {
        match self {
            ActivationBits::Eight => 1,
            ActivationBits::Sixteen => 2,
        }
    }
}

/// The planes of a row.
#[derive(Clone, Copy, Debug)]
pub struct Planes<R> {
    /// The only one, or the higher of two.
    pub high: R,
    /// The lower of two.
    pub low: Option<R>,
}

impl<R> Planes<R> {
    /// `plane(0)`, and `plane(1)` where there are two.
    pub fn new(bits: ActivationBits, plane: impl Fn(usize) -> R) -> Planes<R> {
        Planes { high: plane(0), low: (bits.planes() > 1).then(|| plane(1)) }
    }

    /// The number that the exact sums of the planes stand for: each as a float, then `RADIX * high + low` rounded once.
    pub fn joined(&self, sum: impl Fn(&R) -> i32) -> f32 {
        let high = sum(&self.high) as f32;
        self.low.as_ref().map_or(high, |low| fma(RADIX as f32, high, sum(low) as f32))
    }
}

/// The scale of a block of `P` planes: `d`, and what values are multiplied with to be codes.
#[inline(always)]
pub(super) fn scale<const N: usize, const P: usize>(x: &[f32; N]) -> (f32, f32) {
    // The largest code, and a peak so small that a block of that is one of zeros for every practical purpose: by it the largest code is
    // divided without overflow.
    let (largest, least) = const { if P == 1 { (127.0, 1e-36) } else { (127.0 * RADIX as f32 + 127.0, 1e-34) } };
    // Sixteen peaks side by side: one after the other, each comparison would wait for the one before.
    let mut peaks = [0.0f32; 16];
    let larger = |v: f32, peak: f32| if v > peak { v } else { peak };
    for x in x.as_chunks::<16>().0 {
        for i in 0..16 {
            peaks[i] = larger(x[i].abs(), peaks[i]);
        }
    }
    let peak = peaks.into_iter().fold(0.0, |peak, v| larger(v, peak));
    (peak / largest, if peak > least { largest / peak } else { 0.0 })
}

/// The codes of plane `plane` of a block of `P` planes.
#[inline(always)]
pub(super) fn codes<const N: usize, const P: usize>(x: &[f32; N], inverse: f32, plane: usize, codes: &mut [i8; N]) {
    for i in 0..N {
        // |x| * (largest / peak) is at most the largest code times 1 + 2^-22, which rounds to it; the sum's lowest byte is that integer.
        let q = x[i] * inverse + ROUND;
        let digit = if P == 1 {
            q
        } else {
            // Never halfway between two integers, as the radix is odd, and far closer to the right one than a rounding of the product.
            let (q, radix) = (q - ROUND, RADIX as f32);
            let high = q * (1.0 / radix) + ROUND;
            if plane == 0 { high } else { (q - radix * (high - ROUND)) + ROUND }
        };
        codes[i] = digit.to_bits() as i8;
    }
}
