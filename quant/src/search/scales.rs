//! The scale of the scales of one block: `x = scale * code`, all not below 0.

use super::TINY;
use crate::float::nearest;

/// Tries nine scales about `max / top`, then improves one code after the other; `w` are the weights of the errors. Returns the codes and
/// the scale. Source: `make_qp_quants` of ggml.
pub fn positive<const N: usize>(x: &[f32; N], w: &[f32; N], top: f32) -> ([u8; N], f32) {
    let max = x.iter().fold(0.0, |max, &v| if v > max { v } else { max });
    if max < TINY {
        return ([0; N], 0.0);
    }
    let cost = |inverse: f32, top: f32| {
        let scale = 1.0 / inverse;
        let mut sum = 0.0;
        for i in 0..N {
            let difference = x[i] - scale * nearest(inverse * x[i]).min(top);
            sum += w[i] * difference * difference;
        }
        sum
    };
    let mut inverse = top / max;
    let mut best = cost(inverse, f32::INFINITY);
    for step in (-4..=4).filter(|&step| step != 0) {
        let this = (0.1 * step as f32 + top) / max;
        let this_cost = cost(this, top);
        if this_cost < best {
            (best, inverse) = (this_cost, this);
        }
    }
    let mut codes = [0.0; N];
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for i in 0..N {
        let l = nearest(inverse * x[i]).min(top);
        codes[i] = l;
        (sum_lx, sum_l2) = (sum_lx + w[i] * x[i] * l, sum_l2 + w[i] * l * l);
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let l = codes[i];
            let (rest_lx, rest_l2) = (sum_lx - w[i] * x[i] * l, sum_l2 - w[i] * l * l);
            if rest_lx > 0.0 && rest_l2 > 0.0 {
                let new = nearest(x[i] * rest_l2 / rest_lx).min(top);
                if new != l {
                    let (new_lx, new_l2) = (rest_lx + w[i] * x[i] * new, rest_l2 + w[i] * new * new);
                    if new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2 {
                        codes[i] = new;
                        (sum_lx, sum_l2, changed) = (new_lx, new_l2, true);
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (codes.map(|code| code as i32 as u8), if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 })
}
