//! `/v1/chat/completions`.

use super::chat_stream::Stream;
use super::{Usage, fingerprint, id, now, timings, unique};
use crate::serve::answer::{Answer, Task};
use crate::serve::app::App;
use crate::serve::body::Json;
use crate::serve::choice::{Choice, Whole};
use crate::serve::conversation::Conversation;
use crate::serve::object::Object;
use crate::serve::params::{Form, LOGPROBS, Params, compile};
use crate::serve::refusal::{Refusal, Result};
use crate::serve::sse;
use crate::serve::worker::command::Said;
use crate::serve::worker::served::Served;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use strata::engine::sampling::Sampling;
use tokio::sync::OwnedSemaphorePermit;

/// The names of the most tokens.
const LIMITS: [&str; 3] = ["max_completion_tokens", "max_tokens", "n_predict"];

/// An answer to a conversation that has begun, whatever API tells it.
pub struct Begun {
    /// The answer.
    pub answer: Answer,
    /// Its choices.
    pub choices: Vec<Choice>,
    /// How it is made.
    pub params: Params,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// Reads `logprobs` and `top_logprobs` of chat.
fn logprobs(body: &Object<'_>) -> Result<Option<usize>> {
    let (wanted, top) = (body.flag("logprobs")?.unwrap_or(false), body.count("top_logprobs", 0, LOGPROBS)?);
    match (wanted, top) {
        (false, Some(1..)) => Err(Refusal::field("top_logprobs", "needs logprobs to be true")),
        (wanted, top) => Ok(wanted.then_some(top.unwrap_or(0))),
    }
}

fn read(body: &Object<'_>, model: &Sampling, vocab: usize, app: &App) -> Result<Params> {
    let params = Params::read(body, model, vocab, &LIMITS, app.most())?;
    Ok(Params { logprobs: logprobs(body)?, ..params })
}

/// The handler.
pub async fn create(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let conversation = Conversation::read(&body)?;
    // Everything is checked before a model is loaded for it.
    let first = read(&body, &Sampling::default(), u32::MAX as usize, &app)?;
    let place = app.admit(first.choices)?;
    let model = app.model(entry).await?;
    let params = read(&body, &model.sampling, model.vocab, &app)?;
    drop(request);
    let begun = begin(&app, model, conversation, params, place).await?;
    match begun.params.stream {
        true => {
            let (answer, encoder) = Stream::new(begun);
            Ok(sse::response(answer, encoder))
        }
        false => whole(begun).await,
    }
}

/// Renders, tokenizes, compiles and begins to answer a conversation.
pub async fn begin(
    app: &Arc<App>,
    model: Arc<Served>,
    conversation: Conversation,
    params: Params,
    place: OwnedSemaphorePermit,
) -> Result<Begun> {
    let (of, form) = (model.clone(), params.form.clone());
    let prepared = app.work(move || {
        let prompt = conversation.prompt(&of)?;
        let form = match (form, &prompt.form) {
            (form, Form::Free) => form,
            (Form::Free, tools) => tools.clone(),
            _ => return Err(Refusal::field("tools", "cannot be used beside response_format, json_schema or grammar")),
        };
        let grammar = compile(&form, &of)?;
        Ok((prompt, grammar, conversation.may_call()))
    });
    let (prompt, grammar, tools) = prepared.await?;
    let seed = unique();
    let parser = |i: usize| prompt.format.parser(tools).with_seed(seed.wrapping_add(i as u64));
    let choices = (0..params.choices).map(|i| Choice::new(parser(i), &params)).collect();
    let (prompt_tokens, render_special) = (prompt.tokens.len(), prompt.format.needs_special(tools));
    let task = Task { model, prompts: vec![prompt.tokens], params: params.clone(), grammar, render_special, place };
    Ok(Begun { answer: Answer::begin(app, task).await?, choices, params, prompt_tokens })
}

/// All choices to their ends.
pub async fn collect(begun: &mut Begun) -> Result<Vec<Whole>> {
    let Begun { answer, choices, .. } = begun;
    let mut wholes: Vec<Whole> = choices.iter().map(|_| Whole::default()).collect();
    while let Some(piece) = answer.next().await {
        match piece.said {
            Said::Failed(refusal) => return Err(refusal),
            said => wholes[piece.choice].add(choices[piece.choice].take(said), &answer.model),
        }
    }
    Ok(wholes)
}

async fn whole(mut begun: Begun) -> Result<Response> {
    let (wholes, seed) = (collect(&mut begun).await?, begun.params.sampling.seed);
    let mut usage = Usage::default();
    let mut times = Value::Null;
    let mut choices = Vec::new();
    for (index, whole) in wholes.into_iter().enumerate() {
        let Some((reason, finished)) = &whole.end else { continue };
        usage.add(finished, index > 0);
        if index == 0 {
            times = timings(finished, seed);
        }
        let logprobs = begun.params.logprobs.map(|_| json!({"content": whole.logprobs, "refusal": null}));
        choices.push(
            json!({"index": index, "message": message(&whole), "logprobs": logprobs, "finish_reason": reason.openai()}),
        );
    }
    let told = json!({
        "id": id("chatcmpl-"),
        "object": "chat.completion",
        "created": now(),
        "model": begun.answer.model.name,
        "system_fingerprint": fingerprint(),
        "choices": choices,
        "usage": usage.told(),
        "timings": times,
    });
    Ok(axum::Json(told).into_response())
}

/// The message of the assistant.
fn message(whole: &Whole) -> Value {
    let content = match whole.content.is_empty() && !whole.calls.is_empty() {
        true => Value::Null,
        false => json!(whole.content),
    };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !whole.reasoning.is_empty() {
        message["reasoning_content"] = json!(whole.reasoning);
    }
    if !whole.calls.is_empty() {
        let call = |call: &crate::serve::choice::Call| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
        message["tool_calls"] = whole.calls.iter().map(call).collect();
    }
    message
}
