//! Compares a file with the reading of gguf-rs: names, shapes, types, offsets and metadata must be equal.
//!
//! Sizes of tensors are not compared: those of version 0.1.8 are wrong for BF16 and IQ4_NL.

use anyhow::{Context, Result, bail, ensure};
use gguf_rs::ByteOrder;
use std::fs::File;
use std::io::{BufReader, Read};
use strata::gguf::{Gguf, ValueRef};

/// The most bytes of a header, of which gguf-rs keeps several copies in memory.
const HEADER: u64 = 256 << 20;

/// Compares both readings; the error names the first difference.
pub fn compare(gguf: &Gguf) -> Result<()> {
    let path = gguf.path();
    ensure!(
        gguf.metadata().get("split.count").is_none(),
        "gguf-rs does not know split files; merge {} first",
        path.display()
    );
    let mut file = BufReader::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    // The container reads no more than the header; it panics on some types of tensors.
    let decoded = std::panic::catch_unwind(move || {
        gguf_rs::GGUFContainer::new(ByteOrder::LE, Box::new(file.take(HEADER)), u64::MAX).decode()
    });
    let Ok(model) = decoded else { bail!("gguf-rs panicked on {}", path.display()) };
    let model = model.map_err(|error| anyhow::anyhow!("gguf-rs cannot read {}: {error}", path.display()))?;
    ensure!(
        model.metadata().len() == gguf.metadata().len(),
        "gguf-rs finds {} metadata keys, strata {}",
        model.metadata().len(),
        gguf.metadata().len()
    );
    for (key, ours) in gguf.metadata().iter() {
        let Some(theirs) = model.metadata().get(key) else { bail!("gguf-rs does not find the key {key:?}") };
        ensure!(same(ours, theirs), "gguf-rs reads {key:?} as {theirs}, strata as {ours:?}");
    }
    ensure!(
        model.tensors().len() == gguf.tensors().len(),
        "gguf-rs finds {} tensors, strata {}",
        model.tensors().len(),
        gguf.tensors().len()
    );
    let data = model.data_offset();
    for (theirs, ours) in model.tensors().iter().zip(gguf.tensors()) {
        // gguf-rs fills shapes up to four dimensions with ones.
        let shape: Vec<u64> = ours
            .dims
            .iter()
            .copied()
            .chain(std::iter::repeat(1))
            .take(theirs.shape.len().max(ours.dims.len()))
            .collect();
        let (name, kind, offset) = (&theirs.name, theirs.kind, data + theirs.offset);
        ensure!(*name == ours.name, "gguf-rs finds tensor {name:?} where strata finds {:?}", ours.name);
        ensure!(kind == ours.ty.id(), "tensor {name:?} has type {kind} for gguf-rs, {} for strata", ours.ty.id());
        ensure!(
            theirs.shape == shape,
            "tensor {name:?} has shape {:?} for gguf-rs, {:?} for strata",
            theirs.shape,
            ours.dims
        );
        ensure!(offset == ours.offset, "tensor {name:?} is at {offset} for gguf-rs, at {} for strata", ours.offset);
    }
    Ok(())
}

/// Compares a value with that of gguf-rs, which is JSON with floats as shortest decimals.
fn same(ours: ValueRef<'_>, theirs: &serde_json::Value) -> bool {
    match ours {
        ValueRef::String(s) => theirs.as_str() == Some(s),
        ValueRef::Bool(b) => theirs.as_bool() == Some(b),
        ValueRef::F32(x) => theirs.to_string().parse() == Ok(x),
        ValueRef::F64(x) => theirs.to_string().parse() == Ok(x),
        ValueRef::U64(x) => theirs.as_u64() == Some(x),
        ValueRef::Array(array) => theirs
            .as_array()
            .is_some_and(|theirs| theirs.len() == array.len() && array.iter().zip(theirs).all(|(a, b)| same(a, b))),
        other => other.as_i64() == theirs.as_i64(),
    }
}
