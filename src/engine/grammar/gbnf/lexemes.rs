//! Divides a grammar between llguidance's lexer and its parser.
//!
//! The lexer takes the longest text that a lexeme matches, and only then the parser goes on. GBNF knows no lexemes: its rules match
//! characters. Every character a lexeme of its own would be exact, and slow, because the parser would work for every character of every
//! token. So the largest regular parts (without recursion and without tokens) become lexemes, and those that would be
//! [mistaken](conflicts) for a longer text than the grammar means are divided further.

use super::ast::{Expr, Grammar};
use super::conflicts;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

/// The most characters of a lexeme, with the rules that it names written out, or as many as the grammar itself has: rules that name others
/// twice are small, and written out they are not.
const LEXEME: usize = 1 << 12;

/// Rounds of dividing before every character becomes a lexeme.
const ROUNDS: usize = 32;

/// A part of a rule for the parser.
pub(super) enum Node {
    /// A lexeme, by its number.
    Lexeme(usize),
    /// One of these tokens.
    Tokens(Vec<RangeInclusive<u32>>),
    /// A rule, by its number.
    Rule(usize),
    /// All, one after another.
    Seq(Vec<Node>),
    /// Any of them.
    Alt(Vec<Node>),
    /// As often as the two numbers say, or more often where there is no second.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// A grammar for lexer and parser.
pub(super) struct Lexical {
    /// What each lexeme matches.
    pub lexemes: Vec<Expr>,
    /// The rules that the parser needs, by their number.
    pub rules: Vec<Option<Node>>,
}

/// Divides a grammar.
pub(super) fn split(grammar: &Grammar) -> Lexical {
    let regular = Regular::of(grammar);
    let mut divided = HashSet::new();
    for _ in 0..ROUNDS {
        let lexical = Lowering::run(grammar, &regular, Some(&divided));
        match conflicts::find(grammar, &lexical) {
            Some(mistaken) if mistaken.is_empty() => return lexical,
            Some(mistaken) => divided.extend(mistaken.into_iter().map(|lexeme| lexical.lexemes[lexeme].clone())),
            None => break,
        }
    }
    Lowering::run(grammar, &regular, None)
}

/// Which rules are regular, and small enough for a lexeme.
struct Regular {
    rules: Vec<bool>,
    /// Their characters, written out.
    sizes: Vec<usize>,
    /// Those of them that match the empty text alone.
    empty: Vec<bool>,
}

impl Regular {
    fn of(grammar: &Grammar) -> Regular {
        let count = grammar.rules.len();
        let (mut waits_for, mut named_by) = (vec![0usize; count], vec![Vec::new(); count]);
        for (rule, body) in grammar.rules.iter().enumerate() {
            body.each_rule(&mut |named| {
                waits_for[rule] += 1;
                named_by[named].push(rule);
            });
        }
        let mut regular = Regular { rules: vec![false; count], sizes: vec![0; count], empty: vec![false; count] };
        let most = grammar.rules.iter().map(|body| regular.size(body)).sum::<usize>().max(LEXEME);
        // A rule comes when all that it names are known; those of a cycle never do.
        let mut ready: Vec<usize> = (0..count).filter(|&rule| waits_for[rule] == 0).collect();
        while let Some(rule) = ready.pop() {
            let body = &grammar.rules[rule];
            regular.sizes[rule] = regular.size(body);
            if body.has_tokens() || regular.sizes[rule] > most {
                continue;
            }
            regular.rules[rule] = true;
            regular.empty[rule] = regular.is_empty(body);
            for &user in &named_by[rule] {
                waits_for[user] -= 1;
                if waits_for[user] == 0 {
                    ready.push(user);
                }
            }
        }
        regular
    }

    fn has(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Tokens(_) => false,
            Expr::Rule(rule) => self.rules[*rule],
            _ => expr.parts().iter().all(|part| self.has(part)),
        }
    }

    /// The characters of a part, with what is known of the rules that it names.
    fn size(&self, expr: &Expr) -> usize {
        match expr {
            Expr::Chars(_) => 1,
            Expr::Tokens(_) => 0,
            Expr::Rule(rule) => self.sizes[*rule],
            _ => expr.parts().iter().map(|part| self.size(part)).fold(0, usize::saturating_add),
        }
    }

    /// Whether a regular part matches the empty text alone.
    fn is_empty(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Chars(_) | Expr::Tokens(_) => false,
            Expr::Rule(rule) => self.empty[*rule],
            _ => expr.parts().iter().all(|part| self.is_empty(part)),
        }
    }
}

struct Lowering<'a> {
    regular: &'a Regular,
    /// Regular parts that are no lexemes but made of some; all are if there is no list.
    divided: Option<&'a HashSet<Expr>>,
    lexemes: Vec<Expr>,
    numbers: HashMap<Expr, usize>,
    /// Rules that were named and not lowered yet.
    waiting: Vec<usize>,
    is_named: Vec<bool>,
}

impl<'a> Lowering<'a> {
    fn run(grammar: &'a Grammar, regular: &'a Regular, divided: Option<&'a HashSet<Expr>>) -> Lexical {
        let count = grammar.rules.len();
        let mut lowering = Lowering {
            regular,
            divided,
            lexemes: Vec::new(),
            numbers: HashMap::new(),
            waiting: vec![0],
            is_named: vec![false; count],
        };
        lowering.is_named[0] = true;
        let mut rules: Vec<Option<Node>> = (0..count).map(|_| None).collect();
        while let Some(rule) = lowering.waiting.pop() {
            rules[rule] = Some(lowering.node(&grammar.rules[rule]));
        }
        Lexical { lexemes: lowering.lexemes, rules }
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match expr {
            Expr::Tokens(tokens) => Node::Tokens(tokens.clone()),
            _ if self.regular.has(expr) => self.lexeme(expr),
            Expr::Seq(parts) => {
                let runs = parts.chunk_by(|a, b| self.regular.has(a) && self.regular.has(b));
                Node::Seq(runs.map(|run| self.node(&Expr::seq(run.to_vec()))).collect())
            }
            _ => self.divided(expr, Lowering::node),
        }
    }

    /// A regular part: as a lexeme, or divided.
    fn lexeme(&mut self, expr: &Expr) -> Node {
        if self.regular.is_empty(expr) {
            return Node::Seq(Vec::new());
        }
        let is_divided = self.divided.is_none_or(|divided| divided.contains(expr));
        if is_divided && !matches!(expr, Expr::Chars(_)) {
            return self.divided(expr, Lowering::lexeme);
        }
        if let Some(&number) = self.numbers.get(expr) {
            return Node::Lexeme(number);
        }
        self.numbers.insert(expr.clone(), self.lexemes.len());
        self.lexemes.push(expr.clone());
        Node::Lexeme(self.lexemes.len() - 1)
    }

    /// A part that the parser puts together of its own parts, which `lower` lowers.
    fn divided(&mut self, expr: &Expr, lower: fn(&mut Self, &Expr) -> Node) -> Node {
        match expr {
            Expr::Rule(rule) => {
                if !std::mem::replace(&mut self.is_named[*rule], true) {
                    self.waiting.push(*rule);
                }
                Node::Rule(*rule)
            }
            Expr::Seq(parts) => Node::Seq(parts.iter().map(|part| lower(self, part)).collect()),
            Expr::Alt(parts) => Node::Alt(parts.iter().map(|part| lower(self, part)).collect()),
            Expr::Repeat(part, least, most) => Node::Repeat(Box::new(lower(self, part)), *least, *most),
            Expr::Chars(_) | Expr::Tokens(_) => self.node(expr),
        }
    }
}
