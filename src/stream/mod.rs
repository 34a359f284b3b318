//! Models larger than the memory: a budget that is kept, a plan, and weights that come from disk while the pass is under way.
//!
//! * [`budget`]: how much memory there is, how much a model may have;
//! * [`plan`]: what stays in memory, what is read in every pass, how fast that is;
//! * [`source`]: the files, and what is read of them;
//! * [`memory`], [`backend`], [`queue`]: buffers, reads under way, reads in order;
//! * [`ring`]: layers ahead of the pass;
//! * [`probe`]: the fastest way to read;
//! * [`rates`]: how fast this machine's drives, memory and processor are;
//! * [`pressure`]: when others need the memory.

pub mod backend;
pub mod budget;
pub mod memory;
pub mod plan;
pub mod pressure;
pub mod probe;
pub mod queue;
pub mod rates;
pub mod ring;
pub mod source;
#[cfg(target_os = "linux")]
mod uring;

pub use budget::{Budget, Ram};
pub use plan::{Plan, Rates, Room, Sizes};
pub use probe::{Options, Reader, Way};
