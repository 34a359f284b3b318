//! The answer to one request: from logits to the next token and its text, until it ends.

use super::grammar::{Grammar, Matcher};
use super::request::{End, Request, Token};
use super::sampling::{Sampler, logprobs};
use super::stops::StopTexts;
use crate::error::{Error, Result};
use crate::tokenizer::{StreamDecoder, Tokenizer};
use std::sync::Arc;

/// An answer that is being made.
pub struct Answer {
    tokenizer: Option<Arc<Tokenizer>>,
    decoder: Option<StreamDecoder<Arc<Tokenizer>>>,
    sampler: Sampler,
    matcher: Option<Matcher>, // of its grammar
    stops: StopTexts,
    limit: usize,
    ignore_eos: bool,
    logprobs: Option<usize>,
    tokens: usize,
}

/// What follows from logits.
pub enum Next {
    /// A token; the answer ends with it if there is an end.
    Token(Token, Option<End>),
    /// The end, without a token.
    End(End),
}

impl Answer {
    /// The answer to `request` by a model with so many tokens in its `vocab`. Without a tokenizer it has no text, and only its limit ends
    /// it.
    ///
    /// # Errors
    /// If the settings of the sampler are none, or the grammar cannot be followed.
    pub fn new(request: &Request, vocab: usize, tokenizer: Option<&Arc<Tokenizer>>) -> Result<Answer> {
        let mut sampler = Sampler::new(&request.sampling, vocab, tokenizer)?;
        request.prompt.iter().for_each(|&token| sampler.accept(token));
        let decoder =
            tokenizer.map(|tokenizer| StreamDecoder::new(tokenizer.clone()).render_special(request.render_special));
        Ok(Answer {
            tokenizer: tokenizer.cloned(),
            decoder,
            sampler,
            matcher: request.grammar.as_ref().map(Grammar::matcher).transpose()?,
            stops: StopTexts::new(request.stop.clone()),
            limit: request.limit,
            ignore_eos: request.ignore_eos,
            logprobs: request.logprobs,
            tokens: 0,
        })
    }

    /// Chooses the next token by the `logits (vocab)` after the last.
    ///
    /// # Errors
    /// If no token can be chosen, or following the grammar takes too much.
    pub fn next(&mut self, logits: &[f32]) -> Result<Next> {
        if self.tokens == self.limit {
            return Ok(Next::End(End::Length));
        }
        let id = match &mut self.matcher {
            // Also where the vocabulary has no token that says so.
            Some(matcher) if matcher.must_end() => return Ok(Next::End(End::Stop)),
            Some(matcher) => self.sampler.sample_masked(logits, matcher.mask()?),
            None => self.sampler.sample(logits),
        };
        let id = id.ok_or(Error::NoCandidate)?;
        // Behind what a grammar allows nothing can follow.
        let may_go_on = self.ignore_eos && self.matcher.is_none();
        if !may_go_on && self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is_eog(id)) {
            return Ok(Next::End(End::Stop));
        }
        self.sampler.accept(id);
        self.matcher.as_mut().map_or(Ok(()), |matcher| matcher.accept(id))?;
        self.tokens += 1;
        let logprobs = self.logprobs.map(|n| logprobs(logits, id, n)).transpose()?;
        let piece = self.decoder.as_mut().map_or(Ok(String::new()), |decoder| decoder.push(id))?;
        let released = self.stops.push(&piece);
        let end = released.stop.map(End::StopText).or((self.tokens == self.limit).then_some(End::Length));
        Ok(Next::Token(Token { id, text: released.text, logprobs }, end))
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The text that was held back, at the end of the answer: nothing behind a text that ended it.
    pub fn finish(&mut self, end: End) -> String {
        if let End::StopText(_) = end {
            return String::new();
        }
        let mut rest = String::new();
        if let Some(decoder) = self.decoder.take() {
            rest = self.stops.push(&decoder.finish()).text;
        }
        rest.push_str(&self.stops.finish());
        rest
    }
}
