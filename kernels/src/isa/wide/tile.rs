//! The innermost loops: a panel's rows times a few columns, all sums in registers.
//!
//! With `S` strips and `C` columns there are `S x C` sums under way, and in formats with groups as many sums of sums. A step loads `S`
//! registers of weights and spreads `C` dwords of activations for `S x C` multiplications.

use super::panel::{Expand, Panel, Strip};
use strata_quant::activations::tiled::{SLAB, XTile};

/// The tile for as many columns as `acc` has: `acc (columns, strips, lanes)` goes on where it stands.
#[inline(always)]
pub fn run<T: Strip<L>, F: Expand<T>, const L: usize, const S: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: XTile<'_>,
    acc: &mut [[[f32; L]; S]],
) {
    macro_rules! widths {
        ($($c:literal)*) => {
            match acc.len() {
                $($c => columns::<T, F, L, S, $c>(t, panel, x, acc.as_mut_array().expect("that many columns")),)*
                n => unreachable!("a tile of {n} columns"),
            }
        };
    }
    widths!(1 2 3 4 5 6)
}

#[inline(always)]
fn columns<T: Strip<L>, F: Expand<T>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    x: XTile<'_>,
    acc: &mut [[[f32; L]; S]; C],
) {
    let codes: &[[[u8; 4]; C]; 64] = x.codes.as_chunks().0.as_array().expect("64 steps");
    let sums: &[[i32; C]; 8] = x.sums.as_chunks().0.as_array().expect("eight sums a column");
    let mut total = [[t.spread_float(&0.0); C]; S];
    for s in 0..S {
        for c in 0..C {
            total[s][c] = t.floats(&acc[c][s]);
        }
    }
    if F::BLOCK == SLAB {
        let scales: &[f32; C] = x.scales.as_array().expect("a scale a column");
        blocks_of_256::<T, F, L, S, C>(t, panel, codes, scales, sums, &mut total);
    } else {
        let scales: &[[f32; C]; 8] = x.scales.as_chunks().0.as_array().expect("eight scales a column");
        blocks_of_32::<T, F, L, S, C>(t, panel, codes, scales, sums, &mut total);
    }
    for s in 0..S {
        for c in 0..C {
            t.store(total[s][c], &mut acc[c][s]);
        }
    }
}

/// The exact sum of `STEP` values of k from step `first` on.
#[inline(always)]
fn sum<T: Strip<L>, F: Expand<T>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &[[[u8; 4]; C]; 64],
    i: usize,
) -> [[T::I; C]; S] {
    let mut sums = [[t.spread_int(&0); C]; S];
    if T::BIAS > 0 {
        for s in 0..S {
            sums[s] = [t.ints(&panel.start[i][s]); C];
        }
    }
    for step in i * (F::STEP / 4)..(i + 1) * (F::STEP / 4) {
        let mut w = [sums[0][0]; S];
        for s in 0..S {
            w[s] = t.codes(&panel.codes[step][s]);
        }
        for c in 0..C {
            let x = t.spread(&codes[step][c]);
            for s in 0..S {
                sums[s][c] = t.dot(sums[s][c], w[s], x);
            }
        }
    }
    sums
}

#[inline(always)]
fn blocks_of_32<T: Strip<L>, F: Expand<T>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &[[[u8; 4]; C]; 64],
    scales: &[[f32; C]; 8],
    sums: &[[i32; C]; 8],
    total: &mut [[T::F; C]; S],
) {
    for b in 0..8 {
        let dots = sum::<T, F, L, S, C>(t, panel, codes, b);
        for c in 0..C {
            let d_x = t.spread_float(&scales[b][c]);
            for s in 0..S {
                let d = t.mul(t.floats(&panel.d[b][s]), d_x);
                total[s][c] = t.fma(d, t.to_floats(dots[s][c]), total[s][c]);
                if F::MIN {
                    let m = t.mul(t.floats(&panel.m[b][s]), d_x);
                    total[s][c] = t.fma(m, t.to_floats(t.spread_int(&sums[b][c])), total[s][c]);
                }
            }
        }
    }
}

#[inline(always)]
fn blocks_of_256<T: Strip<L>, F: Expand<T>, const L: usize, const S: usize, const C: usize>(
    t: T,
    panel: &Panel<L, S>,
    codes: &[[[u8; 4]; C]; 64],
    scales: &[f32; C],
    sums: &[[i32; C]; 8],
    total: &mut [[T::F; C]; S],
) {
    let zero = t.spread_int(&0);
    let mut isum = [[zero; C]; S];
    for i in 0..SLAB / F::STEP {
        let dots = sum::<T, F, L, S, C>(t, panel, codes, i);
        for s in 0..S {
            let scale = t.ints(&panel.scales[i * F::STEP / 16][s]);
            for c in 0..C {
                isum[s][c] = match F::STEP {
                    32 => t.scaled_wide(isum[s][c], dots[s][c], scale),
                    _ => t.scaled(isum[s][c], dots[s][c], scale),
                };
            }
        }
    }
    for c in 0..C {
        let d_x = t.spread_float(&scales[c]);
        for s in 0..S {
            let d = t.mul(t.floats(&panel.d[0][s]), d_x);
            total[s][c] = t.fma(d, t.to_floats(isum[s][c]), total[s][c]);
        }
    }
    if F::MIN {
        let mut msum = [[zero; C]; S];
        for pair in 0..8 {
            for c in 0..C {
                let x = t.spread_int(&sums[pair][c]);
                for s in 0..S {
                    msum[s][c] = t.pairs(msum[s][c], t.ints(&panel.mins[pair][s]), x);
                }
            }
        }
        for c in 0..C {
            let d_x = t.spread_float(&scales[c]);
            for s in 0..S {
                let m = t.mul(t.floats(&panel.m[0][s]), d_x);
                total[s][c] = t.fnma(m, t.to_floats(msum[s][c]), total[s][c]);
            }
        }
    }
}
