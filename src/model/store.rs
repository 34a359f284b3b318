//! The weights, one layer at a time, as the bytes that lie in the file.
//!
//! All tensors are found and their shapes checked when the store is made; after that a layer is a handful of slices, of the mapped file
//! or of the memory that a model larger than its budget is read to. Norms and biases are small: they are kept decoded. A pass takes the
//! layers by a [`Walk`], which waits for what comes from disk.

use crate::error::{Error, Result, quoted};
use crate::gguf::{Gguf, TensorInfo};
use crate::model::Shape;
use crate::model::residence::{InHand, Streamed};
use crate::progress::{Progress, three_digits};
use crate::stream::plan::{MATRICES, MatrixSize, plan};
use crate::stream::ring::Full;
use crate::stream::source::{Sources, sources};
use crate::stream::{Options, Plan, Room, Sizes};
use crate::verify;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};
use strata_kernels::{Cpu, Matrix};
use strata_quant::GgmlType;

/// A matrix and, in some models, a bias for its results.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// `(out, in)`
    pub weight: Matrix<'a>,
    /// `(out)`
    pub bias: Option<&'a [f32]>,
}

/// The weights of one transformer layer.
pub struct Layer<'a> {
    /// `(hidden)`
    pub attn_norm: &'a [f32],
    /// Hidden state to query heads.
    pub q: Linear<'a>,
    /// Hidden state to key heads.
    pub k: Linear<'a>,
    /// Hidden state to value heads.
    pub v: Linear<'a>,
    /// Heads back to the hidden state.
    pub o: Linear<'a>,
    /// `(hidden)`
    pub ffn_norm: &'a [f32],
    /// Hidden state to gates.
    pub gate: Linear<'a>,
    /// Hidden state to what the gates let through.
    pub up: Linear<'a>,
    /// Back to the hidden state.
    pub down: Linear<'a>,
}

/// A [`Linear`] in the file.
struct LinearAt {
    weight: TensorInfo,
    bias: Option<Vec<f32>>,
}

struct LayerAt {
    attn_norm: Vec<f32>,
    q: LinearAt,
    k: LinearAt,
    v: LinearAt,
    o: LinearAt,
    ffn_norm: Vec<f32>,
    gate: LinearAt,
    up: LinearAt,
    down: LinearAt,
}

impl LayerAt {
    /// The matrices in the order of a plan.
    fn matrices(&self) -> [&TensorInfo; MATRICES] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down].map(|at| &at.weight)
    }
}

/// A model's weights.
pub struct Store {
    gguf: Gguf,
    sources: Sources,
    embedding: TensorInfo,
    output_norm: Vec<f32>,
    output: LinearAt,
    layers: Vec<LayerAt>,
    streamed: Option<Streamed>, // unless the map serves
}

impl Store {
    /// Finds every tensor that `shape` calls for. The weights stay mapped.
    ///
    /// # Errors
    /// Names a tensor that is missing, misshapen, of a type that Strata cannot run, or that nothing uses, or a norm or bias with a value
    /// that is not finite.
    pub fn new(gguf: Gguf, shape: &Shape) -> Result<Store> {
        // A norm that is not finite, say, may be the work of whoever writes to the file.
        let (embedding, output_norm, output, layers) = gguf.unless_changed(Store::find(&gguf, shape))?;
        Ok(Store { sources: sources(&gguf)?, embedding, output_norm, output, layers, gguf, streamed: None })
    }

    /// Embedding, output norm, output matrix and layers.
    fn find(gguf: &Gguf, shape: &Shape) -> Result<(TensorInfo, Vec<f32>, LinearAt, Vec<LayerAt>)> {
        let (d, q, kv, ffn) = (shape.hidden, shape.q_width(), shape.kv_width(), shape.ffn);
        let embedding = matrix(gguf, "token_embd.weight", shape.vocab, d)?;
        // Without an output matrix the embedding is used for both ends.
        let output = match gguf.tensor("output.weight") {
            Some(_) => linear(gguf, "output", shape.vocab, d)?,
            None => LinearAt { weight: embedding.clone(), bias: None },
        };
        let layer = |i: usize| -> Result<LayerAt> {
            let at = |name: &str| format!("blk.{i}.{name}");
            Ok(LayerAt {
                attn_norm: vector(gguf, &at("attn_norm.weight"), d)?,
                q: linear(gguf, &at("attn_q"), q, d)?,
                k: linear(gguf, &at("attn_k"), kv, d)?,
                v: linear(gguf, &at("attn_v"), kv, d)?,
                o: linear(gguf, &at("attn_output"), d, q)?,
                ffn_norm: vector(gguf, &at("ffn_norm.weight"), d)?,
                gate: linear(gguf, &at("ffn_gate"), ffn, d)?,
                up: linear(gguf, &at("ffn_up"), ffn, d)?,
                down: linear(gguf, &at("ffn_down"), d, ffn)?,
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        let output_norm = vector(gguf, "output_norm.weight", d)?;
        check_all_used(gguf, shape.layers)?;
        Ok((embedding, output_norm, output, layers))
    }

    /// Fits the weights into a room: where they do not fit as they are mapped, part of them is read now and the rest in every pass.
    ///
    /// # Errors
    /// If they cannot be made to fit, a file cannot be read, the memory cannot be had, or the user stopped.
    pub fn fit(&mut self, room: Room, cpu: &Cpu, options: &Options, progress: &dyn Progress) -> Result<Plan> {
        let plan = plan(&self.sizes(), room)?;
        if plan.mapped {
            self.gguf.files().for_each(|file| file.advise_huge_pages());
        } else {
            if self.sources.is_empty() {
                return Err(Error::InMemory { doing: "streamed" });
            }
            self.gguf.files().for_each(|file| file.release_pages());
            let layers: Vec<_> = self.layers.iter().map(LayerAt::matrices).collect();
            let (sources, output) = (self.sources.clone(), &self.output.weight);
            self.streamed = Some(Streamed::load(sources, plan.clone(), &layers, output, cpu, options, progress)?);
        }
        Ok(plan)
    }

    /// What a plan wants to know of the weights.
    pub fn sizes(&self) -> Sizes {
        let size = |tensor: &TensorInfo| MatrixSize {
            rows: tensor.rows(),
            cols: tensor.cols(),
            row_bytes: tensor.bytes / tensor.rows(),
        };
        Sizes {
            layers: self.layers.iter().map(|layer| layer.matrices().map(size)).collect(),
            output: size(&self.output.weight),
            file_bytes: self.gguf.file_bytes(),
        }
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Gives the file back.
    pub fn into_gguf(self) -> Gguf {
        self.gguf
    }

    /// How the weights are kept that do not fit, if they do not.
    pub fn streamed(&self) -> Option<&Streamed> {
        self.streamed.as_ref()
    }

    /// The type of most weights.
    pub fn main_type(&self) -> GgmlType {
        self.layers[0].gate.weight.ty
    }

    /// A walk through all layers; one at a time, where they come from disk.
    pub fn walk(&self) -> Walk<'_> {
        let in_hand = self.streamed.as_ref().map(|streamed| (streamed, streamed.in_hand()));
        let now = Instant::now();
        Walk { store: self, in_hand, slot: None, done: 0, streamed: 0, begin: now, said: now }
    }

    /// Layer `i`, whose matrices are what `matrix` makes of their numbers and tensors.
    fn layer<'a>(&'a self, i: usize, matrix: impl Fn(usize, &'a TensorInfo) -> Matrix<'a>) -> Layer<'a> {
        let at = &self.layers[i];
        let linear = |m, at: &'a LinearAt| Linear { weight: matrix(m, &at.weight), bias: at.bias.as_deref() };
        Layer {
            attn_norm: &at.attn_norm,
            q: linear(0, &at.q),
            k: linear(1, &at.k),
            v: linear(2, &at.v),
            o: linear(3, &at.o),
            ffn_norm: &at.ffn_norm,
            gate: linear(4, &at.gate),
            up: linear(5, &at.up),
            down: linear(6, &at.down),
        }
    }

    /// The embedding `(hidden)` of a token of the vocabulary.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn embed(&self, token: u32, values: &mut [f32]) -> Result<()> {
        match &self.streamed {
            Some(streamed) => {
                let row = streamed.read_row(&self.embedding, token as u64)?;
                let format = self.embedding.ty.format().expect("`find` checked the type");
                (format.decode)(&row, values);
            }
            None => self.mapped(&self.embedding).decode_row(token as usize, values),
        }
        Ok(())
    }

    /// `(hidden)`
    pub fn output_norm(&self) -> &[f32] {
        &self.output_norm
    }

    /// Hidden state to logits.
    pub fn output(&self) -> Linear<'_> {
        let weight = match &self.streamed {
            Some(streamed) => streamed.output(&self.output.weight),
            None => self.mapped(&self.output.weight),
        };
        Linear { weight, bias: self.output.bias.as_deref() }
    }

    /// That the files are still those that were opened.
    ///
    /// # Errors
    /// If they have changed: what was computed may be wrong.
    pub fn check(&self) -> Result<()> {
        self.sources.iter().try_for_each(|source| source.check(0))
    }

    fn mapped(&self, at: &TensorInfo) -> Matrix<'_> {
        Matrix::new(at.ty, at.rows() as usize, at.cols() as usize, self.gguf.data(at))
            .expect("the reader checked the size, `matrix` the type")
    }
}

/// A walk through the layers in their order.
pub struct Walk<'s> {
    store: &'s Store,
    in_hand: Option<(&'s Streamed, MutexGuard<'s, InHand>)>, // unless the map serves
    slot: Option<Full>,                                      // that of the layer in hand
    done: usize,                                             // layers
    streamed: u64,                                           // bytes of them that came from disk
    begin: Instant,
    said: Instant,
}

/// How long a walk may take before it says where it is, and how often it does then.
const SAY_AFTER: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_millis(500);

impl Walk<'_> {
    /// The next layer, when it is there; the one before is given back. `progress` may end the walk, and hears of it where it is long.
    ///
    /// # Errors
    /// If the weights cannot be read, or the user stopped.
    pub fn next(&mut self, progress: &dyn Progress) -> Result<Layer<'_>> {
        progress.check()?;
        self.give_back();
        let i = self.done;
        self.say(i, progress);
        let store = self.store;
        let Some((streamed, in_hand)) = &mut self.in_hand else {
            self.done += 1;
            return Ok(store.layer(i, |_, tensor| store.mapped(tensor)));
        };
        self.slot = streamed.take(i, in_hand, progress)?;
        self.done += 1;
        self.streamed += streamed.streamed_bytes(i);
        if let Some(next) = store.layers.get(i + 1) {
            for (m, tensor) in next.matrices().into_iter().enumerate() {
                store.gguf.prefetch(tensor, streamed.mapped_bytes(i + 1, m, in_hand));
            }
        }
        let (streamed, in_hand, slot) = (*streamed, &**in_hand, self.slot.as_ref());
        let slot = slot.map_or(&[][..], |full| full.buffer.bytes());
        let matrix = |m, tensor| streamed.matrix((i, m), tensor, in_hand, slot, store.gguf.data(tensor));
        Ok(store.layer(i, matrix))
    }

    fn give_back(&mut self) {
        if let (Some((_, in_hand)), Some(full)) = (&mut self.in_hand, self.slot.take()) {
            in_hand.give(full);
        }
    }

    /// Before layer `i`: `layer 17 of 126, 6.93 GB/s from disk`, and how long the walk will still take.
    fn say(&mut self, i: usize, progress: &dyn Progress) {
        let (taken, layers) = (self.begin.elapsed(), self.store.layers.len());
        if i == 0 || taken < SAY_AFTER || self.said.elapsed() < SAY_EVERY {
            return;
        }
        self.said = Instant::now();
        let seconds = taken.as_secs_f64();
        let disk = match self.streamed {
            0 => String::new(),
            bytes => format!(", {} GB/s from disk", three_digits(bytes as f64 / 1e9 / seconds)),
        };
        let left = seconds * (layers - i) as f64 / i as f64;
        progress.step_left(&format!("layer {} of {layers}{disk}", i + 1), left);
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.give_back();
        if let Some((_, in_hand)) = &mut self.in_hand
            && self.done < self.store.layers.len()
        {
            in_hand.restart();
        }
    }
}

/// That the file has no tensor that a pass would leave out: llama.cpp refuses such files too, since they are of another model.
fn check_all_used(gguf: &Gguf, layers: usize) -> Result<()> {
    let unused: Vec<&str> = (gguf.tensors().iter())
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !is_used(name, layers, gguf.tensor("output.weight").is_some()))
        .collect();
    if unused.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = unused.iter().take(3).map(|name| quoted(name)).collect();
    let more = if unused.len() > first.len() { ", ..." } else { "" };
    let problem = format!(
        "{} of {} are not part of a Llama model of {layers} layers: {}{more}",
        unused.len(),
        gguf.tensors().len(),
        first.join(", ")
    );
    let remedy = "strata would leave them out; check llama.block_count, or use a Llama model";
    Err(Error::invalid(gguf.path(), "tensors", problem, remedy))
}

/// True for the tensors that [`Store::new`] and [`Shape::read`] take, and for what old converters stored though it follows from the metadata.
pub(crate) fn is_used(name: &str, layers: usize, has_output: bool) -> bool {
    const MATRICES: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "token_embd.weight" | "output_norm.weight" | "output.weight" | "rope_freqs.weight" => true,
            // Without an output matrix of its own, a bias has nothing to belong to.
            "output.bias" => has_output,
            _ => false,
        };
    };
    // As names are made: "blk.07" is not layer 7.
    if !layer.parse::<usize>().is_ok_and(|i| i < layers && i.to_string() == layer) {
        return false;
    }
    match part {
        "attn_norm.weight" | "ffn_norm.weight" | "attn_rot_embd" | "attn_rot_embd.weight" => true,
        _ => part
            .rsplit_once('.')
            .is_some_and(|(stem, end)| MATRICES.contains(&stem) && ["weight", "bias"].contains(&end)),
    }
}

fn find<'a>(gguf: &'a Gguf, name: &str, rows: usize, cols: usize) -> Result<&'a TensorInfo> {
    let bad = |problem: String, remedy: &str| Err(Error::invalid(gguf.path(), name, problem, remedy));
    let tensor = gguf.required_tensor(name)?;
    let dim = |i: usize| tensor.dims.get(i).copied().unwrap_or(1);
    if [dim(0), dim(1), dim(2), dim(3)] != [cols as u64, rows as u64, 1, 1] {
        let dims: Vec<_> = tensor.dims.iter().rev().map(u64::to_string).collect();
        let is = format!("{} values where the metadata calls for {rows} x {cols}", dims.join(" x "));
        return bad(is, "the file contradicts itself; convert it again");
    }
    if tensor.ty.format().is_none() {
        let have: Vec<_> = GgmlType::with_format().map(|format| format.ty.name()).collect();
        let problem = format!("type {} is not supported", tensor.ty);
        return bad(problem, &format!("use a file with the types {}", have.join(", ")));
    }
    Ok(tensor)
}

fn matrix(gguf: &Gguf, name: &str, rows: usize, cols: usize) -> Result<TensorInfo> {
    find(gguf, name, rows, cols).cloned()
}

fn linear(gguf: &Gguf, name: &str, rows: usize, cols: usize) -> Result<LinearAt> {
    let weight = matrix(gguf, &format!("{name}.weight"), rows, cols)?;
    let bias = format!("{name}.bias");
    let bias = gguf.tensor(&bias).map(|_| vector(gguf, &bias, rows)).transpose()?;
    Ok(LinearAt { weight, bias })
}

fn vector(gguf: &Gguf, name: &str, len: usize) -> Result<Vec<f32>> {
    let tensor = find(gguf, name, 1, len)?;
    // Small, and far from the others: on its own the system would read megabytes around it.
    gguf.prefetch(tensor, tensor.bytes as usize);
    let mut values = vec![0.0; len];
    let format = tensor.ty.format().expect("`find` checked the type");
    (format.decode)(gguf.data(tensor), &mut values);
    match values.iter().position(|v| !v.is_finite()) {
        Some(column) => Err(verify::bad_weight(gguf, name, (0, column as u64), values[column])),
        None => Ok(values),
    }
}
