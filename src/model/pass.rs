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
use crate::model::store::{Linear, Store};
use crate::model::{KvCache, Shape};
use std::ops::Range;
use strata_kernels::{Cpu, Rotation};
use strata_quant::Activations;

/// Tokens that go through a layer's matrices together.
const SUB_BATCH: usize = 512;

/// A model ready to run.
pub struct Model {
    shape: Shape,
    store: Store,
    cpu: Cpu,
}

/// New tokens of one sequence, which continue what its cache holds.
pub struct Segment<'a> {
    /// Token numbers.
    pub tokens: &'a [u32],
    /// The sequence so far.
    pub cache: &'a mut KvCache,
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
        Ok(Model { shape, store, cpu })
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
        let places = self.places(segments)?;
        scratch.rotation.set(places.iter().map(|place| place.position), &self.shape.frequencies, libm::sincos);
        let mut h = self.embed(segments); // (tokens, hidden)
        for i in 0..self.shape.layers {
            for start in (0..places.len()).step_by(SUB_BATCH) {
                let range = start..(start + SUB_BATCH).min(places.len());
                self.layer(i, &places[range.clone()], range, &mut h, scratch, segments);
            }
        }
        for segment in segments.iter_mut() {
            segment.cache.grow(segment.tokens.len());
        }
        let mut normed = vec![0.0; h.len()];
        self.cpu.rms_norm(&h, self.store.output_norm(), self.shape.norm_eps, &mut normed);
        Ok(normed)
    }

    /// One layer over one sub-batch: `range` of the tokens, whose segments and positions are `places`.
    fn layer(
        &self,
        i: usize,
        places: &[Place],
        range: Range<usize>,
        h: &mut [f32],
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
    ) {
        let (shape, cpu, w, n) = (&self.shape, &self.cpu, self.store.layer(i), places.len());
        let Scratch { rotation, x, q, k, v, gate, up, y } = scratch;
        let h = &mut h[range.start * shape.hidden..range.end * shape.hidden]; // (n, hidden)

        cpu.rms_norm(h, w.attn_norm, shape.norm_eps, x.reset(n, shape.hidden));
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
        cpu.add(h, self.linear(w.o, x, y), shape.hidden);

        cpu.rms_norm(h, w.ffn_norm, shape.norm_eps, x.reset(n, shape.hidden));
        let gate = self.linear(w.gate, x, gate);
        let up = self.linear(w.up, x, up);
        cpu.silu_mul(gate, up, shape.ffn, x.reset(n, shape.ffn));
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

    /// Where each token of the batch belongs, after checking that it can be there.
    fn places(&self, segments: &[Segment<'_>]) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for (segment, Segment { tokens, cache }) in segments.iter().enumerate() {
            if let Some(token) = tokens.iter().find(|t| **t as usize >= self.shape.vocab) {
                let vocab = self.shape.vocab;
                return Err(Error::Request(format!("token {token} is not in the vocabulary of {vocab} tokens")));
            }
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

    fn embed(&self, segments: &[Segment<'_>]) -> Vec<f32> {
        let (table, d) = (self.store.embedding(), self.shape.hidden);
        let tokens: Vec<u32> = segments.iter().flat_map(|segment| segment.tokens).copied().collect();
        let mut h = vec![0.0; tokens.len() * d];
        for (token, h) in tokens.iter().zip(h.chunks_exact_mut(d)) {
            table.decode_row(*token as usize, h);
        }
        h
    }
}

/// A token's sequence and its position in it.
#[derive(Clone, Copy)]
struct Place {
    segment: usize,
    position: usize,
}
