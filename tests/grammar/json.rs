//! Answers under JSON schemas are valid by an independent validator.

use super::{TOKENIZER, accepts};
use serde_json::{Value, json};
use strata::engine::grammar::Grammar;
use strata::engine::sampling::{Sampler, Sampling};

/// Tokens after which an answer is led to its end.
const FREE: usize = 40;

/// Tokens after which it must have come.
const MOST: usize = 2_000;

fn schemas() -> Vec<Value> {
    let person = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer",
        "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": false});
    vec![
        json!(true),
        json!({"type": "object"}),
        json!({"type": "null"}),
        json!({"type": "boolean"}),
        json!({"type": ["integer", "null"]}),
        json!({"type": "integer", "minimum": -17, "exclusiveMaximum": 1234}),
        json!({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 9999}),
        json!({"type": "number", "minimum": 0.5, "maximum": 2.25}),
        json!({"type": "string", "minLength": 2, "maxLength": 5}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"enum": ["red", "green", 3, null, {"a": [1, "b"]}]}),
        json!({"const": {"deep": [true, "\u{e9}\n\""]}}),
        json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}),
        json!({"type": "array", "prefixItems": [{"type": "string", "maxLength": 3}, {"type": "boolean"}], "items": false}),
        json!({"anyOf": [{"type": "string", "maxLength": 4}, {"type": "array", "items": {"type": "null"}}]}),
        json!({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]}),
        json!({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]}),
        json!({"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": false}),
        json!({"type": "array", "items": person, "minItems": 1}),
        json!({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"type": "null"},
            {"$ref": "#/$defs/node"}]}}, "required": ["value", "next"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}],
            "additionalItems": {"type": "boolean"}}),
    ]
}

/// An answer under the grammar, each token as likely as every other that is allowed, up to where it is led to its end.
fn answer(grammar: &Grammar, seed: u64) -> String {
    let vocab = TOKENIZER.vocab().tokens.len();
    let settings = Sampling { seed, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
    let (mut sampler, logits) = (Sampler::new(&settings, vocab, None).unwrap(), vec![0.0; vocab]);
    let (mut matcher, mut tokens) = (grammar.matcher().unwrap(), Vec::new());
    let ends: Vec<u32> = (0..vocab as u32).filter(|&id| TOKENIZER.is_eog(id)).collect();
    let closing: Vec<u32> = "\"}]n0,:{".bytes().map(|byte| super::BYTES[byte as usize]).collect();
    loop {
        let mask = matcher.mask().unwrap();
        let towards_end = || ends.iter().chain(&closing).copied().find(|&token| mask.allows(token));
        let led = (tokens.len() >= FREE).then(towards_end).flatten();
        let token = led.unwrap_or_else(|| sampler.sample_masked(&logits, mask).unwrap());
        if ends.contains(&token) {
            return TOKENIZER.decode(&tokens).unwrap();
        }
        matcher.accept(token).unwrap();
        tokens.push(token);
        assert!(tokens.len() < MOST, "{}", TOKENIZER.decode(&tokens).unwrap());
    }
}

#[test]
fn answers_are_valid() {
    let (mut valid, mut distinct) = (0, std::collections::HashSet::new());
    for schema in schemas() {
        let grammar = Grammar::json_schema(&schema, &TOKENIZER).unwrap_or_else(|error| panic!("{schema}: {error}"));
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        for seed in 0..12 {
            let text = answer(&grammar, seed);
            let value: Value = match serde_json::from_str(&text) {
                Ok(value) => value,
                // JSON bounds no number, serde_json does.
                Err(error) if error.to_string().contains("number out of range") => continue,
                Err(error) => panic!("{schema}: {text}: {error}"),
            };
            assert!(validator.is_valid(&value), "{schema}: {text}");
            valid += 1;
            distinct.insert(text);
        }
    }
    assert!(valid >= 200 && distinct.len() > 150, "{valid} answers, {} of them distinct", distinct.len());
    let grammar = Grammar::json_object(&TOKENIZER).unwrap();
    let text = answer(&grammar, 1);
    assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
}

#[test]
fn schemas_accept_what_is_valid_and_reject_what_is_not() {
    for (schema, valid, invalid) in [
        (
            json!({"type": "object"}),
            &["{}", "{\"a\": [1, {\"b\": null}]}", "{ \"é\" : \"\\n\" }"][..],
            &["[]", "{", "1"][..],
        ),
        (json!({"type": "integer", "minimum": 10, "maximum": 20}), &["10", "20"], &["9", "21", "10.5", "010"]),
        (json!({"type": "string", "minLength": 1, "maxLength": 2}), &["\"a\"", "\"éé\""], &["\"\"", "\"abc\""]),
        (json!({"enum": ["a", 1]}), &["\"a\"", "1"], &["\"b\"", "2"]),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b"], "additionalProperties": false}),
            &["{\"a\": 1, \"b\": 2}", "{\"b\":[]}"],
            &["{\"a\": 1}", "{\"b\": 1, \"c\": 1}", "{\"a\": \"1\", \"b\": 2}"],
        ),
    ] {
        let grammar = Grammar::json_schema(&schema, &TOKENIZER).unwrap();
        valid.iter().for_each(|text| assert!(accepts(&grammar, text), "{schema} must accept {text}"));
        invalid.iter().for_each(|text| assert!(!accepts(&grammar, text), "{schema} must reject {text}"));
    }
}

#[test]
fn a_keyword_that_is_not_supported_is_named_with_its_place() {
    for (schema, place, named) in [
        (json!({"properties": {"a/b": {"not": {}}}}), "/properties/a~1b/not", "not"),
        (json!({"items": {"uniqueItems": true}}), "/items/uniqueItems", "uniqueItems"),
        (json!({"anyOf": [{}, {"if": {}, "then": false}]}), "/anyOf/1/if", "if"),
        (json!({"$defs": {"x": {"dependencies": {}}}}), "/$defs/x/dependencies", "dependencies"),
        (json!({"x-guidance": {"lenient": true}}), "/x-guidance", "x-guidance"),
        (json!({"type": "string", "format": "no-such"}), "", "no-such"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "", "oneOf"),
        (json!({"const": 9007199254740995u64}), "/const", "2^53"),
        (json!({"type": "string", "minLength": 5000000}), "/minLength", "5000000"),
        (json!({"properties": {"a": 3}}), "/properties/a", "neither an object"),
        (json!({"type": "text"}), "", "text"),
    ] {
        let error = Grammar::json_schema(&schema, &TOKENIZER).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(named), "{schema}: {error}");
    }
}
