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
use crate::model::finite::{Stage, finite};
use crate::model::store::{Layer, Linear, Store};
use crate::model::{KvCache, Need, Shape};
use crate::progress::{Progress, Quiet};
use crate::stream::rates::{self, Streams};
use crate::stream::{Budget, Options, Plan, Rates, Room};
use crate::verify;
use std::ops::Range;
use strata_kernels::{AttentionScratch, Cpu, Rotation, SequenceChunk as Run};
use strata_quant::Activations;
use strata_quant::float::all_finite;

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

/// Buffers that passes reuse: after the first pass of a shape, the next allocates nothing.
#[derive(Default)]
pub struct Scratch {
    h: Vec<f32>,        // (tokens, hidden): the hidden states after the last layer of the last pass
    logits: Vec<f32>,   // (rows, vocab): the logits asked for last
    runs: Vec<Run>,     // of the sub-batch
    rotation: Rotation, // of all tokens of the pass
    x: Activations,     // (sub-batch, hidden or q width or ffn): what the next matrix reads
    q: Vec<f32>,        // (sub-batch, heads, head_dim)
    k: Vec<f32>,        // (sub-batch, kv_heads, head_dim)
    v: Vec<f32>,        // (sub-batch, kv_heads, head_dim)
    gate: Vec<f32>,     // (sub-batch, ffn)
    up: Vec<f32>,       // (sub-batch, ffn)
    y: Vec<f32>,        // (sub-batch, hidden)
    attention: AttentionScratch,
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
        let fixed = budget.fixed + model.cpu.memory_bytes();
        let room = Room { budget: budget.bytes, fixed, kv: need.kv, scratch: need.scratch };
        model.plan = Some(model.store.fit(room, &model.cpu, options, progress)?);
        Ok(model)
    }

    /// What stays in memory and what is read in every pass; `None` without a budget.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// How fast this machine reads and multiplies the weights; takes a moment.
    pub fn rates(&self) -> Rates {
        let macs = rates::macs_per_second(&self.cpu, self.store.main_type());
        let streamed = self.store.streamed();
        match streamed.and_then(|streamed| streamed.streams().zip(streamed.way().new_bytes_per_second)) {
            Some((&Streams { disk, memory, beside }, load)) => Rates { disk, load, memory, macs, beside },
            None => Rates::without_disk(rates::memory_bytes_per_second(&self.cpu, self.weights()), macs),
        }
    }

    /// A stretch of weights that stays in memory, to measure how fast that is: of the mapped file the end, where the layers are, or the
    /// output matrix of a model that does not fit.
    pub fn weights(&self) -> &[u8] {
        const ENOUGH: usize = 2 << 30; // to be beyond all caches
        let largest = || self.gguf().files().map(|file| file.bytes()).max_by_key(|bytes| bytes.len());
        let bytes = match self.store.streamed() {
            Some(streamed) => streamed.output_bytes(),
            None => largest().unwrap_or_default(),
        };
        &bytes[bytes.len().saturating_sub(ENOUGH)..]
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

    /// Sends the new tokens of all segments through all layers; their caches then hold them. [`Model::logits`] makes logits of those
    /// where they are wanted.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, a cache has no room, the memory cannot be had, or a number is not finite: then the weights are
    /// searched for the cause.
    pub fn pass(&self, scratch: &mut Scratch, segments: &mut [Segment<'_>]) -> Result<()> {
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
    ) -> Result<()> {
        let n = room(segments)?;
        let positions = segments.iter().flat_map(|Segment { tokens, cache }| cache.len()..cache.len() + tokens.len());
        scratch.rotation.set(positions, &self.shape.frequencies, libm::sincos);
        let mut h = std::mem::take(&mut scratch.h); // (tokens, hidden)
        self.embed(segments.iter().flat_map(|segment| segment.tokens), n, &mut h)?;
        let mut walk = self.store.walk();
        for i in 0..self.shape.layers {
            let passed = self.layer(i, &walk.next(progress)?, &mut h, scratch, segments, &mut |_, _| ());
            passed.map_err(|stage| self.not_finite(Some(i), stage, progress))?;
        }
        drop(walk);
        self.store.check()?;
        for segment in segments.iter_mut() {
            segment.cache.grow(segment.tokens.len());
        }
        scratch.h = h;
        Ok(())
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
        let mut h = Vec::new(); // (tokens, hidden)
        self.embed(tokens.iter(), tokens.len(), &mut h)?;
        let mut done = 0;
        let mut walk = self.store.walk();
        for i in 0..shape.layers {
            let w = walk.next(progress)?;
            for (tokens, h) in tokens.chunks(group * context).zip(h.chunks_mut(group * context * d)) {
                progress.check()?;
                let sequences = tokens.chunks(context).zip(&mut caches);
                let mut segments: Vec<_> = sequences.map(|(tokens, cache)| Segment { tokens, cache }).collect();
                let passed = self.layer(i, &w, h, scratch, &mut segments, &mut |input, x| see(i, input, x));
                passed.map_err(|stage| self.not_finite(Some(i), stage, progress))?;
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
            let normed = self.cpu.rms_norm(h, self.store.output_norm(), shape.norm_eps, x.reset(h.len() / d, d));
            finite(normed, Stage::OutputNorm).map_err(|stage| self.not_finite(None, stage, progress))?;
            see(shape.layers, Input::Output, x);
        }
        Ok(())
    }

    /// Layer `i`, whose weights are `w`, over the tokens of all segments, `h (tokens, hidden)`, whose angles are the first in `scratch`. Fails
    /// where a number is not finite.
    fn layer(
        &self,
        i: usize,
        w: &Layer<'_>,
        h: &mut [f32],
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        see: &mut impl FnMut(Input, &Activations),
    ) -> std::result::Result<(), Stage> {
        let tokens = h.len() / self.shape.hidden;
        for start in (0..tokens).step_by(SUB_BATCH) {
            self.sub_batch(i, w, start..(start + SUB_BATCH).min(tokens), h, scratch, segments, see)?;
        }
        Ok(())
    }

    /// One layer over one sub-batch: `range` of the tokens of all segments. Whatever a later step would lose is checked: NaN is no maximum of
    /// a softmax, and has no 8-bit code.
    #[allow(clippy::too_many_arguments)]
    fn sub_batch(
        &self,
        i: usize,
        w: &Layer<'_>,
        range: Range<usize>,
        h: &mut [f32],
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        see: &mut impl FnMut(Input, &Activations),
    ) -> std::result::Result<(), Stage> {
        let (shape, cpu, n) = (&self.shape, &self.cpu, range.len());
        let Scratch { rotation, x, q, k, v, gate, up, y, runs, attention, .. } = scratch;
        let h = &mut h[range.start * shape.hidden..range.end * shape.hidden]; // (n, hidden)

        finite(cpu.rms_norm(h, w.attn_norm, shape.norm_eps, x.reset(n, shape.hidden)), Stage::AttentionNorm)?;
        see(Input::Attention, x);
        let [q, k, v] = self.linears([w.q, w.k, w.v], x, [q, k, v]);
        cpu.rope(q, shape.heads, shape.head_dim, rotation, range.start);
        cpu.rope(k, shape.kv_heads, shape.head_dim, rotation, range.start);
        runs_of(segments, range, runs);
        let (mut keys, mut values) = (&*k, &*v);
        for run in &*runs {
            let (layout, cells) = segments[run.sequence].cache.cells_mut(i);
            let len = run.tokens * shape.kv_width();
            cpu.append_kv(layout, run.position, &keys[..len], &values[..len], cells);
            (keys, values) = (&keys[len..], &values[len..]);
        }
        let cells = |sequence: usize| segments[sequence].cache.cells(i);
        let attended = cpu.attention(attention, shape.attention(), q, runs, cells, x.reset(n, shape.q_width()));
        if !attended {
            return Err(Stage::of_attention(q, k, v, cells(runs[0].sequence).layout));
        }
        see(Input::AttentionOutput, x);
        let attended = self.linear(w.o, x, y);

        let normed = cpu.add_rms_norm(h, attended, w.ffn_norm, shape.norm_eps, x.reset(n, shape.hidden));
        finite(normed, Stage::AttentionOutput)?;
        see(Input::Ffn, x);
        let [gate, up] = self.linears([w.gate, w.up], x, [gate, up]);
        finite(cpu.silu_mul(gate, up, x.reset(n, shape.ffn)), Stage::Gate)?;
        see(Input::FfnDown, x);
        finite(cpu.add(h, self.linear(w.down, x, y), shape.hidden), Stage::Down)
    }

    /// The logits `(rows, vocab)` after `rows` of the tokens of the last pass of `scratch`, all segments counted through.
    ///
    /// # Errors
    /// If one is not finite: then the weights are searched for the cause, of which `progress` hears.
    ///
    /// # Panics
    /// If it had fewer tokens.
    pub fn logits<'s>(
        &self,
        scratch: &'s mut Scratch,
        rows: Range<usize>,
        progress: &dyn Progress,
    ) -> Result<&'s [f32]> {
        let (d, n) = (self.shape.hidden, rows.len());
        let Scratch { h, x, logits, .. } = scratch;
        let h = &h[rows.start * d..rows.end * d];
        let normed = self.cpu.rms_norm(h, self.store.output_norm(), self.shape.norm_eps, x.reset(n, d));
        let logits = self.linear(self.store.output(), x, logits);
        let all = finite(normed, Stage::OutputNorm).and_then(|()| finite(all_finite(logits), Stage::Output));
        all.map_err(|stage| self.not_finite(None, stage, progress))?;
        Ok(logits)
    }

    /// `W x + b` into the front of `y`, `(rows of x, rows of W)`.
    fn linear<'y>(&self, w: Linear<'_>, x: &mut Activations, y: &'y mut Vec<f32>) -> &'y mut [f32] {
        let [y] = self.linears([w], x, [y]);
        y
    }

    /// [`Model::linear`] of all matrices that read the same `x`.
    fn linears<'y, const N: usize>(
        &self,
        ws: [Linear<'_>; N],
        x: &mut Activations,
        ys: [&'y mut Vec<f32>; N],
    ) -> [&'y mut [f32]; N] {
        let mut lengths = ws.iter().map(|w| x.rows() * w.weight.rows());
        let mut ys = ys.map(|y| {
            let len = lengths.next().expect("as many results as matrices");
            if y.len() < len {
                y.resize(len, 0.0);
            }
            &mut y[..len]
        });
        self.cpu.matmuls(ws.map(|w| w.weight), x, ys.each_mut().map(|y| &mut **y));
        for (w, y) in ws.iter().zip(&mut ys) {
            if let Some(bias) = w.bias {
                // Whoever reads the results checks them.
                let _ = self.cpu.add_bias(y, bias);
            }
        }
        ys
    }

    /// The hidden states before the first layer, `(n, hidden)`, of `n` tokens.
    fn embed<'t>(&self, tokens: impl Iterator<Item = &'t u32>, n: usize, h: &mut Vec<f32>) -> Result<()> {
        let (d, vocab) = (self.shape.hidden, self.shape.vocab);
        h.clear();
        if n.checked_mul(d).and_then(|len| h.try_reserve_exact(len).ok()).is_none() {
            return Err(Error::Request(format!("no memory for {n} tokens of {d} values; take fewer at a time")));
        }
        h.resize(n * d, 0.0);
        for (&token, h) in tokens.zip(h.chunks_exact_mut(d)) {
            if token as usize >= vocab {
                return Err(Error::Request(format!("token {token} is not in the vocabulary of {vocab} tokens")));
            }
            self.store.embed(token, h)?;
            if let Some(column) = h.iter().position(|v| !v.is_finite()) {
                self.check()?;
                return Err(verify::bad_weight(
                    self.gguf(),
                    "token_embd.weight",
                    (token.into(), column as u64),
                    h[column],
                ));
            }
        }
        Ok(())
    }
}

/// How many tokens the segments have, after checking that their caches have room.
fn room(segments: &[Segment<'_>]) -> Result<usize> {
    for Segment { tokens, cache } in segments {
        if cache.len() + tokens.len() > cache.capacity() {
            let (have, more, room) = (cache.len(), tokens.len(), cache.capacity());
            return Err(Error::Request(format!(
                "{have} tokens and {more} more do not fit into a context of {room}; choose a larger -c"
            )));
        }
    }
    Ok(segments.iter().map(|segment| segment.tokens.len()).sum())
}

/// Which tokens of which segments are in `range` of all of them.
fn runs_of(segments: &[Segment<'_>], range: Range<usize>, runs: &mut Vec<Run>) {
    runs.clear();
    let mut first = 0;
    for (sequence, Segment { tokens, cache }) in segments.iter().enumerate() {
        let (start, end) = (range.start.max(first), range.end.min(first + tokens.len()));
        if start < end {
            runs.push(Run { sequence, tokens: end - start, position: cache.len() + start - first });
        }
        first += tokens.len();
    }
}
