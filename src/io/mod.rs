//! Files, whole and in pieces: read so that a change is noticed, written so that a reader sees the complete new file or none of it.
//!
//! * [`file`]: mapping a file, positioned reads and writes; `guard.rs`: what happens when a mapped file is cut short;
//! * [`stamp`]: what tells a file from all others, and whether it has changed; [`inputs`]: the files that a command reads;
//! * `direct.rs`: large files past the page cache;
//! * [`text`]: texts whole, from files and pipes;
//! * [`hash`]: SHA-256, of files and of parts of them.

pub(crate) mod direct;
pub mod file;
mod guard;
pub mod hash;
pub mod inputs;
pub mod stamp;
pub mod text;
