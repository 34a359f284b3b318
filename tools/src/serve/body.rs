//! Bodies of requests: read within limits of size, time and the memory of all together, then as JSON.

use super::app::App;
use super::refusal::{Refusal, Result};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Bodies of the largest size that are held at the same time.
pub const LARGEST_HELD: usize = 8;

/// The JSON of a request's body. Its bytes count against the memory for bodies until it is dropped.
pub struct Json {
    /// The value; nesting is bounded by serde_json.
    pub value: Value,
    _held: Option<OwnedSemaphorePermit>,
}

impl FromRequest<Arc<App>> for Json {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Json> {
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > app.settings.max_body as u64) {
            return Err(too_large(app));
        }
        let late = Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time").code("body_timeout");
        let read = tokio::time::timeout(app.settings.body_time, read(request.into_body(), app)).await;
        let (bytes, held) = read.map_err(|_| late)??;
        let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::request("the body is not UTF-8"))?;
        let value =
            serde_json::from_str(text).map_err(|error| Refusal::request(format!("the body is not JSON: {error}")))?;
        Ok(Json { value, _held: held })
    }
}

fn too_large(app: &App) -> Refusal {
    let problem = format!(
        "the body is larger than {} bytes, which the server was started to take (--max-body)",
        app.settings.max_body
    );
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, problem).code("request_too_large")
}

async fn read(body: Body, app: &Arc<App>) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>)> {
    let (mut stream, mut bytes) = (body.into_data_stream(), Vec::new());
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Refusal::request("the body ended early"))?;
        if bytes.len() + chunk.len() > app.settings.max_body {
            return Err(too_large(app));
        }
        let full = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many large requests at a time").retry_after(5);
        let more = app.bodies.clone().try_acquire_many_owned(chunk.len() as u32).map_err(|_| full)?;
        match &mut held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, held))
}
