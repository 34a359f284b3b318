//! The derivative of a layer, on whole sequences: what its matrices read, and the gradients of a function of its results by theirs.
//!
//! ```text
//! x1 = norm(h) n1;  q, k, v = Wq x1, Wk x1, Wv x1;  rotate q, k;  a = attention(q, k, v);  h2 = h + r Wo a
//! x2 = norm(h2) n2;  g, u = Wg x2, Wu x2;  m = silu(g) u;  h3 = h2 + r Wd m
//!
//! from dh3:  dm = Wd^T r dh3;  dg = dm u silu'(g);  du = dm silu(g);  dh2 = dh3 + norm'(Wg^T dg + Wu^T du)
//!            da = Wo^T r dh2;  dq, dk, dv = attention'(da), rotated back;  dh = dh2 + norm'(Wq^T dq + Wk^T dk + Wv^T dv)
//! ```
//! where `r` is the factor of what is added to `h`; norms of the heads of q and k before the rotation are taken back behind it. The gradients
//! by the results of the matrices are `dq dk dv (r dh2) dg du (r dh3)`. Several functions (probes) share one walk: their gradients are
//! stacked, `(probes, tokens, ...)`.

use super::MATRICES;
use super::attention::{HeadInputs, backward};
use super::product::dot;
use crate::error::Result;
use crate::eval::compare::ranges::ranges;
use crate::model::{CacheTypes, KvCache, Model};
use crate::weights::owned::{Owned, OwnedLayer};
use crate::weights::{Layer, Linear};
use rayon::prelude::*;
use std::ops::Range;
use strata_kernels::{AttentionScratch, Rotation, SequenceChunk};
use strata_quant::{Activations, GgmlType};

/// What the matrices of a layer read and give, for the tokens of some whole sequences.
#[derive(Default)]
pub struct Trace {
    /// What they read: normed states, results of attention, normed states, gated values.
    pub inputs: [Activations; 4],
    /// `W x` of every matrix, before any bias and rotation.
    pub products: [Vec<f32>; MATRICES],
    before: [Vec<f32>; 2], // q and k before the norms of their heads
    q: Vec<f32>,           // rotated
    k: Vec<f32>,           // rotated
    v: Vec<f32>,           // with its bias
    h2: Vec<f32>,          // (tokens, hidden)
    gate: Vec<f32>,
    up: Vec<f32>,
    attention: AttentionScratch,
}

/// The place in [`Trace::inputs`] of what each matrix reads.
pub const INPUT: [usize; MATRICES] = [0, 0, 0, 1, 2, 2, 3];

/// The angles of all positions of a sequence, there and back.
pub struct Angles {
    forward: Rotation,
    back: Rotation,
}

impl Angles {
    /// For sequences of up to so many tokens.
    pub fn new(model: &Model, longest: usize) -> Angles {
        let (mut forward, mut back) = (Rotation::default(), Rotation::default());
        model.rotate(&mut forward, 0..longest);
        let turned = |position, pair| {
            let (sin, cos) = model.angles().at(position, pair);
            (-sin, cos)
        };
        back.set(model.architecture().rope, 0..longest, model.angles().pairs(), turned);
        Angles { forward, back }
    }
}

/// Some whole sequences that go through a layer together.
pub struct Group<'a> {
    /// The tokens of each, from 0.
    pub sequences: Vec<Range<usize>>,
    places: Vec<usize>, // (tokens): the position of each in its sequence
    angles: &'a Angles,
}

impl<'a> Group<'a> {
    /// Of sequences of these lengths.
    pub fn new(lengths: &[usize], angles: &'a Angles) -> Group<'a> {
        let places = lengths.iter().flat_map(|&len| 0..len).collect();
        Group { sequences: ranges(lengths.iter().copied()), places, angles }
    }

    /// The tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.places.len()
    }
}

impl Trace {
    /// Sends hidden states `h (tokens, hidden)` through layer `i`, whose weights are `w`.
    ///
    /// # Errors
    /// If the memory for keys and values cannot be had.
    pub fn run(&mut self, model: &Model, (i, w): (usize, &Layer<'_>), h: &[f32], group: &Group<'_>) -> Result<()> {
        let (of, cpu, n) = (model.hyperparameters(), model.cpu(), group.tokens());
        let Trace { inputs: [x1, a, x2, m], products: [q, k, v, o, gate, up, down], .. } = self;
        // The pass before has found all of it finite.
        let _ = cpu.rms_norm(h, w.attn_norm, of.norm_eps, x1.reset(n, of.hidden));
        let [mut queries, mut keys, values] = [(w.q, q), (w.k, k), (w.v, v)].map(|(w, y)| product(model, w, x1, y));
        let heads = [(&mut queries, of.heads, w.q_norm), (&mut keys, of.kv_heads, w.k_norm)];
        for ((x, heads, norm), before) in heads.into_iter().zip(&mut self.before) {
            before.clone_from(x);
            if let Some(norm) = norm {
                let _ = cpu.rms_norm_heads(x, heads, norm, of.norm_eps);
            }
            if !of.no_rope.contains(i) {
                cpu.rope(x, heads, of.head_dim, &group.angles.forward, &group.places);
            }
        }
        let out = a.reset(n, of.q_width());
        for tokens in &group.sequences {
            let kv = tokens.start * of.kv_width()..tokens.end * of.kv_width();
            let mut cache = KvCache::one_layer(of, tokens.len(), CacheTypes::both(GgmlType::F32))?;
            let (layout, entries) = cache.entries_mut(0);
            cpu.append_kv(layout, 0, &keys[kv.clone()], &values[kv], entries);
            let chunk = [SequenceChunk { sequence: 0, tokens: tokens.len(), position: 0 }];
            let width = tokens.start * of.q_width()..tokens.end * of.q_width();
            let (queries, out) = (&queries[width.clone()], &mut out[width]);
            let _ = cpu.attention(&mut self.attention, of.attention(i), queries, &chunk, |_| cache.entries(0), out);
        }
        let mut attended = product(model, w.o, a, o);
        cpu.scale(&mut attended, of.scales.residual);
        self.h2.clear();
        self.h2.extend(h.iter().zip(&attended).map(|(h, o)| h + o));
        let _ = cpu.rms_norm(&self.h2, w.ffn_norm, of.norm_eps, x2.reset(n, of.hidden));
        let [gates, ups] = [(w.gate, gate), (w.up, up)].map(|(w, y)| product(model, w, x2, y));
        let _ = cpu.silu_mul(&gates, &ups, m.reset(n, of.ffn));
        product(model, w.down, m, down);
        (self.q, self.k, self.v, self.gate, self.up) = (queries, keys, values, gates, ups);
        Ok(())
    }
}

/// `W x` into `y`, and with the bias.
fn product(model: &Model, w: Linear<'_>, x: &mut Activations, y: &mut Vec<f32>) -> Vec<f32> {
    y.resize(x.rows() * w.weight.rows(), 0.0);
    model.cpu().matmul(w.weight, x, y);
    let mut with_bias = y.clone();
    if let Some(bias) = w.bias {
        let _ = model.cpu().add_bias(&mut with_bias, bias);
    }
    with_bias
}

/// The transposed matrices of a layer, which take gradients back.
#[derive(Default)]
pub struct Transposed([Owned; MATRICES]);

impl Transposed {
    /// Those of another layer, in the same memory.
    pub fn set(&mut self, layer: &OwnedLayer) {
        layer.matrices().iter().zip(&mut self.0).for_each(|(w, to)| w.transpose(to));
    }
}

/// The gradients by the results of all matrices of a layer, each `(probes, tokens, rows)`.
#[derive(Default)]
pub struct Gradients {
    /// In the order of [`Layer::linears`].
    pub by: [Activations; MATRICES],
}

impl Gradients {
    /// From the gradients by the results of layer `i`, `dh (probes, tokens, hidden)`, to those by its input, in place.
    pub fn run(
        &mut self,
        model: &Model,
        (i, w, back): (usize, &Layer<'_>, &Transposed),
        h: &[f32],
        (trace, group): (&Trace, &Group<'_>),
        dh: &mut [f32],
    ) {
        let of = model.hyperparameters();
        let (n, probes) = (group.tokens(), dh.len() / h.len());
        let rows = probes * n;
        let Gradients { by: [dq, dk, dv, do_, dgate, dup, ddown] } = self;
        let through = |m: usize, g: &mut Activations| {
            let w = back.0[m].matrix();
            let mut y = vec![0.0; g.rows() * w.rows()];
            model.cpu().matmul(w, g, &mut y);
            y
        };
        let scaled = |to: &mut [f32], dh: &[f32]| {
            to.copy_from_slice(dh);
            model.cpu().scale(to, of.scales.residual);
        };
        scaled(ddown.reset(rows, of.hidden), dh);
        let dm = through(6, ddown);
        gates(of.ffn, (&trace.gate, &trace.up), &dm, (dgate.reset(rows, of.ffn), dup.reset(rows, of.ffn)));
        let mut dx = through(4, dgate);
        add(&mut dx, &through(5, dup));
        add_norm_gradient(&trace.h2, w.ffn_norm, of.norm_eps, &dx, dh);
        scaled(do_.reset(rows, of.hidden), dh);
        let da = through(3, do_);
        let dqkv = [dq.reset(rows, of.q_width()), dk.reset(rows, of.kv_width()), dv.reset(rows, of.kv_width())];
        attention(model, (i, w), (trace, group), &da, dqkv);
        let mut dx = through(0, dq);
        add(&mut dx, &through(1, dk));
        add(&mut dx, &through(2, dv));
        add_norm_gradient(h, w.attn_norm, of.norm_eps, &dx, dh);
    }
}

/// The gradients of all heads, rotated back and before their norms: `da (probes, tokens, heads, head_dim)`.
fn attention(
    model: &Model,
    (i, w): (usize, &Layer<'_>),
    (trace, group): (&Trace, &Group<'_>),
    da: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let of = model.hyperparameters();
    let (n, isa) = (group.tokens(), model.cpu().isa());
    let (shape, probes) = (of.attention(i), da.len() / (n * of.q_width()));
    let (many, one) = (shape.group() * of.head_dim, of.head_dim);
    let tasks: Vec<(&Range<usize>, usize)> =
        group.sequences.iter().flat_map(|tokens| (0..of.kv_heads).map(move |head| (tokens, head))).collect();
    let solve = |&(tokens, head): &(&Range<usize>, usize)| {
        // The values of a head `width` wide, of one probe.
        let of_head = |x: &[f32], width: usize, probe: usize| -> Vec<f32> {
            let rows = tokens.clone().map(|t| ((probe * n + t) * of.kv_heads + head) * width);
            rows.flat_map(|at| x[at..at + width].iter().copied()).collect()
        };
        let inputs =
            HeadInputs { q: of_head(&trace.q, many, 0), k: of_head(&trace.k, one, 0), v: of_head(&trace.v, one, 0) };
        let das: Vec<Vec<f32>> = (0..probes).map(|probe| of_head(da, many, probe)).collect();
        backward(isa, shape, &inputs, &das)
    };
    let solved: Vec<_> = tasks.par_iter().map(solve).collect();
    for (&(tokens, head), gradients) in tasks.iter().zip(&solved) {
        for (probe, gradient) in gradients.iter().enumerate() {
            let put = |to: &mut [f32], from: &[f32], width: usize| {
                for (t, from) in tokens.clone().zip(from.chunks_exact(width)) {
                    let at = ((probe * n + t) * of.kv_heads + head) * width;
                    to[at..at + width].copy_from_slice(from);
                }
            };
            put(dq, &gradient.q, many);
            put(dk, &gradient.k, one);
            put(dv, &gradient.v, one);
        }
    }
    let [q, k] = &trace.before;
    for (x, heads, before, norm) in [(dq, of.heads, q, w.q_norm), (dk, of.kv_heads, k, w.k_norm)] {
        for x in x.chunks_exact_mut(n * heads * of.head_dim).filter(|_| !of.no_rope.contains(i)) {
            model.cpu().rope(x, heads, of.head_dim, &group.angles.back, &group.places);
        }
        if let Some(norm) = norm {
            let dy = x.to_vec();
            x.fill(0.0);
            add_norm_gradient(before, norm, of.norm_eps, &dy, x);
        }
    }
}

/// `dgate = dm up silu'(gate)` and `dup = dm silu(gate)`, `silu'(g) = s + g s (1 - s)` with `s = 1 / (1 + exp(-g))`.
fn gates(ffn: usize, (gate, up): (&[f32], &[f32]), dm: &[f32], (dgate, dup): (&mut [f32], &mut [f32])) {
    let n = gate.len() / ffn;
    let rows = dgate.par_chunks_exact_mut(ffn).zip(dup.par_chunks_exact_mut(ffn)).zip(dm.par_chunks_exact(ffn));
    rows.enumerate().for_each(|(row, ((dgate, dup), dm))| {
        let t = row % n * ffn;
        for i in 0..ffn {
            let (g, u) = (gate[t + i], up[t + i]);
            let s = 1.0 / (1.0 + libm::expf(-g));
            dgate[i] = dm[i] * u * (s + g * s * (1.0 - s));
            dup[i] = dm[i] * g * s;
        }
    });
}

/// Adds to `dh` the gradient by `h` of what gets `dy` by `norm(h) w`: with `r = 1 / sqrt(mean(h^2) + eps)` and `d` values a row,
/// `r w dy - h r^3 / d sum(w dy h)`. Rows of `h` repeat for every probe.
pub fn add_norm_gradient(h: &[f32], w: &[f32], eps: f32, dy: &[f32], dh: &mut [f32]) {
    let d = w.len();
    let n = h.len() / d;
    dh.par_chunks_exact_mut(d).zip(dy.par_chunks_exact(d)).enumerate().for_each_init(
        Vec::new,
        |wdy, (row, (dh, dy))| {
            let h = &h[row % n * d..][..d];
            wdy.clear();
            wdy.extend(w.iter().zip(dy).map(|(w, dy)| w * dy));
            let r = 1.0 / (dot(h, h) / d as f32 + eps).sqrt();
            let share = r * r * r / d as f32 * dot(wdy, h);
            dh.iter_mut().zip(&*wdy).zip(h).for_each(|((dh, wdy), h)| *dh += r * wdy - share * h);
        },
    );
}

fn add(to: &mut [f32], x: &[f32]) {
    to.par_chunks_mut(1 << 14)
        .zip(x.par_chunks(1 << 14))
        .for_each(|(to, x)| to.iter_mut().zip(x).for_each(|(to, x)| *to += x));
}
