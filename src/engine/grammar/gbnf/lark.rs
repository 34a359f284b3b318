//! Writes a grammar in llguidance's variant of Lark.
//!
//! Every part that would need parentheses gets a name, because llguidance bounds the nesting of these: rules `r1` and parts of rules `p1` for
//! the parser, `R1`, `P1` and lexemes `L1` for the lexer.

use super::ast::{Expr, Grammar};
use super::chars::Chars;
use super::lexemes::{Lexical, Node};
use std::fmt::Write;

/// The source in Lark, whose rule `start` is `root`.
pub(super) fn write(grammar: &Grammar, lexical: &Lexical) -> String {
    let mut writer =
        Writer { out: String::new(), parts: 0, is_written: vec![false; grammar.rules.len()], waiting: Vec::new() };
    writer.line("start", "r0");
    for (number, lexeme) in lexical.lexemes.iter().enumerate() {
        let text = writer.expr(lexeme);
        writer.line(&format!("L{number}"), &text);
    }
    for (number, node) in lexical.rules.iter().enumerate() {
        if let Some(node) = node {
            let text = writer.node(node);
            writer.line(&format!("r{number}"), &text);
        }
    }
    while let Some(rule) = writer.waiting.pop() {
        let text = writer.expr(&grammar.rules[rule]);
        writer.line(&format!("R{rule}"), &text);
    }
    writer.out
}

struct Writer {
    out: String,
    parts: usize,
    /// Regular rules that were named.
    is_written: Vec<bool>,
    waiting: Vec<usize>,
}

/// The empty text.
const EMPTY: &str = "\"\"";

impl Writer {
    fn line(&mut self, name: &str, text: &str) {
        self.out.extend([name, ": ", text, "\n"]);
    }

    /// A name for a part, that begins with `kind`.
    fn named(&mut self, kind: char, text: &str) -> String {
        self.parts += 1;
        let name = format!("{kind}{}", self.parts);
        self.line(&name, text);
        name
    }

    /// The alternatives of a part for the parser.
    fn node(&mut self, node: &Node) -> String {
        match node {
            Node::Alt(parts) => joined(parts, " | ", |part| self.node_sequence(part)),
            other => self.node_sequence(other),
        }
    }

    fn node_sequence(&mut self, node: &Node) -> String {
        match node {
            Node::Seq(parts) => joined(parts, " ", |part| self.node_item(part)),
            other => self.node_item(other),
        }
    }

    fn node_item(&mut self, node: &Node) -> String {
        match node {
            Node::Lexeme(number) => format!("L{number}"),
            Node::Rule(number) => format!("r{number}"),
            Node::Tokens(ranges) => tokens(ranges),
            Node::Repeat(part, least, most) => {
                let mut item = self.node_item(part);
                if matches!(**part, Node::Repeat(..)) {
                    item = self.named('p', &item);
                }
                repeated(&item, *least, *most)
            }
            Node::Seq(parts) if parts.is_empty() => EMPTY.to_owned(),
            Node::Seq(_) | Node::Alt(_) => {
                let text = self.node(node);
                self.named('p', &text)
            }
        }
    }

    /// The alternatives of a part for the lexer.
    fn expr(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::Alt(parts) => joined(parts, " | ", |part| self.expr_sequence(part)),
            other => self.expr_sequence(other),
        }
    }

    fn expr_sequence(&mut self, expr: &Expr) -> String {
        let Expr::Seq(parts) = expr else { return self.expr_item(expr) };
        let runs: Vec<&[Expr]> = parts.chunk_by(|a, b| is_char(a) && is_char(b)).collect();
        joined(&runs, " ", |run| match run {
            [Expr::Chars(_), ..] => pattern(run),
            _ => self.expr_item(&run[0]),
        })
    }

    fn expr_item(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::Chars(_) => pattern(std::slice::from_ref(expr)),
            Expr::Rule(rule) => {
                if !std::mem::replace(&mut self.is_written[*rule], true) {
                    self.waiting.push(*rule);
                }
                format!("R{rule}")
            }
            Expr::Repeat(part, least, most) => {
                let mut item = self.expr_item(part);
                if matches!(**part, Expr::Repeat(..)) {
                    item = self.named('P', &item);
                }
                repeated(&item, *least, *most)
            }
            Expr::Seq(parts) if parts.is_empty() => EMPTY.to_owned(),
            Expr::Seq(_) | Expr::Alt(_) | Expr::Tokens(_) => {
                let text = self.expr(expr);
                self.named('P', &text)
            }
        }
    }
}

fn is_char(expr: &Expr) -> bool {
    matches!(expr, Expr::Chars(_))
}

fn joined<T>(parts: &[T], with: &str, write: impl FnMut(&T) -> String) -> String {
    match parts {
        [] => EMPTY.to_owned(),
        _ => parts.iter().map(write).collect::<Vec<_>>().join(with),
    }
}

fn repeated(item: &str, least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => format!("{item}*"),
        (1, None) => format!("{item}+"),
        (0, Some(1)) => format!("{item}?"),
        (_, None) => format!("{item}{{{least},}}"),
        (_, Some(most)) => format!("{item}{{{least},{most}}}"),
    }
}

fn tokens(ranges: &[std::ops::RangeInclusive<u32>]) -> String {
    let ranges: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    format!("<[{}]>", ranges.join(","))
}

/// Characters one after another, as a regular expression of numbers alone.
fn pattern(chars: &[Expr]) -> String {
    let mut text = "/".to_owned();
    let sets = chars.iter().filter_map(|expr| match expr {
        Expr::Chars(chars) => Some(chars),
        _ => None,
    });
    for chars in sets {
        write_class(&mut text, chars);
    }
    text.push('/');
    text
}

fn write_class(text: &mut String, chars: &Chars) {
    // Writing to a string does not fail.
    let _ = match chars.ranges() {
        [(low, high)] if low == high => write!(text, "\\x{{{low:x}}}"),
        ranges => {
            text.push('[');
            for (low, high) in ranges {
                let _ = write!(text, "\\x{{{low:x}}}-\\x{{{high:x}}}");
            }
            write!(text, "]")
        }
    };
}
