//! Attention of one token to the positions before it: `softmax(q k^T / sqrt(d)) v`, grouped heads, one result.
//!
//! The positions are walked in *spans* of a fixed length, whatever the batch and the number of threads. Within a span:
//! ```text
//! s_j = (q . k_j) * scale          16 lanes over the head, added by the fixed tree
//! m   = max s_j
//! p_j = exp(s_j - m)               16 positions at a time
//! l   = sum p_j                    lane j % 16, added by the fixed tree
//! a   = sum p_j v_j                j increasing, a fused multiply-add each
//! ```
//! and the spans are joined in order by the online softmax (Milakov and Gimelshein, 2018): with `M = max(m1, m2)`,
//! `l = l1 exp(m1 - M) + l2 exp(m2 - M)`, `a` likewise; at the end `a / l`. A later span never changes what an earlier one gave, so
//! spans may be computed anywhere and joined in order.

use crate::exp::exp;
use crate::floats::{F16, F32, Plain};
use strata_quant::GgmlType;
use strata_quant::simd::Simd;

/// Positions in a span.
const SPAN: usize = 256;

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, which divide the query heads.
    pub kv_heads: usize,
    /// Values in a query or key head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Values a cached head row takes: the head filled up to whole 16 lanes with zeros.
    pub fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Query heads that share a key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// The cached keys and values of one head up to and including the token's own position: `(positions, padded_dim)` plain numbers.
#[derive(Clone, Copy)]
pub struct KvHead<'a> {
    /// F16 or F32.
    pub ty: GgmlType,
    /// Keys.
    pub k: &'a [u8],
    /// Values.
    pub v: &'a [u8],
}

/// The running result of one query head.
struct Running {
    peak: f32,
    sum: f32,
}

/// One token's query heads `q` of one group, `(group, head_dim)`, over `kv`; writes `out` of the same shape. `scratch` is reused
/// between calls.
#[inline(always)]
pub fn attend<S: Simd>(
    s: S,
    shape: AttentionShape,
    q: &[f32],
    kv: KvHead<'_>,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    match kv.ty {
        GgmlType::F16 => attend_to::<S, F16>(s, shape, q, kv, out, scratch),
        GgmlType::F32 => attend_to::<S, F32>(s, shape, q, kv, out, scratch),
        other => panic!("a cache of {other} cannot be read"),
    }
}

#[inline(always)]
fn attend_to<S: Simd, P: Plain>(
    s: S,
    shape: AttentionShape,
    q: &[f32],
    kv: KvHead<'_>,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (d, dp, group) = (shape.head_dim, shape.padded_dim(), shape.group());
    assert!(q.len() == group * d && out.len() == group * d);
    let row = dp * P::BYTES;
    assert!(kv.k.len() == kv.v.len() && kv.k.len().is_multiple_of(row));
    scratch.clear();
    scratch.resize(2 * group * dp + dp, 0.0);
    let (queries, rest) = scratch.split_at_mut(group * dp); // (group, padded_dim)
    let (acc, part) = rest.split_at_mut(group * dp); // (group, padded_dim), (padded_dim)
    for (padded, q) in queries.chunks_exact_mut(dp).zip(q.chunks_exact(d)) {
        padded[..d].copy_from_slice(q);
    }
    for (h, (q, acc)) in queries.chunks_exact(dp).zip(acc.chunks_exact_mut(dp)).enumerate() {
        let mut running = Running { peak: f32::NEG_INFINITY, sum: 0.0 };
        for (k, v) in kv.k.chunks(SPAN * row).zip(kv.v.chunks(SPAN * row)) {
            let (peak, sum) = span::<S, P>(s, shape.scale(), q, k, v, part);
            join(s, &mut running, acc, peak, sum, part);
        }
        let divisor = s.splat(running.sum);
        for (acc, out) in acc.chunks(16).zip(out[h * d..(h + 1) * d].chunks_mut(16)) {
            s.store_part(s.div(s.load_part(acc, 0.0), divisor), out);
        }
    }
}

/// One span of one head: the peak score, the sum of the weights, and in `part` the weighted sum of the values.
#[inline(always)]
fn span<S: Simd, P: Plain>(s: S, scale: f32, q: &[f32], k: &[u8], v: &[u8], part: &mut [f32]) -> (f32, f32) {
    let row = q.len() * P::BYTES;
    let n = k.len() / row;
    let q = q.as_chunks::<16>().0;
    let mut scores = [f32::NEG_INFINITY; SPAN];
    let mut peak = f32::NEG_INFINITY;
    for (score, k) in scores.iter_mut().zip(k.chunks_exact(row)) {
        let mut dot = s.splat(0.0);
        for (q, k) in q.iter().zip(k.chunks_exact(16 * P::BYTES)) {
            dot = s.fma(s.load(q), P::widen(s, k), dot);
        }
        *score = s.sum(dot) * scale;
        peak = if *score > peak { *score } else { peak };
    }
    let mut sums = s.splat(0.0);
    for part in scores[..n].chunks_mut(16) {
        let p = exp(s, s.sub(s.load_part(part, 0.0), s.splat(peak)));
        let mut lanes = [0.0; 16];
        s.store(p, &mut lanes);
        lanes[part.len()..].fill(0.0);
        sums = s.add(sums, s.load(&lanes));
        part.copy_from_slice(&lanes[..part.len()]);
    }
    part.fill(0.0);
    for (p, v) in scores[..n].iter().zip(v.chunks_exact(row)) {
        let p = s.splat(*p);
        for (a, v) in part.as_chunks_mut::<16>().0.iter_mut().zip(v.chunks_exact(16 * P::BYTES)) {
            s.store(s.fma(p, P::widen(s, v), s.load(a)), a);
        }
    }
    (peak, s.sum(sums))
}

/// Joins a span to the running result. The first span finds a peak of minus infinity, whose factor is exactly zero.
#[inline(always)]
fn join<S: Simd>(s: S, running: &mut Running, acc: &mut [f32], peak: f32, sum: f32, part: &[f32]) {
    if running.peak == f32::NEG_INFINITY {
        (running.peak, running.sum) = (peak, sum);
        acc.copy_from_slice(part);
        return;
    }
    let top = if peak > running.peak { peak } else { running.peak };
    let mut factors = [0.0; 16];
    s.store(exp(s, s.load_part(&[running.peak - top, peak - top], 0.0)), &mut factors);
    let (old, new) = (s.splat(factors[0]), s.splat(factors[1]));
    for (a, p) in acc.as_chunks_mut::<16>().0.iter_mut().zip(part.as_chunks::<16>().0) {
        s.store(s.fma(s.load(p), new, s.mul(s.load(a), old)), a);
    }
    running.sum = running.sum * factors[0] + sum * factors[1];
    running.peak = top;
}
