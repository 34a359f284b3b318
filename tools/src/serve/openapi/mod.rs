//! `/openapi.json`: what every endpoint takes and every way in which it answers, so that a program can test the server by it.
//!
//! Kept by hand beside the handlers, which read their fields one by one; `schemathesis` in tests/serve holds both against each other.

mod answers;
mod requests;

use super::app::App;
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What an endpoint takes.
enum Takes {
    /// Nothing.
    Nothing,
    /// `?model=NAME`.
    Model,
    /// The name of a model in its path.
    Path,
    /// A body of this schema.
    Body(&'static str),
}

/// What an endpoint gives.
enum Gives {
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or events.
    Streamed(&'static str),
    /// Text of this type.
    Text(&'static str),
}

use Gives::{Json as GivesJson, Streamed, Text};
use Takes::{Body, Model, Nothing, Path};

type Endpoint = (&'static str, &'static str, Takes, Gives);

const ENDPOINTS: [Endpoint; 18] = [
    ("/", "The web page", Nothing, Text("text/html; charset=utf-8")),
    ("/health", "Whether the server answers; needs no key", Nothing, GivesJson("Health")),
    ("/v1/health", "The same", Nothing, GivesJson("Health")),
    ("/openapi.json", "This document; needs no key", Nothing, GivesJson("Any")),
    ("/metrics", "Numbers for Prometheus", Nothing, Text("application/openmetrics-text; version=1.0.0; charset=utf-8")),
    ("/props", "The server's models, defaults and memory", Model, GivesJson("Props")),
    ("/slots", "What each slot does", Model, GivesJson("Slots")),
    ("/v1/models", "The models", Nothing, GivesJson("Models")),
    ("/v1/models/{model}", "A model", Path, GivesJson("Model")),
    ("/tokenize", "The tokens of a text", Body("Tokenize"), GivesJson("Tokens")),
    ("/detokenize", "The text of tokens", Body("Detokenize"), GivesJson("Detokenized")),
    ("/apply-template", "The text of a conversation", Body("Conversation"), GivesJson("Templated")),
    ("/v1/chat/completions", "The next message of a conversation", Body("Chat"), Streamed("ChatAnswer")),
    ("/v1/completions", "The continuation of prompts", Body("Completion"), Streamed("CompletionAnswer")),
    ("/v1/embeddings", "The vectors of texts", Body("Embedding"), GivesJson("Embeddings")),
    ("/v1/responses", "OpenAI's API for agents", Body("Response"), Streamed("ResponseAnswer")),
    ("/v1/messages", "Anthropic's API", Body("Message"), Streamed("MessageAnswer")),
    ("/v1/messages/count_tokens", "The tokens of a message", Body("CountTokens"), GivesJson("CountedTokens")),
];

/// The statuses of requests that are refused, and when.
const REFUSED: [(&str, &str); 12] = [
    ("400", "The body is not UTF-8, not JSON, or a field is wrong: its name is in `param`"),
    ("401", "The API key is missing or wrong"),
    ("403", "The Host or Origin header is not allowed"),
    ("404", "There is no such model"),
    ("408", "The request did not arrive in time"),
    ("413", "The body is too large"),
    ("414", "The path is too long"),
    ("429", "All slots are taken and the queue is full"),
    ("431", "The headers are too large; has a body if they were read at all"),
    ("500", "The model failed, or Strata did"),
    ("503", "No memory for the model, or the server is stopping"),
    ("504", "The answer took too long"),
];

/// The handler.
pub async fn serve(State(app): State<Arc<App>>) -> Json<Value> {
    Json(document(!app.settings.keys.is_empty()))
}

/// The description.
pub fn document(keys: bool) -> Value {
    let mut paths = Map::new();
    for (path, summary, takes, gives) in &ENDPOINTS {
        let method = if matches!(takes, Body(_)) { "post" } else { "get" };
        paths.insert((*path).to_owned(), json!({method: operation(path, summary, takes, gives, keys)}));
    }
    let mut schemas = requests::schemas();
    schemas.extend(answers::schemas());
    let security = json!({"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Strata", "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs Llama models on the CPU of this machine. Fields that are not listed are ignored."},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security},
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn operation(path: &str, summary: &str, takes: &Takes, gives: &Gives, keys: bool) -> Value {
    let content = match gives {
        GivesJson(schema) => json!({"application/json": {"schema": reference(schema)}}),
        Streamed(schema) => {
            // The schema of an event; what its data hold is as the API says that this one follows.
            let event = json!({"type": "object", "required": ["data"],
                "properties": {"event": {"type": "string"}, "data": {"type": "string"}}});
            json!({"application/json": {"schema": reference(schema)}, "text/event-stream": {"schema": event}})
        }
        Text(kind) => json!({*kind: {"schema": {"type": "string"}}}),
    };
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json!({"description": "Done", "content": content}));
    if path == "/" {
        responses.insert("304".to_owned(), json!({"description": "The browser has it already"}));
    }
    let error = if path.starts_with("/v1/messages") { "AnthropicError" } else { "Error" };
    for (status, when) in REFUSED {
        let mut response = json!({"description": when});
        // A path that is too long is refused before anything is known of the request.
        if status != "414" {
            response["content"] = json!({"application/json": {"schema": reference(error)}});
        }
        if status == "429" {
            response["headers"] =
                json!({"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}, "required": true}});
        }
        responses.insert(status.to_owned(), response);
    }
    let mut operation = json!({"summary": summary, "responses": responses});
    let model = |place: &str| json!([{"name": "model", "in": place, "required": place == "path", "schema": {"type": "string"}, "description": "The name of a model"}]);
    match takes {
        Nothing => {}
        Model => operation["parameters"] = model("query"),
        Path => operation["parameters"] = model("path"),
        Body(schema) => {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": reference(schema)}}});
        }
    }
    if keys && !matches!(path, "/" | "/health" | "/v1/health" | "/openapi.json") {
        operation["security"] = json!([{"bearer": []}, {"key": []}]);
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::app::routes;

    #[test]
    fn every_route_is_described_and_every_reference_is_there() {
        let document = document(true);
        let paths = document["paths"].as_object().unwrap();
        for (path, _) in routes() {
            assert!(paths.contains_key(path), "{path} is not described");
        }
        assert_eq!(paths.len(), routes().len() + 1);
        let text = document.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
