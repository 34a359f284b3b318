//! The parts of tokenizer.json around its model: each is converted, or refused by name if GGUF cannot express it.

use super::json::Node;
use super::tokens::Tokens;
use crate::error::{Result, quoted};
use crate::tokenizer::TokenKind;
use crate::tokenizer::pre::{self, PRE_TOKENIZERS, Part, PreTokenizer};

/// SentencePiece's character for a space.
const SPACE: &str = "\u{2581}";

/// Checks what `model` says besides its vocabulary and merges; true if it falls back to bytes, as SentencePiece does.
pub(super) fn model(root: &Node<'_>) -> Result<bool> {
    root.object()?;
    let model = root.get("model");
    model.object()?;
    let kind = model.get("type");
    if let Some(other) = kind.opt_text()?.filter(|kind| *kind != "BPE") {
        return Err(kind.bad(format!("{} is not supported", quoted(other)), "strata knows BPE tokenizers"));
    }
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let node = model.get(affix);
        if let Some(text) = node.opt_text()?.filter(|text| !text.is_empty()) {
            return Err(node.refuse(format!("{} is part of tokens", quoted(text))));
        }
    }
    let dropout = model.get("dropout");
    if !dropout.is_none() && dropout.value().and_then(|value| value.as_f64()) != Some(0.0) {
        return Err(dropout.refuse("merges are left out at random"));
    }
    model.get("fuse_unk").flag(false)?;
    let sentencepiece = model.get("byte_fallback").flag(false)?;
    let ignores = model.get("ignore_merges");
    if ignores.flag(false)? && sentencepiece {
        return Err(ignores.refuse("whole texts are looked up before merging"));
    }
    Ok(sentencepiece)
}

/// The steps of a part: none, one, or those of a sequence, which may hold sequences itself.
fn steps<'a>(part: Node<'a>, list: &str) -> Result<Vec<(&'a str, Node<'a>)>> {
    if part.is_none() {
        return Ok(Vec::new());
    }
    part.object()?;
    let kind = part.get("type").text()?;
    if kind != "Sequence" {
        return Ok(vec![(kind, part)]);
    }
    let step = |step: Node<'a>| step.object().and_then(|_| steps(step.clone(), list));
    let nested = part.get(list).list()?.into_iter().map(step).collect::<Result<Vec<_>>>()?;
    Ok(nested.into_iter().flatten().collect())
}

/// How byte-level texts are split.
pub(super) struct ByteLevel {
    /// The pre-tokenizer, recognized by the file's settings and not by a hash of its results. Its name implies whether whole words are
    /// looked up before merging.
    pub pre: &'static PreTokenizer,
    /// True if texts are brought to normal form C.
    pub nfc: bool,
}

/// What the file says of the split of byte-level texts.
pub(super) fn byte_level(root: &Node<'_>) -> Result<ByteLevel> {
    let mut nfc = false;
    for (kind, step) in steps(root.get("normalizer"), "normalizers")? {
        match kind {
            "NFC" => nfc = true,
            _ => return Err(step.refuse(format!("the normalizer {} changes texts", quoted(kind)))),
        }
    }
    let decoder = root.get("decoder");
    for (kind, step) in steps(decoder.clone(), "decoders")? {
        if kind != "ByteLevel" {
            return Err(step.refuse(format!("the decoder {} is not that of byte-level tokens", quoted(kind))));
        }
    }
    let node = root.get("pre_tokenizer");
    let found = steps(node.clone(), "pretokenizers")?;
    let ignores = root.get("model").get("ignore_merges");
    let ignore_merges = ignores.flag(false)?;
    let pre = parts(&found)?.and_then(|parts| pre::published(&parts, ignore_merges));
    let Some(pre) = pre else {
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
        let patterns = found.iter().filter_map(|(_, step)| step.get("pattern").get("Regex").opt_text().ok().flatten());
        let options = if kinds.contains(&"ByteLevel") { "" } else { " without ByteLevel" };
        let problem = format!(
            "this way of splitting text is not supported: {}{options} {}",
            quoted(&kinds.join(", ")),
            patterns.map(quoted).collect::<Vec<_>>().join(", ")
        );
        let known: Vec<_> = PRE_TOKENIZERS.iter().map(|pre| pre.names[0]).collect();
        let remedy = format!("strata knows those that llama.cpp calls {}", known.join(", "));
        return Err(node.bad(problem, &remedy));
    };
    match (ignore_merges, pre.ignore_merges) {
        (true, false) => {
            let name = pre.names[0];
            Err(ignores.refuse(format!("whole words are looked up before merging with the split {name}")))
        }
        (false, true) => {
            let name = pre.names[0];
            Err(ignores.refuse(format!("whole words are not looked up before merging with the split {name}")))
        }
        _ => Ok(ByteLevel { pre, nfc }),
    }
}

/// The steps before the bytes of `ByteLevel`, which must be last; `None` if one is of another kind.
fn parts<'a>(found: &[(&'a str, Node<'a>)]) -> Result<Option<Vec<Part<'a>>>> {
    let (mut parts, mut bytes) = (Vec::new(), 0);
    for (i, (kind, step)) in found.iter().enumerate() {
        match *kind {
            "ByteLevel" => {
                let prefix = step.get("add_prefix_space");
                if prefix.flag(true)? {
                    return Err(prefix.refuse("a space is put in front of texts"));
                }
                if step.get("use_regex").flag(true)? {
                    parts.push(Part::Words);
                }
                bytes += usize::from(i + 1 == found.len());
            }
            "Digits" if step.get("individual_digits").flag(false)? => parts.push(Part::Digits),
            "Split" => {
                let isolated = step.get("behavior").text()? == "Isolated" && !step.get("invert").flag(false)?;
                match step.get("pattern").get("Regex").opt_text()? {
                    Some(pattern) if isolated => parts.push(Part::Split(pattern)),
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        }
    }
    Ok((bytes == 1).then_some(parts))
}

/// Whether SentencePiece puts a space in front of texts.
pub(super) fn sentencepiece(root: &Node<'_>, tokens: &Tokens<'_>, notes: &mut Vec<String>) -> Result<bool> {
    let normalizer = root.get("normalizer");
    let (mut prepends, mut replaces) = (false, false);
    for (kind, step) in steps(normalizer.clone(), "normalizers")? {
        match kind {
            "Prepend" if step.get("prepend").text()? == SPACE => prepends = true,
            "Replace" if replacement(&step)? == Some((" ", SPACE)) => replaces = true,
            _ => return Err(step.refuse(format!("the normalizer {} changes texts", quoted(kind)))),
        }
    }
    for (kind, step) in steps(root.get("pre_tokenizer"), "pretokenizers")? {
        if kind != "Metaspace" || step.get("replacement").text()? != SPACE {
            return Err(
                step.refuse(format!("the pre-tokenizer {} splits texts otherwise than SentencePiece", quoted(kind)))
            );
        }
        replaces = true;
        prepends |= metaspace_prepends(&step, notes)?;
        check_metaspace_split(&step, tokens)?;
    }
    if !replaces {
        return Err(normalizer.refuse(format!("spaces do not become {}", quoted(SPACE))));
    }
    check_sentencepiece_decoder(root)?;
    Ok(prepends)
}

/// Whether a `Metaspace` puts a space in front of texts.
fn metaspace_prepends(step: &Node<'_>, notes: &mut Vec<String>) -> Result<bool> {
    const FIRST: &str = "tokenizer.json: \"pre_tokenizer.prepend_scheme\" is \"first\": behind special tokens a space is put in front \
                         as well, as with llama.cpp";
    let scheme = step.get("prepend_scheme");
    match scheme.opt_text()? {
        None => step.get("add_prefix_space").flag(true),
        Some("always") => Ok(true),
        Some("first") => {
            notes.push(FIRST.to_owned());
            Ok(true)
        }
        Some("never") => Ok(false),
        Some(other) => Err(scheme.bad(format!("{} is not known", quoted(other)), "get the file again")),
    }
}

/// Checks that the cuts of a `Metaspace` in front of every space change nothing. Merging makes them anyway, unless a token has a space
/// further in.
fn check_metaspace_split(step: &Node<'_>, tokens: &Tokens<'_>) -> Result<()> {
    let split = step.get("split");
    let splits = split.flag(true)?;
    let inner = |(text, kind): &(&String, &TokenKind)| {
        **kind == TokenKind::Normal && text.chars().skip(1).any(|c| SPACE.starts_with(c))
    };
    match tokens.texts.iter().zip(&tokens.kinds).find(inner) {
        Some((text, _)) if splits => {
            Err(split.refuse(format!("texts are cut at spaces inside tokens such as {}", quoted(text))))
        }
        _ => Ok(()),
    }
}

/// Checks that the decoder does what SentencePiece does.
fn check_sentencepiece_decoder(root: &Node<'_>) -> Result<()> {
    let decoder = root.get("decoder");
    let found = steps(decoder.clone(), "decoders")?;
    let replaced = found.is_empty() || found.iter().any(|(kind, _)| matches!(*kind, "Metaspace" | "Replace"));
    for (kind, step) in found {
        let known = match kind {
            "ByteFallback" | "Fuse" => true,
            "Metaspace" => step.get("replacement").text()? == SPACE,
            "Replace" => replacement(&step)? == Some((SPACE, " ")),
            "Strip" => {
                let count = |key: &str| step.get(key).value().and_then(|value| value.as_u64());
                step.get("content").text()? == " " && count("start").is_some_and(|n| n <= 1) && count("stop") == Some(0)
            }
            _ => false,
        };
        if !known {
            return Err(step.refuse(format!("the decoder {} is not SentencePiece's", quoted(kind))));
        }
    }
    if !replaced {
        return Err(decoder.refuse(format!("{} stays in texts that are decoded", quoted(SPACE))));
    }
    Ok(())
}

/// The text that a step replaces and its replacement; `None` if the pattern is a regular expression.
fn replacement<'a>(step: &Node<'a>) -> Result<Option<(&'a str, &'a str)>> {
    let from = step.get("pattern").get("String");
    Ok(if from.is_none() { None } else { Some((from.text()?, step.get("content").text()?)) })
}

/// The special tokens that the post-processor puts around one text.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Template {
    /// True if the file has a post-processor, and so states which special tokens are put around texts.
    pub stated: bool,
    pub first: Option<u32>,
    pub last: Option<u32>,
}

impl Template {
    /// Reads `post_processor`. Its template for two texts is ignored: nothing here encodes pairs.
    pub fn read(root: &Node<'_>, tokens: &Tokens<'_>) -> Result<Template> {
        let mut template = Template::default();
        let mut templates = 0;
        for (kind, step) in steps(root.get("post_processor"), "processors")? {
            template.stated = true;
            match kind {
                // It only moves offsets.
                "ByteLevel" => {}
                "TemplateProcessing" if templates == 0 => {
                    (template.first, template.last) = around(&step, tokens)?;
                    templates += 1;
                }
                _ => return Err(step.refuse(format!("the post-processor {} changes tokens", quoted(kind)))),
            }
        }
        Ok(template)
    }
}

/// The special tokens before and after the text.
fn around(step: &Node<'_>, tokens: &Tokens<'_>) -> Result<(Option<u32>, Option<u32>)> {
    let single = step.get("single");
    let mut text = None; // the place of the text
    let mut special = Vec::new();
    for (i, piece) in single.list()?.into_iter().enumerate() {
        if piece.get("SpecialToken").is_none() {
            let id = piece.get("Sequence").get("id");
            if id.text()? != "A" || text.replace(i).is_some() {
                return Err(id.refuse("the template for one text has another, or has it twice"));
            }
            continue;
        }
        let named = piece.get("SpecialToken").get("id");
        let name = named.text()?;
        let entry = step.get("special_tokens");
        entry.object()?;
        let ids = entry.get(name).get("ids");
        let [id] = ids.array()? else { return Err(ids.refuse(format!("{} is not one token", quoted(name)))) };
        let id =
            id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| tokens.texts.get(*id as usize).is_some());
        let id = id.filter(|id| tokens.id(name).is_none_or(|known| known == *id));
        special.push((
            i,
            id.ok_or_else(|| ids.bad(format!("is not the number of {}", quoted(name)), "get the file again"))?,
        ));
    }
    let Some(text) = text else { return Err(single.refuse("the template for one text leaves it out")) };
    let before: Vec<u32> = special.iter().filter(|(i, _)| *i < text).map(|(_, id)| *id).collect();
    let behind: Vec<u32> = special.iter().filter(|(i, _)| *i > text).map(|(_, id)| *id).collect();
    if before.len() > 1 || behind.len() > 1 {
        return Err(single.refuse("more than one special token is put on one side of a text"));
    }
    Ok((before.first().copied(), behind.first().copied()))
}
