//! Products with blocks of 256: four rows by one block a step. A group of 16 codes is a register; its products are multiplied with the
//! group's integer scale and added up, exactly.

use super::lanes::Neon;
use super::{DotProducts, halves, load, load_signed, totals};
use crate::isa::format::BlockFormat;
use crate::isa::gemm::formats::*;
use crate::isa::gemv::Steps;
use std::arch::aarch64::*;
use std::marker::PhantomData;
use strata_quant::activations::{Q8x256Row, RADIX};
use strata_quant::formats::iq4_nl::LEVELS;

/// A format's steps with some way to multiply.
pub struct Of<F, P>(PhantomData<(F, P)>);

/// A format of blocks of 256.
pub trait Block<const BYTES: usize>: BlockFormat {
    /// The codes of 16 groups, with their signs.
    fn codes(t: Neon, block: &[u8; BYTES]) -> [int8x16_t; 16];
    /// Scales and offsets of 16 groups.
    fn scales(block: &[u8; BYTES]) -> ([i16; 16], [i16; 16]);
}

/// The formats, each with the ways from a block to the codes of a group and to scales; and `kernels256!`, the list of their kernels, which
/// are compiled for each of the three sets.
macro_rules! formats {
    ($($F:ident: |$block:ident, $group:ident| $codes:expr, $scales:expr;)*) => {
        $(impl Block<{ $F::BYTES }> for $F {
            #[inline(always)]
            fn codes(_: Neon, $block: &[u8; $F::BYTES]) -> [int8x16_t; 16] {
                // SAFETY: the token proves NEON; registers, and loads checked by `load`.
                std::array::from_fn(|$group| unsafe { $codes })
            }
            #[inline(always)]
            fn scales($block: &[u8; $F::BYTES]) -> ([i16; 16], [i16; 16]) {
                $scales
            }
        })*

        macro_rules! kernels256 {
            ($matmul:ident) => { kernels!($matmul, 1 blocks: $($F)*) };
        }
        pub(super) use kernels256;
    };
}

formats! {
    Q2K: |block, group| vreinterpretq_s8_u8(pair(block, 16, group)), {
        (std::array::from_fn(|i| (block[i] & 15) as i16), std::array::from_fn(|i| (block[i] >> 4) as i16))
    };
    Q3K: |block, group| {
        let code = vorrq_u8(pair(block, 32, group), vshlq_n_u8::<2>(bit(block, 0, group)));
        vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(4))
    }, {
        let scale = |group: usize| {
            let low = block[96 + group % 8] >> (group / 8 * 4) & 15;
            let high = block[104 + group % 4] >> (group / 4 * 2) & 3;
            (low | high << 4) as i16 - 32
        };
        (std::array::from_fn(scale), [0; 16])
    };
    Q4K: |block, group| vreinterpretq_s8_u8(group_nibbles(block, 16, group)), six_bits(&block[4..16]);
    Q5K: |block, group| {
        let fifth = vshlq_n_u8::<4>(bit(block, 16, group));
        vreinterpretq_s8_u8(vorrq_u8(group_nibbles(block, 48, group), fifth))
    }, six_bits(&block[4..16]);
    Q6K: |block, group| {
        let (half, within) = (group / 8, group % 8);
        let low = shifted(load(block, half * 64 + within % 4 * 16), within / 4 * 4, 15);
        let code = vorrq_u8(low, vshlq_n_u8::<4>(pair(block, 128, group)));
        vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(32))
    }, (std::array::from_fn(|group| block[192 + group] as i8 as i16), [0; 16]);
    Iq4Xs: |block, group| {
        vqtbl1q_s8(load_signed(&LEVELS, 0), shifted(load(block, 8 + group / 2 * 16), group % 2 * 4, 15))
    }, {
        let high = u16::from_le_bytes([block[2], block[3]]);
        let scale = |group: usize| {
            let of_32 = group / 2;
            let low = block[4 + of_32 / 2] >> (of_32 % 2 * 4) & 15;
            (low as u16 | (high >> (of_32 * 2) & 3) << 4) as i16 - 32
        };
        (std::array::from_fn(scale), [0; 16])
    };
}

/// The bits from `shift` on of every byte, under `mask`.
#[inline]
#[target_feature(enable = "neon")]
fn shifted(v: uint8x16_t, shift: usize, mask: u8) -> uint8x16_t {
    vandq_u8(vshlq_u8(v, vdupq_n_s8(-(shift as i8))), vdupq_n_u8(mask))
}

/// Nibbles of groups of 32, two groups side by side, from byte `at` on: those of one group of 16.
#[inline]
#[target_feature(enable = "neon")]
fn group_nibbles(bytes: &[u8], at: usize, group: usize) -> uint8x16_t {
    let (of_32, half) = (group / 2, group % 2);
    shifted(load(bytes, at + of_32 / 2 * 32 + half * 16), of_32 % 2 * 4, 15)
}

/// The bit of each code of a group: bit `i / 32` of byte `i % 32`.
#[inline]
#[target_feature(enable = "neon")]
fn bit(bytes: &[u8], at: usize, group: usize) -> uint8x16_t {
    shifted(load(bytes, at + group % 2 * 16), group / 2, 1)
}

/// The pair of bits of each code of a group, four to a byte.
#[inline]
#[target_feature(enable = "neon")]
fn pair(bytes: &[u8], at: usize, group: usize) -> uint8x16_t {
    shifted(load(bytes, at + group / 8 * 32 + group % 2 * 16), group % 8 / 2 * 2, 3)
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as u64
}

/// `(scales, offsets)` of Q4_K and Q5_K from 12 bytes, each for two groups of 16.
fn six_bits(bytes: &[u8]) -> ([i16; 16], [i16; 16]) {
    let (a, b, c) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8));
    let high = |v: u64| (v >> 6 & 0x0303_0303) << 4;
    let scales = (a & 0x3f3f_3f3f) | ((c & 0x0f0f_0f0f) | high(a)) << 32;
    let mins = (b & 0x3f3f_3f3f) | ((c >> 4 & 0x0f0f_0f0f) | high(b)) << 32;
    let twice = |v: u64| std::array::from_fn(|group| (v >> (group / 2 * 8) & 63) as i16);
    (twice(scales), twice(mins))
}

/// The number that the sums of the planes stand for, of which each is that of all lanes of four rows.
#[inline]
#[target_feature(enable = "neon")]
fn joined<const PLANES: usize>(planes: [[int32x4_t; 4]; PLANES]) -> float32x4_t {
    let mut sum = vcvtq_f32_s32(totals(planes[0]));
    for plane in 1..PLANES {
        sum = vfmaq_f32(vcvtq_f32_s32(totals(planes[plane])), vdupq_n_f32(RADIX as f32), sum);
    }
    sum
}

impl<F: Block<N>, P: DotProducts, const N: usize> Steps<N> for Of<F, P> {
    type Token = P;
    type Row<'a> = Q8x256Row<'a>;
    type Acc = float32x4_t;

    #[inline(always)]
    fn step<const C: usize, const PLANES: usize>(
        t: P,
        rows: [&[u8; N]; 4],
        xs: &[[Q8x256Row<'_>; PLANES]; C],
        b: usize,
        _: usize,
        acc: &mut [float32x4_t; C],
    ) {
        // SAFETY: the token proves NEON; registers, and loads checked by `load` or of whole arrays.
        unsafe {
            let zero = vdupq_n_s32(0);
            // [column][plane][row](lanes)
            let (mut isums, mut msums) = ([[[zero; 4]; PLANES]; C], [[[zero; 4]; PLANES]; C]);
            for r in 0..4 {
                let (codes, (scales, mins)) = (F::codes(t.neon(), rows[r]), F::scales(rows[r]));
                for i in 0..C * PLANES {
                    let (c, plane) = (i / PLANES, i % PLANES);
                    let (x, isum, msum) = (&xs[c][plane], &mut isums[c][plane][r], &mut msums[c][plane][r]);
                    for group in 0..16 {
                        let dot = t.products(zero, codes[group], load_signed(&x.codes[b], group * 16));
                        *isum = vmlaq_n_s32(*isum, dot, scales[group] as i32);
                    }
                    if F::M.is_some() {
                        for at in (0..16).step_by(4) {
                            let (min, sum) = (vld1_s16(mins.as_ptr().add(at)), vld1_s16(x.sums[b].as_ptr().add(at)));
                            *msum = vmlal_s16(*msum, min, sum);
                        }
                    }
                }
            }
            let d_w = halves(rows, F::D);
            for c in 0..C {
                let d_x = vdupq_n_f32(xs[c][0].scales[b]);
                acc[c] = vfmaq_f32(acc[c], vmulq_f32(d_w, d_x), joined(isums[c]));
                if let Some(at) = F::M {
                    let m_w = halves(rows, at);
                    acc[c] = vfmsq_f32(acc[c], vmulq_f32(m_w, d_x), joined(msums[c]));
                }
            }
        }
    }
}
