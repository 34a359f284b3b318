//! The last hand on every response: panics become 500, refusals get the form of the API, and headers say what a browser may do with it.

use super::app::App;
use super::refusal::{Dialect, Refusal};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

/// The middleware.
pub async fn finish(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (start, method, path) = (Instant::now(), request.method().clone(), request.uri().path().to_owned());
    // A task of its own: its panic is not this connection's. Dropped with this future, it is aborted with it.
    let mut task = JoinSet::new();
    task.spawn(next.run(request));
    let mut response = match task.join_next().await {
        Some(Ok(response)) => response,
        _ => Refusal::defect().told(Dialect::of(&path)),
    };
    if let Some(refusal) = refusal(&mut response, &method, &path) {
        let mut told = refusal.told(Dialect::of(&path));
        for (name, value) in response.headers() {
            if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
                told.headers_mut().insert(name.clone(), value.clone());
            }
        }
        response = told;
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    app.metrics.answered(&path, response.status(), start.elapsed());
    response
}

/// What a response refuses without having said so: a route that axum does not find, a method that it does not have.
fn refusal(response: &mut Response, method: &Method, path: &str) -> Option<Refusal> {
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        return Some(refusal);
    }
    let typed = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let typed_as_json = typed == Some(b"application/json");
    let path = strata::error::quoted(path);
    match response.status() {
        status @ StatusCode::METHOD_NOT_ALLOWED => Some(Refusal::new(status, format!("{path} takes no {method}"))),
        status @ StatusCode::NOT_FOUND if typed.is_none() => {
            Some(Refusal::new(status, format!("there is no {path}; /openapi.json lists what there is")))
        }
        // What axum finds wrong with a request before a handler sees it.
        status if status.is_client_error() && !typed_as_json => Some(Refusal::new(status, "the request is malformed")),
        _ => None,
    }
}
