//! `strata perplexity`: how well a model predicts a text.

use super::model::{CacheArgs, ModelArgs};
use crate::progress::{Shown, Unit};
use crate::{output, text};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use strata::arch::Hyperparameters;
use strata::eval::perplexity::{need, perplexity};
use strata::tokenizer::EncodeOptions;

/// Measure the perplexity of a text, with llama.cpp's definition
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// The text, UTF-8: a file or a pipe; - is standard input
    #[arg(short = 'f', long = "file", value_name = "TEXT")]
    text: PathBuf,
    /// Tokens in a chunk; the second half of each is scored
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT", default_value_t = 512)]
    context: usize,
    /// Score at most N chunks
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Measures the perplexity and prints it.
    pub fn run(self) -> Result<()> {
        let gguf = self.model.gguf()?;
        let tokenizer = text::tokenizer(&gguf)?;
        let options = EncodeOptions { add_special: true, parse_special: false };
        let tokens = text::tokens(&tokenizer, &text::read(&self.text)?, options)?;
        let (types, shown) = (self.cache.types(), Shown::new(Unit::Tokens));
        let need = need(&Hyperparameters::read(&gguf)?, tokens.len(), self.context, self.chunks, types)?;
        let model = self.model.load(gguf, need)?;
        let result = perplexity(&model, &tokens, self.context, self.chunks, tokenizer.bos(), types, &shown)?;
        if self.json {
            return output::print_json(&json!({
                "perplexity": result.perplexity,
                "standard_error": result.standard_error,
                "mean_nll": result.mean_nll,
                "tokens_scored": result.tokens_scored,
                "chunks": result.chunks,
                "context": self.context,
            }));
        }
        output::print(&format!(
            "perplexity {:.4} +/- {:.4} ({} tokens scored in {} chunks of {})\n",
            result.perplexity, result.standard_error, result.tokens_scored, result.chunks, self.context
        ))
    }
}
