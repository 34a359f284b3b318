//! Drops what matches no text: a rule that has no end, as `a ::= "x" a`, and every alternative that needs one. Without that an answer could
//! begin what it can never complete.

use super::ast::{Expr, Grammar};
use crate::error::{Error, Result};

/// Leaves only what can be part of a complete answer.
pub(super) fn prune(grammar: &mut Grammar) -> Result<()> {
    let mut matches = vec![false; grammar.rules.len()];
    let mut has_changed = true;
    // Forwards and backwards in turn: rules that lean on the next or on the previous one, however many, take two rounds.
    for round in 0.. {
        if !std::mem::take(&mut has_changed) && round > 0 {
            break;
        }
        for i in 0..matches.len() {
            let rule = if round % 2 == 0 { i } else { matches.len() - 1 - i };
            if !matches[rule] && matches_text(&grammar.rules[rule], &matches) {
                matches[rule] = true;
                has_changed = true;
            }
        }
    }
    if !matches[0] {
        return Err(Error::GrammarRefused {
            what: "grammar",
            place: "the rule root".to_owned(),
            problem: "it matches no text: whatever it begins with has no end".to_owned(),
            remedy: "give its recursion an alternative that ends".to_owned(),
        });
    }
    for rule in &mut grammar.rules {
        *rule = pruned(std::mem::replace(rule, Expr::EMPTY), &matches);
    }
    Ok(())
}

/// Whether it matches any text, given which rules are known to.
fn matches_text(expr: &Expr, rules: &[bool]) -> bool {
    match expr {
        Expr::Chars(chars) => !chars.is_empty(),
        Expr::Tokens(tokens) => !tokens.is_empty(),
        Expr::Rule(rule) => rules[*rule],
        Expr::Seq(parts) => parts.iter().all(|part| matches_text(part, rules)),
        Expr::Alt(parts) => parts.iter().any(|part| matches_text(part, rules)),
        Expr::Repeat(part, least, _) => *least == 0 || matches_text(part, rules),
    }
}

fn pruned(expr: Expr, rules: &[bool]) -> Expr {
    if !matches_text(&expr, rules) {
        return Expr::never();
    }
    match expr {
        Expr::Seq(parts) => Expr::Seq(parts.into_iter().map(|part| pruned(part, rules)).collect()),
        Expr::Alt(parts) => {
            let mut parts: Vec<Expr> =
                parts.into_iter().filter(|part| matches_text(part, rules)).map(|part| pruned(part, rules)).collect();
            if parts.len() == 1 { parts.remove(0) } else { Expr::Alt(parts) }
        }
        Expr::Repeat(part, ..) if !matches_text(&part, rules) => Expr::EMPTY,
        Expr::Repeat(part, least, most) => Expr::Repeat(Box::new(pruned(*part, rules)), least, most),
        other => other,
    }
}
