//! How codes are chosen: rounding, or error feedback with a calibration text.

use super::model::{RamArgs, open};
use crate::progress::{Shown, Unit};
use crate::{output, text};
use anyhow::{Result, bail};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::Cpu;
use strata::arch::Hyperparameters;
use strata::convert::Input;
use strata::convert::method::Unmade;
use strata::eval::calibrate::calibrate;
use strata::eval::compare::Text;
use strata::eval::compare::text::Cut;
use strata::io::inputs::Inputs;
use strata::model::{MemoryNeed, Model};
use strata::quantize::allocate;
use strata::quantize::feedback::{self, Settings, TensorReport, feedback};

/// How codes are chosen.
#[derive(clap::Args)]
pub struct MethodArgs {
    /// How codes are chosen: round, each weight by itself as llama-quantize does, or feedback, each with regard to the errors of those before
    /// it on a calibration text, which takes much longer and costs far less quality in as many bytes
    #[arg(long, value_name = "METHOD", default_value = "round")]
    method: MethodName,
    /// Calibration text of --method feedback, --size and --bpw, UTF-8: of each kind that the model is to be good at; may be given several times
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
    /// How much each calibration text counts, whatever its length: a number for each --calibration in turn, then for each --calibration-chat
    /// [default: all alike]
    #[arg(long = "calibration-weights", value_name = "W,W,...", value_delimiter = ',')]
    weights: Vec<f64>,
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

/// What is learned from: the source, and the text.
pub struct Calibrated {
    /// The source.
    pub model: Arc<Model>,
    /// The calibration text.
    pub text: Text,
    /// How much each of the texts counts.
    weights: Vec<f64>,
    /// The folder of files for hidden states that do not fit in memory while types are chosen; `None` if they do.
    pub spill: Option<PathBuf>,
    /// Whether codes are chosen by error feedback.
    pub feedback: bool,
    /// Whether layers are quantized on the activations of those before them.
    propagate: bool,
}

impl MethodArgs {
    /// The files that are read beside the model.
    pub fn inputs(&self, inputs: &mut Inputs) {
        self.texts.iter().chain(&self.chats).for_each(|path| inputs.add(path, "a calibration text"));
    }

    /// How much each text counts.
    fn weights(&self) -> Result<Vec<f64>> {
        let (texts, weights) = (self.texts.len() + self.chats.len(), &self.weights);
        if weights.is_empty() {
            return Ok(vec![1.0; texts]);
        }
        if weights.len() != texts {
            bail!("--calibration-weights has {} numbers for {texts} texts; give one for each", weights.len());
        }
        // Beyond this range a text counts for nothing, or all others do.
        match weights.iter().find(|weight| !(1e-3..=1e3).contains(*weight)) {
            Some(weight) => bail!("--calibration-weights: {weight} is not between 0.001 and 1000"),
            None => Ok(weights.clone()),
        }
    }

    /// The model and the text; `None` if weights are rounded in types that are known. `allocates` says whether types are to be chosen, and
    /// `cpu` makes a processor.
    pub fn prepare(&self, input: &Input, allocates: bool, cpu: impl Fn() -> Cpu) -> Result<Option<Calibrated>> {
        let feedback = self.method == MethodName::Feedback;
        match (feedback || allocates, self.texts.is_empty() && self.chats.is_empty()) {
            _ if self.propagate && !feedback => bail!("--propagate is part of --method feedback; add that"),
            _ if !self.weights.is_empty() && !feedback => {
                bail!("--calibration-weights is part of --method feedback; add that")
            }
            (false, true) => return Ok(None),
            (false, false) => {
                bail!("a calibration text is of no use without --method feedback, --size or --bpw; add one")
            }
            (true, true) => {
                let what = if feedback { "--method feedback" } else { "a choice of types by --size or --bpw" };
                bail!("{what} needs text; give it by --calibration or --calibration-chat")
            }
            (true, false) => {}
        }
        let weights = self.weights()?;
        let gguf = open(input.path())?;
        let tokenizer = text::tokenizer(&gguf)?;
        let cut = Cut { context: self.context, stride: None, max_chunks: self.chunks };
        let text = text::cut(&gguf, &tokenizer, (&self.texts, false), &self.chats, cut)?;
        let of = Hyperparameters::read(&gguf)?;
        let feedback_need = if feedback { feedback::need(&of, &text, self.propagate)? } else { MemoryNeed::default() };
        if !allocates {
            let model = Arc::new(self.ram.load(gguf, cpu(), feedback_need)?);
            return Ok(Some(Calibrated { model, text, weights, feedback, propagate: self.propagate, spill: None }));
        }
        let need = |spill: Option<PathBuf>| -> Result<MemoryNeed> {
            let settings = allocate::Settings { spill, ..allocate::Settings::default() };
            let MemoryNeed { kv, scratch } = allocate::need(&of, &text, &settings, &gguf)?;
            Ok(MemoryNeed { kv: kv.max(feedback_need.kv), scratch: scratch.max(feedback_need.scratch) })
        };
        let folder = std::env::temp_dir();
        let needs = [need(None)?, need(Some(folder.clone()))?];
        let (models, place) = self.ram.load_for_one_pass(vec![gguf], || Ok(cpu()), &needs)?;
        let Some(model) = models.into_iter().next() else { bail!("there is no model") };
        let (model, spill) = (Arc::new(model), (place == 1).then_some(folder));
        Ok(Some(Calibrated { model, text, weights, feedback, propagate: self.propagate, spill }))
    }
}

impl Calibrated {
    /// The importance of all columns on the text, by the names of the tensors: what scales are searched with where types are chosen, unless a
    /// file of importance is given.
    pub fn importance(&self) -> Result<BTreeMap<String, Vec<f32>>> {
        let matrix = calibrate(&self.model, &self.text, false, &Shown::new(Unit::Tokens))?;
        Ok(matrix.entries.keys().filter_map(|name| Some((name.clone(), matrix.weights(name)?))).collect())
    }

    /// Makes the codes of matrices by error feedback, and keeps what became of them in `reports`; `None` if they are rounded.
    pub fn method<'a>(
        &'a self,
        reports: &'a mut Vec<TensorReport>,
    ) -> Option<impl FnMut(&mut Unmade<'_>) -> strata::error::Result<()> + 'a> {
        self.feedback.then_some(move |unmade: &mut Unmade<'_>| {
            let settings = Settings { text: &self.text, weights: &self.weights, propagate: self.propagate };
            *reports = feedback(&self.model, settings, unmade, &Shown::new(Unit::Tokens))?;
            Ok(())
        })
    }

    /// What the bytes depend on.
    pub fn record(&self) -> Map<String, Json> {
        let texts: Json = self.text.texts.iter().map(|text| text.tokens_sha256.to_string()).collect();
        let method = match (self.feedback, self.propagate) {
            (false, _) => "round",
            (true, false) => "feedback",
            (true, true) => "feedback, propagated",
        };
        let weights = Json::from(self.weights.clone());
        let record = [("method", method.into()), ("calibration", texts), ("calibration_weights", weights)];
        record.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
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
    let layers: Vec<String> = layer_losses(reports).iter().map(|loss| format!("{loss:.2}")).collect();
    if !layers.is_empty() {
        output::say(&format!(
            "losses on the held-out part over those of plain rounding, by layer: {}",
            layers.join(" ")
        ));
    }
    let files: Vec<String> = files.iter().map(|file| output::path(file)).collect();
    output::say(&format!(
        "to prove it on a text of its own: strata compare {} {} -f TEXT --weights-only",
        output::path(source),
        files.join(" ")
    ));
}

/// By layer, the geometric mean over its tensors and the held-out parts of the loss that is left of plain rounding's.
fn layer_losses(reports: &[TensorReport]) -> Vec<f64> {
    let mut layers: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for report in reports {
        let Some(layer) = strata::arch::named(&report.name).and_then(|named| named.layer) else { continue };
        // Where something pulls, losses are less a constant, and may be below 0: those have no ratio.
        for [plain, taken] in report.held_out.iter().filter(|losses| losses.iter().all(|loss| *loss > 0.0)) {
            let (sum, n) = layers.entry(layer).or_default();
            *sum += (taken / plain).ln();
            *n += 1;
        }
    }
    layers.into_values().map(|(sum, n)| (sum / n as f64).exp()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_a_layer_are_a_geometric_mean() {
        let report = |name: &str, losses: &[[f64; 2]]| TensorReport {
            name: name.to_owned(),
            held_out: losses.to_vec(),
            ..TensorReport::default()
        };
        let reports = [
            report("blk.1.attn_q.weight", &[[4.0, 1.0], [2.0, 2.0]]),
            report("blk.0.attn_q.weight", &[[1.0, 0.5]]),
            report("blk.1.attn_k.weight", &[[-1.0, -2.0]]),
        ];
        assert_eq!(layer_losses(&reports), [0.5, 0.5]);
    }
}
