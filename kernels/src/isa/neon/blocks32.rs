//! Products with blocks of 32: four rows by four blocks a step. The codes carry their signs; a block is two registers of 16.

use super::super::walk::{self, Steps};
use super::{Products, halves, load, load_signed, totals};
use crate::matmul::{Job, Out};
use crate::table::Matmul;
use std::arch::aarch64::*;
use std::marker::PhantomData;
use strata_quant::activations::Q8Row;
use strata_quant::formats::iq4_nl::LEVELS;
use strata_quant::{Activations, GgmlType};

/// A format's steps with some way to multiply.
struct Of<F, P>(PhantomData<(F, P)>);

/// A format of blocks of 32; a block begins with its scale and its least value if there is one.
trait Blocks<const QUAD_BYTES: usize> {
    /// Bytes of a block.
    const BYTES: usize = QUAD_BYTES / 4;
    /// True if every weight has the block's least value added.
    const MIN: bool = false;
    /// Codes 0..16 and 16..32 of the block that begins at `at`.
    fn codes(blocks: &[u8; QUAD_BYTES], at: usize) -> (int8x16_t, int8x16_t);
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

/// The body of [`Blocks::codes`].
macro_rules! codes {
    ($e:expr) => {
        // SAFETY: reached only from functions compiled for NEON; registers, and loads checked by `load`.
        unsafe { $e }
    };
}

struct Q4_0;
impl Blocks<72> for Q4_0 {
    #[inline(always)]
    fn codes(blocks: &[u8; 72], at: usize) -> (int8x16_t, int8x16_t) {
        codes!(nibbles(load(blocks, at + 2), 8))
    }
}

struct Q4_1;
impl Blocks<80> for Q4_1 {
    const MIN: bool = true;
    #[inline(always)]
    fn codes(blocks: &[u8; 80], at: usize) -> (int8x16_t, int8x16_t) {
        codes!(nibbles(load(blocks, at + 4), 0))
    }
}

struct Q5_0;
impl Blocks<88> for Q5_0 {
    #[inline(always)]
    fn codes(blocks: &[u8; 88], at: usize) -> (int8x16_t, int8x16_t) {
        codes!(five_bits(blocks, at + 2, at + 6, 16))
    }
}

struct Q5_1;
impl Blocks<96> for Q5_1 {
    const MIN: bool = true;
    #[inline(always)]
    fn codes(blocks: &[u8; 96], at: usize) -> (int8x16_t, int8x16_t) {
        codes!(five_bits(blocks, at + 4, at + 8, 0))
    }
}

struct Iq4Nl;
impl Blocks<72> for Iq4Nl {
    #[inline(always)]
    fn codes(blocks: &[u8; 72], at: usize) -> (int8x16_t, int8x16_t) {
        codes!({
            let (bytes, levels) = (load(blocks, at + 2), load_signed(&LEVELS, 0));
            let low = vqtbl1q_s8(levels, vandq_u8(bytes, vdupq_n_u8(15)));
            (low, vqtbl1q_s8(levels, vshrq_n_u8::<4>(bytes)))
        })
    }
}

struct Q8_0;
impl Blocks<136> for Q8_0 {
    #[inline(always)]
    fn codes(blocks: &[u8; 136], at: usize) -> (int8x16_t, int8x16_t) {
        codes!((vreinterpretq_s8_u8(load(blocks, at + 2)), vreinterpretq_s8_u8(load(blocks, at + 18))))
    }
}

impl<F: Blocks<N>, P: Products, const N: usize> Steps<N> for Of<F, P> {
    type Row<'a> = Q8Row<'a>;
    type Acc = float32x4_t;

    #[inline(always)]
    unsafe fn step<const C: usize>(
        rows: [&[u8; N]; 4],
        xs: &[Q8Row<'_>; C],
        q: usize,
        live: usize,
        acc: &mut [float32x4_t; C],
    ) {
        for b in 0..live {
            let at = b * F::BYTES;
            let w = [F::codes(rows[0], at), F::codes(rows[1], at), F::codes(rows[2], at), F::codes(rows[3], at)];
            // SAFETY: the caller's promise; registers, and loads checked by `load`.
            unsafe {
                let d_w = halves(rows, at);
                let m_w = if F::MIN { halves(rows, at + 2) } else { vdupq_n_f32(0.0) };
                for c in 0..C {
                    let quad = &xs[c].quads[q];
                    let (lo, hi) = (load_signed(quad, b * 16), load_signed(quad, 64 + b * 16));
                    let dot = |r: usize| P::products(P::products(vdupq_n_s32(0), w[r].0, lo), w[r].1, hi);
                    let sums = vcvtq_f32_s32(totals([dot(0), dot(1), dot(2), dot(3)]));
                    let d_x = vdupq_n_f32(xs[c].scales[q * 4 + b]);
                    acc[c] = vfmaq_f32(acc[c], vmulq_f32(d_w, d_x), sums);
                    if F::MIN {
                        let sum_x = vcvtq_f32_s32(vdupq_n_s32(xs[c].sums[q * 4 + b]));
                        acc[c] = vfmaq_f32(acc[c], vmulq_f32(m_w, d_x), sum_x);
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "neon")]
fn matmul<F: Blocks<N>, P: Products, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
    // SAFETY: NEON by the function's feature; `P` is of the set in whose table this is.
    unsafe { walk::matmul::<Of<F, P>, N>(job, x, out) }
}

/// The product of a format.
pub fn product<P: Products>(ty: GgmlType) -> Option<Matmul> {
    Some(match ty {
        GgmlType::Q4_0 => matmul::<Q4_0, P, 72>,
        GgmlType::Q4_1 => matmul::<Q4_1, P, 80>,
        GgmlType::Q5_0 => matmul::<Q5_0, P, 88>,
        GgmlType::Q5_1 => matmul::<Q5_1, P, 96>,
        GgmlType::Q8_0 => matmul::<Q8_0, P, 136>,
        GgmlType::IQ4_NL => matmul::<Iq4Nl, P, 72>,
        _ => return None,
    })
}
