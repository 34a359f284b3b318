//! Everything that touches an instruction set: matrix products over ggml blocks, attention, norms, rotations, on one thread pool.
//!
//! A [`Cpu`] is an instruction set ([`Isa`]) and a pool of threads; its methods are the operations of a transformer. What they compute
//! is defined to the bit, independent of both, and of how many tokens are in the batch (see `README.md`):
//!
//! * block dot products are exact integers, turned into floats once a block, in the order of k;
//! * every other float reduction runs in 16 virtual lanes ([`strata_quant::simd::Simd`]) that are added in one fixed tree.
//!
//! ```
//! use strata_kernels::{Cpu, Isa, Matrix};
//! use strata_quant::{Activations, GgmlType};
//!
//! let weights: Vec<u8> = (0..2 * 32).flat_map(|i| (i as f32).to_le_bytes()).collect();
//! let w = Matrix::new(GgmlType::F32, 2, 32, &weights).unwrap();
//! let mut x = Activations::default();
//! x.reset(1, 32).fill(1.0);
//! let mut y = [0.0; 2];
//! Cpu::new(Isa::best(), 2).matmul(w, &mut x, &mut y);
//! assert_eq!(y, [496.0, 1520.0]);
//! ```
//!
//! How to add a format's kernels or an instruction set: `README.md`.

mod attention;
mod cpu;
mod divergence;
mod exp;
mod finite;
mod floats;
mod glu;
mod isa;
mod jobs;
mod limits;
mod matmul;
mod norm;
mod pool;
mod rope;
mod shared;
mod table;

pub use attention::{AttentionScratch, AttentionShape, KvEntries, KvLayout, SequenceChunk};
pub use cpu::Cpu;
pub use isa::IsaError;
pub use matmul::Matrix;
pub use rope::{Rope, Rotation};
pub use table::Isa;
