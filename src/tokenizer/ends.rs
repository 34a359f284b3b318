//! llama.cpp's lists of token texts with a known purpose, for files that do not state it.

use std::collections::HashSet;

use super::vocab::{TokenKind, Vocab};

/// The texts of tokens that end generation.
const ENDS: [&str; 32] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    // The padding, the repository and the file of a completion in the middle end it as well.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The texts of the other control tokens that llama.cpp knows.
const MIDDLES: [&str; 23] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
];

/// True if a token with this text ends generation, whatever the file states.
pub(crate) fn ends_generation(text: &str) -> bool {
    ENDS.contains(&text)
}

/// The tokens that end generation: those that the file names and those with a known text.
pub(super) fn end_of_generation(vocab: &Vocab) -> HashSet<u32> {
    let named = [vocab.eos, vocab.eot, vocab.eom].into_iter().flatten().chain(vocab.fim_ends.iter().copied());
    let known = (0u32..).zip(&vocab.tokens).filter(|(_, token)| ends_generation(token)).map(|(id, _)| id);
    named.chain(known).collect()
}

/// The tokens that the file types as text and whose texts are those of control tokens.
pub(super) fn control_looking(vocab: &Vocab) -> HashSet<u32> {
    let texts: HashSet<&str> = ENDS.into_iter().chain(MIDDLES).collect();
    let looking = |(id, token): &(u32, &String)| {
        !matches!(vocab.kind(*id), TokenKind::Control | TokenKind::Unknown) && texts.contains(token.as_str())
    };
    (0u32..).zip(&vocab.tokens).filter(looking).map(|(id, _)| id).collect()
}
