//! GBNF, llama.cpp's format of grammars.
//!
//! `parse.rs` reads it, `prune.rs` drops what matches no text, `lexemes.rs` finds the parts that llguidance's lexer can take as a whole
//! (`conflicts.rs` and `automaton.rs` tell which), and `lark.rs` writes the grammar in llguidance's variant of Lark.

mod ast;
mod automaton;
mod chars;
mod conflicts;
mod lark;
mod lexemes;
mod parse;
mod prune;
#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// The same grammar in Lark.
pub(super) fn to_lark(source: &str, tokenizer: &Tokenizer) -> Result<String> {
    let mut grammar = parse::parse(source, tokenizer)?;
    prune::prune(&mut grammar)?;
    let lexical = lexemes::split(&grammar);
    Ok(lark::write(&grammar, &lexical))
}
