//! `/v1/responses`: OpenAI's API for agents. Nothing is kept: each request has the whole conversation.

use super::chat::{Begun, begin, collect};
use super::responses_input::{conversation, form};
use super::responses_output::{Echo, Items, envelope};
use super::responses_stream::Stream;
use crate::serve::app::App;
use crate::serve::body::Json;
use crate::serve::object::Object;
use crate::serve::params::Params;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::sse;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use strata::engine::sampling::Sampling;

fn read(body: &Object<'_>, model: &Sampling, vocab: usize) -> Result<Params> {
    let params = Params::read(body, model, vocab, &["max_output_tokens"], 1)?;
    Ok(match form(body)? {
        Some(form) => Params { form, ..params },
        None => params,
    })
}

/// The handler.
pub async fn create(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    for kept in ["previous_response_id", "conversation", "prompt"] {
        if body.get(kept).is_some() {
            return Err(Refusal::field(
                kept,
                "is not supported: this server keeps no conversations; send all of it as input",
            ));
        }
    }
    if body.flag("background")? == Some(true) {
        return Err(Refusal::field("background", "is not supported"));
    }
    let conversation = conversation(&body)?;
    read(&body, &Sampling::default(), u32::MAX as usize)?;
    let place = app.admit(1)?;
    let model = app.model(entry).await?;
    let params = read(&body, &model.sampling, model.vocab)?;
    let echo = Echo::new(&body, &params, &model.name);
    drop(request);
    let begun = begin(&app, model, conversation, params, place).await?;
    match begun.params.stream {
        true => {
            let Begun { answer, mut choices, .. } = begun;
            Ok(sse::response(answer, Stream::new(choices.remove(0), echo)))
        }
        false => whole(begun, echo).await,
    }
}

async fn whole(mut begun: Begun, echo: Echo) -> Result<Response> {
    let whole = collect(&mut begun).await?.remove(0);
    let items = Items::of(&whole);
    Ok(axum::Json(envelope(&echo, &items.told(), whole.end.as_ref())).into_response())
}
