//! `strata perplexity`: how well a model predicts a text, how far it is from a base model, and which answers it chooses.

mod base_file;
pub(super) mod tasks;

use super::model::{CacheArgs, ModelArgs};
use crate::progress::{Shown, Unit};
use crate::{output, text};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use strata::arch::Hyperparameters;
use strata::eval::base_file::{BaseWriter, Shape};
use strata::eval::compare::Text;
use strata::eval::compare::text::Cut;
use strata::eval::passes::need;
use strata::eval::perplexity::{Perplexity, score};
use strata::gguf::Gguf;
use strata::io::inputs::Inputs;
use strata::tokenizer::{EncodeOptions, Tokenizer};
use tasks::TaskKind;

/// Measure the perplexity of a text, with llama.cpp's definition; or the KL divergence from a base model, or the answers to tasks
///
/// With --kl-divergence-base FILE the distributions are written to llama.cpp's file of them. With --kl-divergence such a file, of this
/// program or of llama-perplexity, is read, and the model is compared with it. With --hellaswag, --winogrande or --multiple-choice the
/// file -f holds tasks, and the share of right answers is measured.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// The text, UTF-8, or the tasks: a file or a pipe; - is standard input. Also -bf
    #[arg(
        short = 'f',
        long = "file",
        alias = "binary-file",
        value_name = "TEXT",
        required_unless_present = "kl_divergence"
    )]
    text: Option<PathBuf>,
    /// Tokens in a chunk, of which the second half is scored [default: 512]; of tasks the most tokens of a question and an answer
    /// [default: the model's context length]
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT")]
    context: Option<usize>,
    /// Score at most N chunks
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// llama.cpp's base file, to be written, or read by --kl-divergence
    #[arg(long, alias = "save-all-logits", value_name = "FILE")]
    kl_divergence_base: Option<PathBuf>,
    /// Compare the model with the base file, whose text is the one that is scored
    #[arg(long, requires = "kl_divergence_base")]
    kl_divergence: bool,
    /// HellaSwag: the file has six lines a task
    #[arg(long, conflicts_with_all = ["kl_divergence_base", "chunks"])]
    hellaswag: bool,
    /// HellaSwag tasks, chosen at random as llama.cpp chooses them
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    hellaswag_tasks: u64,
    /// Winogrande: the file has comma-separated values, a line a task
    #[arg(long, conflicts_with_all = ["kl_divergence_base", "chunks", "hellaswag"])]
    winogrande: bool,
    /// Winogrande tasks, chosen at random as llama.cpp chooses them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    winogrande_tasks: Option<u64>,
    /// Multiple choice, as MMLU, ARC, TruthfulQA: the file is in llama.cpp's binary format
    #[arg(long, conflicts_with_all = ["kl_divergence_base", "chunks", "hellaswag", "winogrande"])]
    multiple_choice: bool,
    /// Multiple choices, chosen at random as llama.cpp chooses them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    multiple_choice_tasks: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Tokens of a chunk, as in llama.cpp.
const CONTEXT: usize = 512;

impl Args {
    /// Measures what is asked for and prints it.
    pub fn run(self) -> Result<()> {
        let gguf = self.model.gguf()?;
        let tokenizer = text::tokenizer(&gguf)?;
        match (self.kl_divergence, &self.kl_divergence_base, self.tasks(), &self.text) {
            (true, Some(base), ..) => self.compare_with_base(gguf, &tokenizer, base),
            (_, _, Some((kind, at_most)), Some(file)) => self.answer(gguf, &tokenizer, kind, at_most, file),
            (_, _, None, Some(file)) => self.score(gguf, &tokenizer, file),
            _ => bail!("name a text (-f)"),
        }
    }

    /// The kind of tasks, if there are to be any, and how many of them.
    fn tasks(&self) -> Option<(TaskKind, Option<u64>)> {
        match () {
            () if self.hellaswag => Some((TaskKind::HellaSwag, Some(self.hellaswag_tasks))),
            () if self.winogrande => Some((TaskKind::Winogrande, self.winogrande_tasks)),
            () if self.multiple_choice => Some((TaskKind::MultipleChoice, self.multiple_choice_tasks)),
            () => None,
        }
    }

    fn score(&self, gguf: Gguf, tokenizer: &Tokenizer, file: &Path) -> Result<()> {
        let options = EncodeOptions { add_special: true, parse_special: false };
        let tokens = text::tokens(tokenizer, &text::read(file)?, options)?;
        let (types, context) = (self.cache.types(), self.context.unwrap_or(CONTEXT));
        let cut = Cut { context, stride: None, max_chunks: self.chunks };
        let text = Text::raw(output::path(file), &tokens, cut, tokenizer.bos())?;
        let of = Hyperparameters::read(&gguf)?;
        let mut inputs = Inputs::default();
        inputs.add(file, "the text");
        inputs.add_model(&gguf);
        let model = self.model.load(gguf, need(&of, &text, types)?)?;
        let base = self.kl_divergence_base.as_ref().map(|path| {
            base_file::tell_limits();
            let shape = Shape { context, vocab: of.vocab, chunks: text.chunks.len() };
            BaseWriter::create(path, &inputs, shape, &tokens[..context * shape.chunks])
        });
        let result = score(&model, &text, types, base.transpose()?, &Shown::new(Unit::Tokens))?;
        self.print(&result, context)
    }

    /// A result for programs, and how the model ran.
    fn described(&self, mut result: Value) -> Value {
        result["activation_bits"] = self.model.cpu.activations.bits().into();
        result
    }

    fn print(&self, result: &Perplexity, context: usize) -> Result<()> {
        if self.json {
            return output::print_json(&self.described(json!({
                "perplexity": result.perplexity,
                "standard_error": result.standard_error,
                "mean_nll": result.mean_nll,
                "tokens_scored": result.tokens_scored,
                "chunks": result.chunks,
                "context": context,
            })));
        }
        output::print(&format!(
            "perplexity {:.4} +/- {:.4} ({} tokens scored in {} chunks of {context})\n",
            result.perplexity, result.standard_error, result.tokens_scored, result.chunks
        ))
    }
}
