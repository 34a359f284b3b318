//! The innermost loops: a panel's rows times a few columns, all sums in registers.
//!
//! With `S` strips and `C` columns there are `S x C` sums under way, and in formats with groups as many sums of sums. A step loads `S`
//! registers of weights and spreads `C` dwords of activations for `S x C` multiplications.

use super::panel::{Expand, Panel, Rows, Strip, center, narrow, step};
use strata_quant::activations::tiled::{SLAB, SUMS, XTile};

/// The tile for as many columns as `acc` has, up to `C`: `acc (columns, strips, lanes)` goes on where it stands. `ahead` are the rows that
/// are asked for meanwhile, which only tiles of more than half the width do: the first of a slab is none of the narrow ones.
#[inline(always)]
pub fn run<T: Strip<L>, F: Expand, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: XTile<'_>,
    acc: &mut [[[f32; L]; S]],
    ahead: Option<&[Rows<'_, L>; S]>,
) {
    macro_rules! widths {
        ($($c:literal)*) => {
            match acc.len() {
                // Conditions on constants: what they rule out is not compiled.
                $($c if $c <= C => {
                    let acc = acc.as_mut_array().expect("that many columns");
                    match ahead {
                        Some(rows) if 2 * $c > C => columns::<T, F, _, L, S, $c>(t, panel, x, acc, rows),
                        _ => columns::<T, F, _, L, S, $c>(t, panel, x, acc, Nowhere),
                    }
                })*
                n => unreachable!("a tile of {n} columns"),
            }
        };
    }
    widths!(1 2 3 4 5 6)
}

/// The activations of a tile: four values of k of `C` columns, 64 steps.
pub type XCodes<const C: usize> = [[[u8; 4]; C]; 64];

/// What is asked for from memory while a tile is computed: a line with every step or so, since a run of requests would wait for one another
/// and everything for them.
pub trait Prefetch<const L: usize, const S: usize>: Copy {
    /// With step `step` of 64.
    fn step<T: Strip<L>, F: Expand>(self, t: T, step: usize);
}

/// Bytes ahead of the slab in hand. Measured on a Xeon with AVX-512 (2026-11-25), Q4_K and Q8_0 at 4 columns, GB/s on two threads: 22.3 and
/// 26.1 at 1024; 23.4 and 25.9 at 512, 20.6 and 19.7 at 2048; 21.7 and 19.8 where the next 32 rows are asked for as one run of memory.
const AHEAD: usize = 1024;

impl<const L: usize, const S: usize> Prefetch<L, S> for &[Rows<'_, L>; S] {
    #[inline(always)]
    fn step<T: Strip<L>, F: Expand>(self, t: T, step: usize) {
        let bytes = SLAB / F::BLOCK * F::BYTES;
        let (s, lane) = (step / L % S, step % L);
        for line in (0..bytes).step_by(64).skip(step / (L * S)).step_by(64 / (L * S)) {
            t.prefetch(self[s].place(lane, AHEAD + line));
        }
    }
}

/// Nothing.
#[derive(Clone, Copy)]
pub struct Nowhere;

impl<const L: usize, const S: usize> Prefetch<L, S> for Nowhere {
    #[inline(always)]
    fn step<T: Strip<L>, F: Expand>(self, _: T, _: usize) {}
}

#[inline(always)]
fn columns<T: Strip<L>, F: Expand, P: Prefetch<L, S>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: XTile<'_>,
    acc: &mut [[[f32; L]; S]; C],
    ahead: P,
) {
    let codes: &XCodes<C> = x.codes.as_chunks().0.as_array().expect("64 steps");
    let sums: &[[i32; C]; SUMS] = x.sums.as_chunks().0.as_array().expect("all sums of a column");
    if F::BLOCK == SLAB {
        let scales: &[f32; C] = x.scales.as_array().expect("a scale a column");
        blocks_of_256::<T, F, P, L, S, C>(t, panel, codes, scales, sums, acc, ahead);
    } else {
        let scales: &[[f32; C]; 8] = x.scales.as_chunks().0.as_array().expect("eight scales a column");
        blocks_of_32::<T, F, P, L, S, C>(t, panel, codes, scales, sums, acc, ahead);
    }
}

/// The exact sums of block `b`: see [`Strip::isums`].
#[inline(always)]
pub fn isums<T: Strip<L>, F: Expand, P: Prefetch<L, S>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &XCodes<C>,
    b: usize,
    ahead: P,
) -> [[T::I; C]; S] {
    if F::BLOCK < SLAB {
        return t.sums::<F, P, S, C>(panel, codes, b, ahead);
    }
    let mut isum = [[t.spread(0); C]; S];
    let step = const { step::<T, F, L>() };
    for i in 0..SLAB / step {
        let dots = t.sums::<F, P, S, C>(panel, codes, i, ahead);
        for s in 0..S {
            let scale = t.ints(&panel.scales[i * step / F::GROUP][s]);
            for c in 0..C {
                isum[s][c] = if T::NARROW && !const { narrow::<T, F, L>() } {
                    t.add(isum[s][c], t.mul_ints(dots[s][c], scale))
                } else {
                    t.scaled(isum[s][c], dots[s][c], scale)
                };
            }
        }
    }
    isum
}

/// The exact sums of the `i`th [`step`] values of k: see [`Strip::sums`].
#[inline(always)]
pub fn sums<T: Strip<L>, F: Expand, P: Prefetch<L, S>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &XCodes<C>,
    i: usize,
    ahead: P,
) -> [[T::I; C]; S] {
    let mut sums = [[t.spread(0); C]; S];
    if T::bias::<F>() > 0 {
        for s in 0..S {
            sums[s] = [t.ints(&panel.start[i][s]); C];
        }
    }
    let steps = const { step::<T, F, L>() } / 4;
    for k in i * steps..(i + 1) * steps {
        ahead.step::<T, F>(t, k);
        let mut w = [sums[0][0]; S];
        for s in 0..S {
            w[s] = t.codes(&panel.codes[k][s]);
        }
        for c in 0..C {
            let x = t.spread(u32::from_ne_bytes(codes[k][c]));
            for s in 0..S {
                sums[s][c] = t.dot(sums[s][c], w[s], x);
            }
        }
    }
    sums
}

#[inline(always)]
fn blocks_of_32<T: Strip<L>, F: Expand, P: Prefetch<L, S>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &XCodes<C>,
    scales: &[[f32; C]; 8],
    sums: &[[i32; C]; SUMS],
    acc: &mut [[[f32; L]; S]; C],
    ahead: P,
) {
    let mut total = [[t.spread_float(0.0); C]; S];
    for s in 0..S {
        for c in 0..C {
            total[s][c] = t.floats(&acc[c][s]);
        }
    }
    for b in 0..8 {
        let dots = t.isums::<F, P, S, C>(panel, codes, b, ahead);
        for c in 0..C {
            let d_x = t.spread_float(scales[b][c]);
            for s in 0..S {
                let d = t.mul(t.floats(&panel.d[b][s]), d_x);
                total[s][c] = t.fma(d, t.to_floats(dots[s][c]), total[s][c]);
                if F::MIN {
                    let m = t.mul(t.floats(&panel.m[b][s]), d_x);
                    total[s][c] = t.fma(m, t.to_floats(t.spread(sums[b][c] as u32)), total[s][c]);
                }
            }
        }
    }
    for s in 0..S {
        for c in 0..C {
            t.store_floats(total[s][c], &mut acc[c][s]);
        }
    }
}

#[inline(always)]
fn blocks_of_256<T: Strip<L>, F: Expand, P: Prefetch<L, S>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &XCodes<C>,
    scales: &[f32; C],
    sums: &[[i32; C]; SUMS],
    acc: &mut [[[f32; L]; S]; C],
    ahead: P,
) {
    let mut isum = t.isums::<F, P, S, C>(panel, codes, 0, ahead);
    let mut msum = [[t.spread(0); C]; S];
    if F::MIN {
        let centered = const { center::<T, F, L>() > 0 };
        let (pairs, first) = if F::GROUP == 16 { (8, 0) } else { (4, 8) };
        for pair in 0..pairs {
            for c in 0..C {
                let x = t.spread(sums[first + pair][c] as u32);
                for s in 0..S {
                    msum[s][c] = t.pairs(msum[s][c], t.ints(&panel.mins[pair][s]), x);
                    if centered {
                        isum[s][c] = t.pairs(isum[s][c], t.ints(&panel.centers[pair][s]), x);
                    }
                }
            }
        }
    }
    for c in 0..C {
        let d_x = t.spread_float(scales[c]);
        for s in 0..S {
            let d = t.mul(t.floats(&panel.d[0][s]), d_x);
            let mut total = t.fma(d, t.to_floats(isum[s][c]), t.floats(&acc[c][s]));
            if F::MIN {
                let m = t.mul(t.floats(&panel.m[0][s]), d_x);
                total = t.fnma(m, t.to_floats(msum[s][c]), total);
            }
            t.store_floats(total, &mut acc[c][s]);
        }
    }
}
