//! `/v1/completions`: prompts that are continued as they are.

use super::{Usage, fingerprint, id, now, timings};
use crate::serve::answer::{Answer, Task};
use crate::serve::app::App;
use crate::serve::body::Json;
use crate::serve::choice::Reason;
use crate::serve::object::{Object, wrong};
use crate::serve::params::{LOGPROBS, Params, compile};
use crate::serve::refusal::{Dialect, Refusal, Result};
use crate::serve::sse::{self, Encoder, Events};
use crate::serve::worker::command::{Piece, Said};
use crate::serve::worker::served::Served;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use strata::engine::sampling::Sampling;
use strata::engine::{Finished, Token};
use strata::tokenizer::EncodeOptions;

/// The names of the most tokens.
const LIMITS: [&str; 2] = ["max_tokens", "n_predict"];

/// A prompt as a text or as tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

/// A text, tokens, or a list of either, at most `most`: the inputs of completions and embeddings.
pub fn inputs(body: &Object<'_>, key: &str, most: usize) -> Result<Vec<Input>> {
    let wanted = "a text, a list of tokens, or a list of these";
    let value = body.get(key).ok_or_else(|| body.missing(key))?;
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    let one = |value: &Value| match value {
        Value::String(text) => Some(Input::Text(text.clone())),
        Value::Array(list) if !list.is_empty() => list.iter().map(token).collect::<Option<_>>().map(Input::Tokens),
        _ => None,
    };
    let refused = || wrong(body.name(key), value, wanted);
    let list = match value {
        Value::Array(list) if !list.is_empty() && token(&list[0]).is_none() => {
            list.iter().map(one).collect::<Option<_>>()
        }
        other => one(other).map(|one| vec![one]),
    };
    let list: Vec<Input> = list.ok_or_else(refused)?;
    match list.len() <= most {
        true => Ok(list),
        false => Err(Refusal::field(body.name(key), format!("has {} inputs; give at most {most}", list.len()))),
    }
}

/// The tokens of an input.
pub fn encode(input: &Input, model: &Served) -> Result<Vec<u32>> {
    let tokens = match input {
        Input::Tokens(tokens) => tokens.clone(),
        Input::Text(text) => model.tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true })?,
    };
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= model.vocab) {
        return Err(strata::Error::TokenOutOfVocabulary { token, vocab: model.vocab }.into());
    }
    Ok(tokens)
}

fn read(body: &Object<'_>, model: &Sampling, vocab: usize, app: &App) -> Result<Params> {
    let params = Params::read(body, model, vocab, &LIMITS, app.most())?;
    if let Some(suffix) = body.text("suffix")?.filter(|suffix| !suffix.is_empty()) {
        return Err(Refusal::field("suffix", format!("{} is not supported", strata::error::quoted(suffix))));
    }
    match body.count("best_of", 1, 128)? {
        Some(best) if best != params.choices => Err(Refusal::field("best_of", "is not n; it is not supported")),
        _ => Ok(Params { logprobs: body.count("logprobs", 0, LOGPROBS)?, ..params }),
    }
}

/// The handler.
pub async fn create(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let inputs = inputs(&body, "prompt", app.most())?;
    let first = read(&body, &Sampling::default(), u32::MAX as usize, &app)?;
    let echo = body.flag("echo")?.unwrap_or(false);
    let place = app.admit(first.choices * inputs.len())?;
    let model = app.model(entry).await?;
    let params = read(&body, &model.sampling, model.vocab, &app)?;
    drop(request);
    let (of, form) = (model.clone(), params.form.clone());
    let prepared = app.work(move || {
        let prompts = inputs.iter().map(|input| encode(input, &of)).collect::<Result<Vec<_>>>()?;
        let echoed = prompts.iter().map(|prompt| if echo { of.tokenizer.decode(prompt) } else { Ok(String::new()) });
        let echoed = echoed.collect::<strata::Result<Vec<_>>>()?;
        Ok((prompts, echoed, compile(&form, &of)?))
    });
    let (prompts, echoed, grammar) = prepared.await?;
    let state = Completion::new(&model, &params, echoed);
    let stream = params.stream;
    let answer = Answer::begin(&app, Task { model, prompts, params, grammar, render_special: false, place }).await?;
    if stream { Ok(sse::response(answer, state)) } else { whole(answer, state).await }
}

/// Completions while they come.
struct Completion {
    model: Arc<Served>,
    id: String,
    created: u64,
    texts: Vec<Text>,
    echoed: Vec<String>, // of each prompt
    choices: usize,      // of each prompt
    stop: Vec<String>,
    logprobs: bool,
    seed: u64,
    usage: Usage,
    told_usage: bool,
}

/// One completion.
#[derive(Default)]
struct Text {
    text: String,
    logprobs: Logprobs,
    end: Option<(Reason, Finished)>,
}

/// Log-probabilities in the form of completions.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<Value>,
    of_tokens: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
}

impl Logprobs {
    fn push(&mut self, token: &Token, offset: usize, model: &Served) {
        let Some(of) = &token.logprobs else { return };
        let text = |id: u32| String::from_utf8_lossy(&model.tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
        self.tokens.push(json!(text(token.id)));
        self.of_tokens.push(json!(of.chosen));
        let top: Map<String, Value> = of.top.iter().map(|one| (text(one.token), json!(one.logprob))).collect();
        self.top.push(Value::Object(top));
        self.offsets.push(offset);
    }

    fn told(&self) -> Value {
        json!({"tokens": self.tokens, "token_logprobs": self.of_tokens, "top_logprobs": self.top, "text_offset": self.offsets})
    }
}

impl Completion {
    fn new(model: &Arc<Served>, params: &Params, echoed: Vec<String>) -> Completion {
        Completion {
            model: model.clone(),
            id: id("cmpl-"),
            created: now(),
            texts: (0..echoed.len() * params.choices).map(|_| Text::default()).collect(),
            echoed,
            choices: params.choices,
            stop: params.stop.clone(),
            logprobs: params.logprobs.is_some(),
            seed: params.sampling.seed,
            usage: Usage::default(),
            told_usage: params.usage,
        }
    }

    /// Takes a piece; the text that it adds, with its log-probabilities.
    fn take(&mut self, piece: Piece) -> (String, Logprobs) {
        let (text, mut new) = (&mut self.texts[piece.choice], Logprobs::default());
        let piece_text = match piece.said {
            Said::Token(token) => {
                new.push(&token, text.text.chars().count(), &self.model);
                text.logprobs.push(&token, text.text.chars().count(), &self.model);
                token.text
            }
            Said::Finished(finished) => {
                self.usage.add(&finished, !piece.choice.is_multiple_of(self.choices));
                let rest = finished.rest.clone();
                text.end = Some((Reason::of(&finished, &self.stop), finished));
                rest
            }
            Said::Prefill { .. } | Said::Failed(_) => String::new(),
        };
        text.text.push_str(&piece_text);
        (piece_text, new)
    }

    fn told(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": fingerprint(),
            "choices": choices,
        })
    }

    fn choice(&self, index: usize, text: &str, logprobs: &Logprobs, reason: Option<&str>) -> Value {
        let logprobs = self.logprobs.then(|| logprobs.told());
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
    }
}

async fn whole(mut answer: Answer, mut state: Completion) -> Result<Response> {
    while let Some(piece) = answer.next().await {
        if let Said::Failed(refusal) = piece.said {
            return Err(refusal);
        }
        state.take(piece);
    }
    let choice = |(index, text): (usize, &Text)| {
        let reason = text.end.as_ref().map(|(reason, _)| reason.openai());
        let echoed = &state.echoed[index / state.choices];
        state.choice(index, &(echoed.clone() + &text.text), &text.logprobs, reason)
    };
    let mut told = state.told(state.texts.iter().enumerate().map(choice).collect());
    told["usage"] = state.usage.told();
    told["timings"] = state.texts[0].end.as_ref().map_or(Value::Null, |(_, finished)| timings(finished, state.seed));
    Ok(axum::Json(told).into_response())
}

impl Encoder for Completion {
    fn begin(&mut self, out: &mut Events) {
        for index in 0..self.texts.len() {
            let echoed = &self.echoed[index / self.choices];
            if !echoed.is_empty() {
                out.data(&self.told(json!([self.choice(index, echoed, &Logprobs::default(), None)])));
            }
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut Events) {
        if let Said::Failed(refusal) = piece.said {
            return out.data(&refusal.body(Dialect::OpenAi));
        }
        let index = piece.choice;
        let (text, logprobs) = self.take(piece);
        if !text.is_empty() || !logprobs.tokens.is_empty() {
            out.data(&self.told(json!([self.choice(index, &text, &logprobs, None)])));
        }
        if let Some((reason, finished)) = &self.texts[index].end {
            let mut told = self.told(json!([self.choice(index, "", &Logprobs::default(), Some(reason.openai()))]));
            told["timings"] = timings(finished, self.seed);
            out.data(&told);
        }
    }

    fn end(&mut self, out: &mut Events) {
        if self.told_usage {
            let mut told = self.told(json!([]));
            told["usage"] = self.usage.told();
            out.data(&told);
        }
        out.text("[DONE]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_texts_tokens_or_lists_of_them() {
        let of = |value: Value| inputs(&Object::body(&json!({"prompt": value})).unwrap(), "prompt", 3);
        let text = |text: &str| Input::Text(text.to_owned());
        assert_eq!(of(json!("a")).unwrap(), [text("a")]);
        assert_eq!(of(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(of(json!([1, 2])).unwrap(), [Input::Tokens(vec![1, 2])]);
        assert_eq!(of(json!([[1], [2]])).unwrap(), [Input::Tokens(vec![1]), Input::Tokens(vec![2])]);
        for bad in [
            json!(null),
            json!(3),
            json!([]),
            json!([[]]),
            json!([-1]),
            json!([1, "a"]),
            json!(["a", 1.5]),
            json!(["a", "b", "c", "d"]),
            json!([4294967296u64]),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }
}
