//! The characters of a regular part as an automaton: which may come first, after one another, and last (Glushkov's construction).
//!
//! It knows characters by the classes of an [`Alphabet`]. A repetition with counts is taken for one without: the automaton matches all that
//! the part matches, and perhaps more.

use super::ast::{Expr, Grammar};
use super::chars::Chars;

/// The most classes of characters.
const CLASSES: usize = 512;

/// The most places of an automaton.
const PLACES: usize = 20_000;

/// The most steps of building one: places that follow one another, and copies of lists.
const STEPS: usize = 1 << 20;

/// A set of classes of characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes([u64; CLASSES / 64]);

impl Classes {
    /// Adds all of `others`; true if that were not all there.
    pub fn add(&mut self, others: &Classes) -> bool {
        let before = *self;
        self.0.iter_mut().zip(others.0).for_each(|(word, other)| *word |= other);
        *self != before
    }

    /// True if they have a class in common.
    pub fn meets(&self, others: &Classes) -> bool {
        self.0.iter().zip(others.0).any(|(word, other)| word & other != 0)
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; CLASSES / 64]
    }
}

/// All characters, in classes that no set of a grammar tells apart.
pub(super) struct Alphabet {
    /// The first character of each.
    starts: Vec<u32>,
}

impl Alphabet {
    /// The classes of these sets; `None` if there are too many.
    pub fn of<'a>(sets: impl Iterator<Item = &'a Chars>) -> Option<Alphabet> {
        let mut starts = std::collections::BTreeSet::from([0]);
        for &(low, high) in sets.flat_map(Chars::ranges) {
            starts.insert(low);
            starts.insert(high + 1);
            if starts.len() > CLASSES {
                return None;
            }
        }
        Some(Alphabet { starts: starts.into_iter().collect() })
    }

    /// The classes of a set that the alphabet was made of.
    pub fn classes(&self, chars: &Chars) -> Classes {
        let mut classes = Classes::default();
        for &(low, high) in chars.ranges() {
            let first = self.starts.partition_point(|&start| start < low);
            for class in (first..self.starts.len()).take_while(|&class| self.starts[class] <= high) {
                classes.0[class / 64] |= 1 << (class % 64);
            }
        }
        classes
    }
}

/// The automaton of a regular part: a place for each set of characters in it.
pub(super) struct Automaton {
    /// The characters of each place.
    pub classes: Vec<Classes>,
    /// The places that may come after each.
    pub follow: Vec<Vec<u32>>,
    /// Whether the part may end behind each.
    pub is_last: Vec<bool>,
    /// The places that may come first.
    pub first: Vec<u32>,
    /// Whether the part matches the empty text.
    pub is_nullable: bool,
}

/// How a part of the automaton is joined to what stands beside it.
struct Piece {
    is_nullable: bool,
    first: Vec<u32>,
    last: Vec<u32>,
}

struct Builder<'a> {
    grammar: &'a Grammar,
    alphabet: &'a Alphabet,
    classes: Vec<Classes>,
    follow: Vec<Vec<u32>>,
    steps: usize,
}

impl Automaton {
    /// The automaton of a regular part; `None` if it would be too large.
    pub fn of(expr: &Expr, grammar: &Grammar, alphabet: &Alphabet) -> Option<Automaton> {
        let mut builder = Builder { grammar, alphabet, classes: Vec::new(), follow: Vec::new(), steps: 0 };
        let piece = builder.piece(expr)?;
        let mut is_last = vec![false; builder.classes.len()];
        piece.last.iter().for_each(|&place| is_last[place as usize] = true);
        let (classes, follow) = (builder.classes, builder.follow);
        Some(Automaton { classes, follow, is_last, first: piece.first, is_nullable: piece.is_nullable })
    }

    /// The characters that may come first.
    pub fn first_classes(&self) -> Classes {
        let mut classes = Classes::default();
        self.first.iter().for_each(|&place| _ = classes.add(&self.classes[place as usize]));
        classes
    }
}

impl Builder<'_> {
    fn pay(&mut self, steps: usize) -> Option<()> {
        self.steps += steps + 1;
        (self.steps <= STEPS).then_some(())
    }

    fn piece(&mut self, expr: &Expr) -> Option<Piece> {
        self.pay(0)?;
        match expr {
            Expr::Chars(chars) => {
                let place = self.classes.len() as u32;
                self.classes.push(self.alphabet.classes(chars));
                self.follow.push(Vec::new());
                (self.classes.len() <= PLACES).then(|| Piece {
                    is_nullable: false,
                    first: vec![place],
                    last: vec![place],
                })
            }
            Expr::Rule(rule) => {
                let grammar = self.grammar;
                self.piece(&grammar.rules[*rule])
            }
            Expr::Seq(parts) => self.sequence(parts),
            Expr::Alt(parts) => {
                let mut all = Piece { is_nullable: false, first: Vec::new(), last: Vec::new() };
                for part in parts {
                    let part = self.piece(part)?;
                    all.is_nullable |= part.is_nullable;
                    self.pay(part.first.len() + part.last.len())?;
                    all.first.extend(part.first);
                    all.last.extend(part.last);
                }
                Some(all)
            }
            Expr::Repeat(part, least, most) => {
                let mut piece = self.piece(part)?;
                if *most != Some(1) {
                    self.join(&piece.last, &piece.first)?;
                }
                piece.is_nullable |= *least == 0;
                Some(piece)
            }
            Expr::Tokens(_) => None,
        }
    }

    fn sequence(&mut self, parts: &[Expr]) -> Option<Piece> {
        let mut all = Piece { is_nullable: true, first: Vec::new(), last: Vec::new() };
        for part in parts {
            let part = self.piece(part)?;
            self.join(&all.last, &part.first)?;
            if all.is_nullable {
                self.pay(part.first.len())?;
                all.first.extend(&part.first);
            }
            if part.is_nullable {
                self.pay(part.last.len())?;
                all.last.extend(part.last);
            } else {
                all.last = part.last;
            }
            all.is_nullable &= part.is_nullable;
        }
        Some(all)
    }

    /// Lets each of `to` follow each of `from`.
    fn join(&mut self, from: &[u32], to: &[u32]) -> Option<()> {
        self.pay(from.len().saturating_mul(to.len()))?;
        from.iter().for_each(|&place| self.follow[place as usize].extend(to));
        Some(())
    }
}
