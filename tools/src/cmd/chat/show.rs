//! Answers on a terminal and in a pipe.
//!
//! A terminal gets nothing that it would obey: control characters of the model are shown as escapes. Reasoning is dimmed there, or named
//! where there are no colors. In a pipe stands the answer alone, unchanged.

use crate::output;
use anyhow::Result;
use std::io::{IsTerminal, stdout};
use strata::engine::chat::{Delta, OutputParser};
use strata::error::commands_terminal;

/// What stdout can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether it is a terminal.
    pub terminal: bool,
    /// Whether it shows colors.
    pub colors: bool,
}

impl Look {
    /// That of stdout, and of the variable NO_COLOR.
    pub fn of_stdout() -> Look {
        let terminal = stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Look {
            terminal,
            colors: terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

/// Shows an answer as it comes.
pub struct Printer {
    look: Look,
    parser: Option<OutputParser>, // none at the end
    in_reasoning: bool,
    at_line_start: bool,
}

impl Printer {
    /// A printer of an answer that is taken apart by `parser`.
    pub fn new(look: Look, parser: OutputParser) -> Printer {
        Printer { look, parser: Some(parser), in_reasoning: false, at_line_start: true }
    }

    /// Shows a piece of the answer, which may be the last.
    pub fn push(&mut self, text: &str, is_last: bool) -> Result<()> {
        let shown = self.shown(text, is_last);
        if shown.is_empty() { Ok(()) } else { output::print(&shown) }
    }

    fn shown(&mut self, text: &str, is_last: bool) -> String {
        let Some(mut parser) = self.parser.take() else { return String::new() };
        let mut deltas = parser.push(text);
        if is_last {
            deltas.extend(parser.finish());
        } else {
            self.parser = Some(parser);
        }
        let mut shown = String::new();
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) if self.look.terminal => {
                    self.turn(true, &mut shown);
                    self.add(&text, &mut shown);
                }
                Delta::Content(text) => {
                    self.turn(false, &mut shown);
                    self.add(&text, &mut shown);
                }
                _ => {}
            }
        }
        if is_last {
            if self.in_reasoning && self.look.colors {
                shown += "\x1b[0m";
            }
            if !self.at_line_start {
                shown.push('\n');
            }
        }
        shown
    }

    /// Begins or ends the reasoning.
    fn turn(&mut self, reasoning: bool, shown: &mut String) {
        if std::mem::replace(&mut self.in_reasoning, reasoning) != reasoning {
            *shown += match (reasoning, self.look.colors) {
                (true, true) => "\x1b[2m",
                (true, false) => "(thinking)\n",
                (false, true) => "\x1b[0m\n\n",
                (false, false) => "\n\n(answer)\n",
            };
        }
    }

    fn add(&mut self, text: &str, shown: &mut String) {
        self.at_line_start = text.ends_with('\n') || (text.is_empty() && self.at_line_start);
        for c in text.chars() {
            match c {
                '\n' | '\t' => shown.push(c),
                c if self.look.terminal && commands_terminal(c) => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata::engine::chat::ChatFormat;

    fn shown(look: Look, answer: &str) -> String {
        let mut printer = Printer::new(look, ChatFormat::of("<think></think>").parser(false));
        let pieces: Vec<String> = answer.chars().map(String::from).collect();
        let mut all: String = pieces.iter().map(|piece| printer.shown(piece, false)).collect();
        all += &printer.shown("", true);
        all
    }

    const ANSWER: &str = "<think>\nWhy\x07\n</think>\n\nA\tb\n\x1b[31mred\u{202e}\r";

    #[test]
    fn a_terminal_obeys_nothing_of_the_answer() {
        let [dumb, color] = [false, true].map(|colors| shown(Look { terminal: true, colors }, ANSWER));
        assert_eq!(color, "\x1b[2mWhy\\u{7}\x1b[0m\n\nA\tb\n\\u{1b}[31mred\\u{202e}\\r\n");
        assert_eq!(dumb, "(thinking)\nWhy\\u{7}\n\n(answer)\nA\tb\n\\u{1b}[31mred\\u{202e}\\r\n");
        assert_eq!(shown(Look { terminal: true, colors: true }, "<think>cut"), "\x1b[2mcut\x1b[0m\n");
    }

    #[test]
    fn a_pipe_gets_the_answer_alone() {
        let pipe = Look { terminal: false, colors: false };
        assert_eq!(shown(pipe, ANSWER), "A\tb\n\x1b[31mred\u{202e}\r\n");
        assert_eq!(shown(pipe, "line\n"), "line\n");
        assert_eq!(shown(pipe, ""), "");
    }
}
