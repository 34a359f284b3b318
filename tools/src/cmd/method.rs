//! How codes are chosen: rounding, or error feedback with a calibration text.

use super::model::{RamArgs, open};
use crate::progress::{Shown, Unit};
use crate::{output, text};
use anyhow::{Result, bail};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strata::Cpu;
use strata::arch::Hyperparameters;
use strata::convert::Input;
use strata::eval::calibrate::calibrate;
use strata::eval::compare::Text;
use strata::eval::compare::text::Cut;
use strata::io::inputs::Inputs;
use strata::model::Model;
use strata::quantize::feedback::{self, TensorReport};

/// How codes are chosen.
#[derive(clap::Args)]
pub struct MethodArgs {
    /// How codes are chosen: round, each weight by itself as llama-quantize does, or feedback, each with regard to the errors of those before
    /// it on a calibration text, which takes much longer and costs far less quality in as many bytes
    #[arg(long, value_name = "METHOD", default_value = "round")]
    method: MethodName,
    /// Calibration text of --method feedback, UTF-8: of each kind that the model is to be good at; may be given several times
    #[arg(long = "calibration", value_name = "TEXT")]
    texts: Vec<PathBuf>,
    /// The same as conversations, a JSON object a line as compare's --chat takes them
    #[arg(long = "calibration-chat", value_name = "JSONL")]
    chats: Vec<PathBuf>,
    /// Tokens in a chunk of a calibration text
    #[arg(long = "calibration-context", value_name = "TOKENS", default_value_t = 512)]
    context: usize,
    /// Most chunks of each calibration text
    #[arg(long = "calibration-chunks", value_name = "N")]
    chunks: Option<usize>,
    /// Quantize each layer on the activations of those quantized before it, and undo their errors: better yet, and several times as long
    #[arg(long)]
    propagate: bool,
    #[command(flatten)]
    ram: RamArgs,
}

/// The methods.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum MethodName {
    Round,
    Feedback,
}

/// What error feedback works with.
pub struct Calibrated {
    /// The source.
    pub model: Model,
    /// The calibration text.
    pub text: Text,
    /// Whether layers are quantized on the activations of those before them.
    pub propagate: bool,
}

impl MethodArgs {
    /// The files that are read beside the model.
    pub fn inputs(&self, inputs: &mut Inputs) {
        self.texts.iter().chain(&self.chats).for_each(|path| inputs.add(path, "a calibration text"));
    }

    /// The model and the text of error feedback; `None` if weights are rounded. `cpu` makes a processor.
    pub fn prepare(&self, input: &Input, cpu: impl FnOnce() -> Cpu) -> Result<Option<Calibrated>> {
        let given = !(self.texts.is_empty() && self.chats.is_empty());
        match (self.method, given) {
            (MethodName::Round, false) if self.propagate => bail!("--propagate is part of --method feedback; add that"),
            (MethodName::Round, false) => return Ok(None),
            (MethodName::Round, true) => bail!("a calibration text is of no use without --method feedback; add that"),
            (MethodName::Feedback, false) => {
                bail!("--method feedback needs text; give it by --calibration or --calibration-chat")
            }
            (MethodName::Feedback, true) => {}
        }
        let gguf = open(input.path())?;
        let tokenizer = text::tokenizer(&gguf)?;
        let cut = Cut { context: self.context, stride: None, max_chunks: self.chunks };
        let text = text::cut(&gguf, &tokenizer, (&self.texts, false), &self.chats, cut)?;
        let of = Hyperparameters::read(&gguf)?;
        let model = self.ram.load(gguf, cpu(), feedback::need(&of, &text, self.propagate)?)?;
        Ok(Some(Calibrated { model, text, propagate: self.propagate }))
    }
}

impl Calibrated {
    /// The importance of all columns on the text, by the names of the tensors: what scales are searched with unless a file of importance is
    /// given.
    pub fn importance(&self) -> Result<BTreeMap<String, Vec<f32>>> {
        let matrix = calibrate(&self.model, &self.text, false, &Shown::new(Unit::Tokens))?;
        Ok(matrix.entries.keys().filter_map(|name| Some((name.clone(), matrix.weights(name)?))).collect())
    }

    /// What the bytes depend on.
    pub fn record(&self) -> Map<String, Json> {
        let texts: Json = self.text.texts.iter().map(|text| text.tokens_sha256.to_string()).collect();
        [
            ("method".to_owned(), if self.propagate { "feedback, propagated" } else { "feedback" }.into()),
            ("calibration".to_owned(), texts),
        ]
        .into_iter()
        .collect()
    }
}

/// Says what became of the tensors of all targets, and how to prove it.
pub fn say(reports: &[TensorReport], source: &Path, files: &[PathBuf]) {
    let kept: Vec<&str> =
        reports.iter().filter(|report| report.strength.is_none()).map(|report| report.name.as_str()).collect();
    output::say(&format!("{} tensors rounded with error feedback", reports.len() - kept.len()));
    let moved = |strength: f32| reports.iter().filter(|report| report.strength == Some(strength)).count();
    if reports.iter().any(|report| report.strength.is_some_and(|strength| strength > 0.0)) {
        let [none, half, full] = [0.0, 0.5, 1.0].map(moved);
        output::say(&format!("moved to undo errors before them: {full} in full, {half} half, {none} not at all"));
    }
    if !kept.is_empty() {
        output::say(&format!(
            "{} keep plain rounding, which is better on a held-out part of the calibration: {}",
            kept.len(),
            kept.join(", ")
        ));
    }
    let files: Vec<String> = files.iter().map(|file| output::path(file)).collect();
    output::say(&format!(
        "to prove it on a text of its own: strata compare {} {} -f TEXT --weights-only",
        output::path(source),
        files.join(" ")
    ));
}
