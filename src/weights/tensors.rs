//! The tensors of a model: found by the architecture's table and checked once, so that a layer is a handful of slices. Norms and biases
//! are small: they are kept decoded.

use super::{Layer, Linear};
use crate::adapter::LowRank;
use crate::arch::{self, Architecture, Group, Hyperparameters, Presence, Role, TensorSpec};
use crate::error::{Error, Result, quoted};
use crate::gguf::{Gguf, TensorInfo};
use crate::roofline::{MatrixSize, Sizes};
use crate::verify;
use std::collections::BTreeMap;
use strata_kernels::Matrix;
use strata_quant::GgmlType;

/// A [`Linear`] in the file.
pub(crate) struct LinearTensor {
    pub weight: TensorInfo,
    pub bias: Option<Vec<f32>>, // (out)
    pub low_rank: Vec<LowRank>, // of adapters
}

impl LinearTensor {
    /// With the bytes of its matrix.
    pub fn with<'a>(&'a self, weight: Matrix<'a>) -> Linear<'a> {
        let (bias, head_dim) = (self.bias.as_deref(), self.weight.head_dim);
        Linear { weight, bias, head_dim, low_rank: &self.low_rank }
    }
}

/// The tensors of a layer.
pub(crate) struct LayerTensors {
    attn_norm: Vec<f32>,                               // (hidden)
    q_norm: Option<Vec<f32>>,                          // (head_dim)
    k_norm: Option<Vec<f32>>,                          // (head_dim)
    ffn_norm: Vec<f32>,                                // (hidden)
    linears: Vec<(&'static TensorSpec, LinearTensor)>, // in the order of the table
}

impl LayerTensors {
    /// The matrices, in the order of the table.
    pub fn matrices(&self) -> impl Iterator<Item = &TensorInfo> {
        self.linears.iter().map(|(_, linear)| &linear.weight)
    }

    /// The place and the tensor of the matrix with this role.
    fn linear(&self, role: Role) -> (usize, &LinearTensor) {
        let place = self.linears.iter().position(|(spec, _)| spec.role == role);
        place.map(|m| (m, &self.linears[m].1)).expect("every table has every role")
    }
}

/// The tensors of a model.
pub(crate) struct Tensors {
    pub embedding: TensorInfo,
    pub embedding_low_rank: Vec<LowRank>, // of adapters
    pub output_norm: Vec<f32>,            // (hidden)
    pub output: LinearTensor,
    pub layers: Vec<LayerTensors>,
}

impl Tensors {
    /// Finds the tensors of a model.
    ///
    /// # Errors
    /// As [`super::Weights::new`].
    pub fn find(gguf: &Gguf, architecture: &Architecture, of: &Hyperparameters) -> Result<Tensors> {
        let find = Find { gguf, of };
        let embedding = find.tensor(architecture.spec(Role::TokenEmbedding), None)?.clone();
        let output = architecture.spec(Role::Output);
        let tied = output.presence == Presence::TiedToEmbedding && gguf.tensor(&output.name(None)).is_none();
        let output = match tied {
            true => LinearTensor { weight: embedding.clone(), bias: None, low_rank: Vec::new() },
            false => find.linear(output, None)?,
        };
        let layer = |i: usize| -> Result<LayerTensors> {
            let norm = |role| find.vector(architecture.spec(role), Some(i));
            let linears = architecture.layer_matrices().map(|spec| Ok((spec, find.linear(spec, Some(i))?)));
            let of_heads = |role| {
                let spec = architecture.find_spec(role);
                spec.map(|spec| find.vector(spec, Some(i))).transpose()
            };
            Ok(LayerTensors {
                attn_norm: norm(Role::AttnNorm)?,
                q_norm: of_heads(Role::AttnQNorm)?,
                k_norm: of_heads(Role::AttnKNorm)?,
                ffn_norm: norm(Role::FfnNorm)?,
                linears: linears.collect::<Result<_>>()?,
            })
        };
        let layers = (0..of.layers).map(layer).collect::<Result<_>>()?;
        let output_norm = find.vector(architecture.spec(Role::OutputNorm), None)?;
        check_all_used(gguf, architecture, of.layers, !tied)?;
        Ok(Tensors { embedding, embedding_low_rank: Vec::new(), output_norm, output, layers })
    }

    /// Gives the matrices what adapters add to their results. A tied output matrix gets nothing: it is the embedding that they change.
    pub fn adapt(&mut self, mut added: BTreeMap<String, Vec<LowRank>>) {
        let mut take = |name: &str| added.remove(name).unwrap_or_default();
        self.embedding_low_rank = take(&self.embedding.name);
        let linears = self.layers.iter_mut().flat_map(|layer| layer.linears.iter_mut().map(|(_, linear)| linear));
        linears.chain([&mut self.output]).for_each(|linear| linear.low_rank = take(&linear.weight.name));
    }

    /// Layer `i`, whose matrices are what `matrix` makes of their places in the table and their tensors.
    pub fn layer<'a>(&'a self, i: usize, matrix: impl Fn(usize, &'a TensorInfo) -> Matrix<'a>) -> Layer<'a> {
        let layer = &self.layers[i];
        let linear = |role| {
            let (m, linear) = layer.linear(role);
            linear.with(matrix(m, &linear.weight))
        };
        Layer {
            attn_norm: &layer.attn_norm,
            q: linear(Role::AttnQ),
            k: linear(Role::AttnK),
            v: linear(Role::AttnV),
            q_norm: layer.q_norm.as_deref(),
            k_norm: layer.k_norm.as_deref(),
            o: linear(Role::AttnOutput),
            ffn_norm: &layer.ffn_norm,
            gate: linear(Role::FfnGate),
            up: linear(Role::FfnUp),
            down: linear(Role::FfnDown),
        }
    }

    /// A matrix of the mapped file.
    pub fn mapped<'a>(&self, gguf: &'a Gguf, at: &TensorInfo) -> Matrix<'a> {
        Matrix::new(at.ty, at.rows() as usize, at.cols() as usize, gguf.data(at))
            .expect("the reader checked the size, `find` the type")
    }

    /// All matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &TensorInfo> {
        let outside = [&self.embedding, &self.output.weight];
        outside.into_iter().chain(self.layers.iter().flat_map(LayerTensors::matrices))
    }

    /// The type of most weights.
    pub fn main_type(&self) -> GgmlType {
        self.layers[0].linear(Role::FfnGate).1.weight.ty
    }

    /// The sizes of all matrices.
    pub fn sizes(&self, gguf: &Gguf) -> Sizes {
        let size = |tensor: &TensorInfo, spec: Option<&TensorSpec>| MatrixSize {
            rows: tensor.rows(),
            cols: tensor.cols(),
            row_bytes: tensor.bytes / tensor.rows(),
            group: spec.map_or(Group::Model, |spec| spec.group),
        };
        let layer = |layer: &LayerTensors| layer.linears.iter().map(|(spec, l)| size(&l.weight, Some(spec))).collect();
        let is_vector = |tensor: &&TensorInfo| {
            tensor.dims.len() < 2 && arch::named(&tensor.name).is_some_and(|n| n.layer.is_some())
        };
        Sizes {
            layers: self.layers.iter().map(layer).collect(),
            output: size(&self.output.weight, None),
            vector_bytes: gguf.tensors().iter().filter(is_vector).map(|tensor| tensor.bytes).sum(),
            file_bytes: gguf.file_bytes(),
        }
    }
}

/// An error if the file has a tensor that a pass would leave out: llama.cpp refuses such files too, since they are of another model.
fn check_all_used(gguf: &Gguf, architecture: &Architecture, layers: usize, has_output: bool) -> Result<()> {
    let unused: Vec<&str> = (gguf.tensors().iter())
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !architecture.uses(name, layers, has_output))
        .collect();
    if unused.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = unused.iter().take(3).map(|name| quoted(name)).collect();
    let more = if unused.len() > first.len() { ", ..." } else { "" };
    let problem = format!(
        "{} of {} are not part of a {} model of {layers} layers: {}{more}",
        unused.len(),
        gguf.tensors().len(),
        architecture.name,
        first.join(", ")
    );
    let remedy = format!("strata would leave them out; check {}.block_count, or use another model", architecture.name);
    Err(Error::invalid(gguf.path(), "tensors", problem, remedy))
}

/// Finds tensors of the shapes that the hyperparameters call for.
struct Find<'a> {
    gguf: &'a Gguf,
    of: &'a Hyperparameters,
}

impl<'a> Find<'a> {
    fn tensor(&self, spec: &TensorSpec, layer: Option<usize>) -> Result<&'a TensorInfo> {
        self.named(&spec.name(layer), spec.shape(self.of))
    }

    fn linear(&self, spec: &TensorSpec, layer: Option<usize>) -> Result<LinearTensor> {
        let weight = self.tensor(spec, layer)?.clone();
        let bias = spec.bias_name(layer);
        let bias = self.gguf.tensor(&bias).map(|_| self.decoded(&bias, self.of.len(spec.rows))).transpose()?;
        Ok(LinearTensor { weight, bias, low_rank: Vec::new() })
    }

    fn vector(&self, spec: &TensorSpec, layer: Option<usize>) -> Result<Vec<f32>> {
        self.decoded(&spec.name(layer), self.of.len(spec.cols))
    }

    /// A vector of `len` finite values.
    fn decoded(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.named(name, (1, len))?;
        // Small, and far from the others: on its own the system would read megabytes around it.
        self.gguf.prefetch(tensor, tensor.bytes as usize);
        let mut values = vec![0.0; len];
        let format = tensor.ty.format().expect("`named` checked the type");
        (format.decode)(self.gguf.data(tensor), &mut values);
        match values.iter().position(|v| !v.is_finite()) {
            Some(column) => Err(verify::bad_weight(self.gguf, name, (0, column as u64), values[column])),
            None => Ok(values),
        }
    }

    /// The tensor of that name, of a type that Strata can run.
    fn named(&self, name: &str, (rows, cols): (usize, usize)) -> Result<&'a TensorInfo> {
        let gguf = self.gguf;
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
}
