//! AVX2 with AVX-VNNI: processors without AVX-512 that have `vpdpbusd` all the same. DotProducts over several columns gain by it; those over one
//! read memory at its speed without, and are those of AVX2.

use super::avx2::{self, Avx2};
use super::instantiate::instantiate;
use crate::limits::{FACTOR, Sums};
use std::arch::x86_64::*;
use std::hint::black_box;

/// True if the processor has what this file uses.
pub fn detected() -> bool {
    avx2::detected() && is_x86_feature_detected!("avxvnni")
}

/// Panels of 16 rows: two vectors of eight lanes, times tiles of five columns: 10 sums under way, as many as hide the latency of two
/// multiplications a cycle.
mod gemm {
    use crate::isa::gemm::panel::Expand;
    use crate::isa::x86::gemm::{DotProducts, L, Panels, unsigned};
    use std::arch::x86_64::*;
    use strata_quant::GgmlType;

    crate::isa::gemm::instantiate!(
        Panels<Vnni> = Panels(Vnni::new()),
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")],
        8 lanes x 2 vectors,
        // Measured on a Xeon (2026-11-25), Q4_0, Q8_0 and Q4_K at 512 columns, G multiply-adds/s on two threads: 290, 294 and 268; with four
        // columns 279, 279 and 257, with six 301, 287 and 252.
        5 columns,
        // GB/s with panels and without: at 2 columns Q4_K 28.4 and 26.1, IQ4_XS 25.2 and 22.2, Q4_0 26.3 and 28.6; at 4 Q4_0 23.0 and 15.3.
        from |ty| match ty {
            GgmlType::Q4_K | GgmlType::IQ4_XS | GgmlType::Q2_K | GgmlType::Q5_0 => 2,
            _ => 3,
        }
    );

    /// The way of this set to multiply. Made only inside functions compiled for it.
    #[derive(Clone, Copy)]
    pub struct Vnni(());

    impl Vnni {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn new() -> Vnni {
            Vnni(())
        }
    }

    impl DotProducts for Vnni {
        /// As with AVX-512.
        const SUMS_I16: bool = true;

        fn bias<F: Expand>() -> u8 {
            if unsigned::<Panels<Vnni>, F, L>() { 0 } else { 128 }
        }
        #[inline(always)]
        fn dot<F: Expand>(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            let (a, b) = if unsigned::<Panels<Vnni>, F, L>() { (w, x) } else { (x, w) };
            // SAFETY: the token proves AVX-VNNI; registers only.
            unsafe { _mm256_dpbusd_avx_epi32(acc, a, b) }
        }
        #[inline(always)]
        fn words(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the token proves AVX-VNNI; registers only.
            unsafe { _mm256_dpwssd_avx_epi32(acc, a, b) }
        }
    }
}

/// Sums that wait for nothing but their own last step: latency times ports is 10 at most, and 13 fit beside the factor.
const SUMS: usize = 13;

/// The most multiply-adds: `vpdpbusd` on registers, 32 products each. `rounds` steps of every sum; the products that were added up.
#[target_feature(enable = "avx2,avxvnni")]
fn multiply_add(rounds: usize, places: &mut Sums) -> u64 {
    let mut sums: [_; SUMS] = avx2::peak::load(places);
    let x = black_box(_mm256_set1_epi8(FACTOR));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, *sum, x);
        }
    }
    avx2::peak::store(sums, places);
    (rounds * SUMS * 32) as u64
}

instantiate!(
    Avx2::new(),
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")],
    2 x 2,
    1,
    [avx2::blocks32::KERNELS, avx2::blocks256::KERNELS],
    Some(gemm::GEMM),
    multiply_add
);
