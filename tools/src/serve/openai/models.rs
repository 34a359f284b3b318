//! `/v1/models`: what can be asked, and whether it is in memory.

use crate::serve::app::App;
use crate::serve::catalog::Entry;
use crate::serve::refusal::Result;
use crate::serve::worker::models::unknown;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

/// All models.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.settings.catalog.entries().iter().map(|entry| told(&app, entry)).collect();
    Json(
        json!({"object": "list", "data": data, "has_more": false, "first_id": data.first().map(|one| &one["id"]), "last_id": data.last().map(|one| &one["id"])}),
    )
}

/// One model.
pub async fn one(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>> {
    let entry = app.settings.catalog.find(&name).ok_or_else(|| unknown(&name))?;
    Ok(Json(told(&app, entry)))
}

/// A model in the forms of OpenAI and Anthropic at once.
fn told(app: &App, entry: &Entry) -> Value {
    let state = app.status.lock().state_of(&entry.name);
    json!({
        "id": entry.name,
        "object": "model",
        "created": app.started,
        "owned_by": "strata",
        "type": "model",
        "display_name": entry.name,
        "status": {"value": state},
    })
}
