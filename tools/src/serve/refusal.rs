//! Refusals: one error for all routes, told in the form of the API that was called.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong and what to do; names no path of this machine.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u64>,
}

/// `Result` of a handler.
pub type Result<T> = std::result::Result<T, Refusal>;

/// The APIs, which tell errors in different forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
}

impl Dialect {
    /// The API that a path belongs to.
    pub fn of(path: &str) -> Dialect {
        match path == "/v1/messages" || path.starts_with("/v1/messages/") {
            true => Dialect::Anthropic,
            false => Dialect::OpenAi,
        }
    }
}

impl Refusal {
    /// A refusal with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400 for a field.
    pub fn field(name: impl Into<String>, problem: impl std::fmt::Display) -> Refusal {
        let name = name.into();
        let message = format!("{name}: {problem}");
        Refusal { param: Some(name), ..Refusal::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400 for the request as a whole.
    pub fn request(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    /// 500 for a panic.
    pub fn defect() -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "a defect of Strata; the server's log says more")
    }

    /// 503 of a server that ends.
    pub fn stopping() -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").retry_after(5)
    }

    /// The same with a word for programs.
    pub fn code(self, code: &'static str) -> Refusal {
        Refusal { code: Some(code), ..self }
    }

    /// The same, worth another try after so many seconds.
    pub fn retry_after(self, seconds: u64) -> Refusal {
        Refusal { retry_after: Some(seconds), ..self }
    }

    /// The body in the form of an API.
    pub fn body(&self, dialect: Dialect) -> Value {
        let kind = self.kind(dialect);
        match dialect {
            Dialect::OpenAi => {
                json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
            }
            Dialect::Anthropic => json!({"type": "error", "error": {"type": kind, "message": self.message}}),
        }
    }

    /// The type that each API gives to errors with this status.
    fn kind(&self, dialect: Dialect) -> &'static str {
        match (self.status.as_u16(), dialect) {
            (401, _) => "authentication_error",
            (403, _) => "permission_error",
            (404, _) => "not_found_error",
            (413, Dialect::Anthropic) => "request_too_large",
            (429, _) => "rate_limit_error",
            (503, Dialect::Anthropic) => "overloaded_error",
            (504, Dialect::Anthropic) => "timeout_error",
            (500.., Dialect::Anthropic) => "api_error",
            (500.., Dialect::OpenAi) => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The response in the form of an API.
    pub fn told(&self, dialect: Dialect) -> Response {
        let mut response = (self.status, axum::Json(self.body(dialect))).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Refusal {
    /// A response without a body: `finish.rs` knows the path and tells it.
    fn into_response(self) -> Response {
        let mut response = (self.status, Body::empty()).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<strata::Error> for Refusal {
    fn from(error: strata::Error) -> Refusal {
        Refusal::of(&error)
    }
}

impl Refusal {
    /// An error of the library about what a request asked for.
    pub fn of(error: &strata::Error) -> Refusal {
        use strata::Error;
        match error {
            Error::ContextFull { have, more, room } => Refusal::request(format!(
                "the prompt has {} tokens and the context holds {room}: shorten it, or start the server with a larger -c",
                have + more
            ))
            .code("context_length_exceeded"),
            Error::InvalidArgument { what, problem } => Refusal::field(what.clone(), problem),
            Error::Shared(error) => Refusal::of(error),
            Error::GrammarRefused { .. } | Error::GrammarStopped { .. } => {
                Refusal::request(error.to_string()).code("invalid_grammar")
            }
            Error::TokenOutOfVocabulary { .. } | Error::EmptyPrompt | Error::NoCandidate | Error::UnknownName { .. } => {
                Refusal::request(error.to_string())
            }
            // The place and the path are of this machine; the problem is of the request.
            Error::Invalid { problem, .. } => Refusal::request(strata::error::printable(problem).into_owned()),
            Error::Cancelled => Refusal::stopping(),
            Error::OutOfMemory { .. } | Error::BudgetTooSmall { .. } | Error::Thread(_) => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "memory is short; try again later").retry_after(10)
            }
            _ => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the model failed; the server's log says why"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_form_of_errors() {
        let refusal = Refusal::field("n", "is -1, not an integer from 1 to 8");
        assert_eq!(
            refusal.body(Dialect::OpenAi),
            json!({"error": {"message": "n: is -1, not an integer from 1 to 8", "type": "invalid_request_error", "param": "n", "code": null}})
        );
        let late = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "full").retry_after(3);
        assert_eq!(
            late.body(Dialect::of("/v1/messages")),
            json!({"type": "error", "error": {"type": "rate_limit_error", "message": "full"}})
        );
        assert_eq!(late.told(Dialect::OpenAi).headers()[header::RETRY_AFTER], "3");
        assert_eq!(Dialect::of("/v1/messages/count_tokens"), Dialect::Anthropic);
        assert_eq!(Dialect::of("/v1/messagesx"), Dialect::OpenAi);
    }

    #[test]
    fn an_error_of_the_library_names_no_path() {
        let error = strata::Error::invalid(
            "/secret/dir/m.gguf".as_ref(),
            "metadata \"x\"",
            "refuses these messages: \"a\"",
            "change",
        );
        assert_eq!(Refusal::from(error).message, "refuses these messages: \"a\"");
        let io = strata::Error::io("read", "/secret".as_ref())(std::io::ErrorKind::NotFound.into());
        assert!(!Refusal::from(io).message.contains("secret"));
    }
}
