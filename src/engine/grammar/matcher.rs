//! An answer that follows a grammar, token by token.

use super::compile::{refused, short};
use super::mask::TokenMask;
use super::vocabulary::GrammarVocabulary;
use crate::error::{Error, Result};
use llguidance::api::StopReason;
use std::sync::{Arc, Mutex, PoisonError};

/// A matcher at the start of an answer, to be cloned.
pub(super) struct Template {
    /// Behind a lock because its caches are not made for sharing.
    start: Mutex<llguidance::Matcher>,
    may_end: bool,
    vocabulary: Arc<GrammarVocabulary>,
}

impl Template {
    /// Checks that an answer can begin.
    pub(super) fn new(
        what: &'static str,
        mut start: llguidance::Matcher,
        vocabulary: &Arc<GrammarVocabulary>,
    ) -> Result<Template> {
        let may_end = start.is_accepting().map_err(|error| refused(what, error))?;
        if let Err(error) = start.compute_mask() {
            match start.stop_reason() {
                StopReason::NoExtensionBias if may_end => {}
                StopReason::NoExtensionBias => {
                    return Err(refused(what, "it allows no text that the vocabulary can write"));
                }
                _ => return Err(refused(what, error)),
            }
        }
        Ok(Template { start: Mutex::new(start), may_end, vocabulary: vocabulary.clone() })
    }

    /// A matcher of its own: nothing that other answers do changes what it does, not even whether it runs out of fuel.
    pub(super) fn matcher(&self) -> Matcher {
        let inner = self.start.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Matcher { inner, mask: None, may_end: self.may_end, vocabulary: self.vocabulary.clone() }
    }
}

/// Where an answer is in its grammar.
///
/// After an error it returns the same error again: nothing is allowed that was not found to be.
pub struct Matcher {
    inner: llguidance::Matcher,
    mask: Option<TokenMask>,
    may_end: bool,
    vocabulary: Arc<GrammarVocabulary>,
}

impl Matcher {
    /// The tokens that may come next. Where the answer may end they have the tokens that end generation among them; where it must end they
    /// are these alone, and none if the vocabulary has none.
    ///
    /// # Errors
    /// If finding them out takes too much, or no token can continue an answer that is not complete.
    pub fn mask(&mut self) -> Result<&TokenMask> {
        if self.mask.is_none() {
            self.mask = Some(self.compute()?);
        }
        self.mask.as_ref().ok_or(Error::Internal("a mask was lost"))
    }

    fn compute(&mut self) -> Result<TokenMask> {
        if self.must_end() {
            return Ok(TokenMask::of(self.vocabulary.ends.iter().copied()));
        }
        match self.inner.compute_mask() {
            Ok(mask) => Ok(TokenMask::from_words(mask.as_slice())),
            Err(_) if self.inner.stop_reason() == StopReason::NoExtensionBias => Err(Error::GrammarStopped {
                problem: "no token of the vocabulary can continue this answer, which is not complete".to_owned(),
            }),
            Err(error) => Err(stopped(error)),
        }
    }

    /// Appends a token to the answer.
    ///
    /// # Errors
    /// If the [mask](Matcher::mask) does not allow it, or following the grammar takes too much.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        if self.must_end() && self.vocabulary.ends.contains(&token) {
            return Ok(());
        }
        self.mask = None;
        self.inner.consume_token(token).map_err(stopped)?;
        self.may_end = self.inner.is_accepting().map_err(stopped)?;
        Ok(())
    }

    /// True if the answer so far is complete: it may end here.
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// True if the answer is complete and nothing can be appended.
    pub fn must_end(&self) -> bool {
        self.inner.stop_reason() != StopReason::NotStopped && self.inner.stop_reason().is_ok() && !self.inner.is_error()
    }
}

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::GrammarStopped { problem: short(error) }
}
