//! `strata tokenize`: the tokens of a text.

use super::habits::EscapeArgs;
use super::model::open;
use crate::{output, text};
use anyhow::{Context, Result, bail};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use strata::error::printable;
use strata::tokenizer::{EncodeOptions, Tokenizer};

/// Show the tokens of a text, as llama-tokenize does; or the text of tokens
#[derive(clap::Args)]
pub struct Args {
    /// The model: a GGUF file, of a split one any part, or the folder of a Hugging Face checkpoint
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    model: PathBuf,
    /// The text [default: standard input, if that is a file or a pipe]
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with_all = ["file", "stdin"])]
    prompt: Option<String>,
    /// The text from a file or a pipe; - is standard input
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "stdin")]
    file: Option<PathBuf>,
    /// The text from standard input
    #[arg(long)]
    stdin: bool,
    /// Print only the ids, as [1, 2, 3]
    #[arg(long, conflicts_with_all = ["json", "count"])]
    ids: bool,
    /// Print only the number of tokens
    #[arg(long, conflicts_with = "json")]
    count: bool,
    /// Print the number of tokens too
    #[arg(long)]
    show_count: bool,
    /// Leave out the token that begins a text, and that which ends it
    #[arg(long)]
    no_bos: bool,
    /// Take control tokens in the text, as <|eot_id|>, for plain text
    #[arg(long)]
    no_parse_special: bool,
    /// Take the text for ids, as 1,2,3 or [1, 2, 3], and print what they stand for
    #[arg(long, alias = "decode", conflicts_with_all = ["ids", "count", "show_count", "no_bos", "no_parse_special"])]
    detokenize: bool,
    #[command(flatten)]
    escape: EscapeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Prints the tokens.
    pub fn run(self) -> Result<()> {
        let tokenizer = text::tokenizer(&open(&self.model)?)?;
        let text = match (&self.prompt, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => text::read(file)?,
            (None, None) if self.stdin || !io::stdin().is_terminal() => text::read(Path::new("-"))?,
            (None, None) => bail!("there is no text; give one with -p, -f or --stdin"),
        };
        let text = self.escape.apply(text)?;
        if self.detokenize {
            let ids = ids(&text)?;
            let text = tokenizer.decode_with(&ids, true)?;
            return match self.json {
                true => output::print_json(&Tokens { tokenizer: &tokenizer, ids: &ids, text: Some(&text) }),
                false => output::print(&(text + "\n")),
            };
        }
        let options = EncodeOptions { add_special: !self.no_bos, parse_special: !self.no_parse_special };
        let ids = text::tokens(&tokenizer, &text, options)?;
        if self.json {
            return output::print_json(&Tokens { tokenizer: &tokenizer, ids: &ids, text: None });
        }
        let mut lines = match (self.count, self.ids) {
            (true, _) => format!("{}\n", ids.len()),
            (_, true) => format!("{ids:?}\n"),
            _ => pieces(&tokenizer, &ids)?,
        };
        if self.show_count && !self.count {
            lines += &format!("Total number of tokens: {}\n", ids.len());
        }
        output::print(&lines)
    }
}

/// The ids that a text names.
fn ids(text: &str) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter(|word| !word.is_empty());
    words
        .map(|word| word.parse().with_context(|| format!("{word:?} is no id of a token; write them as 1,2,3")))
        .collect()
}

/// A line for each token: its id and its text, in which line ends and the like are escaped.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    let mut lines = String::new();
    for &id in ids {
        let bytes = tokenizer.token_bytes(id)?;
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{id:>6} -> '{}'", printable(&String::from_utf8_lossy(&bytes)));
    }
    Ok(lines)
}

/// Tokens as JSON, written one by one.
struct Tokens<'a> {
    tokenizer: &'a Tokenizer,
    ids: &'a [u32],
    text: Option<&'a str>,
}

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("count", &self.ids.len())?;
        map.serialize_entry("ids", self.ids)?;
        map.serialize_entry("tokens", &Pieces(self))?;
        if let Some(text) = self.text {
            map.serialize_entry("text", text)?;
        }
        map.end()
    }
}

struct Pieces<'a>(&'a Tokens<'a>);

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.ids.iter().map(|&id| Piece { tokenizer: self.0.tokenizer, id }))
    }
}

struct Piece<'a> {
    tokenizer: &'a Tokenizer,
    id: u32,
}

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let bytes = self.tokenizer.token_bytes(self.id).map_err(serde::ser::Error::custom)?;
        let piece = String::from_utf8_lossy(&bytes);
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("piece", &piece)?;
        // A part of a character is no text.
        if matches!(piece, Cow::Owned(_)) {
            map.serialize_entry("bytes", &bytes)?;
        }
        if self.tokenizer.is_control(self.id) {
            map.serialize_entry("control", &true)?;
        }
        map.end()
    }
}
