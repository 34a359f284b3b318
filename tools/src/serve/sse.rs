//! Server-sent events: a response that grows with the answer.

use super::answer::Answer;
use super::worker::command::Piece;
use axum::body::{Body, Bytes};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// After so long a silence a comment is sent: proxies and clients close what says nothing.
const PING: Duration = Duration::from_secs(15);

/// Turns pieces of an answer into events of an API.
pub trait Encoder: Send + 'static {
    /// The events before the first piece.
    fn begin(&mut self, out: &mut Events);
    /// The events of a piece.
    fn piece(&mut self, piece: Piece, out: &mut Events);
    /// The events after the last piece.
    fn end(&mut self, out: &mut Events);
}

/// Events that are to be sent.
#[derive(Default)]
pub struct Events(String);

impl Events {
    /// Data without a name, as OpenAI's chat has it.
    pub fn data(&mut self, data: &Value) {
        self.0.push_str("data: ");
        self.0.push_str(&data.to_string());
        self.0.push_str("\n\n");
    }

    /// A text without a name: `[DONE]`.
    pub fn text(&mut self, text: &str) {
        self.0.push_str(&format!("data: {text}\n\n"));
    }

    /// Data whose `type` is also its name, as Anthropic and OpenAI's responses have it.
    pub fn named(&mut self, data: &Value) {
        self.0.push_str(&format!("event: {}\n", data["type"].as_str().unwrap_or_default()));
        self.data(data);
    }
}

enum State {
    Begin,
    Middle,
    End,
}

/// The response to a request for a stream. When the client leaves, the body is dropped, and the answer with it.
pub fn response(answer: Answer, encoder: impl Encoder) -> Response {
    let stream = unfold((answer, encoder, State::Begin), |(mut answer, mut encoder, mut state)| async move {
        let mut out = Events::default();
        while out.0.is_empty() {
            match state {
                State::Begin => {
                    encoder.begin(&mut out);
                    state = State::Middle;
                }
                State::Middle => match tokio::time::timeout(PING, answer.next()).await {
                    Ok(Some(piece)) => encoder.piece(piece, &mut out),
                    Ok(None) => {
                        encoder.end(&mut out);
                        state = State::End;
                    }
                    Err(_) => out.0.push_str(": still working\n\n"),
                },
                State::End => return None,
            }
        }
        Some((Ok::<_, Infallible>(Bytes::from(out.0)), (answer, encoder, state)))
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers: [(HeaderName, &'static str); 3] = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
