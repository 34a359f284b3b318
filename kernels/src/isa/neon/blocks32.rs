//! Products with blocks of 32: four rows by four blocks a step. The codes carry their signs; a block is two registers of 16.

use super::lanes::Neon;
use super::{DotProducts, halves, load, load_signed, totals};
use crate::isa::format::BlockFormat;
use crate::isa::gemm::formats::*;
use crate::isa::gemv::Steps;
use std::arch::aarch64::*;
use std::marker::PhantomData;
use strata_quant::activations::{Q8x32Row, RADIX};
use strata_quant::formats::iq4_nl::LEVELS;

/// A format's steps with some way to multiply.
pub struct Of<F, P>(PhantomData<(F, P)>);

/// A format of blocks of 32.
pub trait Blocks<const QUAD_BYTES: usize>: BlockFormat {
    /// Codes 0..16 and 16..32 of the block that begins at `at`.
    fn codes(t: Neon, blocks: &[u8; QUAD_BYTES], at: usize) -> (int8x16_t, int8x16_t);
}

/// The formats, each with the way from a block to codes; and `kernels32!`, the list of their kernels, which are compiled for each of the
/// three sets.
macro_rules! formats {
    ($($F:ident: |$blocks:ident, $at:ident| $codes:expr;)*) => {
        $(impl Blocks<{ 4 * $F::BYTES }> for $F {
            #[inline(always)]
            fn codes(_: Neon, $blocks: &[u8; 4 * $F::BYTES], $at: usize) -> (int8x16_t, int8x16_t) {
                // SAFETY: the token proves NEON; registers, and loads checked by `load`.
                unsafe { $codes }
            }
        })*

        macro_rules! kernels32 {
            ($matmul:ident) => { kernels!($matmul, 4 blocks: $($F)*) };
        }
        pub(super) use kernels32;
    };
}

formats! {
    Q4_0: |blocks, at| nibbles(load(blocks, at + 2), 8);
    Q4_1: |blocks, at| nibbles(load(blocks, at + 4), 0);
    Q5_0: |blocks, at| five_bits(blocks, at + 2, at + 6, 16);
    Q5_1: |blocks, at| five_bits(blocks, at + 4, at + 8, 0);
    Iq4Nl: |blocks, at| {
        let (bytes, levels) = (load(blocks, at + 2), load_signed(&LEVELS, 0));
        let low = vqtbl1q_s8(levels, vandq_u8(bytes, vdupq_n_u8(15)));
        (low, vqtbl1q_s8(levels, vshrq_n_u8::<4>(bytes)))
    };
    Q8_0: |blocks, at| (vreinterpretq_s8_u8(load(blocks, at + 2)), vreinterpretq_s8_u8(load(blocks, at + 18)));
}

/// The low and the high nibbles of 16 bytes, less `zero`.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(bytes: uint8x16_t, zero: i8) -> (int8x16_t, int8x16_t) {
    let (low, high) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
    let signed = |v| vsubq_s8(vreinterpretq_s8_u8(v), vdupq_n_s8(zero));
    (signed(low), signed(high))
}

/// Nibbles with fifth bits, from the four bytes at `high`, less `zero`.
#[inline]
#[target_feature(enable = "neon")]
fn five_bits(blocks: &[u8], high: usize, codes: usize, zero: i8) -> (int8x16_t, int8x16_t) {
    const PATTERN: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    let pattern = load(&PATTERN, 0);
    let fifth = |at: usize| {
        let spread = vcombine_u8(vdup_n_u8(blocks[at]), vdup_n_u8(blocks[at + 1]));
        vreinterpretq_s8_u8(vandq_u8(vtstq_u8(spread, pattern), vdupq_n_u8(16)))
    };
    let (low, up) = nibbles(load(blocks, codes), zero);
    (vaddq_s8(low, fifth(high)), vaddq_s8(up, fifth(high + 2)))
}

impl<F: Blocks<N>, P: DotProducts, const N: usize> Steps<N> for Of<F, P> {
    type Token = P;
    type Row<'a> = Q8x32Row<'a>;
    type Acc = float32x4_t;

    #[inline(always)]
    fn step<const C: usize, const PLANES: usize>(
        t: P,
        rows: [&[u8; N]; 4],
        xs: &[[Q8x32Row<'_>; PLANES]; C],
        q: usize,
        live: usize,
        acc: &mut [float32x4_t; C],
    ) {
        for b in 0..live {
            let at = b * F::BYTES;
            let w = [
                F::codes(t.neon(), rows[0], at),
                F::codes(t.neon(), rows[1], at),
                F::codes(t.neon(), rows[2], at),
                F::codes(t.neon(), rows[3], at),
            ];
            // SAFETY: the token proves NEON; registers, and loads checked by `load`.
            unsafe {
                let d_w = halves(rows, at + F::D);
                let m_w = F::M.map_or(vdupq_n_f32(0.0), |m| halves(rows, at + m));
                for c in 0..C {
                    let (mut dots, mut sum_x) = ([vdupq_n_s32(0); 4], 0); // [row]
                    for plane in 0..PLANES {
                        let quad = &xs[c][plane].quads[q];
                        let (lo, hi) = (load_signed(quad, b * 16), load_signed(quad, 64 + b * 16));
                        for r in 0..4 {
                            let higher = if plane > 0 { vmulq_n_s32(dots[r], RADIX) } else { dots[r] };
                            dots[r] = t.products(t.products(higher, w[r].0, lo), w[r].1, hi);
                        }
                        sum_x = RADIX * sum_x + xs[c][plane].sums[q * 4 + b];
                    }
                    let sums = vcvtq_f32_s32(totals(dots));
                    let d_x = vdupq_n_f32(xs[c][0].scales[q * 4 + b]);
                    acc[c] = vfmaq_f32(acc[c], vmulq_f32(d_w, d_x), sums);
                    if F::M.is_some() {
                        let sum_x = vcvtq_f32_s32(vdupq_n_s32(sum_x));
                        acc[c] = vfmaq_f32(acc[c], vmulq_f32(m_w, d_x), sum_x);
                    }
                }
            }
        }
    }
}
