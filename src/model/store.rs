//! The weights, one layer at a time, as the bytes that lie in the file.
//!
//! All tensors are found and their shapes checked when the store is made; after that a layer is a handful of slices. Norms and biases
//! are small: they are kept decoded.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::model::Shape;
use strata_kernels::Matrix;
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

/// A model's weights.
pub struct Store {
    gguf: Gguf,
    embedding: TensorInfo,
    output_norm: Vec<f32>,
    output: LinearAt,
    layers: Vec<LayerAt>,
}

impl Store {
    /// Finds every tensor that `shape` calls for.
    ///
    /// # Errors
    /// Names a tensor that is missing, misshapen, or of a type that Strata cannot run.
    pub fn new(gguf: Gguf, shape: &Shape) -> Result<Store> {
        let (d, q, kv, ffn) = (shape.hidden, shape.q_width(), shape.kv_width(), shape.ffn);
        let embedding = matrix(&gguf, "token_embd.weight", shape.vocab, d)?;
        // Without an output matrix the embedding is used for both ends.
        let output = match gguf.tensor("output.weight") {
            Some(_) => linear(&gguf, "output", shape.vocab, d)?,
            None => LinearAt { weight: embedding.clone(), bias: None },
        };
        let layer = |i: usize| -> Result<LayerAt> {
            let at = |name: &str| format!("blk.{i}.{name}");
            Ok(LayerAt {
                attn_norm: vector(&gguf, &at("attn_norm.weight"), d)?,
                q: linear(&gguf, &at("attn_q"), q, d)?,
                k: linear(&gguf, &at("attn_k"), kv, d)?,
                v: linear(&gguf, &at("attn_v"), kv, d)?,
                o: linear(&gguf, &at("attn_output"), d, q)?,
                ffn_norm: vector(&gguf, &at("ffn_norm.weight"), d)?,
                gate: linear(&gguf, &at("ffn_gate"), ffn, d)?,
                up: linear(&gguf, &at("ffn_up"), ffn, d)?,
                down: linear(&gguf, &at("ffn_down"), d, ffn)?,
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        let output_norm = vector(&gguf, "output_norm.weight", d)?;
        Ok(Store { embedding, output_norm, output, layers, gguf })
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The weights of layer `i`.
    pub fn layer(&self, i: usize) -> Layer<'_> {
        let at = &self.layers[i];
        Layer {
            attn_norm: &at.attn_norm,
            q: self.linear(&at.q),
            k: self.linear(&at.k),
            v: self.linear(&at.v),
            o: self.linear(&at.o),
            ffn_norm: &at.ffn_norm,
            gate: self.linear(&at.gate),
            up: self.linear(&at.up),
            down: self.linear(&at.down),
        }
    }

    /// `(vocab, hidden)`
    pub fn embedding(&self) -> Matrix<'_> {
        self.matrix(&self.embedding)
    }

    /// `(hidden)`
    pub fn output_norm(&self) -> &[f32] {
        &self.output_norm
    }

    /// Hidden state to logits.
    pub fn output(&self) -> Linear<'_> {
        self.linear(&self.output)
    }

    fn linear<'a>(&'a self, at: &'a LinearAt) -> Linear<'a> {
        Linear { weight: self.matrix(&at.weight), bias: at.bias.as_deref() }
    }

    fn matrix(&self, at: &TensorInfo) -> Matrix<'_> {
        Matrix::new(at.ty, at.rows() as usize, at.cols() as usize, self.gguf.data(at))
            .expect("the reader checked the size, `matrix` the type")
    }
}

fn find<'a>(gguf: &'a Gguf, name: &str, rows: usize, cols: usize) -> Result<&'a TensorInfo> {
    let bad = |problem: String, remedy: &str| Err(Error::invalid(gguf.path(), name, problem, remedy));
    let tensor = gguf.required_tensor(name)?;
    if (tensor.rows(), tensor.cols()) != (rows as u64, cols as u64) {
        let is = format!("{} x {} values where the metadata calls for {rows} x {cols}", tensor.rows(), tensor.cols());
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
    let mut values = vec![0.0; len];
    let format = tensor.ty.format().expect("`find` checked the type");
    (format.decode)(gguf.data(tensor), &mut values);
    Ok(values)
}
