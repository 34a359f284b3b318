//! The forward pass: all layers, once, over any number of tokens of any number of sequences.
//!
//! ```text
//! h = embedding[token]
//! for each layer:
//!     x = norm(h);   q, k, v = Wq x, Wk x, Wv x;   rotate q, k;   remember k, v
//!     h = h + Wo attention(q, k, v)
//!     x = norm(h);   h = h + Wdown(silu(Wgate x) * Wup x)
//! logits = Wout norm(h)
//! ```
//! A layer's weights are used for all tokens of the pass before the next layer's are touched: a weight that comes from disk is read
//! once a pass. Inside a layer the tokens go in sub-batches, which bound the memory between the matrices.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::residence::Streamed;
use crate::model::store::{Layer, Linear, Store};
use crate::model::{KvCache, Need, Shape};
use crate::progress::{Progress, Quiet};
use crate::stream::{Budget, Options, Plan, Rates, Room, rates};
use rayon::prelude::*;
use std::ops::Range;
use strata_kernels::{Cpu, Rotation};
use strata_quant::Activations;

/// Tokens that go through a layer's matrices together.
pub(crate) const SUB_BATCH: usize = 512;

/// A model ready to run.
pub struct Model {
    shape: Shape,
    store: Store,
    cpu: Cpu,
    plan: Option<Plan>,
}

/// New tokens of one sequence, which continue what its cache holds.
pub struct Segment<'a> {
    /// Token numbers.
    pub tokens: &'a [u32],
    /// The sequence so far.
    pub cache: &'a mut KvCache,
}

/// What a matrix reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `(tokens, hidden)`: the queries, keys and values.
    Attention,
    /// `(tokens, q width)`: the way from the heads back to the hidden state.
    AttentionOutput,
    /// `(tokens, hidden)`: the gates and what they let through.
    Ffn,
    /// `(tokens, ffn)`: the way back from the feed-forward network.
    FfnDown,
    /// `(tokens, hidden)`: the logits.
    Output,
}

/// Buffers that passes reuse.
#[derive(Default)]
pub struct Scratch {
    rotation: Rotation, // of all tokens of the pass
    x: Activations,     // (sub-batch, hidden or q width or ffn): what the next matrix reads
    q: Vec<f32>,        // (sub-batch, heads, head_dim)
    k: Vec<f32>,        // (sub-batch, kv_heads, head_dim)
    v: Vec<f32>,        // (sub-batch, kv_heads, head_dim)
    gate: Vec<f32>,     // (sub-batch, ffn)
    up: Vec<f32>,       // (sub-batch, ffn)
    y: Vec<f32>,        // (sub-batch, hidden)
}

impl Model {
    /// Makes a model of an open file.
    ///
    /// # Errors
    /// If the file is not a complete model that Strata can run.
    pub fn new(gguf: Gguf, cpu: Cpu) -> Result<Model> {
        let shape = Shape::read(&gguf)?;
        let store = Store::new(gguf, &shape)?;
        Ok(Model { shape, store, cpu, plan: None })
    }

    /// Makes a model of an open file that keeps within a budget, with what it `need`s beside its weights: what does not fit is read in
    /// every pass.
    ///
    /// # Errors
    /// As [`Model::new`]; also if it cannot be made to fit, the files cannot be read, or the user stopped.
    pub fn within(
        gguf: Gguf,
        cpu: Cpu,
        budget: Budget,
        need: Need,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Model> {
        let mut model = Model::new(gguf, cpu)?;
        let room = Room { budget: budget.bytes, fixed: budget.fixed, kv: need.kv, scratch: need.scratch };
        model.plan = Some(model.store.fit(room, options, progress)?);
        Ok(model)
    }

    /// What stays in memory and what is read in every pass; `None` without a budget.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// How fast this machine reads and multiplies the weights; takes a moment.
    pub fn rates(&self) -> Rates {
        let streamed = self.store.streamed();
        Rates {
            disk: streamed.and_then(|streamed| streamed.way().bytes_per_second).unwrap_or(f64::INFINITY),
            memory: rates::memory_bytes_per_second(&self.cpu, streamed.map(Streamed::pinned)),
            macs: rates::macs_per_second(&self.cpu, self.store.main_type()),
        }
    }

    /// That the files are still those that were opened: what was computed from them until now is right.
    ///
    /// # Errors
    /// If one has changed.
    pub fn check(&self) -> Result<()> {
        self.store.check()
    }

    /// The weights.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        self.store.gguf()
    }

    /// The processor.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Sends the new tokens of all segments through all layers; their caches then hold them. Returns the hidden states after the last
    /// norm, `(tokens of all segments, hidden)`, from which [`Model::logits`] makes logits where they are wanted.
    ///
    /// # Errors
    /// If a token is not in the vocabulary or a cache has no room.
    pub fn pass(&self, scratch: &mut Scratch, segments: &mut [Segment<'_>]) -> Result<Vec<f32>> {
        self.watched_pass(scratch, segments, &Quiet)
    }

    /// [`Model::pass`], which `progress` can stop between layers and hears of if it is long.
    ///
    /// # Errors
    /// As there; also if weights cannot be read, or the user stopped.
    pub fn watched_pass(
        &self,
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        progress: &dyn Progress,
    ) -> Result<Vec<f32>> {
        let places = self.places(segments)?;
        scratch.rotation.set(places.iter().map(|place| place.position), &self.shape.frequencies, libm::sincos);
        let mut h = self.embed(segments.iter().flat_map(|segment| segment.tokens), places.len())?; // (tokens, hidden)
        let mut walk = self.store.walk();
        for i in 0..self.shape.layers {
            self.layer(i, &walk.next(progress)?, &places, &mut h, scratch, segments, &mut |_, _| ());
        }
        drop(walk);
        self.store.check()?;
        for segment in segments.iter_mut() {
            segment.cache.grow(segment.tokens.len());
        }
        let mut normed = vec![0.0; h.len()];
        self.cpu.rms_norm(&h, self.store.output_norm(), self.shape.norm_eps, &mut normed);
        Ok(normed)
    }

    /// Sends sequences of `context` tokens each, at least 1, `tokens (sequences, context)`, through all layers and
    /// shows `see` what the matrices of each layer read, in the order of the tokens, a number of tokens at a time; last
    /// what the output matrix would read, as that of layer `layers`. `progress` counts tokens.
    ///
    /// Every weight is read once, however many sequences there are. Memory: `4 * hidden` bytes for each token; keys and
    /// values only of the sequences in hand, in one layer.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the memory cannot be had, or the user stopped.
    pub fn observe(
        &self,
        scratch: &mut Scratch,
        tokens: &[u32],
        context: usize,
        progress: &dyn Progress,
        see: &mut dyn FnMut(usize, Input, &Activations),
    ) -> Result<()> {
        let (shape, d) = (&self.shape, self.shape.hidden);
        let group = (SUB_BATCH / context).max(1); // sequences
        let mut caches: Vec<KvCache> = (0..group).map(|_| KvCache::one_layer(shape, context)).collect::<Result<_>>()?;
        scratch.rotation.set((0..group * context).map(|t| t % context), &shape.frequencies, libm::sincos);
        let mut h = self.embed(tokens.iter(), tokens.len())?; // (tokens, hidden)
        let mut done = 0;
        let mut walk = self.store.walk();
        for i in 0..shape.layers {
            let w = walk.next(progress)?;
            for (tokens, h) in tokens.chunks(group * context).zip(h.chunks_mut(group * context * d)) {
                progress.check()?;
                let sequences = tokens.chunks(context).zip(&mut caches);
                let mut segments: Vec<_> = sequences.map(|(tokens, cache)| Segment { tokens, cache }).collect();
                let places = self.places(&segments)?;
                self.layer(i, &w, &places, h, scratch, &mut segments, &mut |input, x| see(i, input, x));
                // A token is done when all layers are.
                let before = done / shape.layers;
                done += tokens.len();
                progress.advance((done / shape.layers - before) as u64);
            }
        }
        drop(walk);
        self.store.check()?;
        for h in h.chunks(SUB_BATCH * d) {
            let x = &mut scratch.x;
            self.cpu.rms_norm(h, self.store.output_norm(), shape.norm_eps, x.reset(h.len() / d, d));
            see(shape.layers, Input::Output, x);
        }
        Ok(())
    }

    /// Layer `i`, whose weights are `w`, over all tokens, `places` and `h (tokens, hidden)`, whose angles are the first in `scratch`.
    #[allow(clippy::too_many_arguments)]
    fn layer(
        &self,
        i: usize,
        w: &Layer<'_>,
        places: &[Place],
        h: &mut [f32],
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        see: &mut impl FnMut(Input, &Activations),
    ) {
        for start in (0..places.len()).step_by(SUB_BATCH) {
            let range = start..(start + SUB_BATCH).min(places.len());
            self.sub_batch(i, w, &places[range.clone()], range, h, scratch, segments, see);
        }
    }

    /// One layer over one sub-batch: `range` of the tokens, whose segments and positions are `places`.
    #[allow(clippy::too_many_arguments)]
    fn sub_batch(
        &self,
        i: usize,
        w: &Layer<'_>,
        places: &[Place],
        range: Range<usize>,
        h: &mut [f32],
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        see: &mut impl FnMut(Input, &Activations),
    ) {
        let (shape, cpu, n) = (&self.shape, &self.cpu, places.len());
        let Scratch { rotation, x, q, k, v, gate, up, y } = scratch;
        let h = &mut h[range.start * shape.hidden..range.end * shape.hidden]; // (n, hidden)

        cpu.rms_norm(h, w.attn_norm, shape.norm_eps, x.reset(n, shape.hidden));
        see(Input::Attention, x);
        let q = self.linear(w.q, x, q);
        let k = self.linear(w.k, x, k);
        let v = self.linear(w.v, x, v);
        cpu.rope(q, shape.heads, shape.head_dim, rotation, range.start);
        cpu.rope(k, shape.kv_heads, shape.head_dim, rotation, range.start);
        for ((place, k), v) in places.iter().zip(k.chunks(shape.kv_width())).zip(v.chunks(shape.kv_width())) {
            segments[place.segment].cache.store(i, place.position, k, v);
        }
        let seen = |token: usize, head: usize| {
            let Place { segment, position } = places[token];
            segments[segment].cache.head(i, head, position)
        };
        cpu.attention(shape.attention(), q, seen, x.reset(n, shape.q_width()));
        see(Input::AttentionOutput, x);
        cpu.add(h, self.linear(w.o, x, y), shape.hidden);

        cpu.rms_norm(h, w.ffn_norm, shape.norm_eps, x.reset(n, shape.hidden));
        see(Input::Ffn, x);
        let gate = self.linear(w.gate, x, gate);
        let up = self.linear(w.up, x, up);
        cpu.silu_mul(gate, up, shape.ffn, x.reset(n, shape.ffn));
        see(Input::FfnDown, x);
        cpu.add(h, self.linear(w.down, x, y), shape.hidden);
    }

    /// The logits `(rows, vocab)` of rows of hidden states `(rows, hidden)`.
    pub fn logits(&self, scratch: &mut Scratch, hidden: &[f32]) -> Vec<f32> {
        let rows = hidden.len() / self.shape.hidden;
        scratch.x.reset(rows, self.shape.hidden).copy_from_slice(hidden);
        let mut logits = Vec::new();
        self.linear(self.store.output(), &mut scratch.x, &mut logits);
        logits
    }

    /// `W x + b` into the front of `y`, `(rows of x, rows of W)`.
    fn linear<'y>(&self, w: Linear<'_>, x: &mut Activations, y: &'y mut Vec<f32>) -> &'y mut [f32] {
        let len = x.rows() * w.weight.rows();
        if y.len() < len {
            y.resize(len, 0.0);
        }
        let y = &mut y[..len];
        self.cpu.matmul(w.weight, x, y);
        if let Some(bias) = w.bias {
            self.cpu.add_bias(y, bias);
        }
        y
    }

    /// Where each token of the batch belongs, after checking that its cache has room.
    fn places(&self, segments: &[Segment<'_>]) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for (segment, Segment { tokens, cache }) in segments.iter().enumerate() {
            if cache.len() + tokens.len() > cache.capacity() {
                let (have, more, room) = (cache.len(), tokens.len(), cache.capacity());
                return Err(Error::Request(format!(
                    "{have} tokens and {more} more do not fit into a context of {room}; choose a larger -c"
                )));
            }
            places.extend((0..tokens.len()).map(|t| Place { segment, position: cache.len() + t }));
        }
        Ok(places)
    }

    /// The hidden states before the first layer, `(n, hidden)`, of `n` tokens.
    fn embed<'t>(&self, tokens: impl Iterator<Item = &'t u32>, n: usize) -> Result<Vec<f32>> {
        let (d, vocab) = (self.shape.hidden, self.shape.vocab);
        let mut h = Vec::new();
        if n.checked_mul(d).and_then(|len| h.try_reserve_exact(len).ok()).is_none() {
            return Err(Error::Request(format!("no memory for {n} tokens of {d} values; take fewer at a time")));
        }
        h.resize(n * d, 0.0);
        let tokens: Vec<u32> = tokens.copied().collect();
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Request(format!("token {token} is not in the vocabulary of {vocab} tokens")));
        }
        // In parallel: each may be a read.
        tokens.par_iter().zip(h.par_chunks_exact_mut(d)).try_for_each(|(&token, h)| self.store.embed(token, h))?;
        Ok(h)
    }
}

/// A token's sequence and its position in it.
#[derive(Clone, Copy)]
struct Place {
    segment: usize,
    position: usize,
}
