//! Names and pieces of text as a page shows them: nothing invisible, nothing that turns the direction of writing, and short enough for a
//! plot.

use std::borrow::Cow;
use std::collections::HashSet;

/// The longest name in a plot, in characters.
const LONGEST: usize = 20;

/// `text` with a visible sign for every character that has none: those of Unicode's block of control pictures, and numbers for what turns
/// the direction of writing or joins nothing.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\0'..='\x1f' => shown.extend(char::from_u32(0x2400 + c as u32)),
            '\x7f' => shown.push('\u{2421}'),
            _ if is_hidden(c) => shown.push_str(&format!("U+{:04X}", c as u32)),
            _ => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// True for control characters, marks of direction, and code points that no page may have.
fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control()
        || turns
        || matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{fffb}')
        || c as u32 & 0xfffe == 0xfffe
}

/// Bytes of a text as a page shows them. What is not UTF-8 is shown as numbers: a token may be a part of a character.
pub fn text_of(bytes: &[u8], lines: Lines) -> String {
    let mut shown = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        match lines {
            Lines::Marked => {
                shown.push_str(&visible(&chunk.valid().replace('\n', "\u{21b5}").replace(' ', "\u{2423}")))
            }
            Lines::Kept => {
                let mut parts = chunk.valid().split('\n').peekable();
                while let Some(part) = parts.next() {
                    shown.push_str(&visible(part));
                    // Empty lines are signs at the end of the one before: they say nothing and take much room.
                    let empty = std::iter::from_fn(|| parts.next_if(|next| next.is_empty())).count();
                    if empty > 0 {
                        shown.push_str(&"\u{21b5}".repeat(empty + usize::from(parts.peek().is_some())));
                    }
                    shown.push_str(if empty > 0 || parts.peek().is_some() { "\n" } else { "" });
                }
            }
        }
        chunk.invalid().iter().for_each(|byte| shown.push_str(&format!("\\x{byte:02X}")));
    }
    shown
}

/// What becomes of spaces and the ends of lines.
#[derive(Clone, Copy)]
pub enum Lines {
    /// Signs: a token by itself.
    Marked,
    /// Themselves: text that is read.
    Kept,
}

/// A short name for each candidate, all different: without `.gguf`, without what the names of all files begin with, and with an ellipsis
/// in the middle if it is still long.
pub fn short(names: &[&str]) -> Vec<String> {
    let stems: Vec<Option<&str>> = names.iter().map(|name| name.strip_suffix(".gguf")).collect();
    let files: Vec<&str> = stems.iter().copied().flatten().collect();
    let cut = if files.len() > 1 { common_start(&files) } else { 0 };
    let mut taken = HashSet::new();
    let short = names.iter().zip(stems).map(|(name, stem)| {
        let name = visible(stem.map_or(*name, |stem| &stem[cut..])).into_owned();
        let name = if name.is_empty() { "(no name)".to_owned() } else { elided(name) };
        let numbered = (2..).map(|n| format!("{name} ({n})"));
        let mut all = [name.clone()].into_iter().chain(numbered);
        all.find(|name| taken.insert(name.clone())).expect("there are more numbers than candidates")
    });
    short.collect()
}

/// The bytes that all names begin with, up to and with the last hyphen, dot or space, if something is left of each.
fn common_start(names: &[&str]) -> usize {
    let Some(first) = names.first() else { return 0 };
    let ends = first.char_indices().filter(|(_, c)| "-. ".contains(*c)).map(|(i, c)| i + c.len_utf8());
    let common = |end: &usize| names.iter().all(|name| name.len() > *end && name.starts_with(&first[..*end]));
    ends.rev().find(common).unwrap_or(0)
}

fn elided(name: String) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= LONGEST {
        return name;
    }
    // The end of a file's name says more: its type.
    let (head, tail) = (LONGEST / 2 - 2, LONGEST / 2 + 1);
    chars[..head].iter().chain(&['\u{2026}']).chain(&chars[chars.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_files_share_is_left_out() {
        let names = ["Smol-Instruct-Q4_K_M.gguf", "q8_0", "Smol-Instruct-Q4_0.gguf"];
        assert_eq!(short(&names), ["Q4_K_M", "q8_0", "Q4_0"]);
        assert_eq!(short(&["q4_0", "q4_k_m"]), ["q4_0", "q4_k_m"]);
        assert_eq!(short(&["a-.gguf", "a-b.gguf"]), ["a-", "a-b"]);
        assert_eq!(short(&["x.gguf", "x.gguf", ".gguf"]), ["x", "x (2)", "(no name)"]);
        let long = short(&["one-very-long-name-of-a-file-with-Q4_K_M", "é-日本-Q4_0.gguf", "é-日本-Q8_0.gguf"]);
        assert_eq!(long, ["one-very\u{2026}with-Q4_K_M", "Q4_0", "Q8_0"]);
    }

    #[test]
    fn nothing_is_hidden() {
        assert_eq!(visible("plain <b> é"), "plain <b> é");
        assert_eq!(visible("a\0\x1b\u{202e}\u{85}\u{ffff}"), "a\u{2400}\u{241b}U+202EU+0085U+FFFF");
        assert_eq!(text_of(b" a\n\xe2\x82", Lines::Marked), "\u{2423}a\u{21b5}\\xE2\\x82");
        assert_eq!(text_of(b" a\n\tb\r", Lines::Kept), " a\n\u{2409}b\u{240d}");
        assert_eq!(text_of(b"a\n\n\nb\n", Lines::Kept), "a\u{21b5}\u{21b5}\u{21b5}\nb\u{21b5}\n");
        assert_eq!(text_of(b"a\nb", Lines::Kept), "a\nb");
    }
}
