//! Reads GBNF, as llama.cpp's `grammars/README.md` and its parser define it.

use super::super::limits;
use super::ast::{Expr, Grammar};
use super::chars::Chars;
use crate::error::{Error, Result, quoted};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Reads a grammar; tokens are named as `tokenizer` has them.
pub(super) fn parse(source: &str, tokenizer: &Tokenizer) -> Result<Grammar> {
    let mut parser = Parser { source, at: 0, depth: 0, tokenizer, rules: Vec::new(), numbers: HashMap::new() };
    parser.rule_number("root", 0)?;
    parser.space(true);
    while parser.at < source.len() {
        parser.rule()?;
        parser.space(true);
    }
    parser.finish()
}

struct Parser<'a> {
    source: &'a str,
    at: usize,
    depth: usize,
    tokenizer: &'a Tokenizer,
    rules: Vec<Named>,
    numbers: HashMap<String, usize>,
}

/// A rule that was named, and where that was first; its body once it is defined.
struct Named {
    name: String,
    at: usize,
    body: Option<Expr>,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes over `text` if it is next.
    fn take(&mut self, text: &str) -> bool {
        let is_next = self.rest().starts_with(text);
        if is_next {
            self.at += text.len();
        }
        is_next
    }

    /// Goes over what `belongs`.
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// Goes over spaces and comments, and over ends of lines if these may be here.
    fn space(&mut self, newlines: bool) {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t') || newlines && matches!(c, '\r' | '\n'));
            if self.peek() != Some('#') {
                return;
            }
            self.take_while(|c| !matches!(c, '\r' | '\n'));
        }
    }

    fn wrong(&self, problem: impl Into<String>, remedy: &str) -> Error {
        wrong_at(self.source, self.at, problem, remedy)
    }

    fn expected(&self, what: &str) -> Error {
        let found = match self.rest().split(['\r', '\n']).next() {
            _ if self.rest().is_empty() => "the end of the grammar".to_owned(),
            Some("") => "the end of the line".to_owned(),
            Some(line) => quoted(&line.chars().take(20).collect::<String>()),
            None => String::new(),
        };
        self.wrong(format!("{what} is expected, not {found}"), "correct the grammar")
    }

    /// The number of the rule `name`, which is named at `at`.
    fn rule_number(&mut self, name: &str, at: usize) -> Result<usize> {
        if let Some(&number) = self.numbers.get(name) {
            return Ok(number);
        }
        if self.rules.len() == limits::RULES {
            return Err(self.wrong(format!("there are more than {} rules", limits::RULES), "make the grammar smaller"));
        }
        self.numbers.insert(name.to_owned(), self.rules.len());
        self.rules.push(Named { name: name.to_owned(), at, body: None });
        Ok(self.rules.len() - 1)
    }

    fn rule(&mut self) -> Result<()> {
        let at = self.at;
        let name = self.take_while(is_name);
        if name.is_empty() {
            return Err(self.expected("the name of a rule"));
        }
        self.space(false);
        if !self.take("::=") {
            return Err(self.expected("::="));
        }
        self.space(true);
        let number = self.rule_number(name, at)?;
        let body = self.alternatives(false)?;
        if self.rules[number].body.replace(body).is_some() {
            let problem = format!("the rule {} is defined twice", quoted(name));
            return Err(wrong_at(self.source, at, problem, "keep one of its definitions"));
        }
        match self.peek() {
            Some('\r' | '\n') | None => Ok(()),
            Some(_) => Err(self.expected("a new line")),
        }
    }

    /// What stands between `|`s, up to the end of the line or, in a group, to its parenthesis.
    fn alternatives(&mut self, in_group: bool) -> Result<Expr> {
        let mut all = vec![self.sequence(in_group)?];
        while self.take("|") {
            self.space(true);
            all.push(self.sequence(in_group)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::Alt(all) })
    }

    fn sequence(&mut self, in_group: bool) -> Result<Expr> {
        let mut parts = Vec::new();
        while let Some(item) = self.item(in_group)? {
            self.space(in_group);
            let item = self.repetition(item, in_group)?;
            parts.push(item);
        }
        Ok(Expr::seq(parts))
    }

    /// What a repetition sign would refer to; `None` at the end of a sequence.
    fn item(&mut self, in_group: bool) -> Result<Option<Expr>> {
        let at = self.at;
        Ok(Some(match self.peek() {
            Some('"') => self.literal()?,
            Some('[') => self.class()?,
            Some('<' | '!') => self.token()?,
            Some('.') => {
                self.at += 1;
                Expr::Chars(Chars::all())
            }
            Some('(') => self.group()?,
            Some(c) if is_name(c) => {
                let name = self.take_while(is_name);
                Expr::Rule(self.rule_number(name, at)?)
            }
            Some('*' | '+' | '?' | '{') => {
                return Err(self.wrong("there is nothing before the repetition sign", "put what is repeated before it"));
            }
            Some('|' | '\r' | '\n') | None => return Ok(None),
            Some(')') if in_group => return Ok(None),
            Some(_) => return Err(self.expected("a literal, a class, a rule or a group")),
        }))
    }

    fn group(&mut self) -> Result<Expr> {
        if self.depth == limits::NESTING {
            let problem = format!("groups are nested deeper than {} levels", limits::NESTING);
            return Err(self.wrong(problem, "give a part of it a rule of its own"));
        }
        self.depth += 1;
        self.at += 1;
        self.space(true);
        let inner = self.alternatives(true)?;
        if !self.take(")") {
            return Err(self.expected("a closing parenthesis"));
        }
        self.depth -= 1;
        Ok(inner)
    }

    fn repetition(&mut self, item: Expr, in_group: bool) -> Result<Expr> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => self.counts(in_group)?,
            _ => return Ok(item),
        };
        self.at += 1;
        self.space(in_group);
        if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
            return Err(self.wrong("there are two repetition signs", "put what the second repeats in parentheses"));
        }
        Ok(match most {
            Some(0) => Expr::EMPTY,
            Some(1) if least == 1 => item,
            _ => Expr::Repeat(Box::new(item), least, most),
        })
    }

    /// The numbers in braces; stops before the closing one.
    fn counts(&mut self, in_group: bool) -> Result<(u32, Option<u32>)> {
        self.at += 1;
        self.space(in_group);
        let least = self.count()?;
        self.space(in_group);
        let mut most = Some(least);
        if self.take(",") {
            self.space(in_group);
            most = match self.peek() {
                Some('}') => None,
                _ => Some(self.count()?),
            };
            self.space(in_group);
        }
        if self.peek() != Some('}') {
            return Err(self.expected("a closing brace"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.wrong("the second number is smaller than the first", "swap them"));
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<u32> {
        let digits = self.take_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.expected("a number"));
        }
        digits.parse().ok().filter(|&count| count <= limits::REPETITIONS).ok_or_else(|| {
            let problem = format!("{} repetitions are more than {}", quoted(digits), limits::REPETITIONS);
            self.wrong(problem, "use * or +, or a smaller number")
        })
    }

    fn literal(&mut self) -> Result<Expr> {
        self.at += 1;
        let mut parts = Vec::new();
        while !self.take("\"") {
            parts.push(Expr::Chars(Chars::one(self.character("a closing quotation mark")?)));
        }
        Ok(Expr::seq(parts))
    }

    fn class(&mut self) -> Result<Expr> {
        let at = self.at;
        self.at += 1;
        let is_negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            let low = self.character("a closing bracket")?;
            let mut high = low;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                high = self.character("a closing bracket")?;
            }
            if high < low {
                return Err(self.wrong("the range goes backwards", "swap its ends, or put the - last"));
            }
            ranges.push((low.into(), high.into()));
        }
        if ranges.is_empty() {
            return Err(wrong_at(self.source, at, "the class is empty", "use . for any character, or \"\" for none"));
        }
        let chars = Chars::of(ranges);
        Ok(Expr::Chars(if is_negated { chars.negated() } else { chars }))
    }

    /// A character of a literal or a class, which may be escaped; `end` is what would end that.
    fn character(&mut self, end: &str) -> Result<char> {
        let Some(c) = self.peek() else { return Err(self.expected(end)) };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let Some(escaped) = self.peek() else { return Err(self.expected("what \\ escapes")) };
        let digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'n' | 'r' | 't' | '\\' | '"' | '[' | ']' | '-' | '^' => 0,
            _ => {
                let problem = format!("there is no escape {}", quoted(&format!("\\{escaped}")));
                return Err(
                    self.wrong(problem, "use one of \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xNN \\uNNNN \\UNNNNNNNN")
                );
            }
        };
        self.at += escaped.len_utf8();
        if digits == 0 {
            return Ok(match escaped {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            });
        }
        let Some(hex) = self.rest().get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) else {
            return Err(self.expected(&format!("a character's number of {digits} hexadecimal digits")));
        };
        let Some(c) = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32) else {
            return Err(self.wrong(
                format!("{hex} is not the number of a character"),
                "use one up to 10FFFF, outside D800 to DFFF",
            ));
        };
        self.at += digits;
        Ok(c)
    }

    /// `<[id]>` or `<text>`, or all other tokens if a `!` stands before it.
    fn token(&mut self) -> Result<Expr> {
        let at = self.at;
        let is_negated = self.take("!");
        let text = match self.rest().find('>').filter(|_| self.rest().starts_with('<')) {
            Some(end) => &self.rest()[..=end],
            None => return Err(self.expected("a token in angle brackets")),
        };
        let vocab = self.tokenizer.vocab().tokens.len();
        let id = match text.strip_prefix("<[").and_then(|text| text.strip_suffix("]>")) {
            Some(digits) => digits.parse::<u32>().ok().filter(|&id| (id as usize) < vocab).ok_or_else(|| {
                self.wrong(
                    format!("the vocabulary of {vocab} tokens has no number {}", quoted(digits)),
                    "use one of its numbers",
                )
            })?,
            None => match self.tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true })?[..] {
                [id] => id,
                _ => self.tokenizer.find(text).ok_or_else(|| {
                    self.wrong(
                        format!("{} is not one token of this model", quoted(text)),
                        "write text as a literal, in quotation marks",
                    )
                })?,
            },
        };
        self.at += text.len();
        if !is_negated && self.tokenizer.is_eog(id) {
            let problem = format!("the token {text} ends the answer, and so cannot be part of it");
            return Err(wrong_at(self.source, at, problem, "leave it out: an answer may end where its grammar does"));
        }
        Ok(Expr::Tokens(if is_negated { self.other_tokens(id) } else { vec![id..=id] }))
    }

    /// All tokens but one, and but those that end the answer.
    fn other_tokens(&self, id: u32) -> Vec<RangeInclusive<u32>> {
        let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
        for other in (0..self.tokenizer.vocab().tokens.len() as u32).filter(|&t| t != id && !self.tokenizer.is_eog(t)) {
            match ranges.last_mut() {
                Some(last) if *last.end() + 1 == other => *last = *last.start()..=other,
                _ => ranges.push(other..=other),
            }
        }
        ranges
    }

    /// The grammar, if all its rules are defined.
    fn finish(self) -> Result<Grammar> {
        let source = self.source;
        let rules = self.rules.into_iter().map(|rule| match rule.body {
            Some(body) => Ok(body),
            None if rule.name == "root" => {
                Err(wrong_at(source, 0, "there is no rule root", "call the rule of the whole answer root"))
            }
            None => Err(wrong_at(
                source,
                rule.at,
                format!("the rule {} is not defined", quoted(&rule.name)),
                "define it, or correct its name",
            )),
        });
        Ok(Grammar { rules: rules.collect::<Result<_>>()? })
    }
}

/// An error at a byte of the source.
fn wrong_at(source: &str, at: usize, problem: impl Into<String>, remedy: &str) -> Error {
    let before = &source[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Error::GrammarRefused {
        what: "grammar",
        place: format!("line {line}, column {column}"),
        problem: problem.into(),
        remedy: remedy.to_owned(),
    }
}
