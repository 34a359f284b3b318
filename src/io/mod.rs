//! Files: read so that changes are noticed, written so that a reader sees the complete new file or none of it.
//!
//! * [`mod@file`]: mapping a file, positioned reads and writes; `guard.rs`: truncated maps;
//! * [`stamp`]: the identity of a file, and whether it has changed; [`inputs`]: the files that a command reads;
//! * [`claim`]: the exclusive right to an output; [`partial`]: an unfinished file; [`outputs`]: writing complete files;
//! * `direct.rs`: direct I/O; `content.rs`: the kind of a file by its first bytes;
//! * [`text`]: texts from files and pipes; [`hash`]: SHA-256.

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
