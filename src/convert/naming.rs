//! What the name of a model tells: `Llama-3.1-8B-Instruct` is basename, size, finetune. The conventions are those of GGUF file names
//! (docs/gguf.md, "GGUF Naming Convention") as llama.cpp's converter applies them.

use regex::Regex;

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
enum Part {
    Unknown,
    Basename,
    Size,
    Finetune,
    Version,
    Type,
}

/// Takes a name apart; `weights` decides whether a number like `8B` or `128k` is a size of this model.
pub fn parse(id: &str, weights: u64) -> Name {
    if id.contains(' ') {
        return Name { full: Some(id.to_owned()), ..Name::default() };
    }
    let (organization, full) = match id.split_once('/') {
        Some((organization, full)) => (Some(organization).filter(|o| !o.starts_with('.')), full),
        None => (None, id),
    };
    let mut words: Vec<(String, Part)> =
        full.split('-').filter(|w| !w.is_empty()).enumerate().map(|(i, word)| classify(i, word, weights)).collect();
    if words.iter().any(|(w, p)| *p == Part::Size && w.contains(|c: char| c.is_ascii_digit())) {
        for (word, part) in &mut words {
            if *part == Part::Size && word.chars().all(char::is_alphabetic) {
                *part = Part::Finetune;
            }
        }
    }
    // The basename is what comes before the first size, finetune or type; versions in its middle belong to it, one at its end does not.
    let mut start = 0;
    while start < words.len()
        && (words[start].1 == Part::Version
            || words[start].1 == Part::Unknown && words[start].0.starts_with(char::is_alphabetic))
    {
        start += 1;
    }
    let mut end = start;
    if start == words.len() {
        while end > 0 && words[end - 1].1 == Part::Version {
            end -= 1;
        }
    }
    for (i, (_, part)) in words.iter_mut().enumerate() {
        match *part {
            _ if i < end => *part = Part::Basename,
            Part::Unknown => *part = Part::Finetune,
            _ => {}
        }
    }
    let join = |wanted: Part| {
        let mut found: Vec<&str> = Vec::new();
        for (word, _) in words.iter().filter(|(_, part)| *part == wanted) {
            if wanted != Part::Size || !found.contains(&word.as_str()) {
                found.push(word);
            }
        }
        Some(found.join("-")).filter(|s| !s.is_empty())
    };
    let (size_label, finetune, version) = (join(Part::Size), join(Part::Finetune), join(Part::Version));
    let told = size_label.is_some() || finetune.is_some() || version.is_some();
    Name {
        organization: organization.map(str::to_owned),
        full: Some(full.to_owned()).filter(|s| !s.is_empty()),
        basename: if told { join(Part::Basename) } else { None },
        finetune,
        version,
        size_label,
    }
}

fn classify(i: usize, word: &str, weights: u64) -> (String, Part) {
    let is = |pattern: &str| Regex::new(&format!("(?i)^(?:{pattern})$")).is_ok_and(|r| r.is_match(word));
    if is(r"(v|iter)?\d+([.]\d+)*") {
        return (word.to_owned(), Part::Version);
    }
    if is(r"i?q\d(_\w)*|b?fp?(16|32)") {
        return (word.to_uppercase(), Part::Type);
    }
    if i > 0 && is(r"([A]|\d+[x])?\d+([._]\d+)?[KMBT]") {
        let (number, unit) = word.split_at(word.len() - 1);
        let number = number.replace('_', ".");
        let thousands = " KMBT".find(&unit.to_uppercase()).unwrap_or(0);
        let size = number.parse::<f64>().map(|n| n * 1000f64.powi(thousands as i32));
        // Far from this model's own size it is something else, most likely a context length.
        if size.is_ok_and(|size| (size - weights as f64).abs() > (weights as f64) * 7.0 / 8.0) {
            return (format!("{number}{}", unit.to_lowercase()), Part::Finetune);
        }
        return (format!("{number}{}", unit.to_uppercase()), Part::Size);
    }
    if i > 0 && is("small|mini|medium|large|x?xl") {
        return (word.to_owned(), Part::Size);
    }
    if i > 0 && is("chat|instruct|vision|lora") {
        return (word.to_owned(), Part::Finetune);
    }
    (word.to_owned(), Part::Unknown)
}

/// `llama-3.1-8b` as people write it: `Llama 3.1 8b`.
pub fn title(name: &str) -> String {
    let words = name.split(['-', ' ']).filter(|w| !w.is_empty()).map(|word| {
        let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_version = word.strip_prefix('v').is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'));
        let mut chars = word.chars();
        match chars.next() {
            Some(first) if is_lower && !is_number && !is_version => first.to_uppercase().chain(chars).collect(),
            _ => word.to_owned(),
        }
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
    }

    #[test]
    fn titles_and_sizes() {
        assert_eq!(title("tiny-rustdoc"), "Tiny Rustdoc");
        assert_eq!(title("Llama-3.1-8b-v0.1"), "Llama 3.1 8b v0.1");
        for (n, label) in [(5_770_000, "5.8M"), (8_030_261_248, "8.0B"), (405_853_388_800, "406B"), (29_400_000, "29M")]
        {
            assert_eq!(size_label(n), label);
        }
    }
}
