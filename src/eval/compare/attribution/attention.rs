//! The derivative of attention, for one key and value head of one sequence.
//!
//! ```text
//! S = Q K^T scale, no token to a later one or to one before its window;   P = softmax(S);   A = P V
//! dV = P^T dA;   dP = dA V^T;   dS = P * (dP - sum_j P_j dP_j) scale;   dQ = dS K;   dK = dS^T Q
//! ```
//! Queries go in blocks, which bound the memory: rows of a block are the query heads of its tokens, and keys beyond its last token are left
//! out. The products are those of the kernels for F32, so they have the same bits on every machine.

use super::product::{Product, dot, sum};
use std::ops::Range;
use strata_kernels::{AttentionShape, Isa};

/// Tokens of a block.
const BLOCK: usize = 128;

/// What attention of one key and value head reads: all `(tokens, head_dim)`, queries `(tokens, group, head_dim)`.
pub struct HeadInputs {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// The derivatives by the inputs, of the same shapes.
pub struct HeadGradient {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// The gradients by the inputs for each of the gradients `da (tokens, group, head_dim)` by the results.
pub fn backward(isa: Isa, shape: AttentionShape, x: &HeadInputs, das: &[Vec<f32>]) -> Vec<HeadGradient> {
    let (group, AttentionShape { head_dim: d, scale, window, .. }) = (shape.group(), shape);
    let tokens = x.k.len() / d;
    let zero = || HeadGradient { q: vec![0.0; x.q.len()], k: vec![0.0; x.k.len()], v: vec![0.0; x.v.len()] };
    let mut gradients: Vec<HeadGradient> = das.iter().map(|_| zero()).collect();
    let mut product = Product::new(isa);
    let (mut p, mut dp, mut result) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..tokens).step_by(BLOCK) {
        let keys = (first + BLOCK).min(tokens);
        let rows = first * group * d..keys * group * d;
        let (q, k, v) = (&x.q[rows.clone()], &x.k[..keys * d], &x.v[..keys * d]);
        let (q_t, k_t) = (transposed(q, d), transposed(k, d));
        product.of(k, q, d, &mut p);
        for (r, p) in p.chunks_exact_mut(keys).enumerate() {
            let end = first + r / group + 1;
            softmax(p, end.saturating_sub(window)..end, scale);
        }
        let p_t = transposed(&p, keys);
        for (da, gradient) in das.iter().zip(&mut gradients) {
            let da = &da[rows.clone()];
            product.of(&transposed(da, d), &p_t, p.len() / keys, &mut result);
            add(&mut gradient.v[..keys * d], &result);
            product.of(v, da, d, &mut dp);
            for (dp, p) in dp.chunks_exact_mut(keys).zip(p.chunks_exact(keys)) {
                let mean = dot(dp, p);
                dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean) * scale);
            }
            product.of(&k_t, &dp, keys, &mut result);
            gradient.q[rows.clone()].copy_from_slice(&result);
            product.of(&q_t, &transposed(&dp, keys), p.len() / keys, &mut result);
            add(&mut gradient.k[..keys * d], &result);
        }
    }
    gradients
}

/// The softmax of the scores in `range` times `scale`; 0 for the others.
fn softmax(scores: &mut [f32], range: Range<usize>, scale: f32) {
    let (seen, later) = scores.split_at_mut(range.end);
    let (earlier, seen) = seen.split_at_mut(range.start);
    let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    seen.iter_mut().for_each(|s| *s = libm::expf((*s - max) * scale));
    let total = sum(seen);
    seen.iter_mut().for_each(|s| *s /= total);
    earlier.fill(0.0);
    later.fill(0.0);
}

/// `x (rows, cols)` as `(cols, rows)`.
fn transposed(x: &[f32], cols: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let rows = x.len() / cols;
    let mut t = vec![0.0; x.len()];
    for first in (0..cols).step_by(BLOCK) {
        for (r, x) in x.chunks_exact(cols).enumerate() {
            for c in first..(first + BLOCK).min(cols) {
                t[c * rows + r] = x[c];
            }
        }
    }
    t
}

fn add(to: &mut [f32], x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += x);
}
