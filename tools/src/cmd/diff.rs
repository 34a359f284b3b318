//! `strata diff`: what two GGUF models differ in.

use super::inspect::{Shown as Json, short};
use crate::output::{self, Unequal};
use crate::progress::{Shown, Unit};
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use strata::diff::{Difference, TensorDifference, diff};
use strata::error::printable;
use strata::gguf::{Gguf, TensorInfo, ValueRef};
use strata::io::hash::Digest;

/// Compare the metadata and the tensors of two GGUF models; the exit code is 0 if they are equal and 1 if not
///
/// Tensors are compared by the SHA-256 of their bytes. How a model is split over files, and the order of keys and tensors, makes no
/// difference.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file; of a split one, any part
    a: PathBuf,
    /// The other
    b: PathBuf,
    /// Compare what the headers say, and read no tensor
    #[arg(long)]
    header_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Prints the differences.
    pub fn run(self) -> Result<()> {
        let (a, b) = (Gguf::open(&self.a)?, Gguf::open(&self.b)?);
        let found = diff(&a, &b, !self.header_only, &Shown::new(Unit::Bytes))?;
        if self.json {
            output::print_json(&as_json(&a, &b, &found))?;
        } else {
            output::print_lines(&as_text(&a, &b, &found))?;
        }
        if found.is_none() { Ok(()) } else { Err(Unequal.into()) }
    }
}

fn as_json(a: &Gguf, b: &Gguf, found: &Difference) -> Value {
    let key =
        |key: &String| json!({"key": key, "a": a.metadata().get(key).map(Json), "b": b.metadata().get(key).map(Json)});
    let tensor = |TensorDifference { name, digests }: &TensorDifference| {
        let side = |gguf: &Gguf, digest: Option<Digest>| {
            let digest = digest.map(|digest| digest.to_string());
            gguf.tensor(name).map(|t| json!({"type": t.ty.name(), "shape": t.dims, "sha256": digest}))
        };
        json!({"name": name, "a": side(a, digests.map(|[a, _]| a)), "b": side(b, digests.map(|[_, b]| b))})
    };
    json!({
        "equal": found.is_none(),
        "metadata": {
            "only_a": found.keys_of_a, "only_b": found.keys_of_b,
            "different": found.keys.iter().map(key).collect::<Vec<_>>(),
        },
        "tensors": {
            "only_a": found.tensors_of_a, "only_b": found.tensors_of_b,
            "different": found.tensors.iter().map(tensor).collect::<Vec<_>>(),
            "same": found.same_tensors,
        },
    })
}

/// A line for each difference: `-` is of A alone, `+` of B alone, `~` of both. Then a summary.
fn as_text(a: &Gguf, b: &Gguf, found: &Difference) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |sign: char, name: &str, what: String| {
        let _ = writeln!(text, "{sign} {:<42} {what}", printable(name));
    };
    let value = |gguf: &Gguf, key: &str| gguf.metadata().get(key).map(short).unwrap_or_default();
    let shape = |gguf: &Gguf, name: &str| gguf.tensor(name).map(of_tensor).unwrap_or_default();
    found.keys_of_a.iter().for_each(|key| line('-', key, value(a, key)));
    found.keys_of_b.iter().for_each(|key| line('+', key, value(b, key)));
    for key in &found.keys {
        line('~', key, between(a.metadata().get(key), b.metadata().get(key)));
    }
    found.tensors_of_a.iter().for_each(|name| line('-', name, shape(a, name)));
    found.tensors_of_b.iter().for_each(|name| line('+', name, shape(b, name)));
    for TensorDifference { name, digests } in &found.tensors {
        let what = match digests {
            Some([a, b]) => format!("{:.16} -> {:.16} (SHA-256)", a.to_string(), b.to_string()),
            None => format!("{} -> {}", shape(a, name), shape(b, name)),
        };
        line('~', name, what);
    }
    let keys = found.keys_of_a.len() + found.keys_of_b.len() + found.keys.len();
    let tensors = found.tensors_of_a.len() + found.tensors_of_b.len() + found.tensors.len();
    let same = found.same_tensors;
    let _ = match found.is_none() {
        true => writeln!(text, "equal: {} keys, {same} tensors", a.metadata().len()),
        false => writeln!(text, "{keys} keys and {tensors} tensors differ, {same} tensors are the same"),
    };
    text
}

fn of_tensor(tensor: &TensorInfo) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(u64::to_string).collect();
    format!("{} {}", tensor.ty.name(), dims.join(" x "))
}

/// Two values of a key; of lists the first element that differs.
fn between(a: Option<ValueRef<'_>>, b: Option<ValueRef<'_>>) -> String {
    let (Some(a), Some(b)) = (a, b) else { return String::new() };
    if let (Some(x), Some(y)) = (a.as_array(), b.as_array())
        && let Some(i) = x.iter().zip(y.iter()).position(|(x, y)| x != y)
        && let (Some(p), Some(q)) = (x.iter().nth(i), y.iter().nth(i))
    {
        return format!("element {i}: {} -> {} ({} and {} elements)", short(p), short(q), x.len(), y.len());
    }
    let ty = |value: ValueRef<'_>| if a.ty() == b.ty() { String::new() } else { format!(" ({})", value.ty()) };
    format!("{}{} -> {}{}", short(a), ty(a), short(b), ty(b))
}
