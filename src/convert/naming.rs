//! The parts of a model's name: `Llama-3.1-8B-Instruct` is basename, size, finetune. The conventions are those of GGUF file names
//! (docs/gguf.md, "GGUF Naming Convention") as llama.cpp's converter applies them.

use crate::checkpoint::meta::ORIGINAL;
use regex::Regex;
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

/// The most characters of a name that are parsed; names of Hugging Face have at most 96.
const LONGEST: usize = 256;

/// The parts of a name.
#[derive(Debug, Default, PartialEq)]
pub struct Name {
    pub organization: Option<String>,
    pub full: Option<String>,
    pub basename: Option<String>,
    pub finetune: Option<String>,
    pub version: Option<String>,
    pub size_label: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum WordKind {
    Unknown,
    Basename,
    Size,
    Finetune,
    Version,
    Type,
}

/// The name that a checkpoint's folder gives it: its own, or `ORG/NAME` of a folder in the cache of Hugging Face
/// (`models--ORG--NAME/snapshots/HASH`). Meta's files of a model are in its folder `original`.
pub fn of_folder(dir: &Path) -> String {
    let mut dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    if dir.file_name().is_some_and(|name| name == ORIGINAL) {
        dir.pop();
    }
    let name = |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = dir.parent().filter(|parent| name(parent) == "snapshots").and_then(Path::parent).map(name);
    match parent.as_deref().and_then(|parent| parent.strip_prefix("models--")) {
        Some(repository) if !repository.is_empty() => repository.replacen("--", "/", 1),
        _ => name(&dir),
    }
}

/// The first [`LONGEST`] characters of a text.
pub fn cut(text: &str) -> &str {
    // The place of a character, so that no character is cut.
    text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end])
}

/// Parses a name; `weights` decides whether a number like `8B` or `128k` is a size of this model.
pub fn parse(id: &str, weights: u64) -> Name {
    let id = cut(id);
    if id.contains(' ') {
        return Name { full: Some(id.to_owned()), ..Name::default() };
    }
    let (organization, full) = match id.split_once('/') {
        Some((organization, full)) => (Some(organization).filter(|o| !o.starts_with('.')), full),
        None => (None, id),
    };
    let mut words: Vec<(Cow<'_, str>, WordKind)> =
        full.split('-').filter(|w| !w.is_empty()).enumerate().map(|(i, word)| classify(i, word, weights)).collect();
    if words.iter().any(|(w, p)| *p == WordKind::Size && w.contains(|c: char| c.is_ascii_digit())) {
        for (word, part) in &mut words {
            if *part == WordKind::Size && word.chars().all(char::is_alphabetic) {
                *part = WordKind::Finetune;
            }
        }
    }
    // The basename is what comes before the first size, finetune or type; versions in its middle belong to it, one at its end does not.
    let mut start = 0;
    while start < words.len()
        && (words[start].1 == WordKind::Version
            || words[start].1 == WordKind::Unknown && words[start].0.starts_with(char::is_alphabetic))
    {
        start += 1;
    }
    let mut end = start;
    if start == words.len() {
        while end > 0 && words[end - 1].1 == WordKind::Version {
            end -= 1;
        }
    }
    for (i, (_, part)) in words.iter_mut().enumerate() {
        match *part {
            _ if i < end => *part = WordKind::Basename,
            WordKind::Unknown => *part = WordKind::Finetune,
            _ => {}
        }
    }
    let join = |wanted: WordKind| {
        let mut seen = HashSet::new();
        let found =
            words.iter().filter(|(word, part)| *part == wanted && (wanted != WordKind::Size || seen.insert(word)));
        let found: Vec<&str> = found.map(|(word, _)| word.as_ref()).collect();
        Some(found.join("-")).filter(|s| !s.is_empty())
    };
    let (size_label, finetune, version) = (join(WordKind::Size), join(WordKind::Finetune), join(WordKind::Version));
    let told = size_label.is_some() || finetune.is_some() || version.is_some();
    Name {
        organization: organization.map(str::to_owned),
        full: Some(full.to_owned()).filter(|s| !s.is_empty()),
        basename: if told { join(WordKind::Basename) } else { None },
        finetune,
        version,
        size_label,
    }
}

/// A pattern for a whole word. Letters and digits are those of ASCII: in Unicode, `K` has a third form of three bytes (U+212A).
fn pattern(text: &str) -> Regex {
    Regex::new(&format!("^(?i-u:{text})$")).expect("the patterns of this file are right, as its tests show")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(v|iter)?\d+([.]\d+)*"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"i?q\d(_\w)*|b?fp?(16|32)"));
/// The number, the unit, and the decimals of `7b1`.
static SIZE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?<number>(?:A|\d+x)?\d+(?:[._]\d+)?)(?<unit>[KMBT])(?<decimal>\d?)"));
static SIZE_WORD: LazyLock<Regex> = LazyLock::new(|| pattern("small|mini|medium|large|x?xl"));
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| pattern("chat|instruct|vision|lora"));
static NUMBERED: LazyLock<Regex> = LazyLock::new(|| pattern(r"v\d+(?:\.\d+)*|\d(?u:.*)"));

/// The kind of the `i`-th word of a name, and how it is spelled.
fn classify(i: usize, word: &str, weights: u64) -> (Cow<'_, str>, WordKind) {
    if VERSION.is_match(word) {
        return (word.into(), WordKind::Version);
    }
    if TYPE.is_match(word) {
        return (word.to_uppercase().into(), WordKind::Type);
    }
    if i == 0 {
        return (word.into(), WordKind::Unknown);
    }
    if let Some(size) = SIZE.captures(word) {
        let mut number = size["number"].replace('_', ".");
        if !size["decimal"].is_empty() {
            number = format!("{number}.{}", &size["decimal"]);
        }
        let unit = &size["unit"];
        let thousands = " KMBT".find(&unit.to_ascii_uppercase()).unwrap_or(0);
        let value = number.parse::<f64>().map(|n| n * 1000f64.powi(thousands as i32)); // at most 4
        // Far from this model's own size it is something else, most likely a context length.
        if value.is_ok_and(|value| (value - weights as f64).abs() > (weights as f64) * 7.0 / 8.0) {
            return (format!("{number}{}", unit.to_ascii_lowercase()).into(), WordKind::Finetune);
        }
        return (format!("{number}{}", unit.to_ascii_uppercase()).into(), WordKind::Size);
    }
    match () {
        _ if SIZE_WORD.is_match(word) => (word.into(), WordKind::Size),
        _ if FINETUNE.is_match(word) => (word.into(), WordKind::Finetune),
        _ => (word.into(), WordKind::Unknown),
    }
}

/// `llama-3.1-8b_chat` as people write it: `Llama 3.1 8b_chat`. Words with capitals, versions and numbers stay as they are.
pub fn title(name: &str) -> String {
    let words = cut(name).split(|c: char| c == '-' || c.is_whitespace()).filter(|word| !word.is_empty()).map(|word| {
        let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        if !is_lower || NUMBERED.is_match(word) {
            return word.to_owned();
        }
        let mut after_letter = false;
        let mut titled = String::with_capacity(word.len());
        for c in word.chars() {
            if after_letter {
                titled.push(c)
            } else {
                titled.extend(c.to_uppercase())
            }
            after_letter = c.is_alphabetic();
        }
        titled
    });
    words.collect::<Vec<String>>().join(" ")
}

/// A number of weights in two digits or more: `8.0B`, `405B`, `5.8M`.
pub fn size_label(weights: u64) -> String {
    let (scaled, unit) = match weights as f64 {
        n if n > 1e12 => (n * 1e-12, "T"),
        n if n > 1e9 => (n * 1e-9, "B"),
        n if n > 1e6 => (n * 1e-6, "M"),
        n => (n * 1e-3, "K"),
    };
    let digits = scaled.round_ties_even().to_string().trim_start_matches('0').len();
    format!("{scaled:.*}{unit}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_known_models() {
        let some = |s: &str| Some(s.to_owned());
        let name = parse("meta-llama/Llama-3.1-8B-Instruct", 8_030_000_000);
        assert_eq!(name.organization, some("meta-llama"));
        assert_eq!(name.basename, some("Llama-3.1"));
        assert_eq!((name.size_label, name.finetune, name.version), (some("8B"), some("Instruct"), None));
        let name = parse("Mistral-7B-v0.1", 7_240_000_000);
        assert_eq!((name.basename, name.size_label, name.version), (some("Mistral"), some("7B"), some("v0.1")));
        let name = parse("Llama-3-8B-Instruct-262k", 8_030_000_000);
        assert_eq!((name.size_label, name.finetune), (some("8B"), some("Instruct-262k")));
        let name = parse("tiny-rustdoc", 5_770_000);
        assert_eq!((name.basename, name.finetune), (None, None));
        let name = parse("bigscience/bloom-7b1", 7_070_000_000);
        assert_eq!((name.basename, name.size_label), (some("bloom"), some("7.1B")));
        let name = parse("Mixtral-8x7B-A3B-8x7b", 46_700_000_000);
        assert_eq!(name.size_label, some("8x7B-A3B"));
    }

    /// Letters whose other case has another number of bytes, and other numbers than those of ASCII.
    #[test]
    fn names_of_any_letters_are_taken_apart() {
        let letters = [
            "\u{212a}",
            "\u{17f}",
            "\u{130}",
            "\u{131}",
            "\u{df}",
            "\u{1e9e}",
            "\u{fb01}",
            "\u{660}",
            "\u{ff11}",
            "\u{301}",
            "\u{1f600}",
        ];
        for letter in letters {
            for form in [
                "x-8X", "m-1X", "X", "X-X", "v1X", "q4_X", "fp16X", "x-cX", "-X-", "X/X", "8X7B-1X", "iterX1", "x-A1X",
                "minX",
            ] {
                let id = form.replace('X', letter);
                let name = parse(&id, 8_000_000_000);
                assert!(name.full.is_some(), "{id}");
                title(&id);
                title(&format!("a{id}"));
            }
        }
        assert_eq!(parse("x-8\u{212a}", 8000).size_label, None);
        assert_eq!(parse("x-8k", 8000).size_label.as_deref(), Some("8K"));
    }

    #[test]
    fn giant_names_are_cut_and_take_no_time() {
        for word in ["a-", "8B-", "xl-", "v1-", "\u{212a}-", "--", "a b"] {
            let name = parse(&word.repeat(1 << 20), 1);
            assert!(name.full.is_none_or(|full| full.chars().count() <= LONGEST));
            assert!(title(&word.repeat(1 << 20)).chars().count() <= LONGEST);
        }
    }

    #[test]
    fn a_folder_of_the_cache_gives_its_repository() {
        let root = tempfile::tempdir().unwrap();
        for (folder, name) in [
            ("models--meta-llama--Llama-3.1-8B/snapshots/0123abc", "meta-llama/Llama-3.1-8B"),
            ("models--gpt2/snapshots/0123abc", "gpt2"),
            ("models--a--b--c/snapshots/main", "a/b--c"),
            ("models--/snapshots/0123abc", "0123abc"),
            ("snapshots/0123abc", "0123abc"),
            ("Llama-3.1-8B/original", "Llama-3.1-8B"),
            ("models--a--b", "models--a--b"),
        ] {
            let dir = root.path().join(folder);
            std::fs::create_dir_all(&dir).unwrap();
            assert_eq!(of_folder(&dir), name);
            assert_eq!(of_folder(&dir.join(".")), name);
        }
        assert_eq!(of_folder(Path::new("/nowhere/llama")), "llama");
    }

    #[test]
    fn titles_and_sizes() {
        assert_eq!(title("tiny-rustdoc"), "Tiny Rustdoc");
        assert_eq!(title("Llama-3.1-8b-v0.1"), "Llama 3.1 8b v0.1");
        // As Python's str.title, which llama.cpp's converter uses.
        assert_eq!(title("rust_doc v  v.1 2b"), "Rust_Doc V V.1 2b");
        for (n, label) in [(5_770_000, "5.8M"), (8_030_261_248, "8.0B"), (405_853_388_800, "406B"), (29_400_000, "29M")]
        {
            assert_eq!(size_label(n), label);
        }
    }
}
