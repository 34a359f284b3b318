//! Adapters as PEFT saves them: a folder with `adapter_config.json` and `adapter_model.safetensors`, or `adapter_model.bin` of torch.save,
//! whose tensors are named for the modules that they change.

use super::change::{Change, Step};
use super::config::AdapterConfig;
use crate::arch::{Presence, TensorSpec};
use crate::checkpoint::{Checkpoint, Source, Weights};
use crate::error::{Error, Result, quoted};
use crate::io::file::{Mapped, read_regular};
use crate::io::hash::{Digest, Hasher};
use crate::progress::Progress;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An adapter in a folder of PEFT, open.
pub struct Adapter {
    dir: PathBuf,
    config: AdapterConfig,
    weights: Weights,
    scale: f64,
    sha256: Digest,
}

/// The file of an adapter's tensors: the first of these that is there.
const FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// What the names of an adapter's tensors begin with.
const PREFIX: &str = "base_model.model.";

/// What becomes of a module whose vocabulary is another.
const OTHER_VOCABULARY: &str = "the adapter was trained with another vocabulary, to which tokens were added: merge it with PEFT, and convert what that gives";

impl Adapter {
    /// Opens the adapter in a folder, which is to be added `scale` times. `progress` counts bytes: the file is read once for its SHA-256.
    ///
    /// # Errors
    /// If a file is missing or broken, or the adapter is of a kind that Strata does not merge.
    pub fn open(dir: &Path, scale: f64, progress: &dyn Progress) -> Result<Adapter> {
        if !dir.is_dir() {
            let problem = if dir.exists() { "is not a folder" } else { "does not exist" };
            let remedy = "name the folder of an adapter that PEFT has saved, with adapter_config.json";
            return Err(Error::invalid(dir, "adapter", problem, remedy));
        }
        let config = AdapterConfig::read(dir)?;
        let file = FILES.into_iter().find(|name| dir.join(name).exists()).unwrap_or(FILES[0]);
        let weights = Weights::of_file(&dir.join(file))?;
        let sha256 = digest(dir, &weights, progress)?;
        Ok(Adapter { dir: dir.to_owned(), config, weights, scale, sha256 })
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        let path = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// How many times it is added.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The SHA-256 of its two files, one after the other.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Checks that its file has not changed since it was opened.
    ///
    /// # Errors
    /// If it has.
    pub fn check(&self) -> Result<()> {
        self.weights.shards().try_for_each(|file| file.check(0))
    }

    /// The tensor of that name, which was found when the changes were made.
    pub(super) fn tensor(&self, name: &str) -> Source<'_> {
        self.weights.get(name).expect("only names of its own tensors are asked for")
    }

    /// The file of its tensors.
    fn file(&self) -> &Path {
        self.weights.shards().next().map_or(&self.dir, Mapped::path)
    }

    fn wrong(&self, tensor: &str, problem: impl Into<String>, remedy: &str) -> Error {
        Error::invalid(self.file(), format!("tensor {}", quoted(tensor)), problem, remedy)
    }
}

/// The SHA-256 of the description and the tensors.
fn digest(dir: &Path, weights: &Weights, progress: &dyn Progress) -> Result<Digest> {
    let mut hasher = Hasher::default();
    hasher.update(&read_regular(&dir.join("adapter_config.json"), 64 << 20)?);
    let files: Vec<&Mapped> = weights.shards().collect();
    progress.begin("reading the adapter", files.iter().map(|file| file.bytes().len() as u64).sum());
    files.iter().try_for_each(|file| file.hash(0..file.bytes().len() as u64, &mut hasher, progress))?;
    progress.end();
    Ok(hasher.digest())
}

/// What a tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Whole,
}

/// The ends of names, with and without the name of the adapter that PEFT once left in them.
const ENDS: [(&str, Piece); 8] = [
    (".lora_A.weight", Piece::A),
    (".lora_B.weight", Piece::B),
    (".lora_A.default.weight", Piece::A),
    (".lora_B.default.weight", Piece::B),
    (".lora_embedding_A", Piece::EmbeddingA),
    (".lora_embedding_B", Piece::EmbeddingB),
    (".lora_embedding_A.default", Piece::EmbeddingA),
    (".lora_embedding_B.default", Piece::EmbeddingB),
];

/// The tensor of the base model that one of an adapter changes, and how.
fn target(name: &str) -> (String, Piece) {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    if let Some((module, piece)) = ENDS.iter().find_map(|(end, piece)| Some((name.strip_suffix(end)?, *piece))) {
        return (format!("{module}.weight"), piece);
    }
    let whole = [".modules_to_save.default.", ".modules_to_save.", ".base_layer."];
    (whole.iter().fold(name.to_owned(), |name, part| name.replace(part, ".")), Piece::Whole)
}

/// What adapters, one after the other, make of the tensors of a checkpoint, by their names there.
///
/// # Errors
/// If an adapter is of another model, lacks one of a pair, or changes what Strata cannot change exactly.
pub(crate) fn changes(checkpoint: &Checkpoint, adapters: &[Arc<Adapter>]) -> Result<BTreeMap<String, Arc<Change>>> {
    if checkpoint.weights.interleaved {
        let problem = "has the rows of its heads in another order than the model that adapters of PEFT belong to";
        let remedy = "name the Hugging Face version of the base model";
        return Err(Error::invalid(&checkpoint.dir, "checkpoint", problem, remedy));
    }
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for adapter in adapters {
        let mut pieces: BTreeMap<String, Vec<(Piece, String)>> = BTreeMap::new();
        for name in adapter.weights.names() {
            let (tensor, piece) = target(name);
            pieces.entry(tensor).or_default().push((piece, name.to_owned()));
        }
        if pieces.is_empty() {
            return Err(Error::invalid(adapter.file(), "tensors", "there are none", "get the adapter again"));
        }
        let base = Base::of(checkpoint);
        for (tensor, mut pieces) in pieces {
            pieces.sort();
            let steps = base.steps(adapter, &tensor, &pieces)?;
            changes.entry(tensor).or_default().steps.extend(steps);
        }
    }
    changes.retain(|_, change| !change.steps.is_empty());
    Ok(changes.into_iter().map(|(tensor, change)| (tensor, Arc::new(change))).collect())
}

/// The tensors that a checkpoint's model may have.
struct Base<'a> {
    checkpoint: &'a Checkpoint,
    tensors: BTreeMap<String, (&'static TensorSpec, (usize, usize))>,
}

impl<'a> Base<'a> {
    fn of(checkpoint: &'a Checkpoint) -> Base<'a> {
        let of = &checkpoint.config.hyperparameters;
        let mut tensors = BTreeMap::new();
        for (spec, layer) in checkpoint.config.architecture.all_tensors(of.layers) {
            let Some([weight, bias]) = spec.hf_names(layer) else { continue };
            tensors.insert(weight, (spec, spec.shape(of)));
            if checkpoint.weights.get(&bias).is_some() {
                tensors.insert(bias, (spec, (1, spec.shape(of).0)));
            }
        }
        Base { checkpoint, tensors }
    }

    /// What an adapter does to a tensor of the base, by its pieces in their order.
    fn steps(&self, adapter: &Arc<Adapter>, tensor: &str, pieces: &[(Piece, String)]) -> Result<Vec<Step>> {
        let [(_, first), ..] = pieces else { return Ok(Vec::new()) };
        if tensor.contains(".lora_magnitude_vector") {
            return Err(adapter.wrong(first, "is of DoRA, which strata does not merge", "merge it with PEFT"));
        }
        let Some(&(spec, shape)) = self.tensors.get(tensor) else {
            let problem = format!("changes {}, which the base model does not have", quoted(tensor));
            return Err(adapter.wrong(first, problem, "name the base model that the adapter was trained on"));
        };
        if spec.presence == Presence::TiedToEmbedding && self.checkpoint.config.tie_word_embeddings {
            return self.tied(adapter, pieces);
        }
        match pieces {
            [(Piece::Whole, name)] => Ok(vec![self.whole(adapter, name, shape)?]),
            [(Piece::A, a), (Piece::B, b)] if spec.is_matrix() => Ok(vec![add(adapter, tensor, (a, b), shape, false)?]),
            [(Piece::EmbeddingA, a), (Piece::EmbeddingB, b), rest @ ..] if rest.len() < 2 => {
                let add = add(adapter, tensor, (a, b), shape, true)?;
                let whole = rest.iter().map(|(_, name)| self.whole(adapter, name, shape));
                Ok(whole.collect::<Result<Vec<_>>>()?.into_iter().chain([add]).collect())
            }
            [(Piece::A, a), (Piece::B, b), (Piece::Whole, name)] if spec.is_matrix() => {
                let whole = self.whole(adapter, name, shape)?;
                Ok(vec![whole, add(adapter, tensor, (a, b), shape, false)?])
            }
            _ => {
                let problem = "is not one of a pair lora_A and lora_B, nor a tensor of the base model";
                Err(adapter.wrong(first, problem, "get the adapter again"))
            }
        }
    }

    /// An output matrix that is the embedding: it may only be given again as what the embedding is.
    fn tied(&self, adapter: &Arc<Adapter>, pieces: &[(Piece, String)]) -> Result<Vec<Step>> {
        let embedding = format!("{PREFIX}model.embed_tokens");
        let given = ["weight", "base_layer.weight", "modules_to_save.weight"];
        let given = given.iter().find_map(|end| adapter.weights.get(&format!("{embedding}.{end}")));
        match pieces {
            [(Piece::Whole, name)] if given.is_some_and(|given| given.data == adapter.tensor(name).data) => {
                Ok(Vec::new())
            }
            [(_, name), ..] => {
                let problem = "changes the output matrix, which in this model is the embedding (tie_word_embeddings)";
                Err(adapter.wrong(name, problem, "merge it with PEFT into a model whose embeddings are not tied"))
            }
            [] => Ok(Vec::new()),
        }
    }

    /// A tensor of the base that the adapter has a new one for.
    fn whole(&self, adapter: &Arc<Adapter>, name: &str, shape: (usize, usize)) -> Result<Step> {
        let found = adapter.tensor(name).shape;
        let wanted = [shape.0, shape.1];
        if found != wanted.as_slice() && (shape.0 != 1 || found != &wanted[1..]) {
            let problem = format!("has the shape {found:?} where the base model has {wanted:?}");
            let other_rows = found.len() == 2 && found[1] == shape.1;
            let remedy = if other_rows { OTHER_VOCABULARY } else { "name the base model that it was trained on" };
            return Err(adapter.wrong(name, problem, remedy));
        }
        Ok(Step::Replace { adapter: adapter.clone(), tensor: name.to_owned() })
    }
}

/// `s B A` of a module. Of an embedding `A (rank, tokens)` and `B (hidden, rank)` change the transposed matrix.
fn add(
    adapter: &Arc<Adapter>,
    tensor: &str,
    (a, b): (&String, &String),
    (rows, cols): (usize, usize),
    embedding: bool,
) -> Result<Step> {
    let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let rank = adapter.config.rank(module);
    let (of_a, of_b) = if embedding { ([rank, rows], [cols, rank]) } else { ([rank, cols], [rows, rank]) };
    for (name, wanted) in [(a, of_a), (b, of_b)] {
        let found = adapter.tensor(name).shape;
        if found != wanted.as_slice() {
            let problem =
                format!("has the shape {found:?} where adapter_config.json and the base model call for {wanted:?}");
            let ranks_agree = found.len() == 2 && found.contains(&rank);
            let remedy = match (embedding || tensor == "lm_head.weight") && ranks_agree {
                true => OTHER_VOCABULARY,
                false => "name the base model that it was trained on",
            };
            return Err(adapter.wrong(name, problem, remedy));
        }
    }
    let scale = (adapter.scale * adapter.config.scale(module)) as f32; // as PyTorch multiplies by a number
    if !scale.is_finite() {
        return Err(adapter.wrong(b, format!("would be multiplied by {scale}"), "choose another scale"));
    }
    Ok(Step::Add { adapter: adapter.clone(), a: a.clone(), b: b.clone(), rank, scale, embedding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_changed() {
        for (name, tensor, piece) in [
            (
                "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
                "model.layers.0.mlp.up_proj.weight",
                Piece::A,
            ),
            ("base_model.model.lm_head.lora_B.default.weight", "lm_head.weight", Piece::B),
            ("base_model.model.model.embed_tokens.lora_embedding_A", "model.embed_tokens.weight", Piece::EmbeddingA),
            ("base_model.model.lm_head.modules_to_save.weight", "lm_head.weight", Piece::Whole),
            ("base_model.model.model.embed_tokens.base_layer.weight", "model.embed_tokens.weight", Piece::Whole),
            ("base_model.model.model.norm.weight", "model.norm.weight", Piece::Whole),
        ] {
            assert_eq!(target(name), (tensor.to_owned(), piece), "{name}");
        }
    }
}
