//! The fields that all endpoints with answers share: how long, how many, how chosen, within what form.

use super::object::{Object, wrong};
use super::refusal::{Refusal, Result};
use super::sampling;
use super::worker::served::Served;
use serde_json::Value;
use strata::engine::grammar::Grammar;
use strata::engine::sampling::Sampling;

/// The most texts that end an answer, and the most bytes of one.
pub const STOPS: usize = 16;
/// See [`STOPS`].
pub const STOP_BYTES: usize = 1000;
/// The most alternatives with log-probabilities for each token.
pub const LOGPROBS: usize = 20;

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Any.
    Free,
    /// A JSON object.
    JsonObject,
    /// JSON of this schema.
    Schema(Value),
    /// A text of this GBNF grammar.
    Gbnf(String),
    /// A text of this Lark grammar, as those of tools are.
    Lark(String),
}

/// How answers are made.
#[derive(Clone, Debug)]
pub struct Params {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens; `None` is until the context is full.
    pub limit: Option<usize>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Goes on where the model would end.
    pub ignore_eos: bool,
    /// Answers to the prompt.
    pub choices: usize,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Alternatives for each token.
    pub logprobs: Option<usize>,
    /// The form of the answer.
    pub form: Form,
    /// Whether a stream tells of the prompt's progress.
    pub progress: bool,
    /// Whether it ends with the tokens of all choices.
    pub usage: bool,
}

impl Params {
    /// Reads the fields, over the settings of a model with `vocab` tokens. `limits` are the names of the most tokens, `most` the answers.
    pub fn read(body: &Object<'_>, model: &Sampling, vocab: usize, limits: &[&str], most: usize) -> Result<Params> {
        let mut limit = None;
        for name in limits {
            limit = limit.or(body.whole(name, -1..=i128::from(i32::MAX))?.map(|n| (name, n)));
        }
        let limit = match limit {
            Some((name, 0)) => return Err(Refusal::field(*name, "is 0, not an integer of at least 1")),
            Some((_, n)) => usize::try_from(n).ok(),
            None => None,
        };
        let stop = body.texts("stop", STOPS)?.unwrap_or_default();
        check_stop("stop", &stop)?;
        let options = body.object("stream_options")?;
        let usage = options.map(|options| options.flag("include_usage")).transpose()?.flatten();
        Ok(Params {
            sampling: sampling::read(body, model, vocab)?,
            limit,
            stop,
            ignore_eos: body.flag("ignore_eos")?.unwrap_or(false),
            choices: body.count("n", 1, most.min(128))?.unwrap_or(1),
            stream: body.flag("stream")?.unwrap_or(false),
            logprobs: None,
            form: form(body)?,
            progress: body.flag("return_progress")?.unwrap_or(false),
            usage: usage.unwrap_or(false),
        })
    }
}

/// Checks texts that end an answer.
pub fn check_stop(name: &str, stop: &[String]) -> Result<()> {
    match stop.iter().any(|text| text.len() > STOP_BYTES) {
        true => Err(Refusal::field(name, format!("has a text of more than {STOP_BYTES} bytes"))),
        false => Ok(()),
    }
}

/// OpenAI's `response_format`, or llama.cpp's `json_schema` and `grammar`.
fn form(body: &Object<'_>) -> Result<Form> {
    let mut forms = Vec::new();
    if let Some(format) = body.object("response_format")? {
        forms.extend(of_format(&format, "json_schema")?);
    }
    if let Some(schema) = body.get("json_schema") {
        forms.push(Form::Schema(schema_of("json_schema", schema)?));
    }
    if let Some(grammar) = body.text("grammar")?.filter(|grammar| !grammar.is_empty()) {
        forms.push(Form::Gbnf(grammar.to_owned()));
    }
    match forms.len() {
        0 => Ok(Form::Free),
        1 => Ok(forms.remove(0)),
        _ => Err(Refusal::field("response_format", "is given beside json_schema or grammar; give one of them")),
    }
}

/// The form that a format object of OpenAI names; its schema is in the object `inside`, or in the format itself.
pub fn of_format(format: &Object<'_>, inside: &str) -> Result<Option<Form>> {
    let kind = format.required("type", format.word("type", &["text", "json_object", "json_schema"]))?;
    let within = format.object(inside)?;
    let holder = within.as_ref().unwrap_or(format);
    let schema = holder.get("schema").map(|schema| schema_of(&holder.name("schema"), schema)).transpose()?;
    Ok(match (kind, schema) {
        ("text", _) => None,
        ("json_object", None) => Some(Form::JsonObject),
        (_, Some(schema)) => Some(Form::Schema(schema)),
        _ => return Err(holder.missing("schema")),
    })
}

fn schema_of(name: &str, schema: &Value) -> Result<Value> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(schema.clone()),
        other => Err(wrong(name, other, "a JSON schema")),
    }
}

/// Compiles a form for a model; what cannot be compiled is refused, never ignored.
pub fn compile(form: &Form, model: &Served) -> Result<Option<Grammar>> {
    let tokenizer = &model.tokenizer;
    let compiled = match form {
        Form::Free => return Ok(None),
        Form::JsonObject => Grammar::json_object(tokenizer),
        Form::Schema(schema) => Grammar::json_schema(schema, tokenizer),
        Form::Gbnf(source) => Grammar::gbnf(source, tokenizer),
        Form::Lark(source) => Grammar::lark(source, tokenizer),
    };
    // A matcher is made once more when the answer begins: what fails there must fail here.
    let grammar = compiled.and_then(|grammar| grammar.matcher().map(|_| grammar));
    grammar.map(Some).map_err(|error| Refusal::of(&error).code("invalid_grammar"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value) -> Result<Params> {
        Params::read(
            &Object::body(&value).unwrap(),
            &Sampling::default(),
            100,
            &["max_completion_tokens", "max_tokens"],
            8,
        )
    }

    #[test]
    fn forms_are_read_from_every_api() {
        let schema = json!({"type": "object"});
        for (body, form) in [
            (json!({}), Form::Free),
            (json!({"response_format": {"type": "text"}}), Form::Free),
            (json!({"response_format": {"type": "json_object"}}), Form::JsonObject),
            (json!({"response_format": {"type": "json_object", "schema": schema}}), Form::Schema(schema.clone())),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
                Form::Schema(schema.clone()),
            ),
            (json!({"json_schema": schema}), Form::Schema(schema.clone())),
            (json!({"grammar": "root ::= \"a\""}), Form::Gbnf("root ::= \"a\"".to_owned())),
        ] {
            assert_eq!(of(body.clone()).unwrap().form, form, "{body}");
        }
        for (body, name) in [
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"json_schema": {}, "grammar": "root ::= \"a\""}), "response_format"),
        ] {
            assert_eq!(of(body.clone()).unwrap_err().param.as_deref(), Some(name), "{body}");
        }
    }

    #[test]
    fn lengths_and_numbers_of_answers_are_bounded() {
        assert_eq!(of(json!({"max_tokens": 5})).unwrap().limit, Some(5));
        assert_eq!(of(json!({"max_tokens": 5, "max_completion_tokens": 6})).unwrap().limit, Some(6));
        assert_eq!(of(json!({"max_tokens": -1})).unwrap().limit, None);
        for body in [
            json!({"max_tokens": 0}),
            json!({"max_tokens": -2}),
            json!({"max_tokens": 1e10}),
            json!({"n": 0}),
            json!({"n": 9}),
            json!({"stop": vec!["x"; 17]}),
            json!({"stop": "x".repeat(1001)}),
            json!({"stop": 3}),
            json!({"stream": "yes"}),
        ] {
            assert!(of(body.clone()).is_err(), "{body}");
        }
    }
}
