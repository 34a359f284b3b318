//! `strata inspect`: the metadata and tensors of a GGUF file.

use crate::output;
use anyhow::Result;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use strata::error::printable;
use strata::gguf::{Gguf, ValueRef};

/// The widest column of names, which is ggml's limit; longer names break the alignment.
const LONGEST_NAME: usize = 64;

/// The most elements of an array that the text form shows.
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
    /// Prints the metadata and tensors.
    pub fn run(self) -> Result<()> {
        let gguf = Gguf::open(&self.file)?;
        if self.json { output::print_json(&Header(&gguf)) } else { output::print_lines(&as_text(&gguf)) }
    }
}

/// The whole header as JSON, written while it is read: an array of millions of elements is never in memory as JSON.
struct Header<'a>(&'a Gguf);

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut header = to.serialize_map(Some(3))?;
        header.serialize_entry("version", &self.0.version())?;
        header.serialize_entry("metadata", &Metadata(self.0))?;
        header.serialize_entry("tensors", &Tensors(self.0))?;
        header.end()
    }
}

struct Metadata<'a>(&'a Gguf);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.metadata().iter().map(|(key, value)| (key, Shown(value))))
    }
}

struct Tensors<'a>(&'a Gguf);

impl Serialize for Tensors<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.tensors().iter().map(
            |t| json!({"name": t.name, "type": t.ty.name(), "shape": t.dims, "offset": t.offset, "bytes": t.bytes}),
        ))
    }
}

/// A value. Numbers that JSON does not have (infinities, NaN) become their names.
pub struct Shown<'a>(pub ValueRef<'a>);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ValueRef::U8(x) => to.serialize_u8(x),
            ValueRef::I8(x) => to.serialize_i8(x),
            ValueRef::U16(x) => to.serialize_u16(x),
            ValueRef::I16(x) => to.serialize_i16(x),
            ValueRef::U32(x) => to.serialize_u32(x),
            ValueRef::I32(x) => to.serialize_i32(x),
            ValueRef::U64(x) => to.serialize_u64(x),
            ValueRef::I64(x) => to.serialize_i64(x),
            // The shortest decimal that reads back as this f32, not its f64 expansion.
            ValueRef::F32(x) if x.is_finite() => to.serialize_f32(x),
            ValueRef::F32(x) => to.collect_str(&x),
            ValueRef::F64(x) if x.is_finite() => to.serialize_f64(x),
            ValueRef::F64(x) => to.collect_str(&x),
            ValueRef::Bool(x) => to.serialize_bool(x),
            ValueRef::String(x) => to.serialize_str(x),
            ValueRef::Array(array) => to.collect_seq(array.iter().map(Shown)),
        }
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
    let width = gguf.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0).min(LONGEST_NAME);
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
pub fn short(value: ValueRef<'_>) -> String {
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
        other => serde_json::to_string(&Shown(other)).unwrap_or_default(),
    }
}
