//! The innermost loops: a panel's rows times a few columns, all sums in registers.
//!
//! A column is a plane of a token (`quant/src/activations`); the planes of a token are side by side, and `K` tokens have `C = K * planes` columns.
//! With `S` vectors and `C` columns there are `S x C` sums under way, and in formats with groups as many sums of sums. A step loads `S`
//! registers of weights and spreads `C` dwords of activations for `S x C` multiplications.

use super::panel::{Expand, Panel, Vector, center, step, sums_i16, zero};
use strata_quant::activations::RADIX;
use strata_quant::activations::tiled::{KC, SUMS, XTile};

/// The tile for as many tokens as `acc` has, of up to `C` columns: adds to `acc (tokens, vectors, lanes)`.
#[inline(always)]
pub fn run<T: Vector<L>, F: Expand, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: XTile<'_>,
    planes: usize,
    acc: &mut [[[f32; L]; S]],
) {
    macro_rules! widths {
        ($($planes:literal: $($k:literal)*;)*) => {
            match (planes, acc.len()) {
                // A condition on constants: what it rules out is not compiled.
                $($(($planes, $k) if $planes * $k <= C => {
                    let acc = acc.as_mut_array().expect("that many tokens");
                    columns::<T, F, L, S, { $planes * $k }, $k>(t, panel, x, acc)
                })*)*
                (planes, n) => unreachable!("a tile of {n} tokens with {planes} planes"),
            }
        };
    }
    widths!(1: 1 2 3 4 5 6; 2: 1 2 3;)
}

/// The 8-bit activations of a tile.
#[derive(Clone, Copy)]
pub struct Columns<'a, const C: usize> {
    /// Four values of k of `C` columns, 64 steps.
    pub codes: &'a [[[u8; 4]; C]; 64],
    /// See [`SUMS`].
    pub sums: &'a [[i32; C]; SUMS],
}

#[inline(always)]
fn columns<T: Vector<L>, F: Expand, const L: usize, const S: usize, const C: usize, const K: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: XTile<'_>,
    acc: &mut [[[f32; L]; S]; K],
) {
    let columns = Columns {
        codes: x.codes.as_chunks().0.as_array().expect("64 steps"),
        sums: x.sums.as_chunks().0.as_array().expect("all sums of a column"),
    };
    if F::LEN == KC {
        let scales: &[f32; C] = x.scales.as_array().expect("a scale a column");
        blocks_of_256::<T, F, L, S, C, K>(t, panel, columns, scales, acc);
    } else {
        let scales: &[[f32; C]; 8] = x.scales.as_chunks().0.as_array().expect("eight scales a column");
        blocks_of_32::<T, F, L, S, C, K>(t, panel, columns, scales, acc);
    }
}

/// The number that the sums of the planes of token `token` stand for.
#[inline(always)]
fn joined<T: Vector<L>, const L: usize, const C: usize>(t: T, sums: &[T::I; C], token: usize, planes: usize) -> T::F {
    let mut sum = t.to_floats(sums[token * planes]);
    for plane in 1..planes {
        sum = t.fma(t.splat_float(RADIX as f32), sum, t.to_floats(sums[token * planes + plane]));
    }
    sum
}

/// The exact sums of block `b`: see [`Vector::isums`].
#[inline(always)]
pub fn isums<T: Vector<L>, F: Expand, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: Columns<'_, C>,
    b: usize,
) -> [[T::I; C]; S] {
    if F::LEN < KC {
        return t.sums::<F, S, C>(panel, x, b);
    }
    let mut isum = [[t.splat(0); C]; S];
    let step = const { step::<T, F, L>() };
    for i in 0..KC / step {
        let dots = t.sums::<F, S, C>(panel, x, i);
        for s in 0..S {
            let scale = t.ints(&panel.scales[i * step / F::GROUP][s]);
            for c in 0..C {
                isum[s][c] = if T::SUMS_I16 && !const { sums_i16::<T, F, L>() } {
                    t.add(isum[s][c], t.mul_ints(dots[s][c], scale))
                } else {
                    t.scaled(isum[s][c], dots[s][c], scale)
                };
            }
        }
    }
    isum
}

/// The exact sums of the `i`th [`step`] values of k: see [`Vector::sums`].
#[inline(always)]
pub fn sums<T: Vector<L>, F: Expand, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: Columns<'_, C>,
    i: usize,
) -> [[T::I; C]; S] {
    let mut sums = [[t.splat(0); C]; S];
    if T::bias::<F>() > 0 {
        for s in 0..S {
            sums[s] = [t.ints(&panel.start[i][s]); C];
        }
    }
    let zero = const { zero::<T, F, L>() };
    if zero > 0 {
        for c in 0..C {
            let correction = t.splat((-zero * x.sums[i][c]) as u32);
            for s in 0..S {
                sums[s][c] = correction;
            }
        }
    }
    let steps = const { step::<T, F, L>() } / 4;
    for k in i * steps..(i + 1) * steps {
        panel.prefetch::<T, F>(t, k);
        let mut w = [sums[0][0]; S];
        for s in 0..S {
            w[s] = t.codes(&panel.codes[k][s]);
        }
        for c in 0..C {
            let x = t.splat(u32::from_ne_bytes(x.codes[k][c]));
            for s in 0..S {
                sums[s][c] = t.dot::<F>(sums[s][c], w[s], x);
            }
        }
    }
    sums
}

#[inline(always)]
fn blocks_of_32<T: Vector<L>, F: Expand, const L: usize, const S: usize, const C: usize, const K: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: Columns<'_, C>,
    scales: &[[f32; C]; 8],
    acc: &mut [[[f32; L]; S]; K],
) {
    let planes = const { C / K };
    let mut total = [[t.splat_float(0.0); K]; S];
    for s in 0..S {
        for token in 0..K {
            total[s][token] = t.floats(&acc[token][s]);
        }
    }
    for b in 0..8 {
        let dots = t.isums::<F, S, C>(panel, x, b);
        for token in 0..K {
            let d_x = t.splat_float(scales[b][token * planes]);
            let mut sum_x = 0;
            for plane in 0..planes {
                sum_x = RADIX * sum_x + x.sums[b][token * planes + plane];
            }
            for s in 0..S {
                let d = t.mul(t.floats(&panel.d[b][s]), d_x);
                total[s][token] = t.fma(d, joined(t, &dots[s], token, planes), total[s][token]);
                if F::M.is_some() {
                    let m = t.mul(t.floats(&panel.m[b][s]), d_x);
                    total[s][token] = t.fma(m, t.to_floats(t.splat(sum_x as u32)), total[s][token]);
                }
            }
        }
    }
    for s in 0..S {
        for token in 0..K {
            t.store_floats(total[s][token], &mut acc[token][s]);
        }
    }
}

#[inline(always)]
fn blocks_of_256<T: Vector<L>, F: Expand, const L: usize, const S: usize, const C: usize, const K: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: Columns<'_, C>,
    scales: &[f32; C],
    acc: &mut [[[f32; L]; S]; K],
) {
    let planes = const { C / K };
    let mut isum = t.isums::<F, S, C>(panel, x, 0);
    let mut msum = [[t.splat(0); C]; S];
    if F::M.is_some() {
        let centered = const { center::<T, F, L>() > 0 };
        let (pairs, first) = if F::GROUP == 16 { (8, 0) } else { (4, 8) };
        for pair in 0..pairs {
            for c in 0..C {
                let x = t.splat(x.sums[first + pair][c] as u32);
                for s in 0..S {
                    msum[s][c] = t.pairs(msum[s][c], t.ints(&panel.mins[pair][s]), x);
                    if centered {
                        isum[s][c] = t.pairs(isum[s][c], t.ints(&panel.centers[pair][s]), x);
                    }
                }
            }
        }
    }
    for token in 0..K {
        let d_x = t.splat_float(scales[token * planes]);
        for s in 0..S {
            let d = t.mul(t.floats(&panel.d[0][s]), d_x);
            let mut total = t.fma(d, joined(t, &isum[s], token, planes), t.floats(&acc[token][s]));
            if F::M.is_some() {
                let m = t.mul(t.floats(&panel.m[0][s]), d_x);
                total = t.fnma(m, joined(t, &msum[s], token, planes), total);
            }
            t.store_floats(total, &mut acc[token][s]);
        }
    }
}
