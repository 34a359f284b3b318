//! `strata batch`: many requests in a file through the endpoints of the server, many in each pass.
//!
//! `input.rs` reads and checks the requests; `results.rs` keeps what is answered, so that a run that was killed goes on where it was. An
//! answer does not depend on what is answered beside it, so neither the number at a time nor a shard changes a result.

mod input;
mod results;

pub use input::{Line, Shard, read};
pub use results::Results;

use crate::progress::{Shown, Unit};
use crate::serve::local::{Local, Question};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use strata::progress::Progress;

/// Answers the lines that have no result yet, up to `at_once` at a time. Returns how many were refused.
///
/// # Errors
/// If the model fails, a result cannot be kept, or the user stops the work: what was answered is kept.
pub fn answer(server: &Local, lines: &[Line], results: &mut Results, at_once: usize) -> Result<usize> {
    let left: Vec<usize> = (0..lines.len()).filter(|&i| !results.has(i)).collect();
    let shown = Shown::new(Unit::Requests);
    shown.begin("answering", left.len() as u64);
    let question =
        |&index: &usize| Question { index, path: lines[index].path.clone(), body: lines[index].body.clone() };
    server.ask(left.iter().map(question), at_once, |index, status, body| {
        if status >= 500 {
            let line = lines[index].number;
            bail!(
                "line {line}: {}; the same command goes on there",
                body["error"]["message"].as_str().unwrap_or("failed")
            );
        }
        results.push(index, &lines[index].result(status, body))?;
        shown.advance(1);
        Ok(())
    })?;
    shown.end();
    Ok(results.refused())
}

impl Line {
    /// The line of the result, in OpenAI's form. What differs from run to run is left out, or made of the request.
    fn result(&self, status: u16, mut body: Value) -> Value {
        if let Some(body) = body.as_object_mut().filter(|_| status == 200) {
            body.remove("timings");
            let names = ["id", "created", "created_at"];
            for name in names.into_iter().filter(|name| body.contains_key(*name)).collect::<Vec<_>>() {
                body[name] = if name == "id" { json!(self.id) } else { json!(0) };
            }
            for (usage, details) in [("usage", "prompt_tokens_details"), ("usage", "input_tokens_details")] {
                if let Some(usage) = body.get_mut(usage).and_then(Value::as_object_mut) {
                    usage.remove(details);
                }
            }
        }
        json!({
            "id": self.id,
            "custom_id": self.custom_id,
            "response": {"status_code": status, "request_id": self.id, "body": body},
            "error": null,
        })
    }
}
