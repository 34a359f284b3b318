//! LoRA adapters (Hu et al. 2021): `W' = W + s B A`, where `A (rank, columns)` and `B (rows, rank)` are small.
//!
//! * `peft.rs`: adapters as PEFT saves them; `config.rs`: their `adapter_config.json`;
//! * `change.rs`: what they make of the rows of a tensor, for a conversion that merges them;
//! * `gguf.rs`: the adapter files of llama.cpp, which are applied while a model runs.

mod change;
mod config;
mod gguf;
mod peft;

pub(crate) use change::{Change, Changed};
pub(crate) use gguf::pairs;
pub use gguf::{AdapterFile, LowRank};
pub use peft::Adapter;
pub(crate) use peft::changes;
