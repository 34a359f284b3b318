//! What is written can be read: before the first weight is read, the hyperparameters are read and the tokenizer is built from the metadata of the file to
//! come, as a run of it will build them.

use super::plan::{From, Tensor};
use super::source::Input;
use crate::arch::{self, Architecture, Hyperparameters, Role, TensorPart, rope};
use crate::checkpoint::MAX_TOKENS;
use crate::error::{Error, Result, Setting, quoted};
use crate::gguf::keys::ALIGNMENT_KEY;
use crate::gguf::{Gguf, Layout, Value, ValueType, alignment_is_valid};
use crate::tokenizer::Tokenizer;
use std::collections::HashSet;
use strata_quant::GgmlType;

/// The metadata that the caller sets on top of the source's, refused where no reader could make sense of it. `layout` has the source's.
///
/// # Errors
/// If a key is given twice, belongs to Strata or to a split model, or has a value of another kind than readers want.
pub fn check_overrides(layout: &Layout, overrides: &[(String, Value)]) -> Result<()> {
    let mut seen = HashSet::new();
    for (key, value) in overrides {
        let refuse = |problem: String| Err(Error::MetadataRefused { key: key.clone(), problem });
        if !seen.insert(key) {
            return refuse("it is given twice".to_owned());
        }
        if key.starts_with("split.") {
            return refuse("it says how the model is split, which strata does itself".to_owned());
        }
        if key == ALIGNMENT_KEY
            && let Value::U32(alignment) = value
            && !alignment_is_valid(*alignment)
        {
            return refuse(format!("tensors cannot be aligned to {alignment}, only to a power of two"));
        }
        if key.starts_with("strata.") {
            return refuse("strata writes it itself".to_owned());
        }
        let known = layout.metadata.iter().find(|(known, _)| known == key).map(|(_, value)| Kind::of(value.ty()));
        if let Some(wanted) = known.or_else(|| Kind::of_key(key)).filter(|wanted| *wanted != Kind::of(value.ty())) {
            return refuse(format!("it must be {}, is {}", wanted.name(), Kind::of(value.ty()).name()));
        }
    }
    Ok(())
}

/// Kinds of values that readers tell apart: they take integers and floats of any length.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Integer,
    Float,
    Flag,
    Text,
    List,
}

impl Kind {
    fn of(ty: ValueType) -> Kind {
        match ty {
            ValueType::F32 | ValueType::F64 => Kind::Float,
            ValueType::Bool => Kind::Flag,
            ValueType::String => Kind::Text,
            ValueType::Array => Kind::List,
            _ => Kind::Integer,
        }
    }

    /// What a key of the specification wants, for those that [`Hyperparameters::read`] and [`Tokenizer::from_gguf`] do not look at.
    fn of_key(key: &str) -> Option<Kind> {
        Some(match key {
            "general.architecture" | "general.type" | "general.name" | "general.description" | "general.license" => {
                Kind::Text
            }
            "general.alignment" | "general.file_type" | "general.quantization_version" => Kind::Integer,
            "general.tags" | "general.languages" => Kind::List,
            "general.sampling.sequence" => Kind::Text,
            "general.sampling.top_k" | "general.sampling.penalty_last_n" | "general.sampling.mirostat" => Kind::Integer,
            "tokenizer.chat_templates" => Kind::List,
            _ if key.starts_with("general.sampling.") => Kind::Float,
            _ if key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") => Kind::Integer,
            _ if key.starts_with("tokenizer.ggml.add_") => Kind::Flag,
            _ if key.starts_with("tokenizer.chat_template") => Kind::Text,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Integer => "an integer",
            Kind::Float => "a float",
            Kind::Flag => "a bool",
            Kind::Text => "a text",
            Kind::List => "a list",
        }
    }
}

/// The model that a file to come describes.
pub struct Accepted {
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// Why only other programs can run it, if so.
    pub note: Option<String>,
}

/// Reads the hyperparameters and builds the tokenizer, as a run of the file will. A file that Strata cannot run for the name of a kind
/// alone, as a way of splitting text, is another program's: then that is noted. So is a number of layers that leaves some out.
///
/// # Errors
/// Theirs, as errors of `input`, which is where the metadata comes from.
pub fn check(layout: &Layout, input: &Input, tensors: &[Tensor]) -> Result<Accepted> {
    let mut small = stand_in(layout, input, tensors)?;
    let error = match small.read() {
        Ok((architecture, hyperparameters)) => {
            if let Some(problem) = contradiction(architecture, &hyperparameters, tensors) {
                return Err(blamed(
                    Error::invalid(input.path(), "tensors", problem, "use a file that does not contradict itself"),
                    input,
                ));
            }
            let output = architecture.spec(Role::Output).name(None);
            let has_output = tensors.iter().any(|tensor| tensor.name == output);
            let unused = tensors.iter().find(|t| !architecture.uses(&t.name, hyperparameters.layers, has_output));
            let unused = unused.map(|tensor| quoted(&tensor.name));
            let note =
                unused.map(|name| format!("strata itself cannot run the file that it writes: nothing uses {name}"));
            return Ok(Accepted { hyperparameters, note });
        }
        Err(error) => error,
    };
    small.drop_unknown_kinds();
    let Ok((_, hyperparameters)) = small.read() else { return Err(blamed(error, input)) };
    let note = Some(format!("strata itself cannot run the file that it writes: {}", blamed(error, input)));
    Ok(Accepted { hyperparameters, note })
}

/// The first matrix that has other dimensions than the hyperparameters call for.
fn contradiction(architecture: &Architecture, of: &Hyperparameters, tensors: &[Tensor]) -> Option<String> {
    tensors.iter().find_map(|tensor| {
        let found = architecture.find(&tensor.name).filter(|found| found.part == TensorPart::Weight)?;
        let ((rows, cols), is) = (found.spec.shape(of), (tensor.rows, tensor.cols));
        (found.spec.is_matrix() && is != (rows, cols)).then(|| {
            let name = quoted(&tensor.name);
            format!("{name} has {} x {} values where the metadata calls for {rows} x {cols}", is.0, is.1)
        })
    })
}

/// A small file with the metadata of the one to come, in memory.
struct StandIn {
    layout: Layout,
    data: Vec<Vec<u8>>, // by tensor
}

impl StandIn {
    /// What a run reads of it. A file without a vocabulary has no tokenizer, and one that does not name its kind cannot be checked.
    fn read(&self) -> Result<(&'static Architecture, Hyperparameters)> {
        let placed = self.layout.clone().place()?;
        let mut file = placed.header;
        for (range, bytes) in placed.tensors.iter().zip(&self.data) {
            file.resize(range.start as usize, 0);
            file.extend(bytes);
        }
        file.resize(placed.file_bytes as usize, 0);
        let gguf = Gguf::from_bytes(file)?;
        let hyperparameters = Hyperparameters::read(&gguf)?;
        rope::Angles::read(&gguf, &hyperparameters)?;
        let model = gguf.metadata().get("tokenizer.ggml.model").map(|model| model.as_str());
        let vocabulary = gguf.metadata().get("tokenizer.ggml.tokens");
        if !matches!((model, vocabulary), (None, _) | (Some(Some("no_vocab")), None)) {
            Tokenizer::from_gguf(&gguf)?;
        }
        Ok((Architecture::of(&gguf)?, hyperparameters))
    }

    /// Leaves out the names of kinds that other programs may know where Strata does not. A value that is no text is no name, and the kinds
    /// of vocabularies that Strata knows are not unknown.
    fn drop_unknown_kinds(&mut self) {
        let names_a_kind = |key: &str| {
            let scaling = key.split_once('.').is_some_and(|(_, suffix)| suffix == rope::SCALING_TYPE);
            scaling || ["tokenizer.ggml.model", "tokenizer.ggml.pre"].contains(&key)
        };
        let unknown =
            |value: &Value| value.ty() == ValueType::String && ![Value::from("gpt2"), "llama".into()].contains(value);
        self.layout.metadata.retain(|(key, value)| !names_a_kind(key) || !unknown(value));
    }
}

/// Of the tensors of the file to come only those that the shape looks at, the embedding with one byte for each row.
fn stand_in(layout: &Layout, input: &Input, tensors: &[Tensor]) -> Result<StandIn> {
    let mut small = Layout::new();
    small.alignment = layout.alignment;
    let own = |key: &str| key.starts_with("strata.");
    small.metadata = layout.metadata.iter().filter(|(key, _)| !own(key)).cloned().collect();
    let mut data = Vec::new();
    for tensor in tensors {
        let role = arch::weight(&tensor.name).map(|named| named.spec.role);
        if !matches!(role, Some(Role::TokenEmbedding | Role::RopeFreqs)) {
            continue;
        }
        let (dims, ty, bytes) = match &tensor.from {
            From::Computed(values) => {
                (tensor.dims.clone(), GgmlType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            From::Source(_) if role == Some(Role::TokenEmbedding) => {
                if tensor.rows > MAX_TOKENS {
                    let problem =
                        format!("has {} rows, one for each token; at most {MAX_TOKENS} are possible", tensor.rows);
                    return Err(Error::invalid(input.path(), &tensor.name, problem, "use a Llama model"));
                }
                (vec![1, tensor.rows as u64], GgmlType::I8, vec![0; tensor.rows])
            }
            From::Source(stored) => {
                let file = &input.files()[stored.file];
                // Factors of a head of at most 4096 values; more is refused by the shape.
                if stored.bytes > 1 << 20 {
                    let problem = format!("has {} bytes, far more than a head has pairs", stored.bytes);
                    return Err(Error::invalid(file.path, &tensor.name, problem, "use a Llama model"));
                }
                let mut bytes = vec![0; stored.bytes as usize];
                file.read(&mut bytes, stored.offset)?;
                (tensor.dims.clone(), stored.ty, bytes)
            }
        };
        small.tensor(tensor.name.as_str(), &dims, ty);
        data.push(bytes);
    }
    Ok(StandIn { layout: small, data })
}

/// The error of the file to come as one of its source, or of what the caller has set.
fn blamed(error: Error, input: &Input) -> Error {
    match error {
        Error::Invalid { place, problem, remedy, .. } => {
            let problem = format!("strata could not run what it would write: {problem}");
            let remedy = match input {
                Input::Checkpoint(_) => {
                    "correct the checkpoint's file that this comes from, or leave out what sets it on top".to_owned()
                }
                Input::Gguf(_) => format!("{remedy}, or set it to another value"),
            };
            Error::invalid(input.path(), place, problem, remedy).with_setting(Setting::Metadata)
        }
        other => other,
    }
}
