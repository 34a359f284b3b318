//! `/v1/embeddings`.

use super::completions::{encode, inputs};
use crate::serve::app::{App, late};
use crate::serve::body::Json;
use crate::serve::object::Object;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::worker::command::Command;
use crate::serve::worker::load::EMBED_BATCH;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;
use strata::engine::Cancel;
use tokio::time::{Instant, timeout_at};

/// The most texts of a request, as OpenAI has it.
const INPUTS: usize = 2048;
/// The most tokens of a request.
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
    let deadline = Instant::now() + app.settings.timeout;
    let mut vectors = Vec::with_capacity(texts.len());
    for texts in batches(texts) {
        let (model, cancel) = (model.clone(), cancel.clone());
        let asked = app.commands.ask(|reply| Command::Embed { model, texts, cancel, reply });
        vectors.extend(timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(late()))?);
    }
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

/// Texts in the batches of a pass: between these others are answered.
fn batches(texts: Vec<Vec<u32>>) -> Vec<Vec<Vec<u32>>> {
    let mut batches: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut tokens = usize::MAX; // of the last batch
    for text in texts {
        tokens = tokens.saturating_add(text.len());
        if tokens > EMBED_BATCH {
            tokens = text.len();
            batches.push(Vec::new());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(text);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_and_in_order() {
        let text = |n: usize| vec![n as u32; n];
        let lengths = [EMBED_BATCH + 5, 1, EMBED_BATCH - 1, 1, 7];
        let batches = batches(lengths.map(text).to_vec());
        let shape: Vec<Vec<usize>> = batches.iter().map(|batch| batch.iter().map(Vec::len).collect()).collect();
        assert_eq!(shape, [vec![EMBED_BATCH + 5], vec![1, EMBED_BATCH - 1], vec![1, 7]]);
    }
}
