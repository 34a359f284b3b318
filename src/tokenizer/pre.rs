//! The table of pre-tokenizers: llama.cpp's names of each, what `tokenizer.json` says for it, and how `split.rs` does it.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word behind it. Engines that know lookahead
//! backtrack, and the one in the crate `tokenizers` gives up, silently, on a run of a million spaces. `regex` runs in linear time but has no
//! lookahead, so the patterns of [`Step::Words`] end in `\s+`, and the splitter gives the last space back.

/// A pre-tokenizer.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    /// Values of `tokenizer.ggml.pre`; the first is written.
    pub names: &'static [&'static str],
    /// Each step splits the pieces of the one before it.
    pub steps: &'static [Step],
    /// The forms in which `tokenizer.json` has it.
    pub published: &'static [&'static [Part<'static>]],
    /// A piece that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Texts begin with BOS by default.
    pub add_bos: bool,
    /// Texts are brought to the normal form C of Unicode by default. llama.cpp never does it.
    pub nfc: bool,
}

/// A step of a splitter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Matches are pieces, and so is what lies between them.
    Isolate(&'static str),
    /// A pattern with an alternative for every character, whose last one stands for `\s+(?!\S)|\s+`.
    Words {
        /// The pattern.
        pattern: &'static str,
        /// A match that ends a line keeps its end: the pattern has an alternative `\s*[\r\n]+`.
        line_ends_stay: bool,
    },
}

/// A step of `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// `Split` at the matches of a pattern, which are pieces themselves.
    Split(&'a str),
    /// `Digits`, each alone.
    Digits,
    /// The words of `ByteLevel`, GPT-2's.
    Words,
}

use Part::{Digits, Split, Words};
use Step::Isolate;

/// Puts the ends of contractions before the rest of a pattern.
macro_rules! contracted {
    ($rest:expr) => {
        concat!(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|", $rest)
    };
}

/// The same as old tokenizers spell it.
macro_rules! spelt {
    ($rest:expr) => {
        concat!(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|", $rest)
    };
}

/// Behind the words and numbers of Llama 3's pattern: signs, line ends and spaces, with and without lookahead.
macro_rules! llama3 {
    ($digits:literal, $spaces:literal) => {
        concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", $digits, r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|", $spaces)
    };
}

/// Words in one case or with a first capital, and what may end them.
macro_rules! cased {
    ($end:literal, $digits:literal, $spaces:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $end,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $end,
            r"|\p{N}",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|",
            $spaces
        )
    };
}

/// The last pattern of DeepSeek-V3.
macro_rules! deepseek3 {
    ($line_end:literal, $spaces:literal) => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"##,
            $line_end,
            r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[",
            $line_end,
            r"]*|\s*[",
            $line_end,
            "]+|",
            $spaces
        )
    };
}

const GPT2: Step =
    Step::Words { pattern: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", line_ends_stay: false };

const fn words(pattern: &'static str) -> Step {
    Step::Words { pattern, line_ends_stay: true }
}

const HAN: &str = "[一-龥ࠀ-一가-퟿]+";
const HAN_AND_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
/// What DeepSeek LLM takes for letters: those of scripts with upper and lower case.
const CASED_LETTERS: &str = concat!(
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛ",
    "ὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎ",
    "ↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);
const SIGNS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const BLOOM_PUBLISHED: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// All but names, with neither merges ignored, nor BOS, nor a normal form.
const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], steps: &[], published: &[], ignore_merges: false, add_bos: false, nfc: false };

/// How Meta's own program splits texts for Llama 3 (`pat_str`).
pub(crate) const LLAMA3_PATTERN: &str = contracted!(llama3!("{1,3}", r"\s+(?!\S)|\s+"));

const LLAMA3: PreTokenizer = PreTokenizer {
    names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
    steps: &[words(contracted!(llama3!("{1,3}", r"\s+")))],
    published: &[&[Split(LLAMA3_PATTERN)], &[Split(spelt!(llama3!("{1,3}", r"\s+(?!\S)|\s+")))]],
    ignore_merges: true,
    add_bos: true,
    ..PLAIN
};

/// All pre-tokenizers. Of those that `tokenizer.json` has in the same form, the one with its `ignore_merges` is meant.
pub(crate) static PRE_TOKENIZERS: [PreTokenizer; 12] = [
    LLAMA3,
    PreTokenizer { names: &["dbrx", "smaug-bpe"], ignore_merges: false, add_bos: false, ..LLAMA3 },
    PreTokenizer {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
            "stablelm2",
        ],
        steps: &[words(contracted!(llama3!("", r"\s+")))],
        published: &[
            &[Split(contracted!(llama3!("", r"\s+(?!\S)|\s+")))],
            &[Split(spelt!(llama3!("", r"\s+(?!\S)|\s+")))],
        ],
        nfc: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["tekken"],
        steps: &[words(cased!("", "", r"\s+"))],
        published: &[&[Split(cased!("", "", r"\s+(?!\S)|\s+"))]],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[words(cased!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "{1,3}", r"\s+"))],
        published: &[&[Split(cased!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "{1,3}", r"\s+(?!\S)|\s+"))]],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        steps: &[Isolate(r"\p{N}{1,3}"), Isolate(HAN_AND_KANA), words(deepseek3!(r"\r\n", r"\s+"))],
        published: &[
            &[Split(r"\p{N}{1,3}"), Split(HAN_AND_KANA), Split(deepseek3!("\r\n", r"\s+(?!\S)|\s+"))],
            &[Split(r"\p{N}{1,3}"), Split(HAN_AND_KANA), Split(deepseek3!(r"\r\n", r"\s+(?!\S)|\s+"))],
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: &[
            Isolate(r"[\r\n]"),
            Isolate(CASED_LETTERS),
            Isolate(SIGNS),
            Isolate(r"\s+$"),
            Isolate(HAN),
            Isolate(r"\p{N}"),
        ],
        published: &[&[Split("[\r\n]"), Split(CASED_LETTERS), Split(SIGNS), Split(r"\s+$"), Split(HAN), Digits]],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        steps: &[Isolate(r"[\r\n]"), Isolate(r"\s?\p{L}+"), Isolate(r"\s?\p{P}+"), Isolate(HAN), Isolate(r"\p{N}")],
        published: &[&[Split("[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(HAN), Digits]],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        steps: &[GPT2],
        published: &[&[Words]],
        ..PLAIN
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        steps: &[Isolate(r"\p{N}"), GPT2],
        published: &[&[Digits, Words]],
        ..PLAIN
    },
    PreTokenizer {
        names: &["viking"],
        steps: &[Isolate(BLOOM), Isolate(r"\p{N}")],
        published: &[&[Split(BLOOM), Digits], &[Split(BLOOM_PUBLISHED), Digits]],
        ..PLAIN
    },
    // What llama.cpp takes for files that name none.
    PreTokenizer {
        names: &["default"],
        steps: &[Isolate(r"[\p{P}$+<=>^~|]+"), GPT2, Isolate(r"\p{N}+"), Isolate("[0-9]{3}")],
        ..PLAIN
    },
];

/// The pre-tokenizer with this name.
pub(crate) fn named(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name))
}

/// The pre-tokenizer that `tokenizer.json` describes by these steps before its bytes; of several the one that ignores merges or does not.
pub(crate) fn published(parts: &[Part<'_>], ignore_merges: bool) -> Option<&'static PreTokenizer> {
    let mut same = PRE_TOKENIZERS.iter().filter(|pre| pre.published.contains(&parts));
    let first = same.clone().next();
    same.find(|pre| pre.ignore_merges == ignore_merges).or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_forms_are_of_one_pre_tokenizer() {
        let mut names: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).collect();
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        for pre in &PRE_TOKENIZERS {
            for form in pre.published {
                assert!(std::ptr::eq(published(form, pre.ignore_merges).unwrap(), pre), "{:?}", pre.names);
            }
        }
        assert!(published(&[Digits], false).is_none());
    }
}
