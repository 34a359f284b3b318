//! Hostile grammars end in an error or in masks, never in a panic, an overflowing stack or a hang.

use super::TOKENIZER;
use serde_json::{Value, json};
use std::fmt::Write;
use std::thread;
use strata::engine::grammar::Grammar;
use strata::error::Result;

/// The stack of whoever follows a grammar: less than any thread of Strata has.
const SMALL_STACK: usize = 256 << 10;

/// Follows a grammar for a while on a small stack, each time with one of the tokens that are allowed.
fn walk(grammar: Grammar) {
    let steps = move || {
        let mut matcher = grammar.matcher().unwrap();
        for step in 0..24usize {
            let Ok(mask) = matcher.mask() else { return };
            let count = mask.count();
            let Some(token) = mask.tokens().nth(step * 7919 % count.max(1)) else { return };
            if TOKENIZER.is_eog(token) || matcher.accept(token).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().stack_size(SMALL_STACK).spawn(steps).unwrap().join().unwrap();
}

/// The error must say `named`; if that is empty, there may be none.
fn try_out(name: &str, grammar: impl FnOnce() -> Result<Grammar>, named: &str) {
    println!("{name}"); // the last one, if it aborts
    match grammar() {
        Ok(grammar) => {
            assert!(named.is_empty(), "{name} must be refused");
            walk(grammar);
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains(named) && !error.contains("panic"), "{name}: {error}");
            assert!(error.chars().count() < 2_000, "{name}: {error}");
        }
    }
}

#[test]
fn hostile_gbnf() {
    let chain = |count: usize, body: &dyn Fn(usize) -> String| {
        (0..count).fold("root ::= r0\n".to_owned(), |mut text, i| {
            writeln!(text, "r{i} ::= {}", body(i)).unwrap();
            text
        })
    };
    let to_end = |count: usize, body: fn(usize) -> String| {
        chain(count, &|i| if i + 1 == count { "\"x\"".to_owned() } else { body(i) })
    };
    for (name, source, named) in [
        (
            "60,000 groups",
            format!("root ::= {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000)),
            "line 1, column 110: groups are nested",
        ),
        ("groups without end", format!("root ::= {}", "(\n".repeat(90)), "closing parenthesis"),
        ("only itself", "root ::= root".to_owned(), "matches no text"),
        ("itself and more", "root ::= \"a\" root".to_owned(), "matches no text"),
        ("nothing repeated", "root ::= *".to_owned(), "nothing before"),
        ("nothing repeated in a group", "root ::= (|+)".to_owned(), "nothing before"),
        ("two signs", "root ::= \"a\"*+".to_owned(), "two repetition signs"),
        ("many signs", format!("root ::= \"a\"{}", "*".repeat(60_000)), "two repetition signs"),
        ("too often", "root ::= \"a\"{4294967296}".to_owned(), "4294967296"),
        ("far too often", format!("root ::= \"a\"{{{}}}", "9".repeat(10_000)), "repetitions are more than"),
        ("backwards", "root ::= \"a\"{3,2}".to_owned(), "smaller than the first"),
        ("range backwards", "root ::= [z-a]".to_owned(), "backwards"),
        ("empty class", "root ::= []".to_owned(), "line 1, column 10: the class is empty"),
        ("open class", "root ::= [a".to_owned(), "closing bracket"),
        ("open literal", "root ::= \"a".to_owned(), "closing quotation mark"),
        ("escape", "root ::= \"\\q\"".to_owned(), "no escape"),
        ("surrogate", "root ::= \"\\uD800\"".to_owned(), "not the number of a character"),
        ("short escape", "root ::= \"\\x4\"".to_owned(), "hexadecimal"),
        ("cut escape", "root ::= \"\\u00é\"".to_owned(), "hexadecimal"),
        ("no root", "a ::= \"a\"".to_owned(), "no rule root"),
        ("nothing", String::new(), "no rule root"),
        ("undefined", "root ::= \"a\"\n  | b".to_owned(), "line 2"),
        ("undefined name", "root ::= \"a\" b".to_owned(), "\"b\" is not defined"),
        ("twice", "root ::= \"a\"\nroot ::= \"b\"".to_owned(), "line 2, column 1: the rule \"root\" is defined twice"),
        ("no token", "root ::= <nothing-of-the-kind>".to_owned(), "not one token"),
        ("no such number", "root ::= <[99999999999]>".to_owned(), "no number"),
        ("open token", "root ::= <a".to_owned(), "angle brackets"),
        ("an end inside", "root ::= <|end_of_text|> \"a\"".to_owned(), "ends the answer"),
        ("nothing at all", "root ::= [^\\x00-\\U0010FFFF]".to_owned(), "matches no text"),
        ("too large", format!("root ::= \"{}\"", "x".repeat(600_000)), "bytes are more than"),
        ("too many rules", to_end(20_000, |i| format!("r{}", i + 1)), "more than 10000 rules"),
        ("long literal", format!("root ::= \"{}\"", "x".repeat(100_000)), ""),
        ("long literals", format!("root ::= \"{0}a\" | \"{0}b\" r\nr ::= \"{0}\" r | \"\"", "x".repeat(20_000)), ""),
        ("chain", to_end(9_000, |i| format!("\"y\" r{}", i + 1)), ""),
        ("chain backwards", to_end(9_000, |i| format!("r{} \"y\"", i + 1)), ""),
        ("doubling", to_end(60, |i| format!("r{0} r{0}", i + 1)), ""),
        ("doubling with ends", to_end(60, |i| format!("r{0} r{0} | \"\"", i + 1)), ""),
        ("powers", "root ::= (((\"a\"{1000}){1000}){1000}){1000}".to_owned(), ""),
        (
            "powers of what may be empty",
            "root ::= (((\"a\"{0,1000}){0,1000}){0,1000} r)\nr ::= \"b\" r | \"\"".to_owned(),
            "",
        ),
        ("regex bomb", "root ::= [ab]* \"a\" [ab]{13}".to_owned(), ""),
        ("larger regex bomb", "root ::= [ab]* \"a\" [ab]{1000} r\nr ::= \"(\" r \")\" | \"\"".to_owned(), ""),
        ("stars of stars", "root ::= (((\"a\"*)*)* (\"a\"*)*)*".to_owned(), ""),
        ("ambiguous", "root ::= root root root | \"a\" | \"\"".to_owned(), ""),
        ("ambiguous anything", "root ::= root root | . | .{2,9} root".to_owned(), ""),
        (
            "many classes",
            (0..2_000)
                .fold("root ::= root \"x\"".to_owned(), |text, i| format!("{text} | \"\\U{:08x}\"", 0x4e00 + i * 2)),
            "",
        ),
        ("many words", (0..20_000).fold("root ::= \"-\" root".to_owned(), |text, i| format!("{text} | \"w{i}\"")), ""),
        (
            "many rules ambiguous",
            chain(1_000, &|i| format!("r{} r{} | \"a\"", (i * 7 + 1) % 1_000, (i * 3 + 2) % 1_000)),
            "",
        ),
    ] {
        try_out(name, || Grammar::gbnf(&source, &TOKENIZER), named);
    }
}

#[test]
fn hostile_schemas() {
    let nested = |levels: usize| (0..levels).fold(json!({"type": "null"}), |inner, _| json!({"items": inner}));
    let names: serde_json::Map<String, Value> =
        (0..3_000).map(|i| (format!("name{i}"), json!({"type": "integer"}))).collect();
    let required: Vec<&String> = names.keys().collect();
    let patterns: serde_json::Map<String, Value> =
        (0..300).map(|i| (format!("^a{i}[a-z]+$"), json!({"type": "string"}))).collect();
    for (name, schema, named) in [
        ("no schema", json!(3), "neither an object"),
        ("deep", nested(3_000), "nested deeper"),
        ("depth that is allowed", nested(49), ""),
        ("deep value", json!({"const": nested(200)}), "nested deeper"),
        ("large", json!({"enum": (0..200_000).map(|i| format!("value{i}")).collect::<Vec<_>>()}), "larger than"),
        ("large enum", json!({"enum": (0..20_000).map(|i| format!("value{i}")).collect::<Vec<_>>()}), ""),
        ("itself", json!({"$ref": "#"}), ""),
        (
            "each other",
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            "",
        ),
        ("all of itself", json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}), ""),
        ("no end", json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}), ""),
        ("elsewhere", json!({"$ref": "https://example.com/schema.json"}), "example.com"),
        ("a file", json!({"$ref": "file:///etc/passwd"}), ""),
        ("missing", json!({"$ref": "#/$defs/none"}), ""),
        ("maxItems", json!({"type": "array", "items": {"type": "null"}, "maxItems": u64::MAX}), ""),
        ("minItems", json!({"type": "array", "items": {"type": "null"}, "minItems": u64::MAX}), ""),
        ("minItems of a float", json!({"type": "array", "minItems": 1e300}), "minItems"),
        ("negative", json!({"type": "string", "maxLength": -1}), "maxLength"),
        ("contradiction", json!({"type": "array", "minItems": 3, "maxItems": 2}), "minItems"),
        ("never", json!(false), "false"),
        ("long", json!({"type": "string", "minLength": 1 << 20, "maxLength": 1 << 20}), ""),
        (
            "names",
            json!({"items": {"type": "object", "properties": names}}),
            "/items: 3000 properties that may be left out are more than 490",
        ),
        ("names of which most are required", json!({"properties": names, "required": &required[490..]}), ""),
        ("one too many", json!({"properties": names, "required": &required[491..]}), "491 properties"),
        ("patterns", json!({"patternProperties": patterns}), "300 patternProperties are more than 64"),
        (
            "required names",
            json!({"type": "object", "required": (0..3_000).map(|i| format!("name{i}")).collect::<Vec<_>>()}),
            "",
        ),
        ("minProperties", json!({"type": "object", "minProperties": u64::MAX}), ""),
        ("bad pattern", json!({"type": "string", "pattern": "("}), "unclosed group"),
        ("look-behind", json!({"type": "string", "pattern": "(?<=a)b"}), ""),
        ("pattern bomb", json!({"type": "string", "pattern": "[ab]*a[ab]{200}"}), ""),
        ("pattern power", json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"}), ""),
        ("overlapping patterns", json!({"patternProperties": {"a": {}, "b": {}}}), "disjoint"),
        ("multiples", json!({"type": "integer", "multipleOf": 999983, "minimum": 1}), ""),
        ("multiple of nothing", json!({"type": "integer", "multipleOf": 0}), ""),
        ("multiple of little", json!({"type": "number", "multipleOf": 1e-300}), ""),
        (
            "product",
            json!({"allOf": (0..12).map(|i| json!({"anyOf": [{"minimum": i}, {"maxLength": i}, {"maxItems": i}]})).collect::<Vec<_>>()}),
            "",
        ),
    ] {
        try_out(name, || Grammar::json_schema(&schema, &TOKENIZER), named);
    }
    let text = |count: usize| format!("{}1{}", "[".repeat(count), "]".repeat(count));
    try_out(
        "lark with deep JSON",
        || Grammar::lark(&format!("start: %json {{\"const\": {}}}", text(100_000)), &TOKENIZER),
        "limit",
    );
}

#[test]
fn hostile_regular_expressions_and_lark() {
    for (name, pattern, named) in [
        ("groups", format!("{}a{}", "(".repeat(60_000), ")".repeat(60_000)), "nest"),
        ("open group", "(".to_owned(), "unclosed group"),
        ("closing group", ")".to_owned(), "unopened group"),
        ("back reference", r"(a)\1".to_owned(), "reference"),
        ("power", "((a{1000}){1000}){1000}".to_owned(), ""),
        ("bomb", "[ab]*a[ab]{13}".to_owned(), ""),
        ("words", r"\w{0,1000}x\w{0,1000}".to_owned(), ""),
        ("too large", "a".repeat(600_000), "bytes are more than"),
        ("nothing", "[^\\s\\S]".to_owned(), ""),
    ] {
        try_out(name, || Grammar::regex(&pattern, &TOKENIZER), named);
    }
    for (name, source, named) in [
        ("nothing", String::new(), "start"),
        ("groups", format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000)), "nested"),
        ("cycle of tokens", "start: A\nA: B\nB: A".to_owned(), "circular reference"),
        ("no end", "start: start".to_owned(), ""),
        ("unknown token", "start: <|no_such_token|>".to_owned(), "no_such_token"),
        ("no grammar", "\u{0}\u{1}".to_owned(), ""),
        ("often", "start: \"a\"{2147483647} b\nb: start".to_owned(), ""),
        ("reference", "start: @other".to_owned(), "other"),
    ] {
        try_out(name, || Grammar::lark(&source, &TOKENIZER), named);
    }
}
