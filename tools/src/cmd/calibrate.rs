//! `strata calibrate`: the importance matrix of a model and a text.

use super::model::{CpuArgs, RamArgs, open};
use crate::progress::{Shown, Unit};
use crate::{output, text};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::PathBuf;
use strata::arch::{Architecture, Hyperparameters, Role};
use strata::eval::calibrate::{calibrate, need};
use strata::eval::compare::text::Cut;
use strata::gguf::Gguf;
use strata::imatrix::{Imatrix, ImatrixFormat};
use strata::io::inputs::Inputs;
use strata::io::outputs::Outputs;

/// Compute an importance matrix of a model and a text, as llama-imatrix does
///
/// All chunks go through a layer together, so the weights are read once. The hidden states of all tokens take
/// 4 bytes x tokens x embedding length of memory. Without -m and -f, the matrices of --in-file are merged or converted.
#[derive(clap::Args)]
pub struct Args {
    /// The model: a GGUF file, of a split one any part, or the folder of a Hugging Face checkpoint
    #[arg(short = 'm', long = "model", value_name = "FILE", required_unless_present = "in_files")]
    model: Option<PathBuf>,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    ram: RamArgs,
    /// A text, UTF-8: a file or a pipe; - is standard input; may be given several times
    #[arg(short = 'f', long = "file", value_name = "TEXT", requires = "model")]
    texts: Vec<PathBuf>,
    /// Conversations, a JSON object a line as compare's --chat takes them, formatted by the model's own template
    #[arg(long = "chat", value_name = "JSONL", requires = "model")]
    chats: Vec<PathBuf>,
    /// The importance matrix to write
    #[arg(short = 'o', long = "output", alias = "output-file", value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Format of the file [default: dat if the name ends in .dat, else gguf]
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<OutputFormat>,
    /// Tokens in a chunk
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT", default_value_t = 512)]
    context: usize,
    /// Use at most N chunks of each text
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Measure the output matrix too, where the model has one of its own
    #[arg(long)]
    process_output: bool,
    /// Parse special tokens in the text, as <|eot_id|>
    #[arg(long)]
    parse_special: bool,
    /// Add an existing matrix of either format; may be given several times
    #[arg(long = "in-file", value_name = "FILE")]
    in_files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The file formats of an importance matrix.
#[derive(Clone, Copy, clap::ValueEnum)]
enum OutputFormat {
    Gguf,
    Dat,
}

impl Args {
    /// Measures the matrix and writes it.
    pub fn run(self) -> Result<()> {
        if self.model.is_some() && self.texts.is_empty() && self.chats.is_empty() {
            bail!("a model needs a text; give it by -f or --chat");
        }
        let model = self.model.as_deref().map(open).transpose()?;
        let inputs = self.inputs(model.as_ref())?;
        let mut matrix = Imatrix::default();
        for path in &self.in_files {
            matrix.merge(Imatrix::open(path)?).with_context(|| output::path(path))?;
        }
        if let Some(model) = model {
            matrix.merge(self.measure(model)?)?;
        }
        let by_name =
            if self.output.extension().is_some_and(|e| e == "dat") { ImatrixFormat::Dat } else { ImatrixFormat::Gguf };
        let format = self.output_format.map_or(by_name, |format| match format {
            OutputFormat::Gguf => ImatrixFormat::Gguf,
            OutputFormat::Dat => ImatrixFormat::Dat,
        });
        matrix.write_beside(&self.output, format, &inputs)?;
        let tokens = matrix.entries.values().flat_map(|entry| &entry.counts).max().copied().unwrap_or(0);
        if self.json {
            return output::print_json(&json!({
                "output": self.output,
                "entries": matrix.entries.len(),
                "chunks": matrix.chunk_count,
                "chunk_size": matrix.chunk_size,
                "tokens": tokens,
                "datasets": matrix.datasets,
            }));
        }
        output::print_lines(&format!(
            "{}: {} tensors, {tokens} tokens in {} chunks of {}\n",
            output::path(&self.output),
            matrix.entries.len(),
            matrix.chunk_count,
            matrix.chunk_size.unwrap_or(0)
        ))
    }

    /// The files that are read; refuses an output among them before hours of work.
    fn inputs(&self, model: Option<&Gguf>) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        self.in_files.iter().for_each(|path| inputs.add(path, "a matrix that is added"));
        self.texts.iter().chain(&self.chats).for_each(|path| inputs.add(path, "the text"));
        model.iter().for_each(|model| inputs.add_model(model));
        Outputs::check(&self.output, &[&self.output], &inputs)?;
        Ok(inputs)
    }

    fn measure(&self, gguf: Gguf) -> Result<Imatrix> {
        if self.process_output && gguf.tensor(&Architecture::of(&gguf)?.spec(Role::Output).name(None)).is_none() {
            output::say("note: --process-output has no effect: the model's embedding is its output matrix");
        }
        let tokenizer = text::tokenizer(&gguf)?;
        let cut = Cut { context: self.context, stride: None, max_chunks: self.chunks };
        let text = text::cut(&gguf, &tokenizer, (&self.texts, self.parse_special), &self.chats, cut)?;
        let need = need(&Hyperparameters::read(&gguf)?, &text)?;
        let model = self.ram.load(gguf, self.cpu.cpu()?, need)?;
        Ok(calibrate(&model, &text, self.process_output, &Shown::new(Unit::Tokens))?)
    }
}
