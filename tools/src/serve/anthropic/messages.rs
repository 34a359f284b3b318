//! `/v1/messages` and `/v1/messages/count_tokens`.

use super::input::conversation;
use super::stream::Stream;
use crate::serve::app::App;
use crate::serve::body::Json;
use crate::serve::choice::{Reason, Whole};
use crate::serve::object::Object;
use crate::serve::openai::chat::{Begun, begin, collect};
use crate::serve::openai::id;
use crate::serve::params::{Params, STOPS, check_stop, of_format};
use crate::serve::refusal::Result;
use crate::serve::sse;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use strata::engine::Finished;
use strata::engine::sampling::Sampling;

fn read(body: &Object<'_>, model: &Sampling, vocab: usize) -> Result<Params> {
    body.required("max_tokens", body.count("max_tokens", 1, i32::MAX as usize))?;
    let mut params = Params::read(body, model, vocab, &["max_tokens"], 1)?;
    if let Some(stop) = body.texts("stop_sequences", STOPS)? {
        check_stop("stop_sequences", &stop)?;
        params.stop = stop;
    }
    if let Some(config) = body.object("output_config")?
        && let Some(format) = config.object("format")?
        && let Some(form) = of_format(&format, "json_schema")?
    {
        params.form = form;
    }
    Ok(params)
}

/// The handler of `/v1/messages`.
pub async fn create(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let conversation = conversation(&body)?;
    read(&body, &Sampling::default(), u32::MAX as usize)?;
    let place = app.admit(1)?;
    let model = app.model(entry).await?;
    let params = read(&body, &model.sampling, model.vocab)?;
    drop(request);
    let begun = begin(&app, model, conversation, params, place).await?;
    match begun.params.stream {
        true => {
            let (prompt_tokens, name) = (begun.prompt_tokens, begun.answer.model.name.clone());
            let Begun { answer, mut choices, .. } = begun;
            Ok(sse::response(answer, Stream::new(choices.remove(0), name, prompt_tokens)))
        }
        false => whole(begun).await,
    }
}

/// The handler of `/v1/messages/count_tokens`.
pub async fn count_tokens(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let conversation = conversation(&body)?;
    let model = app.model(entry).await?;
    drop(request);
    let tokens = app.work(move || Ok(conversation.prompt(&model)?.tokens.len())).await?;
    Ok(axum::Json(json!({"input_tokens": tokens})).into_response())
}

async fn whole(mut begun: Begun) -> Result<Response> {
    let whole = collect(&mut begun).await?.remove(0);
    let content = content(&whole);
    let (reason, finished) = match &whole.end {
        Some((reason, finished)) => (Some(reason), Some(finished)),
        None => (None, None),
    };
    let (reason, stop) = reason.map_or((Value::Null, Value::Null), ended);
    let told = json!({
        "id": id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": begun.answer.model.name,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": stop,
        "usage": finished.map(usage),
    });
    Ok(axum::Json(told).into_response())
}

/// The blocks of an answer.
fn content(whole: &Whole) -> Value {
    let mut blocks = Vec::new();
    if !whole.reasoning.is_empty() {
        blocks.push(json!({"type": "thinking", "thinking": whole.reasoning, "signature": ""}));
    }
    if !whole.content.is_empty() {
        blocks.push(json!({"type": "text", "text": whole.content}));
    }
    for call in &whole.calls {
        // What does not parse was cut short; it is told all the same.
        let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        let input: Value = input;
        blocks.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input}));
    }
    Value::Array(blocks)
}

/// `stop_reason` and `stop_sequence`.
pub fn ended(reason: &Reason) -> (Value, Value) {
    match reason {
        Reason::Stop => (json!("end_turn"), Value::Null),
        Reason::StopText(text) => (json!("stop_sequence"), json!(text)),
        Reason::Length => (json!("max_tokens"), Value::Null),
        Reason::ToolCalls => (json!("tool_use"), Value::Null),
    }
}

/// The tokens of an answer.
pub fn usage(finished: &Finished) -> Value {
    json!({
        "input_tokens": finished.prompt_tokens - finished.reused_tokens.min(finished.prompt_tokens),
        "cache_read_input_tokens": finished.reused_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": finished.tokens,
    })
}
