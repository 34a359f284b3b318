//! Tests that look behind the library's doors: they are compiled into the crate.

#[path = "../common/mod.rs"]
mod common;
mod predicted;
mod streaming;
