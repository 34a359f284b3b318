//! ggml's block formats: what the bytes of a quantized row mean.
//!
//! A tensor of a model is a matrix of rows, and a row is a run of *blocks*: 32 or 256 weights that share a scale. Each format is one
//! file in [`formats`] that opens with the picture of its bytes, and one row in the table of [`GgmlType`]. The crate decodes a row to
//! `f32`, encodes one, and multiplies one with an *activation row* ([`activations`]) in the canonical order that every kernel of every
//! instruction set must reproduce to the bit.
//!
//! ```
//! use strata_quant::GgmlType;
//!
//! let q8 = GgmlType::Q8_0.format().unwrap();
//! let weights: Vec<f32> = (0..64).map(|i| i as f32 - 31.5).collect();
//! let mut row = vec![0; GgmlType::Q8_0.row_bytes(64).unwrap()];
//! (q8.encode)(&weights, None, &mut row);
//! let mut back = vec![0.0; 64];
//! (q8.decode)(&row, &mut back);
//! assert!(weights.iter().zip(&back).all(|(a, b)| (a - b).abs() < 0.2));
//! ```
//!
//! Encoding is llama-quantize's to the bit, and its searches run 16 groups side by side (`search`): written once over [`simd::Simd`], whose
//! implementations for real instruction sets are in `strata-kernels`. A quantizer that chooses codes by itself takes the steps apart:
//! [`Codec`] gives the scales that [`encode`] has found, the values that codes can stand for, and packs.
//!
//! How to add a format: `kernels/README.md`.
#![forbid(unsafe_code)]

pub mod activations;
mod codec;
pub mod float;
pub mod formats;
mod search;
pub mod simd;
mod types;

pub use activations::{ActivationBits, ActivationKind, ActivationRow, Activations};
pub use codec::{BlockScales, Codec, Grid, Levels};
pub use half::f16;
pub use search::LANES;
pub use search::given::{GroupMetric, GroupRows, round_given};
pub use types::{Format, GgmlType, encode};
