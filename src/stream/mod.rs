//! Models larger than the memory: a budget that is kept, a plan, and weights that come from disk while the pass is under way.
//!
//! * [`budget`]: how much memory there is, how much a model may have;
//! * [`plan`]: what stays in memory, what is read in every pass, how fast that is;
//! * [`files`]: the files, and what is read of them;
//! * [`memory`], [`backend`], [`queue`]: buffers, reads in flight, reads in order;
//! * [`ring`]: layers ahead of the pass;
//! * [`probe`]: the fastest strategy to read;
//! * [`rates`]: how fast this machine's drives, memory and processor are;
//! * [`pressure`]: when others need the memory.

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
pub use plan::{Bound, BudgetParts, Contention, Estimate, Plan, Rates, plan};
pub use probe::{Drives, ReadOptions, ReadStrategy, Reader};
pub use rates::{PROBE_BYTES, Streams, macs_per_second, memory_bytes_per_second, some_memory};
