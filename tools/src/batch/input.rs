//! The requests of a batch: OpenAI's lines, all checked before the first is answered.

use crate::output;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use strata::Error;
use strata::error::quoted;

/// The endpoints that a line may name.
const PATHS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"];

/// The names of the most tokens of an answer.
const LIMITS: [&str; 4] = ["max_completion_tokens", "max_tokens", "n_predict", "max_output_tokens"];

/// The most tokens of an answer that has no limit of its own: one that depended on the memory would be another result.
const DEFAULT_LIMIT: u64 = 4096;

/// Tokens that a template puts around messages, at most, of any that is known.
const AROUND: usize = 512;

/// A request.
pub struct Line {
    /// Its line in the file, from 1.
    pub number: usize,
    /// Its name.
    pub custom_id: String,
    /// The name of its result: a hash of the request and of all that decides the answer.
    pub id: String,
    /// The endpoint.
    pub path: String,
    /// What is asked there.
    pub body: Value,
    /// More tokens than prompt and answer have.
    pub most_tokens: usize,
}

/// A part of the lines: every `of`th from `part` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The first of its lines, from 0.
    pub part: usize,
    /// The number of parts.
    pub of: usize,
}

/// Reads the lines of a shard of the file `path`, whose text is `text`. `decides` is all that decides answers beside the requests.
///
/// # Errors
/// Names the first line that is no request, or whose name another has.
pub fn read(path: &Path, text: &str, shard: Shard, decides: &str) -> Result<Vec<Line>> {
    let (mut lines, mut names) = (Vec::new(), HashMap::new());
    let requests = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (i, (number, line)) in requests.enumerate() {
        let number = number + 1;
        let line = parse(line, number, decides).map_err(|problem| {
            let form = r#"write {"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}"#;
            Error::invalid(path, format!("line {number}"), format!("{problem:#}"), form)
        })?;
        if let Some(before) = names.insert(line.custom_id.clone(), number) {
            bail!("{}: lines {before} and {number} have the same custom_id; give each its own", output::path(path));
        }
        if i % shard.of == shard.part {
            lines.push(line);
        }
    }
    Ok(lines)
}

fn parse(text: &str, number: usize, decides: &str) -> Result<Line> {
    let line: Map<String, Value> = serde_json::from_str(text).context("is no JSON object")?;
    let word = |name: &str| line.get(name).and_then(Value::as_str).with_context(|| format!("has no text as {name}"));
    let (custom_id, method, path) = (word("custom_id")?, word("method")?, word("url")?);
    if method != "POST" {
        bail!("has the method {}, not POST", quoted(method));
    }
    if !PATHS.contains(&path) {
        bail!("has the url {}, not one of {}", quoted(path), PATHS.join(", "));
    }
    let Some(Value::Object(body)) = line.get("body") else { bail!("has no object as body") };
    let mut body = body.clone();
    if body.get("stream").is_some_and(|stream| stream != false) {
        bail!("asks for a stream, which a line cannot be");
    }
    // There is one model here, whatever its name is elsewhere.
    body.remove("model");
    let hash = Sha256::digest(format!("{decides}\n{custom_id}\n{path}\n{}", Value::Object(body.clone())));
    if path != "/v1/embeddings" {
        let seed = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
        body.entry("seed").or_insert(json!(seed));
    }
    let id = hash[4..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let name = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
    let limit = match LIMITS.iter().find_map(|name| body.get(*name)?.as_u64()) {
        Some(limit) => limit,
        None if path == "/v1/embeddings" => 0,
        None => {
            body.insert(name.to_owned(), json!(DEFAULT_LIMIT));
            DEFAULT_LIMIT
        }
    };
    // A token has at least a byte of the text, or is BOS.
    let around = if path == "/v1/completions" { 1 } else { AROUND };
    let most_tokens = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(text.len() + around);
    let (custom_id, path) = (custom_id.to_owned(), path.to_owned());
    Ok(Line { number, custom_id, id: format!("batch_req_{id}"), path, body: Value::Object(body), most_tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Shard = Shard { part: 0, of: 1 };

    fn line(custom_id: &str, body: &str) -> String {
        format!(r#"{{"custom_id": "{custom_id}", "method": "POST", "url": "/v1/completions", "body": {body}}}"#)
    }

    fn of(text: &str) -> std::result::Result<Vec<Line>, String> {
        read(Path::new("in.jsonl"), text, ALL, "model").map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_line() {
        let good = line("a", "{}");
        for (bad, words) in [
            ("{", "is no JSON object"),
            ("[]", "is no JSON object"),
            (r#"{"custom_id": 1}"#, "no text as custom_id"),
            (&good.replace("POST", "GET"), "method"),
            (&good.replace("/v1/completions", "/etc/passwd"), "url"),
            (&line("b", "[]"), "no object as body"),
            (&line("b", r#"{"stream": true}"#), "stream"),
        ] {
            let error = of(&format!("{good}\n\n{bad}\n")).err().unwrap();
            assert!(error.contains("line 3") && error.contains(words), "{bad}: {error}");
        }
        assert!(of(&format!("{good}\n{good}")).err().unwrap().contains("lines 1 and 2 have the same custom_id"));
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn names_and_seeds_come_from_the_request_and_all_that_decides_the_answer() {
        let lines =
            of(&[line("a", "{}"), line("b", "{}"), line("c", r#"{"seed": 7, "max_tokens": 9}"#)].join("\n")).unwrap();
        assert!(lines[0].id != lines[1].id && lines[0].body["seed"] != lines[1].body["seed"]);
        assert_eq!((&lines[2].body["seed"], &lines[2].body["max_tokens"]), (&json!(7), &json!(9)));
        assert_eq!(lines[0].body["max_tokens"], json!(DEFAULT_LIMIT));
        assert!(lines[0].most_tokens > DEFAULT_LIMIT as usize);
        let again = of(&line("a", r#"{"model": "other"}"#)).unwrap();
        assert_eq!((&again[0].id, &again[0].body), (&lines[0].id, &lines[0].body));
        let other = read(Path::new("in"), &line("a", "{}"), ALL, "another model").unwrap();
        assert_ne!(other[0].id, lines[0].id);
    }

    #[test]
    fn shards_are_all_lines_once() {
        let text: Vec<_> = (0..10).map(|i| line(&i.to_string(), "{}")).collect();
        let part = |part| read(Path::new("in"), &text.join("\n"), Shard { part, of: 3 }, "").unwrap();
        let mut names: Vec<_> = (0..3).flat_map(part).map(|line| line.custom_id).collect();
        names.sort();
        assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    }
}
