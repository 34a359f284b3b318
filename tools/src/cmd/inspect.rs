//! `strata inspect`: what is in a GGUF file.

use crate::output;
use anyhow::Result;
use serde_json::{Map, Value as Json, json};
use std::fmt::Write;
use std::path::PathBuf;
use strata::error::printable;
use strata::gguf::{Gguf, ValueRef};

/// Elements of an array that the text form shows.
const SHOWN: usize = 6;

/// Show the metadata and tensors of a GGUF file
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split one, any part
    file: PathBuf,
    /// Print JSON, with every element of every array
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Shows it.
    pub fn run(self) -> Result<()> {
        let gguf = Gguf::open(&self.file)?;
        if self.json { output::print_json(&as_json(&gguf)) } else { output::print_lines(&as_text(&gguf)) }
    }
}

fn as_json(gguf: &Gguf) -> Json {
    let metadata: Map<String, Json> =
        gguf.metadata().iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect();
    let tensors: Vec<Json> = gguf
        .tensors()
        .iter()
        .map(|t| json!({"name": t.name, "type": t.ty.name(), "shape": t.dims, "offset": t.offset, "bytes": t.bytes}))
        .collect();
    json!({"version": gguf.version(), "metadata": metadata, "tensors": tensors})
}

/// Numbers that JSON does not have (infinities, NaN) become their names.
fn to_json(value: ValueRef<'_>) -> Json {
    let float = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    match value {
        ValueRef::U8(x) => json!(x),
        ValueRef::I8(x) => json!(x),
        ValueRef::U16(x) => json!(x),
        ValueRef::I16(x) => json!(x),
        ValueRef::U32(x) => json!(x),
        ValueRef::I32(x) => json!(x),
        ValueRef::U64(x) => json!(x),
        ValueRef::I64(x) => json!(x),
        // The shortest decimal that reads back as this f32, not its f64 expansion.
        ValueRef::F32(x) => x.to_string().parse().map_or_else(|_| json!(x.to_string()), float),
        ValueRef::F64(x) => float(x),
        ValueRef::Bool(x) => json!(x),
        ValueRef::String(x) => json!(x),
        ValueRef::Array(array) => array.iter().map(to_json).collect(),
    }
}

fn as_text(gguf: &Gguf) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ =
        writeln!(text, "{}: GGUF v{}, {}", output::path(gguf.path()), gguf.version(), output::bytes(gguf.file_bytes()));
    for (key, value) in gguf.metadata().iter() {
        let _ = writeln!(text, "{:<42} {}", printable(key), short(value));
    }
    let width = gguf.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0);
    let (mut values, mut bytes) = (0u64, 0u64);
    for t in gguf.tensors() {
        let shape: Vec<String> = t.dims.iter().map(u64::to_string).collect();
        let _ = writeln!(
            text,
            "{:<width$}  {:<5} {:>20}  {:>10}",
            printable(&t.name),
            t.ty.name(),
            shape.join(" x "),
            output::bytes(t.bytes)
        );
        values += t.dims.iter().product::<u64>();
        bytes += t.bytes;
    }
    let bits = if values == 0 { 0.0 } else { bytes as f64 * 8.0 / values as f64 };
    let (n, size) = (gguf.tensors().len(), output::bytes(bytes));
    let _ = writeln!(text, "{n} tensors, {values} weights, {size}, {bits:.3} bits per weight");
    text
}

/// A value on one line.
fn short(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::String(s) => {
            let mut shown: String = s.chars().take(100).collect();
            if shown.len() < s.len() {
                shown.push('…');
            }
            format!("{shown:?}")
        }
        ValueRef::Array(array) => {
            let first: Vec<String> = array.iter().take(SHOWN).map(short).collect();
            let more = if array.len() > SHOWN { ", …" } else { "" };
            format!("[{}{more}] ({} elements)", first.join(", "), array.len())
        }
        other => to_json(other).to_string(),
    }
}
