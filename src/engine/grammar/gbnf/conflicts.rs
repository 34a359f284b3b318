//! Finds the lexemes that the lexer would take for a longer text than the grammar means.
//!
//! After a text that is a whole lexeme A the lexer goes on as long as any lexeme does. That is right unless a character c can follow A in the
//! grammar while the text and c begin a lexeme B (which may be A). Then B is the one to divide: once no lexeme goes on with c, the lexer
//! ends A there. What may follow is found as LL parsers find it (FIRST and FOLLOW sets), what goes on by walking both automata together. All
//! lexemes are taken for possible everywhere; that divides more than it must, and is never wrong.

use super::ast::{Expr, Grammar};
use super::automaton::{Alphabet, Automaton, Classes};
use super::chars::Chars;
use super::lexemes::{Lexical, Node};
use std::collections::{BTreeSet, HashSet};

/// Steps of one search: nodes seen, pairs of places walked.
const STEPS: usize = 4 << 20;

/// The lexemes to divide; `None` if finding them takes too much.
pub(super) fn find(grammar: &Grammar, lexical: &Lexical) -> Option<BTreeSet<usize>> {
    if lexical.lexemes.iter().all(|lexeme| matches!(lexeme, Expr::Chars(_))) {
        return Some(BTreeSet::new());
    }
    // All sets of the grammar, those of rules inside of lexemes too.
    let mut sets: Vec<&Chars> = Vec::new();
    grammar.rules.iter().for_each(|rule| collect(rule, &mut sets));
    let alphabet = Alphabet::of(sets.into_iter())?;
    let mut steps = 0;
    let automata: Vec<Option<Automaton>> =
        lexical.lexemes.iter().map(|lexeme| Automaton::of(lexeme, grammar, &alphabet)).collect();
    let mut mistaken: BTreeSet<usize> = (0..automata.len()).filter(|&lexeme| automata[lexeme].is_none()).collect();
    if !mistaken.is_empty() {
        // One lexeme for all of the answer has nothing after it, whatever its size.
        let is_all = matches!(lexical.rules[0], Some(Node::Lexeme(_)));
        return Some(if is_all { BTreeSet::new() } else { mistaken });
    }
    let automata: Vec<Automaton> = automata.into_iter().flatten().collect();
    let follow = Follow::of(lexical, &automata, &mut steps)?;
    let first: Vec<Classes> = automata.iter().map(Automaton::first_classes).collect();
    for (a, follow) in (0..automata.len()).zip(&follow.lexemes).filter(|(_, follow)| !follow.is_empty()) {
        for b in 0..automata.len() {
            steps += 1;
            let is_divisible = !matches!(lexical.lexemes[b], Expr::Chars(_)) && !mistaken.contains(&b);
            if is_divisible && first[a].meets(&first[b]) && goes_on(&automata[a], &automata[b], follow, &mut steps)? {
                mistaken.insert(b);
            }
        }
    }
    (steps <= STEPS).then_some(mistaken)
}

fn collect<'a>(expr: &'a Expr, sets: &mut Vec<&'a Chars>) {
    if let Expr::Chars(chars) = expr {
        sets.push(chars);
    }
    expr.parts().iter().for_each(|part| collect(part, sets));
}

/// Whether a whole text of `a` and a character of `follow` can begin a text of `b`; `None` if finding out takes too much.
fn goes_on(a: &Automaton, b: &Automaton, follow: &Classes, steps: &mut usize) -> Option<bool> {
    let mut seen = HashSet::new();
    let mut waiting = Vec::new();
    let mut pairs = |from_a: &[u32], from_b: &[u32], waiting: &mut Vec<(u32, u32)>| {
        *steps += from_a.len() * from_b.len();
        if *steps > STEPS {
            return None;
        }
        for (&p, &q) in from_a.iter().flat_map(|p| from_b.iter().map(move |q| (p, q))) {
            if a.classes[p as usize].meets(&b.classes[q as usize]) && seen.insert((p, q)) {
                waiting.push((p, q));
            }
        }
        Some(())
    };
    pairs(&a.first, &b.first, &mut waiting)?;
    while let Some((p, q)) = waiting.pop() {
        let next = &b.follow[q as usize];
        if a.is_last[p as usize] && next.iter().any(|&place| b.classes[place as usize].meets(follow)) {
            return Some(true);
        }
        pairs(&a.follow[p as usize], next, &mut waiting)?;
    }
    Some(false)
}

/// What may follow each lexeme.
struct Follow<'a> {
    automata: &'a [Automaton],
    first_of: Vec<Classes>,
    is_nullable: Vec<bool>,
    rules: Vec<Classes>,
    lexemes: Vec<Classes>,
    has_changed: bool,
    steps: usize,
}

impl<'a> Follow<'a> {
    fn of(lexical: &Lexical, automata: &'a [Automaton], steps: &mut usize) -> Option<Follow<'a>> {
        let count = lexical.rules.len();
        let mut sets = Follow {
            automata,
            first_of: vec![Classes::default(); count],
            is_nullable: vec![false; count],
            rules: vec![Classes::default(); count],
            lexemes: vec![Classes::default(); automata.len()],
            has_changed: false,
            steps: *steps,
        };
        let rules: Vec<(usize, &Node)> =
            lexical.rules.iter().enumerate().filter_map(|(rule, node)| Some((rule, node.as_ref()?))).collect();
        sets.until_settled(&rules, |sets, rule, node| {
            let (first, is_nullable) = sets.first(node);
            sets.has_changed |= sets.first_of[rule].add(&first) || is_nullable != sets.is_nullable[rule];
            sets.is_nullable[rule] = is_nullable;
        })?;
        sets.until_settled(&rules, |sets, rule, node| {
            let follow = sets.rules[rule];
            sets.walk(node, &follow);
        })?;
        *steps = sets.steps;
        Some(sets)
    }

    /// Repeats `visit` for all rules, forwards and backwards in turn, until nothing changes.
    fn until_settled(&mut self, rules: &[(usize, &Node)], visit: impl Fn(&mut Self, usize, &Node)) -> Option<()> {
        for round in 0.. {
            self.has_changed = false;
            for i in 0..rules.len() {
                let (rule, node) = rules[if round % 2 == 0 { i } else { rules.len() - 1 - i }];
                visit(self, rule, node);
                if self.steps > STEPS {
                    return None;
                }
            }
            if !self.has_changed {
                break;
            }
        }
        Some(())
    }

    /// The characters that may come first, and whether the part matches the empty text. A token has no character.
    fn first(&mut self, node: &Node) -> (Classes, bool) {
        self.steps += 1;
        match node {
            Node::Lexeme(lexeme) => {
                let automaton = &self.automata[*lexeme];
                (automaton.first_classes(), automaton.is_nullable)
            }
            Node::Tokens(_) => (Classes::default(), false),
            Node::Rule(rule) => (self.first_of[*rule], self.is_nullable[*rule]),
            Node::Seq(parts) => {
                let mut all = Classes::default();
                for part in parts {
                    let (first, is_nullable) = self.first(part);
                    all.add(&first);
                    if !is_nullable {
                        return (all, false);
                    }
                }
                (all, true)
            }
            Node::Alt(parts) => parts.iter().fold((Classes::default(), false), |(mut all, any), part| {
                let (first, is_nullable) = self.first(part);
                all.add(&first);
                (all, any || is_nullable)
            }),
            Node::Repeat(part, least, _) => {
                let (first, is_nullable) = self.first(part);
                (first, is_nullable || *least == 0)
            }
        }
    }

    /// Notes what follows each lexeme and rule of a part that is followed by `after`; returns what comes first with it.
    fn walk(&mut self, node: &Node, after: &Classes) {
        self.steps += 1;
        match node {
            Node::Lexeme(lexeme) => _ = self.lexemes[*lexeme].add(after),
            Node::Tokens(_) => {}
            Node::Rule(rule) => self.has_changed |= self.rules[*rule].add(after),
            Node::Seq(parts) => {
                let mut after = *after;
                for part in parts.iter().rev() {
                    self.walk(part, &after);
                    let (first, is_nullable) = self.first(part);
                    if is_nullable { _ = after.add(&first) } else { after = first }
                }
            }
            Node::Alt(parts) => parts.iter().for_each(|part| self.walk(part, after)),
            Node::Repeat(part, _, most) => {
                let mut after = *after;
                if *most != Some(1) {
                    after.add(&self.first(part).0);
                }
                self.walk(part, &after);
            }
        }
    }
}
