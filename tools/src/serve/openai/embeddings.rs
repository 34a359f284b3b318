//! `/v1/embeddings`.

use super::completions::{encode, inputs};
use crate::serve::app::{App, late};
use crate::serve::body::Json;
use crate::serve::object::Object;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::worker::command::Command;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;
use strata::engine::Cancel;

/// The most texts of a request, as OpenAI has it.
const INPUTS: usize = 2048;
/// The most tokens of a request: other answers wait meanwhile.
const TOKENS: usize = 65_536;

/// Sets a wish when it is dropped: the client has left.
struct Gone(Cancel);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The handler.
pub async fn create(State(app): State<Arc<App>>, request: Json) -> Result<Response> {
    let body = Object::body(&request.value)?;
    let entry = app.entry(&body)?;
    let inputs = inputs(&body, "input", INPUTS)?;
    let format = body.word("encoding_format", &["float", "base64"])?.unwrap_or("float");
    let dimensions = body.count("dimensions", 1, 1 << 20)?;
    let place = app.admit(1)?;
    let model = app.model(entry).await?;
    if dimensions.is_some_and(|n| n != model.hidden) {
        return Err(Refusal::field("dimensions", format!("the vectors of this model have {} numbers", model.hidden)));
    }
    drop(request);
    let of = model.clone();
    let texts = app.work(move || inputs.iter().map(|input| encode(input, &of)).collect::<Result<Vec<_>>>()).await?;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    if let Some(text) = texts.iter().find(|text| text.is_empty() || text.len() > model.context) {
        let problem = format!("an input has {} tokens; give 1 to {}", text.len(), model.context);
        return Err(Refusal::field("input", problem).code("context_length_exceeded"));
    }
    if tokens > TOKENS {
        return Err(Refusal::field("input", format!("all inputs have {tokens} tokens; give at most {TOKENS}")));
    }
    let cancel = Cancel::default();
    let gone = Gone(cancel.clone());
    let asked = app.commands.ask(|reply| Command::Embed { model: model.clone(), texts, cancel, reply });
    let vectors = tokio::time::timeout(app.settings.timeout, asked).await.unwrap_or_else(|_| Err(late()))?;
    drop((gone, place));
    let told = |vector: &[f32]| match format {
        "base64" => json!(STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())),
        _ => json!(vector),
    };
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| json!({"object": "embedding", "index": index, "embedding": told(vector)}))
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(axum::Json(json!({"object": "list", "data": data, "model": model.name, "usage": usage})).into_response())
}
