//! Models larger than the memory: a budget that is kept, a plan, and weights that come from disk while the pass is under way.
//!
//! * `budget.rs`: the memory of the machine and the budget of a model;
//! * `plan.rs`: which weights stay in memory, which are read in every pass, and how long a pass takes;
//! * `files.rs`: the files and the layout of reads;
//! * `memory.rs`, `backend.rs`, `queue.rs`: buffers, reads in flight, the order of reads;
//! * `ring.rs`: prefetch of the next layers;
//! * `probe.rs`: the fastest strategy to read;
//! * `rates.rs`: measured rates of drives, memory and processor;
//! * `pressure.rs`: memory pressure by other programs.

pub(crate) mod backend;
pub(crate) mod budget;
pub(crate) mod files;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod pressure;
pub(crate) mod probe;
pub(crate) mod queue;
pub(crate) mod rates;
pub(crate) mod ring;
#[cfg(target_os = "linux")]
mod uring;

pub use budget::{Budget, Memory, Ram, memory};
pub use plan::{Bound, BudgetParts, Contention, Estimate, Plan, Rates, least_bytes, plan};
pub use probe::{Drives, ReadOptions, ReadStrategy, Reader};
pub use rates::{PROBE_BYTES, Streams, macs_per_second, memory_bytes_per_second, some_memory};
