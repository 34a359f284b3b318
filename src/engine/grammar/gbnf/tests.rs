//! Sets of characters, and how a grammar is divided into lexemes.

use super::ast::{Expr, Grammar};
use super::chars::Chars;
use super::{lark, lexemes};

fn class(ranges: &[(char, char)]) -> Expr {
    Expr::Chars(Chars::of(ranges.iter().map(|&(low, high)| (low.into(), high.into())).collect()))
}

fn literal(text: &str) -> Expr {
    Expr::seq(text.chars().map(|c| Expr::Chars(Chars::one(c))).collect())
}

fn many(part: Expr) -> Expr {
    Expr::Repeat(Box::new(part), 0, None)
}

#[test]
fn sets_of_characters_are_ascending_and_have_no_surrogates() {
    let set = Chars::of(vec![(0x64, 0x66), (0x61, 0x63), (0x68, 0x68), (0x61, 0x61)]);
    assert_eq!(set.ranges(), [(0x61, 0x66), (0x68, 0x68)]);
    assert_eq!(set.negated().ranges(), [(0, 0x60), (0x67, 0x67), (0x69, 0xd7ff), (0xe000, 0x10ffff)]);
    assert_eq!(set.negated().negated(), set);
    assert!(Chars::all().negated().is_empty() && Chars::default().negated() == Chars::all());
    assert!(Chars::of(vec![(0xd800, 0xdfff)]).is_empty());
}

#[test]
fn regular_parts_are_lexemes_unless_the_lexer_would_mistake_them() {
    let letters = || many(class(&[('a', 'z')]));
    let brackets = |inner| Expr::Alt(vec![Expr::Seq(vec![literal("("), Expr::Rule(0), literal(")")]), inner]);
    // All of a grammar without recursion is one lexeme, whatever is in it.
    let regular = Grammar { rules: vec![Expr::Seq(vec![letters(), Expr::Rule(1)]), literal("b")] };
    assert_eq!(lexemes::split(&regular).lexemes.len(), 1);
    // A quoted text ends where its quotation mark is.
    let quoted = Expr::Seq(vec![literal("'"), letters(), literal("'")]);
    let lexical = lexemes::split(&Grammar { rules: vec![brackets(quoted.clone())] });
    assert_eq!(lexical.lexemes, [literal("("), literal(")"), quoted]);
    // Letters and then a b: the longest text would have the b.
    let mistaken = Grammar { rules: vec![brackets(Expr::Seq(vec![letters(), Expr::Rule(1)])), brackets(literal("b"))] };
    let lexical = lexemes::split(&mistaken);
    assert!(lexical.lexemes.iter().all(|lexeme| matches!(lexeme, Expr::Chars(_))), "{:?}", lexical.lexemes);
    let text = lark::write(&mistaken, &lexical);
    assert!(text.starts_with("start: r0\n") && text.contains("/[\\x{61}-\\x{7a}]/"), "{text}");
}
