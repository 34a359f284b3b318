//! Grammars: what an answer may be, as the tokens that may come next.
//!
//! A [`Grammar`] comes from GBNF (llama.cpp's format), a JSON schema, a regular expression, or llguidance's variant of Lark; a [`Matcher`]
//! follows one answer, and tells by its [`TokenMask`] which tokens may come next. llguidance compiles and follows; `gbnf/` reads GBNF,
//! `schema.rs` checks schemas before they are compiled.
//!
//! A grammar is hostile input. Its size and the work that it makes are bounded (`limits.rs`), it is compiled on a thread of its own
//! (`compile.rs`), and what cannot be compiled or followed is an error, never a grammar that allows everything.

mod compile;
mod gbnf;
mod limits;
mod mask;
mod matcher;
mod schema;
mod vocabulary;

pub use mask::TokenMask;
pub use matcher::Matcher;
pub(crate) use schema::checked_schema;
pub use vocabulary::GrammarVocabulary;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use compile::{compile, guarded};
use llguidance::api::TopLevelGrammar;
use matcher::Template;
use serde_json::Value as Json;
use std::fmt;
use std::sync::Arc;

/// A compiled grammar, for any number of answers at once; cheap to clone.
///
/// Every constructor is an error, within seconds, if the grammar has a mistake, allows no text, uses what is not supported, or is too large.
#[derive(Clone)]
pub struct Grammar(Arc<Template>);

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// A grammar in GBNF, llama.cpp's format: rules `name ::= alternatives`, of which `root` is the answer.
    ///
    /// Literals, character classes, `.`, groups, `* + ? {m} {m,} {m,n}`, comments, and tokens (`<[id]>`, `<text>`, `!<text>`) mean what
    /// they mean there. Left recursion is supported. Refused are what llama.cpp takes for something else than was meant: a rule that is
    /// defined twice, an empty class, a range that goes backwards; and a second repetition sign without parentheses.
    pub fn gbnf(source: &str, tokenizer: &Arc<Tokenizer>) -> Result<Grammar> {
        let what = "grammar";
        check_size(what, source.len())?;
        let (source, of_tokens) = (source.to_owned(), tokenizer.clone());
        Grammar::new(what, tokenizer, move || Ok(TopLevelGrammar::from_lark(gbnf::to_lark(&source, &of_tokens)?)))
    }

    /// The JSON values that a schema allows (draft 2020-12, or the one that its `$schema` names), with whitespace between their parts,
    /// at most 32 characters in a row: a model that does not know what to say would write nothing else.
    ///
    /// A keyword that is not supported is an error that names it and its place.
    pub fn json_schema(schema: &Json, tokenizer: &Arc<Tokenizer>) -> Result<Grammar> {
        let schema = checked_schema(schema)?;
        Grammar::new("JSON schema", tokenizer, move || Ok(TopLevelGrammar::from_json_schema(schema)))
    }

    /// Any JSON object.
    pub fn json_object(tokenizer: &Arc<Tokenizer>) -> Result<Grammar> {
        Grammar::json_schema(&serde_json::json!({"type": "object"}), tokenizer)
    }

    /// The texts that a regular expression, in the syntax of Rust's regex crate, matches from their first to their last character.
    pub fn regex(pattern: &str, tokenizer: &Arc<Tokenizer>) -> Result<Grammar> {
        let what = "regular expression";
        check_size(what, pattern.len())?;
        // An empty pattern between slashes would begin a comment.
        let pattern = llguidance::regex_to_lark(&format!("(?:{pattern})"), "");
        Grammar::new(what, tokenizer, move || Ok(TopLevelGrammar::from_lark(format!("start: /{pattern}/"))))
    }

    /// A grammar in llguidance's variant of Lark, whose rule `start` is the answer. It may have `%json {...}` with a schema, taken as
    /// llguidance takes it, and special tokens by their text (`<|eot_id|>`) or number (`<[128009]>`).
    pub fn lark(source: &str, tokenizer: &Arc<Tokenizer>) -> Result<Grammar> {
        let what = "Lark grammar";
        check_size(what, source.len())?;
        let source = source.to_owned();
        Grammar::new(what, tokenizer, move || Ok(TopLevelGrammar::from_lark(source)))
    }

    fn new(
        what: &'static str,
        tokenizer: &Arc<Tokenizer>,
        source: impl FnOnce() -> Result<TopLevelGrammar> + Send + 'static,
    ) -> Result<Grammar> {
        let vocabulary = GrammarVocabulary::of(tokenizer)?;
        Ok(Grammar(Arc::new(compile(what, &vocabulary, source)?)))
    }

    /// A matcher at the start of an answer.
    ///
    /// # Errors
    /// Only by a defect of llguidance.
    pub fn matcher(&self) -> Result<Matcher> {
        guarded("grammar", || Ok(self.0.matcher()))
    }
}

fn check_size(what: &'static str, bytes: usize) -> Result<()> {
    if bytes > limits::SOURCE_BYTES {
        return Err(Error::GrammarRefused {
            what,
            place: String::new(),
            problem: format!("{bytes} bytes are more than {}", limits::SOURCE_BYTES),
            remedy: "make it smaller".to_owned(),
        });
    }
    Ok(())
}
