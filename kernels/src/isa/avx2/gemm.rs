//! Panels of 16 rows: two vectors of eight lanes, times tiles of four columns: 8 sums under way, while the sums of sums wait in the first cache.
//!
//! `vpmaddubsw` multiplies unsigned with signed bytes and adds two products to a word, which holds up to 32767. Small codes therefore
//! gather in words for several steps, and one `vpmaddwd` multiplies them with the group's scale and widens them: little more than two
//! instructions for 32 products, where each step apart would take three. Which side is the unsigned one depends on the format ([`Unsigned`]).

use super::super::gemm::panel::{Expand, Panel, Vector};
use super::super::gemm::tile::Columns;
use super::super::x86::gemm::{DotProducts, L, Panels};
use super::Avx2;
use std::arch::x86_64::*;
use strata_quant::GgmlType;
use strata_quant::activations::tiled::{KC, SUMS};

crate::isa::gemm::instantiate!(
    Panels<Avx2> = Panels(Avx2::new()),
    #[target_feature(enable = "avx2,fma,f16c")],
    8 lanes x 2 vectors,
    // Measured on a Xeon (2026-11-25): Q4_K at 512 columns 229 G multiply-adds/s on two threads, with tiles of three columns 213.
    4 columns,
    // GB/s with panels and without: at 2 columns Q4_K 30.3 and 25.5, Q5_K 24.2 and 26.3; at 4 Q5_K 18.8 and 16.4, Q8_0 22.7 and 21.6,
    // Q4_0 15.0 and 15.1, Q6_K 18.1 and 21.1.
    from |ty| match ty {
        GgmlType::Q4_K => 2,
        GgmlType::Q2_K | GgmlType::Q5_K | GgmlType::Q4_1 | GgmlType::Q8_0 => 4,
        _ => 5,
    }
);

/// The unsigned factor of `vpmaddubsw`.
#[derive(Clone, Copy, PartialEq)]
enum Unsigned {
    /// The codes have no signs.
    Codes,
    /// The activations get a bias of 128.
    Activations,
    /// Large codes with signs: `|w| * sign(x, w)`.
    Magnitudes,
}

const fn unsigned<F: Expand>() -> Unsigned {
    match F::PEAK {
        _ if F::M.is_some() => Unsigned::Codes,
        ..=32 => Unsigned::Activations,
        _ => Unsigned::Magnitudes,
    }
}

/// Steps of a group that fit a word: each adds two products.
const fn steps<F: Expand>() -> usize {
    let x = if matches!(unsigned::<F>(), Unsigned::Activations) { 255 } else { 127 };
    match i16::MAX as i32 / (2 * x * F::PEAK) {
        8.. if F::GROUP == 32 => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// One intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token proves AVX2; registers only.
        unsafe { $e }
    };
}

impl DotProducts for Avx2 {
    const SUMS_I16: bool = false;

    fn bias<F: Expand>() -> u8 {
        if unsigned::<F>() == Unsigned::Activations { 128 } else { 0 }
    }
    /// Not what the tiles are made of, but what any [`Vector`] can do.
    #[inline(always)]
    fn dot<F: Expand>(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        op!(self.words(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)), _mm256_set1_epi16(1)))
    }
    #[inline(always)]
    fn words(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi32(acc, _mm256_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn isums<F: Expand, const S: usize, const C: usize>(
        self,
        panel: &Panel<L, S>,
        x: Columns<'_, C>,
        b: usize,
    ) -> [[__m256i; C]; S] {
        let t = Panels(self);
        let mut start = [[t.splat(0); C]; S];
        if unsigned::<F>() == Unsigned::Activations {
            for s in 0..S {
                start[s] = [t.ints(&panel.start[b][s]); C];
            }
        }
        isums::<F, S, C>(t, panel, x, b, start)
    }
    /// In both words.
    #[inline(always)]
    fn scale<F: Expand>(self, scale: __m256i) -> __m256i {
        op!(_mm256_blend_epi16::<0b1010_1010>(scale, _mm256_slli_epi32::<16>(scale)))
    }
    /// A block begins with what it gives for the bias alone, taken off.
    #[inline(always)]
    fn finish<F: Expand, const S: usize>(self, panel: &mut Panel<L, S>) {
        let (t, zero) = (Panels(self), Panels(self).splat(0));
        if unsigned::<F>() == Unsigned::Activations {
            for b in 0..KC / F::LEN {
                let bias = Columns { codes: &[[[128; 4]]; 64], sums: &[[0]; SUMS] };
                let excess = isums::<F, S, 1>(t, panel, bias, b, [[zero]; S]);
                for s in 0..S {
                    t.store_ints(t.sub(zero, excess[s][0]), &mut panel.start[b][s]);
                }
            }
        }
    }
}

/// `isum`, and the sums of block `b`.
#[inline(always)]
fn isums<F: Expand, const S: usize, const C: usize>(
    t: Panels<Avx2>,
    panel: &Panel<L, S>,
    x: Columns<'_, C>,
    b: usize,
    mut isum: [[__m256i; C]; S],
) -> [[__m256i; C]; S] {
    let (run, group) = const { (steps::<F>(), F::GROUP / 4) };
    let first = b * (F::LEN / 4);
    for from in (first..first + F::LEN / 4).step_by(run) {
        let mut sums = [[t.splat(0); C]; S];
        for k in from..from + run {
            panel.prefetch::<Panels<Avx2>, F>(t, k);
            for c in 0..C {
                let x = t.splat(u32::from_ne_bytes(x.codes[k][c]));
                for s in 0..S {
                    let w = t.codes(&panel.codes[k][s]);
                    let two = op!(match unsigned::<F>() {
                        Unsigned::Codes => _mm256_maddubs_epi16(w, x),
                        Unsigned::Activations => _mm256_maddubs_epi16(x, w),
                        Unsigned::Magnitudes => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
                    });
                    sums[s][c] = if k == from { two } else { op!(_mm256_add_epi16(sums[s][c], two)) };
                }
            }
        }
        for s in 0..S {
            let scale = if F::LEN < KC { t.splat(0x0001_0001) } else { t.ints(&panel.scales[from / group][s]) };
            for c in 0..C {
                isum[s][c] = t.scaled(isum[s][c], sums[s][c], scale);
            }
        }
    }
    isum
}
