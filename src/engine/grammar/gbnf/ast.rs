//! A grammar in GBNF as it was written.

use super::chars::Chars;
use std::ops::RangeInclusive;

/// A grammar.
pub(super) struct Grammar {
    /// What each rule matches; the first is `root`.
    pub rules: Vec<Expr>,
}

/// What a part of a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Expr {
    /// One of these characters; nothing if there are none.
    Chars(Chars),
    /// One of these tokens.
    Tokens(Vec<RangeInclusive<u32>>),
    /// A rule, by its number.
    Rule(usize),
    /// All, one after another.
    Seq(Vec<Expr>),
    /// Any of them.
    Alt(Vec<Expr>),
    /// As often as the two numbers say, or more often where there is no second.
    Repeat(Box<Expr>, u32, Option<u32>),
}

impl Expr {
    /// What matches the empty text.
    pub const EMPTY: Expr = Expr::Seq(Vec::new());

    /// What matches nothing, not even the empty text.
    pub fn never() -> Expr {
        Expr::Chars(Chars::default())
    }

    /// A sequence; of one, it is that.
    pub fn seq(mut parts: Vec<Expr>) -> Expr {
        match parts.pop() {
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                Expr::Seq(parts)
            }
            None => Expr::EMPTY,
        }
    }

    /// The parts of it.
    pub fn parts(&self) -> &[Expr] {
        match self {
            Expr::Chars(_) | Expr::Tokens(_) | Expr::Rule(_) => &[],
            Expr::Seq(parts) | Expr::Alt(parts) => parts,
            Expr::Repeat(part, ..) => std::slice::from_ref(part),
        }
    }

    /// Calls `see` for each rule that it names.
    pub fn each_rule(&self, see: &mut impl FnMut(usize)) {
        if let Expr::Rule(rule) = self {
            see(*rule);
        }
        self.parts().iter().for_each(|part| part.each_rule(see));
    }

    /// True if a token is named in it.
    pub fn has_tokens(&self) -> bool {
        matches!(self, Expr::Tokens(_)) || self.parts().iter().any(Expr::has_tokens)
    }
}
