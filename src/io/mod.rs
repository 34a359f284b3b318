//! Files, whole and in pieces: read so that a change is noticed, written so that a reader sees the complete new file or none of it.
//!
//! * [`mod@file`]: mapping a file, positioned reads and writes; `guard.rs`: what happens when a mapped file is cut short;
//! * [`stamp`]: what tells a file from all others, and whether it has changed; [`inputs`]: the files that a command reads;
//! * [`claim`]: one program at a time writes an output; [`partial`]: a file until it has its name; [`outputs`]: the way to write files;
//! * `direct.rs`: large files past the page cache; `content.rs`: the kind of a file by its first bytes;
//! * [`text`]: texts whole, from files and pipes;
//! * [`hash`] has SHA-256.

pub mod claim;
pub(crate) mod content;
pub(crate) mod direct;
pub mod file;
mod guard;
pub mod hash;
pub mod inputs;
pub mod outputs;
pub mod partial;
pub mod stamp;
pub mod text;
