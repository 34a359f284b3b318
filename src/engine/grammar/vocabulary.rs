//! A tokenizer's vocabulary as grammars need it: a trie of the bytes of its tokens, made once for each tokenizer.

use super::compile::{guarded, refused};
use super::limits;
use crate::error::{Error, Result};
use crate::tokenizer::{TokenKind, Tokenizer};
use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The longest token that a grammar can produce, in bytes: toktrie's trie has at most 1,024 levels.
const LONGEST_TOKEN: usize = 1000;

/// The most tokens, a bound of toktrie's nodes.
const MOST_TOKENS: usize = (1 << 24) - 1;

/// A tokenizer's vocabulary, ready for grammars.
pub struct GrammarVocabulary {
    pub(super) factory: ParserFactory,
    /// The tokens that end generation, in the order of their ids.
    pub(super) ends: Vec<u32>,
}

/// The vocabularies of the tokenizers in use.
static KNOWN: Mutex<Vec<(Weak<Tokenizer>, Arc<GrammarVocabulary>)>> = Mutex::new(Vec::new());

impl GrammarVocabulary {
    /// The vocabulary of `tokenizer`: made when it is first asked for, and kept as long as the tokenizer.
    ///
    /// # Errors
    /// If its tokens are too many or too long for a trie.
    pub fn of(tokenizer: &Arc<Tokenizer>) -> Result<Arc<GrammarVocabulary>> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, _)| of.strong_count() > 0);
        if let Some((_, vocabulary)) = known.iter().find(|(of, _)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(tokenizer))) {
            return Ok(vocabulary.clone());
        }
        let vocabulary = Arc::new(guarded("vocabulary", || GrammarVocabulary::new(tokenizer))?);
        known.push((Arc::downgrade(tokenizer), vocabulary.clone()));
        Ok(vocabulary)
    }

    fn new(tokenizer: &Arc<Tokenizer>) -> Result<GrammarVocabulary> {
        let count = tokenizer.vocab().tokens.len();
        if count > MOST_TOKENS {
            return Err(Error::GrammarRefused {
                what: "vocabulary",
                place: String::new(),
                problem: format!("{count} tokens are more than {MOST_TOKENS}"),
                remedy: "use this model without a grammar".to_owned(),
            });
        }
        let words = (0..count as u32).map(|id| word(tokenizer, id)).collect::<Result<Vec<_>>>()?;
        let ends: Vec<u32> = (0..count as u32).filter(|&id| tokenizer.is_eog(id)).collect();
        let info = TokRxInfo::new(count as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        // Not canonical: the model, not the grammar, chooses among the tokenizations of a text.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| refused("vocabulary", error))?;
        factory.quiet();
        *factory.limits_mut() = limits::parser();
        Ok(GrammarVocabulary { factory, ends })
    }
}

/// The bytes of a token as toktrie has them: those of a control token stand behind a marker that is part of no text, so that only a
/// grammar that names the token allows it. Empty if no grammar allows it.
fn word(tokenizer: &Tokenizer, id: u32) -> Result<Vec<u8>> {
    let bytes = tokenizer.token_bytes(id)?;
    let is_control = tokenizer.is_control(id) || tokenizer.is_eog(id);
    if bytes.len() > LONGEST_TOKEN || (!is_control && bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER)) {
        return Ok(Vec::new());
    }
    match tokenizer.vocab().kind(id) {
        TokenKind::Unknown => Ok(Vec::new()),
        _ if is_control => Ok([&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat()),
        _ => Ok(bytes),
    }
}
