//! Endpoints beside those of the two APIs, with llama.cpp's names: health, metrics, properties, slots, tokens, templates.

use super::app::App;
use super::body::Json;
use super::conversation::Conversation;
use super::object::{Object, wrong};
use super::refusal::{Refusal, Result};
use super::worker::models::unknown;
use crate::machine;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use strata::tokenizer::EncodeOptions;

/// The most tokens that are decoded at once.
const TOKENS: usize = 1 << 20;

/// The model that a query asks about.
#[derive(Deserialize)]
pub struct Asked {
    model: Option<String>,
}

/// Whether the server answers.
pub async fn health() -> Response {
    axum::Json(json!({"status": "ok"})).into_response()
}

/// The numbers of the server, for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(&app.status.now());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// A query, or why it is none.
type Wanted = std::result::Result<Query<Asked>, axum::extract::rejection::QueryRejection>;

fn wanted(app: &App, query: Wanted) -> Result<Option<String>> {
    let Query(asked) = query.map_err(|_| Refusal::request("the query is not model=NAME"))?;
    match &asked.model {
        Some(name) if app.settings.catalog.find(name).is_none() => Err(unknown(name)),
        _ => Ok(asked.model),
    }
}

/// What the server is and does: its models, their defaults, memory.
pub async fn props(State(app): State<Arc<App>>, query: Wanted) -> Result<Response> {
    let name = wanted(&app, query)?.or_else(|| app.settings.catalog.entries().first().map(|entry| entry.name.clone()));
    let (status, load) = (app.status.now(), &app.settings.load);
    let models: Vec<Value> = app
        .settings
        .catalog
        .entries()
        .iter()
        .map(|entry| {
            let memory = status.models.iter().find(|model| model.name == entry.name).map(|model| model.bytes);
            json!({"name": entry.name, "status": status.state_of(&entry.name), "memory_bytes": memory})
        })
        .collect();
    let memory = json!({
        "resident_bytes": machine::rss_bytes(),
        "budget_bytes": load.budget.map(|budget| budget.bytes),
        "available_bytes": machine::available_bytes(),
        "read_bytes": machine::bytes_read(),
    });
    let of = name
        .as_deref()
        .and_then(|name| status.models.iter().find(|model| model.name == name))
        .map(|model| model.about.clone());
    Ok(axum::Json(json!({
        "build_info": concat!("strata ", env!("CARGO_PKG_VERSION")),
        "total_slots": load.slots,
        "model": name,
        "properties": of,
        "models": models,
        "memory": memory,
    }))
    .into_response())
}

/// What each slot of the models in memory does, with llama.cpp's names where it has some, and the layer of the pass that goes on.
pub async fn slots(State(app): State<Arc<App>>, query: Wanted) -> Result<Response> {
    let (wanted, status) = (wanted(&app, query)?, app.status.now());
    let mut slots = Vec::new();
    for model in status.models.iter().filter(|model| wanted.as_ref().is_none_or(|name| *name == model.name)) {
        for (id, slot) in model.slots.iter().enumerate() {
            slots.push(json!({
                "id": id,
                "n_ctx": model.about["n_ctx"],
                "is_processing": slot.is_processing,
                "prompt_tokens": slot.prompt_tokens,
                "cached_tokens": slot.cached_tokens,
                "answer_tokens": slot.answer_tokens,
                "model": model.name,
                "step": status.step_of(&model.name),
            }));
        }
    }
    Ok(axum::Json(Value::Array(slots)).into_response())
}

/// The tokens of a text.
pub async fn tokenize(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let text = body.required_text("content")?.to_owned();
    let add_special = body.flag("add_special")?.unwrap_or(false);
    let parse_special = body.flag("parse_special")?.unwrap_or(true);
    let pieces = body.flag("with_pieces")?.unwrap_or(false);
    let model = app.model(entry).await?;
    let told = app.work(move || {
        let tokens = model.tokenizer.encode(&text, EncodeOptions { add_special, parse_special })?;
        let piece = |id: u32| {
            let bytes = model.tokenizer.token_bytes(id).unwrap_or_default();
            String::from_utf8(bytes).map_or_else(|error| json!(error.into_bytes()), |text| json!(text))
        };
        Ok(match pieces {
            true => {
                json!({"tokens": tokens.iter().map(|&id| json!({"id": id, "piece": piece(id)})).collect::<Vec<_>>()})
            }
            false => json!({"tokens": tokens}),
        })
    });
    Ok(axum::Json(told.await?).into_response())
}

/// The text of tokens.
pub async fn detokenize(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let list = body.required("tokens", body.list("tokens", TOKENS))?;
    let token = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong("tokens", value, "a token id"))
    };
    let tokens = list.iter().map(token).collect::<Result<Vec<_>>>()?;
    let model = app.model(entry).await?;
    let text = app.work(move || Ok(model.tokenizer.decode_with(&tokens, true)?)).await?;
    Ok(axum::Json(json!({"content": text})).into_response())
}

/// The text of a conversation by the model's template.
pub async fn apply_template(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let conversation = Conversation::read(&body)?;
    let model = app.model(entry).await?;
    let text = app.work(move || conversation.text(&model)).await?;
    Ok((StatusCode::OK, axum::Json(json!({"prompt": text}))).into_response())
}
