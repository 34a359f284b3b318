//! llama.cpp's adapter files, applied while a model runs: `y = W x + s B (A x)`, in every pass.
//!
//! `A` and `B` stay in the file and are multiplied as every matrix is, so the bits are the same for any number of tokens in a pass, threads
//! and instruction sets. A file has `general.type = adapter`, `adapter.type = lora`, `adapter.lora.alpha`, and for a matrix `NAME` the
//! tensors `NAME.lora_a (rank, columns)` and `NAME.lora_b (rows, rank)`; `s` is the user's scale times alpha / rank, or the user's scale alone
//! where alpha is 0.

use crate::arch::{Architecture, Role};
use crate::error::{Error, Result, quoted};
use crate::gguf::{Gguf, TensorInfo};
use crate::io::hash::{Digest, Hasher};
use crate::progress::{Progress, Within};
use crate::verify;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use strata_kernels::{Cpu, Matrix};
use strata_quant::Activations;

/// An adapter file, open and checked.
pub struct AdapterFile {
    gguf: Gguf,
    alpha: f32,
    scale: f32,
    sha256: Digest,
}

/// Tokens whose results are added together: it bounds the memory.
const PIECE: usize = 64;

/// The value of `general.type`.
const ADAPTER: &str = "adapter";

impl AdapterFile {
    /// Opens an adapter, which is to be applied `scale` times. `progress` counts bytes.
    ///
    /// # Errors
    /// If it is no such file, of a kind that Strata does not apply, or has a weight that is not finite.
    pub fn open(path: &Path, scale: f32, progress: &dyn Progress) -> Result<AdapterFile> {
        if path.is_dir() {
            let problem = "is a folder; an adapter that is applied while a model runs is a GGUF file";
            let remedy =
                "merge it while its base model is converted, or make one with llama.cpp's convert_lora_to_gguf.py";
            return Err(Error::invalid(path, "adapter", problem, remedy));
        }
        let gguf = Gguf::open(path)?;
        let wrong = |key: &str, problem: String, remedy: &str| Err(Error::invalid(path, key, problem, remedy));
        let ty = gguf.str("general.type")?.unwrap_or("model");
        if ty != ADAPTER {
            return wrong("general.type", format!("is {}, not {ADAPTER:?}", quoted(ty)), "name the file of an adapter");
        }
        let kind = gguf.str("adapter.type")?.unwrap_or_default();
        if kind != "lora" {
            return wrong(
                "adapter.type",
                format!("is {}; only \"lora\" is applied", quoted(kind)),
                "use a LoRA adapter",
            );
        }
        if gguf.metadata().get("adapter.alora.invocation_tokens").is_some() {
            let problem = "the adapter counts from certain tokens on (aLoRA), which strata does not do".to_owned();
            return wrong("adapter.alora.invocation_tokens", problem, "use a plain LoRA adapter");
        }
        let alpha = gguf.f32("adapter.lora.alpha")?.unwrap_or(0.0);
        if !(alpha.is_finite() && scale.is_finite()) {
            return wrong("adapter.lora.alpha", format!("is {alpha}"), "use an adapter whose alpha is a number");
        }
        progress.begin("reading the adapter", gguf.file_bytes());
        gguf.unless_changed(verify::weights(&gguf, "", progress))?;
        let sha256 = digest(&gguf, &Within::uncounted(progress))?;
        progress.end();
        Ok(AdapterFile { gguf, alpha, scale, sha256 })
    }

    /// What tells it and its scale from others.
    pub fn identity(&self) -> String {
        format!("{} {:08x}", self.sha256, self.scale.to_bits())
    }

    /// Bytes of memory that applying it to a model takes beside the model: the file, and results that are to be added.
    pub fn memory(&self) -> u64 {
        let widest = self.gguf.tensors().iter().map(TensorInfo::rows).max().unwrap_or(0);
        let rank = self.gguf.tensors().iter().map(TensorInfo::cols).min().unwrap_or(0);
        let results = widest.saturating_mul(4 * PIECE as u64);
        // What `A` gives for a sub-batch, and its forms for the product with `B`.
        let between = rank.saturating_mul(4 * 512 + 16 * PIECE as u64);
        self.gguf.file_bytes().saturating_add(results).saturating_add(between)
    }

    /// Checks that the file has not changed since it was opened.
    ///
    /// # Errors
    /// If it has.
    pub fn check(&self) -> Result<()> {
        self.gguf.check()
    }

    fn wrong(&self, tensor: &str, problem: impl Into<String>, remedy: &str) -> Error {
        Error::invalid(self.gguf.path(), format!("tensor {}", quoted(tensor)), problem, remedy)
    }

    fn matrix<'a>(&'a self, tensor: &TensorInfo) -> Matrix<'a> {
        let (rows, cols) = (tensor.rows() as usize, tensor.cols() as usize);
        Matrix::new(tensor.ty, rows, cols, self.gguf.data(tensor))
            .expect("`pairs` checked the type, the reader the size")
    }
}

/// The SHA-256 of all files of a model.
fn digest(gguf: &Gguf, progress: &dyn Progress) -> Result<Digest> {
    let mut hasher = Hasher::default();
    gguf.files().try_for_each(|file| file.hash(0..file.bytes().len() as u64, &mut hasher, progress))?;
    Ok(hasher.digest())
}

/// What an adapter adds to the results of one matrix.
pub struct LowRank {
    adapter: Arc<AdapterFile>,
    a: TensorInfo,
    b: TensorInfo,
    scale: f32,
}

impl LowRank {
    /// `y += s B (A x)`, for `x (tokens, columns)` and `y (tokens, rows)`.
    pub fn add(&self, cpu: &Cpu, x: &mut Activations, y: &mut [f32]) {
        let (a, b) = (self.adapter.matrix(&self.a), self.adapter.matrix(&self.b));
        let mut low = vec![0.0; x.rows() * a.rows()]; // (tokens, rank)
        cpu.matmul(a, x, &mut low);
        self.add_low(cpu, b, &low, y);
    }

    /// `h += s B a`, where `a (rank)` is what an embedding's `A` has for a token.
    pub fn add_row(&self, cpu: &Cpu, token: u32, h: &mut [f32]) {
        let (a, b) = (self.adapter.matrix(&self.a), self.adapter.matrix(&self.b));
        let mut low = vec![0.0; a.cols()];
        a.decode_row(token as usize, &mut low);
        self.add_low(cpu, b, &low, h);
    }

    /// `y += s B low`, for `low (tokens, rank)`.
    fn add_low(&self, cpu: &Cpu, b: Matrix<'_>, low: &[f32], y: &mut [f32]) {
        let (rank, rows) = (b.cols(), b.rows());
        let (mut x, mut added) = (Activations::default(), Vec::new());
        for (low, y) in low.chunks(PIECE * rank).zip(y.chunks_mut(PIECE * rows)) {
            x.reset(low.len() / rank, rank).copy_from_slice(low);
            added.resize(y.len(), 0.0);
            cpu.matmul(b, &mut x, &mut added);
            y.iter_mut().zip(&added).for_each(|(y, added)| *y += self.scale * added);
        }
    }
}

/// What adapters, one after the other, add to the matrices of a model, by the names of these.
///
/// # Errors
/// If an adapter is of another architecture or base model, lacks one of a pair, or has what Strata does not apply.
pub(crate) fn pairs(
    gguf: &Gguf,
    architecture: &Architecture,
    adapters: &[Arc<AdapterFile>],
) -> Result<BTreeMap<String, Vec<LowRank>>> {
    let mut all: BTreeMap<String, Vec<LowRank>> = BTreeMap::new();
    for adapter in adapters {
        let of = adapter.gguf.required_str("general.architecture")?;
        if of != architecture.name {
            let problem = format!("is {}, but the model is of {}", quoted(of), architecture.name);
            let remedy = "name the base model that the adapter was trained on";
            return Err(Error::invalid(adapter.gguf.path(), "general.architecture", problem, remedy));
        }
        let mut found: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
        for tensor in adapter.gguf.tensors() {
            match (tensor.name.strip_suffix(".lora_a"), tensor.name.strip_suffix(".lora_b")) {
                (Some(name), _) => found.entry(name).or_default()[0] = Some(tensor),
                (_, Some(name)) => found.entry(name).or_default()[1] = Some(tensor),
                _ => {
                    let problem = "is neither lora_a nor lora_b of a matrix: llama.cpp ignores it or refuses the file";
                    let remedy = "merge the adapter while its base model is converted";
                    return Err(adapter.wrong(&tensor.name, problem, remedy));
                }
            }
        }
        for (name, pair) in found {
            all.entry(name.to_owned()).or_default().push(low_rank(gguf, architecture, adapter, name, pair)?);
        }
    }
    Ok(all)
}

/// The pair of a matrix, checked against it.
fn low_rank(
    gguf: &Gguf,
    architecture: &Architecture,
    adapter: &Arc<AdapterFile>,
    name: &str,
    pair: [Option<&TensorInfo>; 2],
) -> Result<LowRank> {
    let [Some(a), Some(b)] = pair else {
        let there = pair.into_iter().flatten().next().map_or(name, |tensor| &tensor.name);
        return Err(adapter.wrong(there, "has no partner: lora_a and lora_b come in pairs", "get the adapter again"));
    };
    let spec = architecture.find(name).map(|found| found.spec).filter(|spec| spec.is_matrix());
    let (Some(base), Some(spec)) = (gguf.tensor(name), spec) else {
        let problem = format!("is of {}, which is no matrix of the model", quoted(name));
        return Err(adapter.wrong(&a.name, problem, "name the base model that the adapter was trained on"));
    };
    let (rows, cols) = (base.rows(), base.cols());
    let rank = b.cols();
    // As llama.cpp has the embedding, whose rows are looked up and not multiplied.
    let (of_a, of_b) = match spec.role {
        Role::TokenEmbedding => ([rank, rows], [rank, cols]),
        _ => ([cols, rank], [rank, rows]),
    };
    for (tensor, wanted) in [(a, of_a), (b, of_b)] {
        if tensor.dims.len() != 2 || tensor.dims != wanted {
            let problem = format!("has the dimensions {:?} where the model calls for {wanted:?}", tensor.dims);
            return Err(adapter.wrong(&tensor.name, problem, "name the base model that the adapter was trained on"));
        }
        if tensor.ty.format().is_none() {
            let problem = format!("is of type {}, which strata cannot read", tensor.ty);
            return Err(adapter.wrong(&tensor.name, problem, "make the adapter in F16 or F32"));
        }
    }
    let AdapterFile { alpha, scale, .. } = **adapter;
    let scale = if alpha == 0.0 { scale } else { scale * alpha / rank as f32 };
    if !scale.is_finite() {
        return Err(adapter.wrong(&b.name, format!("would be multiplied by {scale}"), "choose another scale"));
    }
    Ok(LowRank { adapter: adapter.clone(), a: a.clone(), b: b.clone(), scale })
}
