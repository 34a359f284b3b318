//! The form of answers as options.

use crate::text;
use anyhow::{Context, Result};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::Error;
use strata::engine::grammar::Grammar;
use strata::io::text::LIST;
use strata::tokenizer::Tokenizer;

/// What an answer must be.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct GrammarArgs {
    /// Grammar of the answer in GBNF, llama.cpp's format
    #[arg(long, value_name = "GBNF", allow_hyphen_values = true)]
    grammar: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE")]
    grammar_file: Option<PathBuf>,
    /// JSON schema of the answer; {} is any JSON
    #[arg(short = 'j', long, value_name = "JSON", value_parser = json)]
    json_schema: Option<Json>,
    /// The same from a file
    #[arg(short = 'J', long, value_name = "FILE")]
    json_schema_file: Option<PathBuf>,
}

fn json(text: &str) -> Result<Json> {
    serde_json::from_str(text).context("is not JSON")
}

impl GrammarArgs {
    /// The grammar, if one was given, for a model with this vocabulary.
    pub fn grammar(&self, tokenizer: Option<&Arc<Tokenizer>>) -> Result<Option<Grammar>> {
        let source = match (&self.grammar, &self.grammar_file) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(file)) => Some(text::read_at_most(file, LIST)?),
            (None, None) => None,
        };
        let schema = match (&self.json_schema, &self.json_schema_file) {
            (Some(schema), _) => Some(schema.clone()),
            (None, Some(file)) => Some(read_json(file)?),
            (None, None) => None,
        };
        if source.is_none() && schema.is_none() {
            return Ok(None);
        }
        let tokenizer = tokenizer.context("the file has no vocabulary, of which a grammar chooses")?;
        let grammar = match (source, schema) {
            (Some(source), _) => Grammar::gbnf(&source, tokenizer)?,
            (None, schema) => Grammar::json_schema(&schema.unwrap_or_default(), tokenizer)?,
        };
        Ok(Some(grammar))
    }
}

fn read_json(path: &Path) -> Result<Json> {
    let invalid = |error| Error::invalid(path, "JSON", format!("is not valid: {error}"), "correct it there");
    Ok(serde_json::from_str(&text::read_at_most(path, LIST)?).map_err(invalid)?)
}
