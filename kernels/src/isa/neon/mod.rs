//! NEON: four registers of 4 lanes. Three sets of one text: that of every aarch64 processor; the one with 8-bit dot products (`sdot`), each
//! a single instruction where the other has four; and the one with products of 8-bit matrices (`smmla`), twice as many at once.

mod blocks256;
mod blocks32;
mod gemm;
mod lanes;
mod peak;
mod products;

use super::gemm::panel::{Expand, Panel};
use super::gemm::tile::{self, Columns};
use super::gemv::Acc;
use gemm::{L, Panels};
use lanes::Neon;
use std::arch::aarch64::*;

/// A way to multiply. A value of such a type is the proof that the processor has the instructions, NEON among them.
pub trait DotProducts: Copy {
    /// The token of NEON.
    #[inline(always)]
    fn neon(self) -> Neon {
        // SAFETY: the token proves NEON.
        unsafe { Neon::new() }
    }

    /// Products of 16 codes with 16 activations, added within groups of four lanes of `acc`, in some order: integers do not care.
    fn products(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;

    /// The same, lane i of the sum being that of codes `4 * i..4 * i + 4`.
    fn fours(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;

    /// The products that [`DotProducts::most`] adds up.
    const MOST: u64 = 16;
    /// As many products in one step as there can be, for `peak.rs`.
    #[inline(always)]
    fn most(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        self.products(acc, w, x)
    }

    /// See `Vector::sums` in `isa/gemm/panel.rs`.
    #[inline(always)]
    fn sums<F: Expand, const S: usize, const C: usize>(
        t: Panels<Self>,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        i: usize,
    ) -> [[int32x4_t; C]; S] {
        tile::sums::<Panels<Self>, F, L, S, C>(t, panel, x, i)
    }

    /// Changes the order of codes of `panel.rs` into that of [`DotProducts::sums`].
    #[inline(always)]
    fn finish<const S: usize>(self, _panel: &mut Panel<L, S>) {}
}

/// An instruction set with one way to multiply, whose measure of the most products has so many sums under way.
macro_rules! set {
    ($(#[$doc:meta])* $name:ident, $Products:ident: $features:literal, $detected:expr, $sums:literal sums) => {
        $(#[$doc])*
        pub mod $name {
            use super::blocks32::{self, Blocks, kernels32};
            use super::blocks256::{self, Block, kernels256};
            use super::lanes::Neon;
            use super::peak;
            use super::products::$Products;
            use crate::isa::format::kernels;
            use crate::isa::gemm::formats::*;
            use crate::isa::gemv;
            use crate::isa::instantiate::instantiate;
            use crate::limits::Sums;
            use crate::matmul::{Job, Out};
            use crate::table::Matmul;
            use strata_quant::{Activations, GgmlType};

            /// True if the processor has what this set uses.
            pub fn detected() -> bool {
                $detected
            }

            #[target_feature(enable = $features)]
            fn blocks_of_32<F: Blocks<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
                gemv::matmul::<blocks32::Of<F, $Products>, N>($Products::new(), job, x, out)
            }

            #[target_feature(enable = $features)]
            fn blocks_of_256<F: Block<N>, const N: usize>(job: Job<'_>, x: &Activations, out: Out<'_>) {
                gemv::matmul::<blocks256::Of<F, $Products>, N>($Products::new(), job, x, out)
            }

            const KERNELS_32: &[(GgmlType, Matmul)] = kernels32!(blocks_of_32);
            const KERNELS_256: &[(GgmlType, Matmul)] = kernels256!(blocks_of_256);

            #[target_feature(enable = $features)]
            fn multiply_add(rounds: usize, sums: &mut Sums) -> u64 {
                peak::multiply_add::<$Products, $sums>($Products::new(), rounds, sums)
            }

            mod gemm {
                use super::super::gemm::Panels;
                use super::$Products;
                // As with AVX-512: not measured.
                crate::isa::gemm::instantiate!(
                    Panels<$Products> = Panels($Products::new()),
                    #[target_feature(enable = $features)],
                    4 lanes x 4 vectors,
                    4 columns,
                    from |_| 5
                );
            }

            instantiate!(
                Neon::new(),
                #[target_feature(enable = $features)],
                4 x 2,
                1,
                [KERNELS_32, KERNELS_256],
                Some(gemm::GEMM),
                multiply_add
            );
        }
    };
}

set!(
    /// The set of every aarch64 processor.
    base, Widening: "neon", true, 8 sums
);
set!(
    /// With `sdot`.
    dotprod, Sdot: "neon,dotprod", std::arch::is_aarch64_feature_detected!("dotprod"), 16 sums
);
set!(
    /// With `sdot` and `smmla`.
    i8mm, Smmla: "neon,dotprod,i8mm",
    super::dotprod::detected() && std::arch::is_aarch64_feature_detected!("i8mm"), 16 sums
);

impl Acc for float32x4_t {
    #[inline(always)]
    fn zero() -> float32x4_t {
        // SAFETY: NEON is part of aarch64; registers only.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    fn values(self) -> [f32; 4] {
        let mut values = [0.0; 4];
        // SAFETY: NEON is part of aarch64; `values` has the four that are written.
        unsafe { vst1q_f32(values.as_mut_ptr(), self) };
        values
    }
}

/// The lanes of each of four registers added: `(registers)`.
#[inline]
#[target_feature(enable = "neon")]
fn totals(v: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]))
}

/// The half-precision numbers at `at` of four rows.
#[inline]
#[target_feature(enable = "neon")]
fn halves<const N: usize>(rows: [&[u8; N]; 4], at: usize) -> float32x4_t {
    let half = |r: usize| u16::from_le_bytes([rows[r][at], rows[r][at + 1]]);
    let halves = [half(0), half(1), half(2), half(3)];
    // SAFETY: NEON by the function's feature; the load is the four halves.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(halves.as_ptr()) }))
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8], at: usize) -> uint8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: NEON by the function's feature; the slice has the 16 bytes that are read.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// 16 signed bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load_signed(bytes: &[i8], at: usize) -> int8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: NEON by the function's feature; the slice has the 16 bytes that are read.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}
