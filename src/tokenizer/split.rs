//! Cutting text into the words inside which byte-level BPE merges, in time linear in the text.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of spaces before a word leaves its last space to the word. The `regex` crate
//! has no lookahead; here the pattern is `\s+`, and a run that is followed by text gives its last character back.

use regex::Regex;

/// The splits that are known, by the names of `tokenizer.ggml.pre`.
pub const NAMES: [&str; 6] = ["llama-bpe", "llama3", "llama-v3", "gpt-2", "default", "smollm"];

/// Llama 3's pattern, in the two spellings that checkpoints have.
pub const LLAMA3_PATTERNS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// One way of cutting text.
pub struct Splitter {
    pattern: Regex,
    /// Digits are words of their own, cut before the pattern is applied.
    lone_digits: bool,
    is_llama3: bool,
}

impl Splitter {
    /// The split with this name.
    pub fn named(name: &str) -> Option<Splitter> {
        let (pattern, lone_digits, is_llama3) = match name {
            "llama-bpe" | "llama3" | "llama-v3" => (LLAMA3, false, true),
            "gpt-2" | "default" => (GPT2, false, false),
            "smollm" => (GPT2, true, false),
            _ => return None,
        };
        Some(Splitter { pattern: Regex::new(pattern).ok()?, lone_digits, is_llama3 })
    }

    /// True if a word that is a token as a whole is that token, whatever the merges would give.
    pub fn ignores_merges(&self) -> bool {
        self.is_llama3
    }

    /// The words: together they are the text.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        if !self.lone_digits {
            self.cut(text, &mut words);
            return words;
        }
        let mut start = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
            self.cut(&text[start..at], &mut words);
            words.push(&text[at..at + c.len_utf8()]);
            start = at + c.len_utf8();
        }
        self.cut(&text[start..], &mut words);
        words
    }

    fn cut<'t>(&self, text: &'t str, words: &mut Vec<&'t str>) {
        let mut at = 0;
        while at < text.len() {
            // Every pattern matches at every place: what none of its parts takes would be a character of its own.
            let end = match self.pattern.find_at(text, at) {
                Some(found) if found.start() == at && !found.is_empty() => self.give_back(text, at, found.end()),
                _ => at + text[at..].chars().next().map_or(1, char::len_utf8),
            };
            words.push(&text[at..end]);
            at = end;
        }
    }

    /// The end of a word, one character earlier for a run of spaces before text.
    fn give_back(&self, text: &str, start: usize, end: usize) -> usize {
        let word = &text[start..end];
        let (Some(last), true) = (word.chars().next_back(), end < text.len()) else { return end };
        let by_newlines = self.is_llama3 && matches!(last, '\r' | '\n');
        let is_run = !by_newlines && word.chars().all(char::is_whitespace);
        if is_run && word.len() > last.len_utf8() { end - last.len_utf8() } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_llama3() {
        let splitter = Splitter::named("llama-bpe").unwrap();
        let cases: [(&str, &[&str]); 7] = [
            ("Hello, world!", &["Hello", ",", " world", "!"]),
            ("a   b", &["a", "  ", " b"]),
            ("a   ", &["a", "   "]),
            ("x\n\n  y", &["x", "\n\n", " ", " y"]),
            ("12345 it's", &["123", "45", " it", "'s"]),
            ("\t\tif", &["\t", "\tif"]),
            (" \n \n x", &[" \n \n", " x"]),
        ];
        for (text, words) in cases {
            assert_eq!(splitter.split(text), words, "{text:?}");
        }
    }

    #[test]
    fn digits_alone_for_smollm() {
        assert_eq!(Splitter::named("smollm").unwrap().split("ab 12  c"), ["ab", " ", "1", "2", " ", " c"]);
    }

    #[test]
    fn a_million_spaces_are_two_words() {
        let text = " ".repeat(1_000_000) + "x";
        let words = Splitter::named("llama-bpe").unwrap().split(&text);
        assert_eq!((words.len(), words[0].len(), words[1]), (2, 999_999, " x"));
    }
}
